"""How attempts and jobs end: what is written down, where the job goes, and what the journal is told."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from mercure.core.clock import Clock
from mercure.core.errors import CancelledError, PermanentError, SpoolError
from mercure.core.events import Event, EventKind, EventSink
from mercure.core.stages import Stage
from mercure.core.task import Delivery, DeliveryState, FailStage, Job
from mercure.services.delivery_run import Attempt, settled
from mercure.spool.jobs import Claim, is_unprocessed

log = logging.getLogger(__name__)

STOPPING = "the dispatcher is stopping"
BY_OPERATOR = "cancelled by an operator"

Pause = Callable[[int], timedelta | None]
"""After so many failed attempts, how long to wait; None to give up."""


def is_waiting(job: Job) -> bool:
    """Whether a target of the job still waits for something. Nothing does once the job is on its way to `error/`.

    Nor does anything while its modules have not worked on it: an anonymizer that did not run must never be passed by.
    """
    if job.fail_stage is not None or is_unprocessed(job):
        return False
    return any(delivery.state is DeliveryState.WAITING for delivery in job.deliveries)


def after_attempt(delivery: Delivery, attempt: Attempt, pause: Pause, now: datetime) -> tuple[Delivery, EventKind]:
    """Return the delivery as it stands after an attempt, and what the journal calls it.

    A stop of the service counts as no attempt; a transient error puts the next attempt off, until there were too many.
    """
    error = attempt.error
    if error is None:
        return settled(delivery, DeliveryState.COMPLETE, now), EventKind.DELIVERY_COMPLETE
    if isinstance(error, CancelledError):
        if str(error) == STOPPING:
            return delivery, EventKind.DELIVERY_DEFERRED
        return settled(delivery, DeliveryState.ERROR, now, str(error)), EventKind.JOB_CANCELLED
    if isinstance(error, PermanentError):
        return settled(delivery, DeliveryState.ERROR, now, str(error)), EventKind.DELIVERY_FAILED
    attempts = delivery.attempts + 1
    wait = pause(attempts)
    if wait is None:
        detail = f"gave up after {attempts} attempts: {error}"
        return settled(
            replace(delivery, attempts=attempts), DeliveryState.ERROR, now, detail
        ), EventKind.DELIVERY_FAILED
    put_off = replace(delivery, attempts=attempts, updated_at=now, not_before=now + wait, detail=str(error))
    return put_off, EventKind.DELIVERY_DEFERRED


def _text(delivery: Delivery) -> str:
    return f"{delivery.not_before:%Y-%m-%dT%H:%M:%SZ}"


class Settlement:
    """Ends jobs. Holds none: the claim is handed in, and is over afterwards unless an error was raised."""

    def __init__(self, clock: Clock, events: EventSink) -> None:
        """Keep the clock and the journal."""
        self._clock = clock
        self._events = events

    def attempt(self, job: Job, attempt: Attempt, pause: Pause) -> Job:
        """Return the job after an attempt at one of its targets, and tell the journal."""
        now = self._clock.now()
        delivery = next(d for d in job.deliveries if d.target == attempt.target)
        delivery, kind = after_attempt(delivery, attempt, pause, now)
        job = job.with_delivery(delivery)
        detail = str(attempt.error) if attempt.error else None
        if delivery.not_before and delivery.state is DeliveryState.WAITING and detail != STOPPING:
            log.warning("job %s waits for target %s until %s: %s", job.id, attempt.target, _text(delivery), detail)
        self.emit(kind, job, target=attempt.target, count=attempt.sent, duration_seconds=attempt.seconds, detail=detail)
        return job

    def finish(self, taken: Claim, job: Job) -> None:
        """Move a job none of whose targets waits to its last stage. Raises `OSError` or `SpoolError`."""
        failed = [d for d in job.deliveries if d.state is not DeliveryState.COMPLETE]
        if failed:
            self.fail(taken, job, "; ".join(f"{d.target}: {d.detail}" for d in failed))
            return
        taken.commit(replace(job, settled_at=self._clock.now(), fail_stage=None, reason=""), Stage.SUCCESS)
        self.emit(EventKind.JOB_SETTLED, job, detail=Stage.SUCCESS.value, count=len(job.instances))

    def fail(self, taken: Claim, job: Job, reason: str) -> None:
        """Move a job to `error/`, to be retried where it lacks something. Raises `OSError` or `SpoolError`."""
        failed_at = FailStage.PROCESSING if is_unprocessed(job) else FailStage.DISPATCHING
        taken.fail(job, failed_at, reason, self._clock.now())
        level = logging.WARNING if BY_OPERATOR in reason else logging.ERROR  # an operator knows what he has cancelled
        log.log(level, "job %s went to error: %s", job.id, reason)
        self.emit(EventKind.JOB_SETTLED, job, detail=Stage.ERROR.value, count=len(job.instances))

    def odd(self, taken: Claim) -> Job | None:
        """Settle a job that no target waits for: damaged, without target, or finished by a dispatcher that died.

        So is one whose modules have not worked on it: it goes to `error/` and is not sent.

        Returns the job when a target of it waits after all; the claim is then still the caller's. Raises `OSError` or
        `SpoolError` when the job cannot be moved.
        """
        try:
            job = taken.read()
        except SpoolError as error:
            reason = str(error)
            taken.fail_unreadable(reason, self._clock.now())
            log.error("job %s is damaged and went to error: %s", taken.id, reason)  # noqa: TRY400
            self.emit(EventKind.JOB_SETTLED, None, taken.id, detail=Stage.ERROR.value)
            return None
        if is_waiting(job):
            return job
        if job.fail_stage:  # failed or cancelled, and a crash before the move
            self.fail(taken, job, job.reason)
        elif is_unprocessed(job):
            self.fail(taken, job, "the job has modules and no results of theirs; it is not sent as it came")
        elif not job.deliveries:
            self.fail(taken, job, "the job names no target")
        else:
            self.finish(taken, job)
        return None

    def emit(self, kind: EventKind, job: Job | None, job_id: str = "", **values: object) -> None:
        """Tell the journal of a job."""
        series = job.series if job else None
        self._events.emit(
            Event(
                kind,
                self._clock.now(),
                job_id=job.id if job else job_id,
                series_uid=series.series_uid if series else None,
                study_uid=series.study_uid if series else None,
                **values,  # type: ignore[arg-type]  # names of Event's own fields, checked by its tests
            )
        )
