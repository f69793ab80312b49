"""What the queue says of jobs that wait: for their hours, for a disk, or for nothing any more."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.unit.cli.site import JOB, Site

from mercure.cli.exits import Exit
from mercure.cli.queue_waits import Waits
from mercure.config.load import load, load_folders
from mercure.core.stages import Stage
from mercure.core.task import Delivery, FailStage, Priority
from mercure.spool.jobs import claim
from mercure.spool.views import JobView

_WORDS = "waits for the off-peak hours, until "


def hours(site: Site, start: str, end: str, zone: str = "UTC") -> None:
    site.configuration["mercure"].update(offpeak_start=start, offpeak_end=end, local_time=zone)
    site.write()


def hours_later(site: Site, begin_in: int = 3) -> datetime:
    """Have the off-peak hours begin so many hours from now, for one hour; return when."""
    opens = (datetime.now(UTC) + timedelta(hours=begin_in)).replace(minute=0, second=0, microsecond=0)
    hours(site, f"{opens:%H:%M}", f"{opens + timedelta(hours=1):%H:%M}")
    return opens


def waits(site: Site) -> Waits:
    return Waits.of(load(site.config_file))


def view(site: Site, **values: Any) -> JobView:
    job = site.job(Stage.OUTGOING, priority=Priority.OFFPEAK, **values)
    return JobView(job.id, Stage.OUTGOING, "waiting", job, site.layout.outgoing / job.id)


@pytest.mark.parametrize("stage", [Stage.OUTGOING, Stage.PROCESSING])
def test_a_job_that_waits_for_its_hours_says_so_and_until_when(site: Site, stage: Stage) -> None:
    opens = hours_later(site)
    site.job(stage, priority=Priority.OFFPEAK)
    site.job(stage, "normal-1")
    listed = {one["job"]: one for one in site("queue", "list", "--json").json["jobs"]}
    assert listed[JOB]["next_attempt"] == opens.isoformat()
    assert listed[JOB]["reason"] == f"{_WORDS}{opens:%Y-%m-%d %H:%M} UTC"
    assert (listed["normal-1"]["next_attempt"], listed["normal-1"]["reason"]) == (None, "")
    row = next(line for line in site("queue", "list").out.splitlines() if line.startswith(JOB))
    assert _WORDS in row
    assert " in 2 h " in row or " in 3 h " in row
    shown = site("queue", "show", JOB)
    assert f"Reason    {_WORDS}{opens:%Y-%m-%d %H:%M} UTC" in shown.out
    assert site("queue", "show", JOB, "--json").json["next_attempt"] == opens.isoformat()


def test_a_retry_of_a_job_outside_of_its_hours_says_that_it_waits_for_them(site: Site) -> None:
    opens = hours_later(site)
    site.job(Stage.OUTGOING, priority=Priority.OFFPEAK)
    site.failed_job("failed-1", priority=Priority.OFFPEAK)
    site.failed_job("normal-1")
    answer = site("queue", "retry", JOB, "failed-1", "normal-1")
    assert answer.status == Exit.OK
    for line in answer.out.splitlines()[:2]:
        assert line.endswith(f"; it {_WORDS}{opens:%Y-%m-%d %H:%M} UTC")
    assert "due now" not in answer.out.splitlines()[0]
    assert "off-peak" not in answer.out.splitlines()[2]


def test_in_its_hours_an_off_peak_job_is_like_any_other(site: Site) -> None:
    hours(site, "00:00", "00:00")
    site.job(Stage.OUTGOING, priority=Priority.OFFPEAK)
    listed = site("queue", "list", "--json").json["jobs"][0]
    assert (listed["next_attempt"], listed["reason"]) == (None, "")
    assert site("queue", "retry", JOB).out == f"{JOB} is due now\n"


def test_hours_are_those_of_the_local_zone_and_the_next_attempt_is_in_them(site: Site) -> None:
    hours(site, "22:00", "06:00", "Europe/Berlin")
    berlin = ZoneInfo("Europe/Berlin")
    noon = datetime(2026, 7, 1, 12, tzinfo=berlin)
    evening = noon.replace(hour=22)
    job = view(site)
    assert waits(site).next_attempt(job, noon) == evening
    assert waits(site).reason(job, noon) == f"{_WORDS}2026-07-01 22:00 CEST"
    assert waits(site).next_attempt(job, evening + timedelta(hours=3)) is None
    put_off = (Delivery("pacs", attempts=1, not_before=noon + timedelta(days=1), detail="no answer"),)
    later = view(site, job_id="later", deliveries=put_off)
    assert waits(site).next_attempt(later, evening) == evening + timedelta(days=1)
    assert waits(site).reason(later, evening) == f"{_WORDS}2026-07-02 22:00 CEST; pacs: no answer"


def test_hours_that_cannot_be_read_are_not_made_up(site: Site) -> None:
    job = view(site)
    known = Waits.of(load(site.config_file))
    unknown = Waits.of(load_folders(site.config_file))
    noon = datetime(2026, 7, 1, 12, tzinfo=UTC)
    assert known.next_attempt(job, noon) == noon.replace(hour=22)
    assert (unknown.next_attempt(job, noon), unknown.reason(job, noon)) == (None, "")


def test_a_job_that_runs_or_is_held_waits_for_no_hours(site: Site) -> None:
    hours_later(site)
    site.job(Stage.OUTGOING, priority=Priority.OFFPEAK)
    running = claim(site.layout, Stage.OUTGOING, JOB)
    assert running is not None
    listed = site("queue", "list", "--json").json["jobs"][0]
    running.close()
    assert (listed["state"], listed["next_attempt"], listed["reason"]) == ("running", None, "")
    site("queue", "hold", JOB)
    listed = site("queue", "list", "--json").json["jobs"][0]
    assert (listed["state"], listed["next_attempt"], listed["reason"]) == ("held", None, "")


@pytest.mark.parametrize("minutes", [-5, 30])
def test_a_job_that_was_cancelled_while_it_was_put_off_has_no_next_attempt(site: Site, minutes: int) -> None:
    at = datetime.now(UTC) + timedelta(minutes=minutes)
    site.job(Stage.OUTGOING, deliveries=(Delivery("pacs", attempts=1, not_before=at, detail="no answer"),))
    assert site("queue", "cancel", JOB).status == Exit.OK
    assert site.where(JOB) == ["error"]
    row = next(line for line in site("queue", "list").out.splitlines() if line.startswith(JOB))
    assert "waiting" not in row
    assert "in 30 min" not in row
    assert site("queue", "list", "--json").json["jobs"][0]["next_attempt"] is None


def test_a_job_that_is_done_and_cannot_be_moved_says_so(site: Site) -> None:
    now = datetime.now(UTC)
    site.job(Stage.OUTGOING, settled_at=now)
    refused: dict[str, Any] = {"settled_at": now, "fail_stage": FailStage.DISPATCHING, "reason": "pacs: refused"}
    site.job(Stage.OUTGOING, "refused-1", **refused)
    listed = {one["job"]: one["reason"] for one in site("queue", "list", "--json").json["jobs"]}
    assert listed[JOB] == "it is done, and is yet to be moved to success/; if that lasts, the log says why"
    assert listed["refused-1"] == "pacs: refused (it is yet to be moved to error/; if that lasts, the log says why)"
    assert site("queue", "retry", JOB).status == Exit.OK
    assert "moved" not in site("queue", "show", JOB).out
