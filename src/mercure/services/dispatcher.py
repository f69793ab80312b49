"""The dispatcher: sends the jobs in `outgoing/` to their targets.

Its own thread decides; each running delivery has a thread that only sends. What waits is a pair of job and target, so
that a slow, hung or dead target holds up nothing but what goes to it. A delivery that makes no progress gives up its
place among the parallel ones to another target's, but keeps its place at its own target.
"""

import contextlib
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, timedelta, tzinfo
from pathlib import Path

from mercure.core.clock import Clock
from mercure.core.delivery import Target
from mercure.core.errors import CancelledError, PermanentError, SpoolError, TransientError
from mercure.core.events import Event, EventKind, EventSink
from mercure.core.retry import RetryPolicy, TargetHealth
from mercure.core.scheduling import OffPeak
from mercure.core.stages import Stage
from mercure.core.task import DeliveryState, FailStage, Job
from mercure.services.delivery_run import ActiveJob, DeliveryRun, settled
from mercure.services.dispatch_queue import DispatchQueue, Unit
from mercure.services.folder_bell import FolderBell
from mercure.services.service import Bell
from mercure.spool.jobs import Claim, claim, is_held
from mercure.spool.layout import Layout

log = logging.getLogger(__name__)

_STALLED_SECONDS = 1.0
_CANCEL_SECONDS = 0.5
_RACY_SECONDS = 2.0
_FULL_SCAN_SECONDS = 60.0
_AGAIN_SECONDS = 2.0
"""When a job that another process has claimed, or that an operator holds, is looked at again."""

_STOP_SECONDS = 5.0
_STOPPING = "the dispatcher is stopping"
_OPERATOR = "cancelled by an operator"


@dataclass(frozen=True, slots=True)
class TargetSetup:
    """A target as the dispatcher uses it: how to send, how many at a time, and when to try again."""

    target: Target
    retry: RetryPolicy
    max_parallel: int = 1


@dataclass(frozen=True, slots=True)
class DispatcherSettings:
    """What the dispatcher follows. `unusable` has the targets that nothing can be sent to, with the reason."""

    targets: Mapping[str, TargetSetup] = field(default_factory=dict)
    unusable: Mapping[str, str] = field(default_factory=dict)
    max_parallel: int = 4
    off_peak: OffPeak | None = None
    zone: tzinfo = UTC
    scan_interval_seconds: float = 1.0


