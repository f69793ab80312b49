"""What a job waits for: its next attempt, the off-peak hours, or a move that could not be made yet."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Self

from mercure.config.load import Loaded
from mercure.core.scheduling import OffPeak
from mercure.core.stages import Stage
from mercure.core.task import DeliveryState, Job, Priority
from mercure.spool.views import JobView


@dataclass(frozen=True, slots=True)
class Waits:
    """Says what jobs wait for. Without `off_peak` nothing is known of the hours, and nothing is said of them."""

    off_peak: OffPeak | None
    zone: tzinfo = UTC

    @classmethod
    def of(cls, loaded: Loaded) -> Self:
        """Take the hours of a configuration; of one of which only the folders could be read they are not known."""
        if loaded.has_only_folders:
            return cls(None)
        mercure = loaded.config.mercure
        return cls(OffPeak(mercure.offpeak_start, mercure.offpeak_end), mercure.zone)

    def next_attempt(self, view: JobView, now: datetime) -> datetime | None:
        """Return when the job is tried at the earliest, in its hours; None when nothing is put off."""
        return self._waits_for_hours(view, now) or _put_off(view)

    def reason(self, view: JobView, now: datetime) -> str:
        """Return why a job failed or waits, as far as anybody knows."""
        if view.job is None:
            return view.problem
        opens = self._waits_for_hours(view, now)
        return "; ".join(filter(None, (self._in_words(opens) if opens else "", _reason(view, view.job))))

    def for_hours(self, job: Job, now: datetime) -> str:
        """Say that a job which is due waits for its hours, and until when; empty when it does not."""
        opens = self._opens(job, now)
        return self._in_words(opens) if opens else ""

    def _waits_for_hours(self, view: JobView, now: datetime) -> datetime | None:
        if view.job is None or view.state not in ("waiting", "deferred"):
            return None
        return self._opens(view.job, max(_put_off(view) or now, now))

    def _opens(self, job: Job, at: datetime) -> datetime | None:
        """Return when the next hours of the job begin, at a given time; None when it may run at that time."""
        if self.off_peak is None or job.priority is not Priority.OFFPEAK:
            return None
        local = at.astimezone(self.zone)
        if self.off_peak.contains(local.time()):
            return None
        start = self.off_peak.start
        opens = local.replace(hour=start.hour, minute=start.minute, second=start.second, microsecond=0, fold=0)
        if opens <= local:
            opens += timedelta(days=1)
        return opens.astimezone(UTC)

    def _in_words(self, opens: datetime) -> str:
        return f"waits for the off-peak hours, until {opens.astimezone(self.zone):%Y-%m-%d %H:%M %Z}"


def _put_off(view: JobView) -> datetime | None:
    """Return when the modules or the next target are tried again; None when nothing is put off, or all has ended."""
    job = view.job
    if job is None or view.stage.is_final:
        return None
    if view.stage is Stage.PROCESSING:
        return job.processing.not_before
    times = [one.not_before for one in job.deliveries if one.state is DeliveryState.WAITING and one.not_before]
    return min(times, default=None)


def _reason(view: JobView, job: Job) -> str:
    # Written down as over, and still here, with nobody at work: the disk did not take the move, or a crash came first.
    is_to_be_moved = view.stage is Stage.OUTGOING and view.state == "waiting" and job.settled_at is not None
    if job.reason:
        moved = " (it is yet to be moved to error/; if that lasts, the log says why)"
        return job.reason + (moved if is_to_be_moved else "")
    if is_to_be_moved:
        return "it is done, and is yet to be moved to success/; if that lasts, the log says why"
    if view.stage is Stage.PROCESSING:
        return job.processing.detail
    return "; ".join(f"{one.target}: {one.detail}" for one in job.deliveries if one.detail)
