"""What the log says of a trouble that many instances meet."""

import itertools
import threading

import pytest

from mercure.dicom.storage_trouble import Trouble


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("mercure.dicom.storage_trouble.time.monotonic", lambda: now[0])
    return now


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage().removeprefix("instances are ") for record in caplog.records]
    caplog.clear()
    return found


def test_a_trouble_is_said_when_it_begins_and_when_it_is_over(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    trouble = Trouble()
    trouble.end()
    assert said(caplog) == []
    for _ in range(1000):
        trouble.begin("full")
        clock[0] += 1
    assert said(caplog) == ["refused: full"]
    trouble.end()
    trouble.end()
    assert said(caplog) == ["stored again"]


def test_another_reason_is_said_too(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    trouble = Trouble()
    for _ in range(10):
        trouble.begin("full")
        trouble.begin("read-only")
    assert said(caplog) == ["refused: full", "refused: read-only"]


def test_a_trouble_that_comes_and_goes_is_said_once_a_minute_and_one_that_stays_is_not_forgotten(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    trouble = Trouble()
    for _ in range(100):
        trouble.begin("full")
        trouble.end()
    assert said(caplog) == ["refused: full", "stored again"]
    trouble.begin("full")
    assert said(caplog) == []
    clock[0] += 61
    trouble.begin("full")
    trouble.begin("full")
    assert said(caplog) == ["refused: full"]


def test_of_many_threads_one_says_it(caplog: pytest.LogCaptureFixture) -> None:
    trouble, barrier, refused = Trouble(), threading.Barrier(20), itertools.count()

    def refuse() -> None:
        barrier.wait()
        for _ in range(100):
            trouble.begin("full")
            next(refused)

    threads = [threading.Thread(target=refuse) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert next(refused) == 2000
    assert said(caplog) == ["refused: full"]
