"""The dispatcher: sends the jobs in `outgoing/` to their targets.

Its own thread decides; each running delivery has a thread that only sends. What waits is a pair of job and target, so
that a slow, hung or dead target holds up nothing but what goes to it. A delivery that makes no progress gives up its
place among the parallel ones to another target's, but keeps its place at its own target.
"""

import contextlib
import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from mercure.core.clock import Clock
from mercure.core.events import EventKind, EventSink
from mercure.core.stages import Stage
from mercure.core.task import DeliveryState
from mercure.services.circuits import Circuits
from mercure.services.delivery_run import ActiveJob, Attempt, DeliveryRun, settled
from mercure.services.dispatch_jobs import DispatchJobs
from mercure.services.dispatch_queue import DispatchQueue, Unit
from mercure.services.dispatch_settings import DispatcherSettings, TargetSetup
from mercure.services.folder_bell import FolderBell, modified_at
from mercure.services.service import Bell
from mercure.services.settlement import BY_OPERATOR, STOPPING, Settlement, is_waiting
from mercure.spool.jobs import is_held
from mercure.spool.layout import Layout
from mercure.spool.moves import sweep_copies, sweep_removed

log = logging.getLogger(__name__)

_STALLED_SECONDS = 1.0
_WISH_SECONDS = 0.5
_RACY_SECONDS = 2.0
_FULL_SCAN_SECONDS = 60.0
_STOP_SECONDS = 5.0


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
        self._settlement = Settlement(clock, events)
        self._draw = draw
        self._bell = Bell()
        self._queue = DispatchQueue(layout)
        self._jobs = DispatchJobs(layout, self._queue, clock)
        self._ended: deque[tuple[DeliveryRun, Attempt]] = deque()
        self._circuits = Circuits()
        self._circuits.follow(settings.policies(), ())
        self._outgoing_mtime = 0
        self._control_mtime = 0
        self._scanned_at = float("-inf")
        self._wishes_checked_at = float("-inf")
        self._next_settings: deque[DispatcherSettings] = deque(maxlen=1)
        self._targets_changed = True

    def configure(self, settings: DispatcherSettings) -> None:
        """Follow new settings soon; deliveries that run go on with the targets they have. Callable from any thread."""
        self._next_settings.append(settings)
        self._bell.ring()

    def wake(self) -> None:
        """Look for work now."""
        self._bell.ring()

    def run(self, stop: threading.Event) -> None:
        """Dispatch until `stop`; then end what runs, without counting it as failed."""
        sweep_removed(self._layout)
        sweep_copies(self._layout)
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
            _close(self._settings.targets.values())

    def step(self) -> None:
        """Settle what ended, notice what is new, and start what may start. Does not wait for any target."""
        if self._next_settings:
            self._follow(self._next_settings.pop())
        self._settle_ended()
        self._scan()
        self._pass_on_wishes()
        self._settle_odd()
        self._start_due()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being sent."""
        return not self._jobs

    def _follow(self, settings: DispatcherSettings) -> None:
        old, self._settings = self._settings, settings
        changed = {name: setup for name, setup in old.targets.items() if settings.targets.get(name) is not setup}
        self._circuits.follow(settings.policies(), changed)
        _close(changed.values())
        self._targets_changed = True
        self._control_mtime = -1  # what waited for a target that is mended goes on at once

    # -- what there is -----------------------------------------------------------------------------------------------

    def _seconds_to_wait(self) -> float:
        wait = self._settings.scan_interval_seconds if not self._queue.odd else 0.0
        now = self._clock.now().timestamp()
        due = self._queue.next_due()
        if due is not None:
            wait = min(wait, due - now)
        moment = self._clock.monotonic()
        probe = self._circuits.next_probe(self._queue.targets(), moment)
        if probe is not None:
            wait = min(wait, probe - moment)
        if self._jobs:
            wait = min(wait, _WISH_SECONDS)
        return max(wait, 0.001)

    def _scan(self) -> None:
        moment = self._clock.monotonic()
        control = modified_at(self._layout.control)
        if control != self._control_mtime:
            self._control_mtime = control
            self._circuits.probe_all()
            self._queue.forget_all()
            self._scanned_at = float("-inf")
        mtime = modified_at(self._layout.stage(Stage.OUTGOING))
        if mtime != self._outgoing_mtime or moment - self._scanned_at >= _FULL_SCAN_SECONDS:
            self._scanned_at = moment
            quiet = self._clock.now().timestamp() - mtime / 1e9 > _RACY_SECONDS
            self._outgoing_mtime = mtime if quiet else 0
            self._queue.scan()
            self._jobs.forget_gone()
        self._queue.due(self._clock.now().timestamp())

    def _settle_odd(self) -> None:
        """Settle the jobs that no target waits for: damaged ones, and those that a dead dispatcher had finished."""
        for job_id in self._queue.take_odd():
            # What is being sent cannot be read just now: its other targets come back when it can.
            taken = None if job_id in self._jobs else self._jobs.claim(job_id)
            if taken is None:
                self._queue.read_later(job_id, self._jobs.again(job_id))
                continue
            with self._jobs.guard(job_id, "settled"), contextlib.closing(taken):
                job = self._settlement.odd(taken)
                if job:
                    self._queue.add(job)

    # -- starting ----------------------------------------------------------------------------------------------------

    def _start_due(self) -> None:
        if self._next_settings or is_held(self._layout, Stage.OUTGOING):
            return  # settings that came in this step first: the router may follow them already, and know more targets
        if self._targets_changed:
            self._targets_changed = False
            self._queue.expedite(self._settings.targets)  # nobody waits for a target that has gone
        for name in [name for name in self._queue.targets() if name not in self._settings.targets]:
            self._refuse_unknown(name)
        off_peak_now = self._settings.is_off_peak(self._clock.now())
        while True:
            runs = self._jobs.runs()
            running = Counter(run.target_name for run in runs)
            moment = self._clock.monotonic()
            busy = sum(moment - run.progressed_at < _STALLED_SECONDS for run in runs)
            if busy >= self._settings.max_parallel:
                return
            open_targets = [name for name in self._queue.targets() if self._may_start(name, running[name], moment)]
            unit = self._queue.take(open_targets, off_peak_now=off_peak_now)
            if unit is None:
                return
            has_threads = True
            with self._jobs.guard(unit.job_id, "sent"):
                has_threads = self._start(unit, moment)
            if not has_threads:
                return  # whatever else waits would not get one either

    def _may_start(self, target: str, running: int, moment: float) -> bool:
        setup = self._settings.targets.get(target)
        return setup is not None and running < setup.max_parallel and self._circuits.may_try(target, moment)

    def _start(self, unit: Unit, moment: float) -> bool:
        """Start an attempt, unless the job stands otherwise by now. False when the machine has no thread for it."""
        if is_held(self._layout, Stage.OUTGOING, unit.job_id):
            self._jobs.look_again(unit)
            return True
        active = self._jobs.take(unit)
        if active is None or unit.target in active.running:
            return True
        now = self._clock.now()
        waiting = {d.target: d for d in active.job.deliveries if d.state is DeliveryState.WAITING}
        delivery = waiting.get(unit.target)
        if delivery is None or (delivery.not_before and delivery.not_before > now):
            self._settle_job(active)  # another process was here since; what waits goes back to its place
            return True
        target = self._settings.targets[unit.target].target
        run = DeliveryRun(active, unit.target, target, self._clock, lambda attempt: self._on_end(run, attempt))
        run.progressed_at = moment
        try:
            run.start()
        except RuntimeError:
            self._jobs.put_off(unit.job_id, "sent", "the machine has no thread for it")
            return False
        active.running[unit.target] = run
        self._circuits.begin(unit.target)
        self._settlement.emit(EventKind.DELIVERY_STARTED, active.job, target=unit.target)
        return True

    def _refuse_unknown(self, target: str) -> None:
        """Send what waits for a target that is not there any more to `error/`, from where it can be retried."""
        why = self._settings.unusable.get(target, "is not in the configuration")
        for unit in self._queue.drain(target):
            with self._jobs.guard(unit.job_id, "settled"):
                self._refuse(unit, f"target {target!r} {why}")

    def _refuse(self, unit: Unit, reason: str) -> None:
        active = self._jobs.take(unit)
        if active is None or unit.target in active.running:
            return
        for delivery in active.job.deliveries:
            if delivery.target == unit.target and delivery.state is DeliveryState.WAITING:
                ended = settled(delivery, DeliveryState.ERROR, self._clock.now(), reason)
                active.job = active.job.with_delivery(ended)
        self._settle_job(active)

    # -- ending ------------------------------------------------------------------------------------------------------

    def _on_end(self, run: DeliveryRun, attempt: Attempt) -> None:
        self._ended.append((run, attempt))
        self._bell.ring()

    def _settle_ended(self) -> None:
        while self._ended:
            run, attempt = self._ended.popleft()
            with self._jobs.guard(run.active.claim.id, "written down"):
                self._settle_attempt(run, attempt)

    def _settle_attempt(self, run: DeliveryRun, attempt: Attempt) -> None:
        active = run.active
        active.running.pop(run.target_name, None)
        pause = self._circuits.end(attempt, self._clock.monotonic(), self._draw())
        active.job = self._settlement.attempt(active.job, attempt, pause)
        if run.target_name in active.again:
            active.again.remove(run.target_name)
            others = {d.target for d in active.job.deliveries} - {run.target_name}
            active.job = active.job.due_again(self._clock.now(), but=others)
            self._circuits.probe(run.target_name)
        self._settle_job(active)

    def _settle_job(self, active: ActiveJob) -> None:
        """Write down how far the job is. While one of its targets is being served, the claim is kept.

        Raises `OSError` or `SpoolError` when the disk does not take it.
        """
        self._takes_up_retry(active)
        job, taken = active.job, active.claim
        if active.running:
            taken.save(job)
            # The other targets go on with their attempts while this one is being served.
            idle = tuple(delivery for delivery in job.deliveries if delivery.target not in active.running)
            self._queue.add_missing(replace(job, deliveries=idle))
            return
        with contextlib.closing(self._jobs.forget(active)):
            active.close()
            if not is_waiting(job):
                self._settlement.finish(taken, job)
            elif taken.is_cancelled():
                self._settlement.fail(taken, job, BY_OPERATOR)
            else:
                taken.defer(job)
                self._queue.add_missing(job)

    def _pass_on_wishes(self) -> None:
        """Follow what operators want of the jobs that are being sent: to stop, or to try again."""
        moment = self._clock.monotonic()
        if moment - self._wishes_checked_at < _WISH_SECONDS / 2:
            return
        self._wishes_checked_at = moment
        for active in self._jobs:
            with self._jobs.guard(active.claim.id, "followed"):
                self._pass_on(active)

    def _pass_on(self, active: ActiveJob) -> None:
        if active.claim.is_cancelled():
            for run in active.running.values():
                run.cancel(BY_OPERATOR)
        elif self._takes_up_retry(active):
            idle = tuple(d for d in active.job.deliveries if d.target not in active.running)
            self._queue.add(replace(active.job, deliveries=idle))

    def _takes_up_retry(self, active: ActiveJob) -> bool:
        """Make what waits or failed due now, if an operator asked for it; what runs is tried again if it fails."""
        if not active.claim.takes_up_retry():
            return False
        active.again.update(active.running)
        active.job = active.job.due_again(self._clock.now(), but=active.running)
        return True

    def _end_running(self) -> None:
        deadline = time.monotonic() + _STOP_SECONDS
        for run in self._jobs.runs():
            run.cancel(STOPPING)
        while self._jobs and time.monotonic() < deadline:
            self._bell.wait(0.1)
            self._settle_ended()
        # A delivery that does not end even now keeps its claim, so that nobody sends the same beside it. The kernel
        # frees the claim with the process; a dispatcher that starts again in this process settles it when it ends.


def _close(setups: Iterable[TargetSetup]) -> None:
    """Close targets; one that cannot be closed keeps no other from it."""
    for setup in setups:
        try:
            setup.target.close()
        except Exception:
            log.exception("a target cannot be closed by an error of ours")
