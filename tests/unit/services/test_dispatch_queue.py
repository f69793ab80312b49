"""What waits for one target takes turns, however often one of the jobs fails there."""

from pathlib import Path

from tests.arrivals import make_job
from tests.builders import small_series
from tests.fake_clock import FakeClock, Recorded
from tests.peers import pynetdicom_scp, wait_until

from mercure.core.retry import RetryPolicy
from mercure.core.stages import Stage
from mercure.services.dispatch_settings import DispatcherSettings, TargetSetup
from mercure.services.dispatcher import Dispatcher
from mercure.spool.jobs import job_ids
from mercure.spool.layout import Layout
from mercure.targets.dicom import DicomNode, DicomTarget


def test_a_job_that_its_target_puts_off_again_and_again_lets_later_jobs_go_first(tmp_path: Path) -> None:
    layout, clock = Layout.under(tmp_path / "data"), FakeClock()
    layout.create()
    stubborn, later = small_series(tmp_path / "one", 1), small_series(tmp_path / "two", 2)
    make_job(layout, stubborn, "archive", at=clock.now())
    with pynetdicom_scp(status_of=lambda uid: 0xA700 if uid in stubborn.sop_instance_uids else 0) as archive:
        target = DicomTarget(DicomNode("127.0.0.1", archive.port, "ARCHIVE", associations_idle_seconds=0))
        setup = TargetSetup(target, RetryPolicy(10.0, 10.0, jitter=0.0))
        dispatcher = Dispatcher(layout, DispatcherSettings({"archive": setup}), clock, Recorded())

        def attempt() -> None:
            """Let the next attempt at the target begin and end."""
            before = len(archive.received)
            wait_until(lambda: stepped() and len(archive.received) > before, "it is tried")
            wait_until(lambda: stepped() and dispatcher.is_idle, "the attempt is over")

        def stepped() -> bool:
            dispatcher.step()
            return True

        attempt()
        make_job(layout, later, "archive", at=clock.now())
        for _ in range(2):
            clock.advance(11.0)
            attempt()
    assert sorted(archive.received[1:3]) == sorted(later.sop_instance_uids)
    assert list(job_ids(layout, Stage.OUTGOING)) == [f"job-{stubborn.series_instance_uid[-12:]}"]
