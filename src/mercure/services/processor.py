"""The processor: runs the modules of the jobs in `processing/` and commits what they made.

Its own thread decides; each job that runs has a thread of its own (`ChainRun`). While a module, a GPU or a persistence
folder that a job needs is not free, the job waits and others go before it.
"""

import contextlib
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mercure.core.clock import Clock
from mercure.core.errors import CancelledError, MercureError, PermanentError, TransientError
from mercure.core.events import EventSink
from mercure.core.processing import ModuleSpec
from mercure.core.processing_steps import StepPlan
from mercure.core.stages import Stage
from mercure.core.task import Job, Priority
from mercure.services.folder_bell import FolderBell, modified_at
from mercure.services.module_chain import ChainRun, Processed, gpus_begun_with
from mercure.services.module_log import ProcessLog
from mercure.services.processing_order import Chain, Line, Patience, Round
from mercure.services.processing_queue import ProcessingQueue
from mercure.services.processing_settings import ProcessorSettings
from mercure.services.processing_settlement import ProcessingSettlement, planned_steps, specs_of, steps_of
from mercure.services.processing_slots import Slot, Slots, needs_of
from mercure.services.processing_sweep import RunSweep
from mercure.services.processing_troubles import MOST_FAULTS, Troubles
from mercure.services.service import Bell
from mercure.services.settlement import BY_OPERATOR, STOPPING
from mercure.spool import layout as names
from mercure.spool.jobs import Claim, claim, is_held
from mercure.spool.layout import Layout
from mercure.spool.moves import sweep_removed

log = logging.getLogger(__name__)

_RACY_SECONDS = 2.0
_FULL_SCAN_SECONDS = 60.0
_AGAIN_SECONDS = 2.0
"""When a job that another process has claimed, or that an operator holds, is looked at again."""

_TROUBLE_SECONDS = 5.0
_STOP_SECONDS = 15.0


@dataclass(eq=False, slots=True)
class _Active:
    """A job that runs. Written by its thread once, at the end."""

    claim: Claim
    job: Job
    slot: Slot
    steps: tuple[StepPlan, ...]
    run: ChainRun
    outcome: Processed | MercureError | None = None
    again_at: float | None = None
    """When to try again to write down the outcome, in seconds of the monotonic clock. None: not tried, or it runs."""


