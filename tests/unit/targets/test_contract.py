"""What every kind of target promises, whatever it delivers to."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests import builders, peers
from tests.ledger import Ledger

from mercure.core.delivery import Outcome, Parcel, Target
from mercure.core.errors import CancelledError, TransientError
from mercure.targets.dicom import DicomNode, DicomTarget
from mercure.targets.dummy import DummyTarget
from mercure.targets.folder import FolderTarget


@dataclass(frozen=True)
class Case:
    """A target that works, how many instances have arrived there, and the same kind where nothing works (or None)."""

    target: Target
    arrived: Callable[[], int]
    broken: Target | None


def _dicom(folder: Path, stack: ExitStack) -> Case:
    server = stack.enter_context(peers.storescp(folder, extra_args=("+xa", "--fork")))
    return Case(
        DicomTarget(DicomNode("127.0.0.1", server.port, "STORESCP", response_timeout_seconds=20.0)),
        lambda: len(server.files()),
        DicomTarget(DicomNode("127.0.0.1", peers.free_port(), "NOBODY")),
    )


def _folder(folder: Path, _stack: ExitStack) -> Case:
    folder.mkdir()
    return Case(
        FolderTarget(str(folder)),
        lambda: len(list(folder.glob("[!.]*/*.dcm"))),
        FolderTarget(str(folder / "missing")),
    )


def _dummy(_folder: Path, _stack: ExitStack) -> Case:
    return Case(DummyTarget(), lambda: -1, None)


KINDS = {"dicom": _dicom, "folder": _folder, "dummy": _dummy}


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    with ExitStack() as stack:
        made = KINDS[request.param](tmp_path / "there", stack)
        stack.callback(made.target.close)
        yield made


@pytest.fixture
def parcel(tmp_path: Path) -> Parcel:
    series = builders.small_series(tmp_path / "job", 5)
    return Parcel("job-1", str(tmp_path / "job"), [file.name for file in series.files])


def has_arrived(case: Case, count: int) -> bool:
    return case.arrived() in (-1, count)


def test_every_instance_is_recorded_as_delivered(case: Case, parcel: Parcel) -> None:
    ledger = Ledger()

    case.target.send(parcel, ledger)

    assert [result.name for result in ledger.results] == list(parcel.names)
    assert set(ledger.outcomes.values()) == {Outcome.DELIVERED}
    assert has_arrived(case, 5)


def test_only_the_instances_of_the_parcel_are_delivered(case: Case, parcel: Parcel) -> None:
    ledger = Ledger()
    (Path(parcel.folder) / "task.json").write_text("{}")

    case.target.send(Parcel(parcel.job_id, parcel.folder, parcel.names[1:3]), ledger)

    assert list(ledger.outcomes) == list(parcel.names[1:3])
    assert has_arrived(case, 2)


def test_a_cancelled_job_is_cancelled_before_the_first_instance(case: Case, parcel: Parcel) -> None:
    ledger = Ledger(cancelled=True)

    with pytest.raises(CancelledError):
        case.target.send(parcel, ledger)

    assert ledger.results == []
    assert has_arrived(case, 0)


def test_it_is_asked_before_each_instance_whether_the_job_is_cancelled(case: Case, parcel: Parcel) -> None:
    ledger = Ledger()

    case.target.send(parcel, ledger)

    assert ledger.checks >= len(parcel.names)


def test_a_second_delivery_of_the_same_job_succeeds_and_makes_no_second_copy(case: Case, parcel: Parcel) -> None:
    case.target.send(parcel, Ledger())
    ledger = Ledger()

    case.target.send(parcel, ledger)

    assert set(ledger.outcomes.values()) == {Outcome.DELIVERED}
    assert has_arrived(case, 5)


def test_a_closed_target_can_be_used_again(case: Case, parcel: Parcel) -> None:
    case.target.close()
    case.target.send(parcel, Ledger())
    case.target.close()
    ledger = Ledger()

    case.target.send(parcel, ledger)

    assert len(ledger.names(Outcome.DELIVERED)) == 5


def test_jobs_can_be_delivered_at_the_same_time(case: Case, tmp_path: Path) -> None:
    parcels = []
    for index in range(4):
        series = builders.small_series(tmp_path / f"job{index}", 5)
        parcels.append(Parcel(f"job-{index}", str(tmp_path / f"job{index}"), [file.name for file in series.files]))
    ledgers = [Ledger() for _ in parcels]
    pairs = zip(parcels, ledgers, strict=True)
    threads = [threading.Thread(target=case.target.send, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert all(len(ledger.names(Outcome.DELIVERED)) == 5 for ledger in ledgers)
    assert has_arrived(case, 20)


def test_the_test_of_a_working_target_says_what_was_found(case: Case) -> None:
    found = case.target.test()

    assert found.reachable
    assert found.detail


def test_a_target_that_does_not_work_is_transient_and_its_test_has_a_remedy(case: Case, parcel: Parcel) -> None:
    if case.broken is None:
        assert isinstance(case.target, DummyTarget)  # cannot fail
        return
    ledger = Ledger()

    with pytest.raises(TransientError):
        case.broken.send(parcel, ledger)

    assert ledger.results == []
    found = case.broken.test()
    assert not found.reachable
    assert found.detail
    assert found.remedy
