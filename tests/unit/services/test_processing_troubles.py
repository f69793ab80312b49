"""What goes wrong with one job outside of its modules: neither the service nor another job feels it."""

import errno
import logging
import os
import threading
from pathlib import Path

import pytest
from tests.builders import BuiltSeries, small_series
from tests.fake_clock import Recorded
from tests.processing_desk import Desk
from tests.small_disk import small_disk

from mercure.core.errors import SpoolError
from mercure.core.events import Event, EventKind
from mercure.core.processing import ModuleSpec
from mercure.core.stages import Stage
from mercure.core.task import FailStage
from mercure.services.processing_troubles import MOST_FAULTS, Troubles
from mercure.spool.jobs import claim
from mercure.spool.layout import Layout

NO_STACK = 1 << 46
"""A stack that no machine has room for: the kernel refuses each new thread."""


@pytest.fixture
def series(tmp_path: Path) -> BuiltSeries:
    return small_series(tmp_path / "series", 2)


class Journal(Recorded):
    """A sink that has an error of its own whenever it is told something of one kind about one job."""

    def __init__(self, kind: EventKind, job_id: str) -> None:
        super().__init__()
        self.refused = (kind, job_id)
        self.refusals = 0

    def emit(self, event: Event) -> None:
        if (event.kind, event.job_id) == self.refused:
            self.refusals += 1
            raise TypeError("an error that nobody foresaw")
        super().emit(event)


def faulty(layout: Layout, folder: Path, kind: EventKind) -> Desk:
    """A processor with an error of ours about the job `bad`."""
    desk = Desk(layout, folder, Journal(kind, "bad"))
    desk.module("copy", "copy_all()")
    return desk


def comes_to_rest(desk: Desk, folder: Path) -> None:
    def rests() -> bool:
        desk.clock.advance(6.0)
        return folder.is_dir()

    desk.until(rests, f"{folder.name} comes to rest")


def is_free(layout: Layout, job_id: str) -> bool:
    taken = claim(layout, Stage.PROCESSING, job_id)
    if taken is not None:
        taken.close()
    return taken is not None


