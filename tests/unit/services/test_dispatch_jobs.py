"""What goes wrong with one job concerns that job only, and no job stays claimed with nothing that works on it."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.arrivals import make_job
from tests.builders import small_series
from tests.fake_clock import FakeClock

from mercure.core.delivery import InstanceResult, Outcome
from mercure.core.stages import Stage
from mercure.core.task import DeliveryState, Job
from mercure.services.delivery_run import DeliveryRun
from mercure.services.dispatch_jobs import DispatchJobs
from mercure.services.dispatch_queue import DispatchQueue, Unit
from mercure.spool.job_files import read_ledger, write_task
from mercure.spool.jobs import claim
from mercure.spool.layout import Layout
from mercure.targets.folder import FolderTarget


class Desk:
    """The jobs of a dispatcher that does not run, and one of them."""

    def __init__(self, folder: Path) -> None:
        self.layout = Layout.under(folder / "data")
        self.layout.create()
        self.clock = FakeClock()
        self.queue = DispatchQueue(self.layout)
        self.jobs = DispatchJobs(self.layout, self.queue, self.clock)
        self.job: Job = make_job(self.layout, small_series(folder / "series", 1), "a", "b")
        self.unit = Unit(self.job.id, "a")

    def is_free(self) -> bool:
        taken = claim(self.layout, Stage.OUTGOING, self.job.id)
        if taken:
            taken.close()
        return taken is not None

    def waits_after(self, seconds: float) -> set[str]:
        """The targets that the queue has something for after a while."""
        self.clock.advance(seconds)
        self.queue.due(self.clock.now().timestamp())
        return set(self.queue.targets())


def fail(error: Exception) -> None:
    raise error


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize(("error", "seconds"), [(OSError(5, "Input/output error"), 5.0), (ZeroDivisionError(), 60.0)])
def test_a_job_that_nothing_works_on_is_let_go_of_and_read_again(desk: Desk, error: Exception, seconds: float) -> None:
    with desk.jobs.guard(desk.job.id, "sent"):
        assert desk.jobs.take(desk.unit)
        assert not desk.is_free()
        fail(error)
    assert len(desk.jobs) == 0
    assert desk.is_free()
    assert desk.waits_after(seconds - 1.0) == set()
    assert desk.waits_after(1.1) == {"a", "b"}


def test_a_job_that_is_being_sent_is_kept_while_it_is(desk: Desk, tmp_path: Path) -> None:
    with desk.jobs.guard(desk.job.id, "written down"):
        active = desk.jobs.take(desk.unit)
        assert active
        active.running["a"] = DeliveryRun(active, "a", FolderTarget(str(tmp_path)), desk.clock, lambda _attempt: None)
        fail(OSError(30, "Read-only file system"))
    assert desk.job.id in desk.jobs
    assert not desk.is_free()
    active.record("a", InstanceResult(desk.job.instances[0], Outcome.DELIVERED))
    assert len(read_ledger(desk.layout.outgoing / desk.job.id)) == 1, "its ledger is still open"
    assert desk.waits_after(5.1) == {"a", "b"}, "the other target goes on"


def test_trouble_is_said_once_for_each_reason(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    for error in (OSError(30, "Read-only file system"),) * 3 + (OSError(28, "No space left on device"),) * 2:
        with desk.jobs.guard(desk.job.id, "settled"):
            fail(error)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"job {desk.job.id} cannot be settled now: Read-only file system",
        f"job {desk.job.id} cannot be settled now: No space left on device",
    ]


def test_a_job_that_cannot_be_sent_any_more_is_settled(desk: Desk) -> None:
    done = tuple(replace(delivery, state=DeliveryState.COMPLETE) for delivery in desk.job.deliveries)
    write_task(desk.layout.outgoing / desk.job.id, replace(desk.job, deliveries=done))
    assert desk.jobs.take(desk.unit) is None
    assert desk.is_free()
    assert list(desk.queue.take_odd()) == [desk.job.id]


def test_a_job_is_read_again_once_and_as_early_as_anybody_asked(desk: Desk) -> None:
    now = desk.clock.now().timestamp()
    for seconds in (5.0, 2.0, 9.0):
        desk.queue.read_later(desk.job.id, now + seconds)
    assert desk.queue.next_due() == now + 2.0
    assert desk.waits_after(2.1) == {"a", "b"}
    assert desk.queue.next_due() is None
