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
from collections.abc import Callable
from dataclasses import replace

from mercure.core.clock import Clock
from mercure.core.errors import SpoolError
from mercure.core.events import EventKind, EventSink
from mercure.core.stages import Stage
from mercure.core.task import DeliveryState
from mercure.services.circuits import Circuits
from mercure.services.delivery_run import ActiveJob, DeliveryRun, settled
from mercure.services.dispatch_queue import DispatchQueue, Unit
from mercure.services.dispatch_settings import DispatcherSettings
from mercure.services.folder_bell import FolderBell, modified_at
from mercure.services.service import Bell
from mercure.services.settlement import BY_OPERATOR, STOPPING, Settlement, is_waiting
from mercure.spool.jobs import Claim, claim, is_held
from mercure.spool.layout import Layout
from mercure.spool.moves import sweep_removed

log = logging.getLogger(__name__)

_STALLED_SECONDS = 1.0
_WISH_SECONDS = 0.5
_RACY_SECONDS = 2.0
_FULL_SCAN_SECONDS = 60.0
_SOON_SECONDS = 0.05
_AGAIN_SECONDS = 2.0
"""When a job that another process has claimed, or that an operator holds, is looked at again: soon at first, for who
has just put it here lets go of it a moment later, then after twice that and so on up to this."""