@pytest.mark.parametrize(
    ("exit_code", "stage", "results"), [(0, Stage.SUCCESS, ["result.json"]), (3, Stage.ERROR, None)]
)
def test_a_job_ends_as_it_should_although_what_its_module_left_cannot_be_removed(
    layout: Layout,
    tmp_path: Path,
    series: BuiltSeries,
    exit_code: int,
    stage: Stage,
    results: list[str] | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk(layout, tmp_path)
    desk.module(
        "waits",
        f"while not (made / 'result.json').exists(): time.sleep(0.01)\nsys.exit({exit_code})",
        writes_input=True,
    )
    job = desk.job(series, "waits")
    place = desk.place(Stage.PROCESSING, job)
    desk.until((place / "out").is_dir, "the module runs")
    with small_disk(place / "in" / "mounted"):
        (place / "out" / "result.json").write_text("{}")
        ended = desk.layout.stage(stage) / job.id
        desk.until(ended.is_dir, "the job has ended")
        assert (ended / "in" / "mounted").is_dir()
        assert not (ended / "out").exists()
        assert results is None or [path.name for path in (ended / "results").iterdir()] == results
        ended.rename(place)  # with the disk in it
    assert "what its modules left cannot be removed: Device or resource busy" in caplog.text
    assert "mounted" not in caplog.text


def test_an_error_of_ours_when_a_job_starts_ends_that_job_and_no_other(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    desk = faulty(layout, tmp_path, EventKind.PROCESSING_STARTED)
    bad = desk.job(series, "copy", job_id="bad")
    desk.ends_in(Stage.SUCCESS, desk.job(series, "copy", job_id="good"))
    comes_to_rest(desk, layout.error / "bad")
    failed = desk.ends_in(Stage.ERROR, bad)
    assert failed.reason == "internal error (TypeError), 3 times: it cannot be started, see the log"
    assert failed.fail_stage is FailStage.PROCESSING
    assert isinstance(desk.events, Journal)
    assert desk.events.refusals == MOST_FAULTS
    desk.ends_in(Stage.SUCCESS, desk.job(series, "copy", job_id="later"))
    assert desk.processor.is_idle


def test_an_error_of_ours_when_a_job_has_run_ends_that_job_and_no_other(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    desk = faulty(layout, tmp_path, EventKind.PROCESSING_COMPLETE)
    bad = desk.job(series, "copy", job_id="bad")
    desk.ends_in(Stage.SUCCESS, desk.job(series, "copy", job_id="good"))
    comes_to_rest(desk, layout.error / "bad")
    assert "it cannot be written down" in desk.ends_in(Stage.ERROR, bad).reason
    assert desk.events.count(EventKind.PROCESSING_STARTED) == 2  # its modules ran once


def test_an_error_of_ours_when_an_odd_job_is_settled_stops_nothing(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    desk = faulty(layout, tmp_path, EventKind.PROCESSING_FAILED)
    desk.job(series, job_id="bad")
    desk.ends_in(Stage.SUCCESS, desk.job(series, "copy", job_id="good"))
    comes_to_rest(desk, layout.error / "bad")
    assert is_free(layout, "bad") is False
    assert desk.waiting() == []


def test_a_job_for_which_the_machine_has_no_thread_waits_and_holds_nothing(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    desk = Desk(layout, tmp_path, gpus=("0",))
    desk.module("copy", "copy_all()", gpu_count=1)
    desk.processor.step()
    job = desk.job(series, "copy")
    before = threading.stack_size(NO_STACK)
    try:
        for _ in range(2 * MOST_FAULTS):
            desk.clock.advance(70.0)
            desk.processor.step()
        assert desk.processor.is_idle
        assert is_free(layout, job.id)
        assert desk.processor._slots.count == 0
    finally:
        threading.stack_size(before)
    assert desk.events.count(EventKind.PROCESSING_STARTED) == desk.events.count(EventKind.PROCESSING_DEFERRED) >= 2
    desk.clock.advance(6.0)
    desk.ends_in(Stage.SUCCESS, job)


def test_a_trouble_of_the_machine_is_said_once_and_never_too_much(caplog: pytest.LogCaptureFixture) -> None:
    troubles = Troubles()
    full, away = OSError(errno.ENOSPC, "No space left on device", "/a/name"), SpoolError("away")
    assert not any(troubles.note("job", "settled", full) for _ in range(2 * MOST_FAULTS))
    assert not any(troubles.note("job", "settled", away) for _ in range(2 * MOST_FAULTS))
    assert [record.message for record in caplog.records] == [
        "job job cannot be settled now: No space left on device",
        "job job cannot be settled now: away",
    ]
    troubles.over("job")
    troubles.note("job", "settled", away)
    assert len(caplog.records) == 3


def test_errors_of_ours_are_counted_for_each_job_in_a_row(caplog: pytest.LogCaptureFixture) -> None:
    troubles, error = Troubles(), ValueError("odd")
    with caplog.at_level(logging.CRITICAL):
        assert [troubles.note("a", "started", error) for _ in range(MOST_FAULTS)] == [False, False, True]
        assert troubles.note("b", "started", error) is False
        troubles.over("a")
        assert troubles.note("a", "started", error) is False
        troubles.note("a", "started", error)
        troubles.keep_only({"b"})
        assert troubles.note("a", "started", error) is False


def test_modules_that_need_a_root_that_the_service_is_not_are_logged_at_the_start_and_once(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(layout, tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 65_534)
    desk.module("plain", "")
    desk.module("rooted", "", requires_root=True)
    stop = threading.Event()
    stop.set()
    desk.processor.run(stop)
    desk.processor.configure(desk.settings())
    desk.processor.step()
    desk.processor.configure(desk.settings())
    desk.processor.step()
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(said) == 1
    assert said[0].startswith("module rooted cannot run, and its jobs will go to error: it requires root")


def test_a_service_that_is_root_says_nothing_of_modules_that_need_it(caplog: pytest.LogCaptureFixture) -> None:
    needs_root = ModuleSpec("rooted", "docker", requires_root=True)
    troubles = Troubles()
    troubles.foresee([needs_root])
    assert bool(caplog.records) is (os.geteuid() != 0)