class Processor:
    """The service `processor`."""

    name = "processor"

    def __init__(
        self,
        layout: Layout,
        settings: ProcessorSettings,
        clock: Clock,
        events: EventSink,
        on_jobs: Callable[[], None] = lambda: None,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Prepare. `on_jobs` is called when a job comes to `outgoing/`; `draw` gives 0 to 1 for jitter of retries."""
        self._layout = layout
        self._settings = settings
        self._clock = clock
        self._settlement = ProcessingSettlement(clock, events, on_jobs, draw)
        self._process_log = ProcessLog(layout.processing / names.PROCESS_LOG)
        self._bell = Bell()
        self._queue = ProcessingQueue(layout, self._chain_of)
        self._patience = Patience()
        self._slots = Slots()
        self._active: dict[str, _Active] = {}
        self._ended: deque[_Active] = deque()
        self._stopping = threading.Event()
        self._mtime = 0
        self._control_mtime = 0
        self._scanned_at = float("-inf")
        self._sweep = RunSweep(layout.processing, clock)
        self._next_settings: deque[ProcessorSettings] = deque(maxlen=1)
        self._troubles = Troubles()

    def configure(self, settings: ProcessorSettings) -> None:
        """Follow new settings soon; jobs that run go on as they began. Callable from any thread."""
        self._next_settings.append(settings)
        self._bell.ring()

    def wake(self) -> None:
        """Look for work now."""
        self._bell.ring()

    def run(self, stop: threading.Event) -> None:
        """Process until `stop`; containers then go on and are taken up again, local processes are ended."""
        self._stopping.clear()
        self._troubles.foresee(self._settings.modules.values())
        sweep_removed(self._layout)
        self._sweep.begin()
        self._queue.start_anew()
        self._scanned_at = float("-inf")
        bell = FolderBell((self._layout.processing, self._layout.jobs), self._bell.ring, changes=True)
        try:
            while not stop.is_set():
                self.step()
                self._bell.wait(self._seconds_to_wait())
        finally:
            bell.close()
            self._end_running()

    def step(self) -> None:
        """Settle what ended, notice what is new, and start what may start. Does not wait for any module."""
        if self._next_settings:
            self._settings = self._next_settings.pop()
            self._troubles.foresee(self._settings.modules.values())
            self._scanned_at = float("-inf")
            self._queue.forget_all()
        self._settle_ended()
        self._scan()
        self._sweep.start_due(self._settings.runners.values())
        self._settle_odd()
        self._start_due()

    @property
    def is_idle(self) -> bool:
        """Whether no module runs."""
        return not self._active

    # -- what there is -----------------------------------------------------------------------------------------------

    def _seconds_to_wait(self) -> float:
        wait = self._settings.scan_interval_seconds
        due = self._queue.next_due()
        if due is not None:
            wait = min(wait, due - self._clock.now().timestamp())
        return max(wait, 0.001)

    def _scan(self) -> None:
        moment = self._clock.monotonic()
        control = modified_at(self._layout.control)
        if control != self._control_mtime:
            self._control_mtime = control
            self._queue.forget_all()
            self._scanned_at = float("-inf")
        mtime = modified_at(self._layout.processing)
        if mtime != self._mtime or moment - self._scanned_at >= _FULL_SCAN_SECONDS:
            self._scanned_at = moment
            quiet = self._clock.now().timestamp() - mtime / 1e9 > _RACY_SECONDS
            self._mtime = mtime if quiet else 0
            self._queue.scan(self._active)
            self._troubles.keep_only(self._queue)
        self._queue.due(self._clock.now().timestamp())

    def _settle_odd(self) -> None:
        """Settle what cannot be processed: damaged jobs, and those that a processor which died had finished."""
        odd, self._queue.odd = self._queue.odd, []
        for job_id in odd:
            if job_id in self._active:
                continue
            taken = self._claim(job_id)
            if taken is None:
                self._later(job_id, _AGAIN_SECONDS)
                continue
            with contextlib.closing(taken), self._guarded(taken, "settled"):
                if self._settlement.odd(taken):
                    self._queue.read(job_id, self._clock.now().timestamp())
                else:
                    self._troubles.over(job_id)

    def _claim(self, job_id: str) -> Claim | None:
        try:
            return claim(self._layout, Stage.PROCESSING, job_id)
        except Exception as error:  # noqa: BLE001 - logged there
            self._troubles.note(job_id, "claimed", error)
            return None

    # -- starting ----------------------------------------------------------------------------------------------------

    def _start_due(self) -> None:
        if self._stopping.is_set():
            return
        while self._queue.begun:
            # Whatever is held or full: it may still run, and nothing else may have its places and GPUs.
            self._start(self._queue.begun.pop(), was_begun=True)
        if self._next_settings or is_held(self._layout, Stage.PROCESSING):
            return  # settings that came in this step first: the router may follow them already, and know more modules
        off_peak_now = self._settings.is_off_peak(self._clock.now())
        self._patience.keep_only(self._queue.lines())
        one = Round(self._patience, self._clock.monotonic())
        while self._slots.count < self._settings.max_parallel:
            found = self._queue.next(one, off_peak_now=off_peak_now)
            if found is None:
                return
            job_id, line = found
            if is_held(self._layout, Stage.PROCESSING, job_id):  # whatever it needs: nothing is kept for it
                self._queue.take(job_id)
                self._later(job_id, _AGAIN_SECONDS)
                continue
            specs = self._specs_of(line.chain)
            is_free = self._slots.has_room(specs, self._settings, one.kept_from(line))
            if is_free:
                self._queue.take(job_id)
                is_free = self._start(job_id)
            if not is_free:
                one.refuse(line, needs_of(specs, self._settings))

    def _chain_of(self, job: Job) -> Chain:
        return tuple(step.module for step in planned_steps(job, self._settings))

    def _specs_of(self, chain: Chain) -> tuple[ModuleSpec, ...]:
        """Return the modules of a line; none when one can never run, which its jobs are told when they start."""
        try:
            return specs_of(chain, self._settings)
        except PermanentError:
            return ()

    def _start(self, job_id: str, *, was_begun: bool = False) -> bool:
        """Start a job. False when something that its modules need is not free; the job waits on then."""
        taken = self._claim(job_id)
        if taken is None:
            self._later(job_id, _AGAIN_SECONDS)
            return True
        try:
            return self._start_taken(taken, was_begun=was_begun)
        except Exception as error:  # noqa: BLE001 - logged there
            self._put_off(taken, "started", error)
            taken.close()
            return True

    def _start_taken(self, taken: Claim, *, was_begun: bool) -> bool:
        """Go on with a job that is claimed. What it raises puts the job off; the claim is with the run, or over."""
        try:
            job = taken.read()
            steps, specs = steps_of(job, self._settings)
            slot = self._slots.take(specs, self._settings, gpus_begun_with(taken.folder) if was_begun else None)
        except PermanentError as error:
            self._settlement.fail(taken, taken.read(), str(error))
            return True
        if slot is None:
            taken.close()
            if was_begun:
                self._later(taken.id, _AGAIN_SECONDS)
            else:
                self._queue.read(taken.id, self._clock.now().timestamp())
            return False
        self._begin(taken, job, steps, specs, slot)
        return True

    def _begin(
        self, taken: Claim, job: Job, steps: tuple[StepPlan, ...], specs: tuple[ModuleSpec, ...], slot: Slot
    ) -> None:
        def stopped() -> str:
            if self._stopping.is_set():
                return STOPPING
            return BY_OPERATOR if taken.is_cancelled() else ""

        def told(text: str) -> None:
            self._process_log.line(self._clock.now(), job.id, text)

        run = ChainRun(taken.folder, job, steps, specs, self._settings, slot.gpus, stopped, told)
        active = _Active(taken, job, slot, steps, run)
        self._active[job.id] = active
        try:
            self._settlement.began(job)
            _start_thread(lambda: self._work(active), f"process-{job.id}")
        except BaseException as error:
            del self._active[job.id]
            self._slots.give_back(slot)
            if isinstance(error, TransientError):
                self._settlement.began_not(job, str(error))
            raise
        self._queue.taken_up(job.id)
        line = Line(tuple(step.module for step in steps), job.priority is Priority.URGENT)
        self._patience.started(line, needs_of(specs, self._settings))

    def _work(self, active: _Active) -> None:
        """Run a job, on its own thread."""
        try:
            active.outcome = active.run.run()
        except (TransientError, PermanentError, CancelledError) as error:
            active.outcome = error
        except PermissionError as error:
            active.outcome = PermanentError(f"a folder of the job cannot be used: {error.strerror}")
        except OSError as error:
            active.outcome = TransientError(f"the folders of the job cannot be used now: {error.strerror}")
        except Exception as error:
            # An error of ours in one job must not end the service, nor run its modules again and again.
            log.exception("job %s failed in processing by an error of ours", active.job.id)
            active.outcome = PermanentError(f"internal error ({type(error).__name__}), see the log")
        self._ended.append(active)
        self._bell.ring()

    # -- ending ------------------------------------------------------------------------------------------------------

    def _settle_ended(self) -> None:
        while self._ended:
            active = self._ended.popleft()
            self._slots.give_back(active.slot)
            self._settle(active)
        now = self._clock.monotonic()
        for active in [one for one in self._active.values() if one.again_at is not None and one.again_at <= now]:
            self._settle(active)

    def _settle(self, active: _Active) -> None:
        """Bring a job to where it belongs. While that cannot be, its outcome is kept: its modules do not run again."""
        job_id, taken, outcome = active.job.id, active.claim, active.outcome
        is_stopping = isinstance(outcome, CancelledError) and str(outcome) == STOPPING
        if taken.is_cancelled() and not is_stopping:  # whatever became of its modules, and of their engine
            active.outcome = CancelledError(BY_OPERATOR)
        waits = False
        try:
            waits = self._settlement.settle(taken, active.job, active.outcome, active.run, self._settings)
            self._troubles.over(job_id)
        except Exception as error:  # noqa: BLE001 - logged there
            if not self._gave_up(taken, "written down", error) and taken.folder.is_dir():
                active.again_at = self._clock.monotonic() + _TROUBLE_SECONDS
                return
        self._forget(active)
        if waits:
            self._queue.read(job_id)

    def _forget(self, active: _Active) -> None:
        del self._active[active.job.id]
        active.claim.close()
        self._settlement.forget(active.job.id)

    @contextlib.contextmanager
    def _guarded(self, taken: Claim, what: str) -> Iterator[None]:
        """Put a job off when something stands in its way, whatever it is: never may it stop the service."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - logged there
            self._put_off(taken, what, error)
            taken.close()

    def _later(self, job_id: str, seconds: float) -> None:
        self._queue.read_later(job_id, self._clock.now().timestamp() + seconds)

    def _put_off(self, taken: Claim, what: str, error: Exception) -> None:
        """Try a job again later; end it when an error of ours stood in its way too often."""
        if not self._gave_up(taken, what, error):
            self._later(taken.id, _TROUBLE_SECONDS)

    def _gave_up(self, taken: Claim, what: str, error: Exception) -> bool:
        """Note what stands in the way of a job. True when it is in `error/` now, because that was so too often."""
        if not self._troubles.note(taken.id, what, error):
            return False
        reason = f"internal error ({type(error).__name__}), {MOST_FAULTS} times: it cannot be {what}, see the log"
        try:
            self._settlement.give_up(taken, reason)
        except Exception:
            log.exception("job %s cannot be moved to error", taken.id)
            return False
        return True

    def _end_running(self) -> None:
        self._stopping.set()
        deadline = time.monotonic() + _STOP_SECONDS
        while any(one.again_at is None for one in self._active.values()) and time.monotonic() < deadline:
            self._bell.wait(0.1)
            self._settle_ended()
        for active in [one for one in self._active.values() if one.again_at is not None]:
            self._forget(active)  # The disk does not take what its modules made: they run again.


def _start_thread(work: Callable[[], None], name: str) -> None:
    """Raises `TransientError` when the machine has no room for a thread: that says nothing about its job."""
    try:
        threading.Thread(target=work, name=name, daemon=True).start()
    except RuntimeError as error:
        raise TransientError(f"no thread can be started: {error}") from error