_TROUBLE_SECONDS = 5.0
"""When a job that the disk does not let us move or write is tried again."""

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
        self._active: dict[str, ActiveJob] = {}
        self._ended: list[DeliveryRun] = []
        self._ended_lock = threading.Lock()
        self._circuits = Circuits()
        self._circuits.follow(settings.policies(), ())
        self._outgoing_mtime = 0
        self._control_mtime = 0
        self._scanned_at = float("-inf")
        self._wishes_checked_at = float("-inf")
        self._next_settings: deque[DispatcherSettings] = deque(maxlen=1)
        self._troubles: dict[str, str] = {}
        self._patience: dict[str, float] = {}
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
        return not self._active

    def _follow(self, settings: DispatcherSettings) -> None:
        old, self._settings = self._settings, settings
        changed = {name: setup for name, setup in old.targets.items() if settings.targets.get(name) is not setup}
        self._circuits.follow(settings.policies(), changed)
        for setup in changed.values():
            setup.target.close()
        self._targets_changed = True
        self._control_mtime = -1  # what waited for a target that is mended goes on at once

    # -- what there is -----------------------------------------------------------------------------------------------

    def _seconds_to_wait(self) -> float:
        wait = self._settings.scan_interval_seconds
        now = self._clock.now().timestamp()
        due = self._queue.next_due()
        if due is not None:
            wait = min(wait, due - now)
        moment = self._clock.monotonic()
        probe = self._circuits.next_probe(self._queue.targets(), moment)
        if probe is not None:
            wait = min(wait, probe - moment)
        if self._active:
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
            self._troubles = {job_id: reason for job_id, reason in self._troubles.items() if job_id in self._queue}
            self._patience = {job_id: wait for job_id, wait in self._patience.items() if job_id in self._queue}
        self._queue.due(self._clock.now().timestamp())

    def _settle_odd(self) -> None:
        """Settle the jobs that no target waits for: damaged ones, and those that a dead dispatcher had finished."""
        while self._queue.odd:
            job_id = self._queue.odd.pop()
            if job_id in self._active:
                continue
            taken = self._claim(job_id)
            if taken is None:
                self._queue.read_later(job_id, self._again(job_id))
                continue
            try:
                with contextlib.closing(taken):
                    job = self._settlement.odd(taken)
            except (OSError, SpoolError) as error:
                self._put_off(job_id, "settled", error)
            else:
                if job:
                    self._queue.add(job)

    def _claim(self, job_id: str) -> Claim | None:
        try:
            return claim(self._layout, Stage.OUTGOING, job_id)
        except (SpoolError, OSError) as error:
            self._complain(job_id, "claimed", error)
            return None

    # -- starting ----------------------------------------------------------------------------------------------------

    def _start_due(self) -> None:
        if is_held(self._layout, Stage.OUTGOING):
            return
        if self._targets_changed:
            self._targets_changed = False
            self._queue.expedite(self._settings.targets)  # nobody waits for a target that has gone
        for name in [name for name in self._queue.targets() if name not in self._settings.targets]:
            self._refuse_unknown(name)
        off_peak_now = self._settings.is_off_peak(self._clock.now())
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
        return setup is not None and running < setup.max_parallel and self._circuits.may_try(target, moment)

    def _start(self, unit: Unit, moment: float) -> None:
        if is_held(self._layout, Stage.OUTGOING, unit.job_id):
            self._look_again(unit)
            return
        active = self._active.get(unit.job_id) or self._activate(unit)
        if active is None or unit.target in active.running:
            return
        now = self._clock.now()
        waiting = {d.target: d for d in active.job.deliveries if d.state is DeliveryState.WAITING}
        delivery = waiting.get(unit.target)
        if delivery is None or (delivery.not_before and delivery.not_before > now):
            self._settle_job(active)  # another process was here since; what waits goes back to its place
            return
        setup = self._settings.targets[unit.target]
        run = DeliveryRun(active, unit.target, setup.target, self._clock, lambda: self._on_end(run))
        active.running[unit.target] = run
        self._circuits.begin(unit.target)
        run.progressed_at = moment
        self._settlement.emit(EventKind.DELIVERY_STARTED, active.job, target=unit.target)
        run.start()

    def _activate(self, unit: Unit) -> ActiveJob | None:
        """Claim the job and read it again: what the queue knows may be old."""
        taken = self._claim(unit.job_id)
        if taken is None:
            self._look_again(unit)
            return None
        try:
            active = ActiveJob(taken, taken.read())
        except SpoolError:
            taken.close()
            self._queue.odd.append(unit.job_id)
            return None
        except OSError as error:
            taken.close()
            self._put_off(unit.job_id, "opened", error)
            return None
        self._active[active.job.id] = active
        self._patience.pop(active.job.id, None)
        return active

    def _look_again(self, unit: Unit) -> None:
        """Put back a unit that cannot start now, if its job is still there."""
        again = self._again(unit.job_id)
        try:
            job = self._queue.read(unit.job_id)
        except (SpoolError, OSError):
            self._queue.read_later(unit.job_id, again)
            return
        if job:
            kept = tuple(d for d in job.deliveries if d.target == unit.target)
            self._queue.add(replace(job, deliveries=kept), not_before=again)

    def _again(self, job_id: str) -> float:
        """Return when to look again at a job that cannot be had now (seconds since the epoch)."""
        wait = self._patience.get(job_id, _SOON_SECONDS)
        self._patience[job_id] = min(2 * wait, _AGAIN_SECONDS)
        return self._clock.now().timestamp() + wait

    def _refuse_unknown(self, target: str) -> None:
        """Send what waits for a target that is not there any more to `error/`, from where it can be retried."""
        why = self._settings.unusable.get(target, "is not in the configuration")
        for unit in self._queue.drain(target):
            active = self._active.get(unit.job_id) or self._activate(unit)
            if active is None or target in active.running:
                continue
            for delivery in active.job.deliveries:
                if delivery.target == target and delivery.state is DeliveryState.WAITING:
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
        self._circuits.end(attempt, self._clock.monotonic(), self._draw())
        policy = self._circuits.policy(run.target_name)
        active.job = self._settlement.attempt(active.job, attempt, lambda count: policy.after(count, self._draw()))
        if run.target_name in active.again:
            active.again.remove(run.target_name)
            others = {d.target for d in active.job.deliveries} - {run.target_name}
            active.job = active.job.due_again(self._clock.now(), but=others)
            self._circuits.probe(run.target_name)
        self._settle_job(active)

    def _settle_job(self, active: ActiveJob) -> None:
        """Write down how far the job is. While one of its targets is being served, the claim is kept."""
        self._takes_up_retry(active)
        job, taken = active.job, active.claim
        try:
            if active.running:
                taken.save(job)
                # The other targets go on with their attempts while this one is being served.
                idle = tuple(delivery for delivery in job.deliveries if delivery.target not in active.running)
                self._queue.add_missing(replace(job, deliveries=idle))
                return
            del self._active[job.id]
            active.close()
            with contextlib.closing(taken):
                if not is_waiting(job):
                    self._settlement.finish(taken, job)
                elif taken.is_cancelled():
                    self._settlement.fail(taken, job, BY_OPERATOR)
                else:
                    taken.defer(job)
                    self._queue.add_missing(job)
        except (OSError, SpoolError) as error:
            # The disk does not take it. The ledger has what was confirmed; the job is read again from its folder.
            self._put_off(job.id, "written down", error)

    def _complain(self, job_id: str, what: str, error: OSError | SpoolError) -> None:
        """Say what is wrong with a job once, not each time."""
        reason = str(error.strerror if isinstance(error, OSError) else error)
        if self._troubles.get(job_id) != reason:
            log.error("job %s cannot be %s now: %s", job_id, what, reason)
        self._troubles[job_id] = reason

    def _put_off(self, job_id: str, what: str, error: OSError | SpoolError) -> None:
        """Look at a job again later."""
        self._complain(job_id, what, error)
        self._queue.read_later(job_id, self._clock.now().timestamp() + _TROUBLE_SECONDS)

    def _pass_on_wishes(self) -> None:
        """Follow what operators want of the jobs that are being sent: to stop, or to try again."""
        moment = self._clock.monotonic()
        if moment - self._wishes_checked_at < _WISH_SECONDS / 2:
            return
        self._wishes_checked_at = moment
        for active in self._active.values():
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
        for run in self._runs():
            run.cancel(STOPPING)
        while self._active and time.monotonic() < deadline:
            self._bell.wait(0.1)
            self._settle_ended()
        # A delivery that does not end even now keeps its claim, so that nobody sends the same beside it. The kernel
        # frees the claim with the process; a dispatcher that starts again in this process settles it when it ends.

    def _runs(self) -> list[DeliveryRun]:
        return [run for active in self._active.values() for run in active.running.values()]