class Dispatcher:
    """The service `dispatcher`."""

    name = "dispatcher"

    def __init__(
        self,
        layout: Layout,
        settings: DispatcherSettings,
        clock: Clock,
        events: EventSink,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Prepare. `draw` gives numbers from 0 to 1 for the jitter of retries."""
        self._layout = layout
        self._settings = settings
        self._clock = clock
        self._events = events
        self._draw = draw
        self._bell = Bell()
        self._queue = DispatchQueue(layout)
        self._active: dict[str, ActiveJob] = {}
        self._ended: list[DeliveryRun] = []
        self._ended_lock = threading.Lock()
        self._health: dict[str, TargetHealth] = {}
        self._outgoing_mtime = 0
        self._control_mtime = 0
        self._scanned_at = float("-inf")
        self._cancel_checked_at = float("-inf")

    def configure(self, settings: DispatcherSettings) -> None:
        """Follow new settings; deliveries that run go on with the targets they have."""
        old, self._settings = self._settings, settings
        self._health = {name: health for name, health in self._health.items() if name in settings.targets}
        for name, setup in old.targets.items():
            if settings.targets.get(name) is not setup:
                self._health.pop(name, None)
                setup.target.close()
        self._control_mtime = -1
        self._bell.ring()

    def wake(self) -> None:
        """Look for work now."""
        self._bell.ring()

    def run(self, stop: threading.Event) -> None:
        """Dispatch until `stop`; then end what runs, without counting it as failed."""
        self._queue.forget_all()
        self._scanned_at = float("-inf")
        watched = (self._layout.stage(Stage.OUTGOING), self._layout.jobs)
        bell = FolderBell(watched, self._bell.ring, changes=True)
        try:
            while not stop.is_set():
                self.step()
                self._bell.wait(self._seconds_to_wait())
        finally:
            bell.close()
            self._end_running()
            for setup in self._settings.targets.values():
                setup.target.close()

    def step(self) -> None:
        """Settle what ended, notice what is new, and start what may start. Does not wait for any target."""
        self._settle_ended()
        self._scan()
        self._pass_on_cancels()
        self._settle_odd()
        self._start_due()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being sent."""
        return not self._active

    # -- what there is -----------------------------------------------------------------------------------------------

    def _seconds_to_wait(self) -> float:
        wait = self._settings.scan_interval_seconds
        now = self._clock.now().timestamp()
        due = self._queue.next_due()
        if due is not None:
            wait = min(wait, due - now)
        if self._active:
            wait = min(wait, _CANCEL_SECONDS)
        return max(wait, 0.001)

    def _scan(self) -> None:
        moment = self._clock.monotonic()
        control = _mtime(self._layout.control)
        if control != self._control_mtime:
            self._control_mtime = control
            self._queue.forget_all()
            self._scanned_at = float("-inf")
        mtime = _mtime(self._layout.stage(Stage.OUTGOING))
        if mtime != self._outgoing_mtime or moment - self._scanned_at >= _FULL_SCAN_SECONDS:
            self._scanned_at = moment
            quiet = self._clock.now().timestamp() - mtime / 1e9 > _RACY_SECONDS
            self._outgoing_mtime = mtime if quiet else 0
            self._queue.scan()
        self._queue.due(self._clock.now().timestamp())

    def _settle_odd(self) -> None:
        """Settle the jobs that no target waits for: damaged ones, and those that a dead dispatcher had finished."""
        while self._queue.odd:
            job_id = self._queue.odd.pop()
            if job_id in self._active:
                continue
            taken = self._claim(job_id)
            if taken is None:
                continue
            with contextlib.closing(taken):
                self._settle_one_odd(taken)

    def _settle_one_odd(self, taken: Claim) -> None:
        now = self._clock.now()
        try:
            job = taken.read()
        except SpoolError as error:
            log.error("job %s is damaged: %s", taken.id, error)  # noqa: TRY400
            taken.fail_unreadable(str(error), now)
            self._emit(EventKind.JOB_SETTLED, None, taken.id, detail=Stage.ERROR.value)
            return
        if not job.deliveries:
            self._fail(taken, job, "the job names no target")
        else:
            self._finish(taken, job)

    def _claim(self, job_id: str) -> Claim | None:
        try:
            return claim(self._layout, Stage.OUTGOING, job_id)
        except (SpoolError, OSError) as error:
            log.error("job %s cannot be claimed: %s", job_id, error)  # noqa: TRY400
            return None

    # -- starting ----------------------------------------------------------------------------------------------------

    def _start_due(self) -> None:
        if is_held(self._layout, Stage.OUTGOING):
            return
        for name in [name for name in self._queue.targets() if name not in self._settings.targets]:
            self._refuse_unknown(name)
        off_peak_now = self._is_off_peak()
        while True:
            running = Counter(run.target_name for run in self._runs())
            moment = self._clock.monotonic()
            busy = sum(moment - run.progressed_at < _STALLED_SECONDS for run in self._runs())
            if busy >= self._settings.max_parallel:
                return
            open_targets = [name for name in self._queue.targets() if self._may_start(name, running[name], moment)]
            unit = self._queue.take(open_targets, off_peak_now=off_peak_now)
            if unit is None:
                return
            self._start(unit, moment)

    def _may_start(self, target: str, running: int, moment: float) -> bool:
        setup = self._settings.targets.get(target)
        return setup is not None and running < setup.max_parallel and self._health_of(target).may_try(moment)

    def _start(self, unit: Unit, moment: float) -> None:
        if is_held(self._layout, Stage.OUTGOING, unit.job_id):
            self._look_again(unit)
            return
        active = self._active.get(unit.job_id) or self._activate(unit)
        if active is None or unit.target in active.running:
            return
        if unit.target not in {d.target for d in active.job.deliveries if d.state is DeliveryState.WAITING}:
            self._settle_job(active)
            return
        setup = self._settings.targets[unit.target]
        run = DeliveryRun(active, unit.target, setup.target, self._clock, lambda: self._on_end(run))
        active.running[unit.target] = run
        self._health[unit.target] = self._health_of(unit.target).begin()
        run.progressed_at = moment
        self._emit(EventKind.DELIVERY_STARTED, active.job, target=unit.target)
        run.start()

    def _activate(self, unit: Unit) -> ActiveJob | None:
        """Claim the job and read it again: what the queue knows may be old."""
        taken = self._claim(unit.job_id)
        if taken is None:
            self._look_again(unit)
            return None
        try:
            active = ActiveJob(taken, taken.read())
        except (SpoolError, OSError):
            taken.close()
            self._queue.odd.append(unit.job_id)
            return None
        self._active[active.job.id] = active
        return active

    def _look_again(self, unit: Unit) -> None:
        """Put back a unit that cannot start now, if its job is still there."""
        with contextlib.suppress(SpoolError):
            job = self._queue.read(unit.job_id)
            if job:
                kept = tuple(d for d in job.deliveries if d.target == unit.target)
                again = self._clock.now().timestamp() + _AGAIN_SECONDS
                self._queue.add(replace(job, deliveries=kept), not_before=again)

    def _refuse_unknown(self, target: str) -> None:
        """Send what waits for a target that is not there any more to `error/`, from where it can be retried."""
        why = self._settings.unusable.get(target, "is not in the configuration")
        for unit in self._queue.drain(target):
            active = self._active.get(unit.job_id) or self._activate(unit)
            if active is None:
                continue
            log.error("target %s of job %s %s", target, unit.job_id, why)
            delivery = next(d for d in active.job.deliveries if d.target == target)
            ended = settled(delivery, DeliveryState.ERROR, self._clock.now(), f"target {target!r} {why}")
            active.job = active.job.with_delivery(ended)
            self._settle_job(active)

    # -- ending ------------------------------------------------------------------------------------------------------

    def _on_end(self, run: DeliveryRun) -> None:
        with self._ended_lock:
            self._ended.append(run)
        self._bell.ring()

    def _settle_ended(self) -> None:
        with self._ended_lock:
            ended, self._ended = self._ended, []
        for run in ended:
            self._settle_attempt(run)

    def _settle_attempt(self, run: DeliveryRun) -> None:
        active, attempt = run.active, run.attempt
        active.running.pop(run.target_name, None)
        if attempt is None:
            return
        self._note_health(run)
        now = self._clock.now()
        delivery = next(d for d in active.job.deliveries if d.target == run.target_name)
        kind = EventKind.DELIVERY_COMPLETE
        if attempt.error is None:
            delivery = settled(delivery, DeliveryState.COMPLETE, now)
        elif isinstance(attempt.error, CancelledError):
            if str(attempt.error) != _STOPPING:
                delivery = settled(delivery, DeliveryState.ERROR, now, str(attempt.error))
            kind = EventKind.JOB_CANCELLED
        elif isinstance(attempt.error, PermanentError):
            delivery = settled(delivery, DeliveryState.ERROR, now, str(attempt.error))
            kind = EventKind.DELIVERY_FAILED
        else:
            attempts = delivery.attempts + 1
            pause = self._pause(run.target_name, attempts)
            delivery = replace(delivery, attempts=attempts, updated_at=now, detail=str(attempt.error))
            kind = EventKind.DELIVERY_DEFERRED
            if pause is None:
                delivery = settled(
                    delivery, DeliveryState.ERROR, now, f"gave up after {attempts} attempts: {attempt.error}"
                )
                kind = EventKind.DELIVERY_FAILED
            else:
                delivery = replace(delivery, not_before=now + pause)
        active.job = active.job.with_delivery(delivery)
        self._emit(
            kind,
            active.job,
            target=run.target_name,
            count=attempt.sent,
            duration_seconds=attempt.seconds,
            detail=str(attempt.error) if attempt.error else None,
        )
        self._settle_job(active)

    def _pause(self, target: str, attempts: int) -> timedelta | None:
        setup = self._settings.targets.get(target)
        policy = setup.retry if setup else RetryPolicy(30.0, 3600.0)
        return policy.after(attempts, self._draw())

    def _note_health(self, run: DeliveryRun) -> None:
        attempt = run.attempt
        health = self._health_of(run.target_name)
        if attempt is None or isinstance(attempt.error, CancelledError):
            health = health.abandon()
        elif isinstance(attempt.error, TransientError) and not attempt.sent:
            health = health.record_failure(self._clock.monotonic(), attempt.started_at, self._draw())
        else:
            health = health.record_success()
        self._health[run.target_name] = health

    def _health_of(self, target: str) -> TargetHealth:
        health = self._health.get(target)
        if health is None:
            setup = self._settings.targets.get(target)
            health = TargetHealth(setup.retry if setup else RetryPolicy(30.0, 3600.0))
        return health

    def _settle_job(self, active: ActiveJob) -> None:
        """Write down how far the job is. While one of its targets is being served, the claim is kept."""
        job = active.job
        try:
            if active.running:
                active.claim.save(job)
                return
            del self._active[job.id]
            active.close()
            if any(d.state is DeliveryState.WAITING for d in job.deliveries):
                active.claim.defer(job)
                self._queue.add_missing(job)
            else:
                self._finish(active.claim, job)
        except OSError as error:
            # The disk does not take it. The ledger has what was confirmed; the job is read again from its folder.
            log.error("job %s cannot be written down: %s", job.id, error.strerror)  # noqa: TRY400
            active.claim.close()
            self._queue.forget(job.id)

    def _finish(self, taken: Claim, job: Job) -> None:
        """Move a job none of whose targets waits to its last stage."""
        failed = [d for d in job.deliveries if d.state is not DeliveryState.COMPLETE]
        if failed:
            self._fail(taken, job, "; ".join(f"{d.target}: {d.detail}" for d in failed))
            return
        now = self._clock.now()
        taken.commit(replace(job, settled_at=now, fail_stage=None, reason=""), Stage.SUCCESS)
        self._emit(EventKind.JOB_SETTLED, job, detail=Stage.SUCCESS.value, count=len(job.instances))

    def _fail(self, taken: Claim, job: Job, reason: str) -> None:
        log.error("job %s goes to error: %s", job.id, reason)
        taken.fail(job, FailStage.DISPATCHING, reason, self._clock.now())
        self._emit(EventKind.JOB_SETTLED, job, detail=Stage.ERROR.value, count=len(job.instances))

    def _pass_on_cancels(self) -> None:
        moment = self._clock.monotonic()
        if moment - self._cancel_checked_at < _CANCEL_SECONDS / 2:
            return
        self._cancel_checked_at = moment
        for active in self._active.values():
            if active.claim.is_cancelled():
                for run in active.running.values():
                    run.cancel(_OPERATOR)

    def _end_running(self) -> None:
        deadline = time.monotonic() + _STOP_SECONDS
        for run in self._runs():
            run.cancel(_STOPPING)
        while self._active and time.monotonic() < deadline:
            self._bell.wait(0.1)
            self._settle_ended()
        for active in self._active.values():
            active.claim.close()
        self._active.clear()

    def _runs(self) -> list[DeliveryRun]:
        return [run for active in self._active.values() for run in active.running.values()]

    def _is_off_peak(self) -> bool:
        settings = self._settings
        if settings.off_peak is None:
            return True
        return settings.off_peak.contains(self._clock.now().astimezone(settings.zone).time())

    def _emit(self, kind: EventKind, job: Job | None, job_id: str = "", **values: object) -> None:
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


def _mtime(path: Path) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0
