"""What the processor follows, seen in what it does."""

from datetime import UTC, datetime, time, timedelta, timezone
from pathlib import Path

import pytest
from tests.builders import BuiltSeries, small_series
from tests.fake_clock import ActsAtFirst
from tests.processing_desk import Desk

from mercure.core.events import EventKind
from mercure.core.scheduling import OffPeak
from mercure.core.stages import Stage
from mercure.core.task import Priority
from mercure.spool.layout import Layout

ZONE = timezone(timedelta(hours=9))
"""The zone of the installation; that of the machine does not matter."""


@pytest.fixture
def series(tmp_path: Path) -> BuiltSeries:
    return small_series(tmp_path / "series", 1)


def seconds_until(now: datetime, at: time) -> float:
    """The seconds until the clocks of the zone of `at` show it next."""
    local = now.astimezone(at.tzinfo)
    start = datetime.combine(local, at)
    return ((start if start > local else start + timedelta(days=1)) - local).total_seconds()


@pytest.mark.requirement("S10")
@pytest.mark.requirement("S18")
def test_off_peak_jobs_wait_for_their_hours_by_the_clocks_of_the_installation(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    # In Greenwich it is in the hours, and where the installation is, it is not yet or no more.
    desk = Desk(layout, tmp_path, max_parallel=1, off_peak=OffPeak(time(12), time(12, 59)), zone=ZONE)
    desk.clock.advance(seconds_until(desk.clock.now(), time(12, 30, tzinfo=UTC)))
    desk.module("copy", "copy_all()")
    quiet = desk.job(series, "copy", job_id="quiet", priority=Priority.OFFPEAK)
    desk.ends_in(Stage.SUCCESS, desk.job(series, "copy", job_id="normal"))
    assert [event.job_id for event in desk.events.of(EventKind.PROCESSING_STARTED)] == ["normal"]
    assert desk.waiting() == ["quiet"]
    desk.clock.advance(seconds_until(desk.clock.now(), time(12, 30, tzinfo=ZONE)))
    assert desk.ends_in(Stage.SUCCESS, quiet).results == tuple(sorted(quiet.instances))


def test_without_hours_off_peak_jobs_run_at_any_time(layout: Layout, tmp_path: Path, series: BuiltSeries) -> None:
    desk = Desk(layout, tmp_path, zone=ZONE)
    desk.module("copy", "copy_all()")
    desk.ends_in(Stage.SUCCESS, desk.job(series, "copy", priority=Priority.OFFPEAK))


def test_a_job_for_a_module_that_is_new_waits_for_the_settings_that_have_it(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    def add() -> None:
        """While a step settles the first job, a module is added, and a router that knows of it makes a job for it."""
        desk.module("new", "copy_all()")
        desk.job(series, "new", job_id="second")

    desk = Desk(layout, tmp_path, ActsAtFirst(kind=EventKind.JOB_SETTLED, act=add))
    desk.module("copy", "copy_all()")
    desk.ends_in(Stage.SUCCESS, desk.job(series, "copy", job_id="first"))
    desk.until(lambda: not desk.waiting(), "the second has ended")
    assert (layout.success / "second").is_dir()
