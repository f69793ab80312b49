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
from collections.abc import Callable
from dataclasses import dataclass

from mercure.core.clock import Clock
from mercure.core.errors import CancelledError, MercureError, PermanentError, SpoolError, TransientError
from mercure.core.events import EventSink
from mercure.core.processing import ModuleSpec
from mercure.core.processing_steps import StepPlan
from mercure.core.stages import Stage
from mercure.core.task import Job
from mercure.services.folder_bell import FolderBell, modified_at
from mercure.services.module_chain import ChainRun, Processed, gpus_begun_with
from mercure.services.module_log import ProcessLog
from mercure.services.processing_queue import Chain, ProcessingQueue
from mercure.services.processing_settings import ProcessorSettings
from mercure.services.processing_settlement import ProcessingSettlement, steps_of
from mercure.services.processing_slots import Slot, Slots
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
        self._queue = ProcessingQueue(layout)
        self._slots = Slots()
        self._active: dict[str, _Active] = {}
        self._ended: deque[_Active] = deque()
        self._stopping = threading.Event()
        self._mtime = 0
        self._control_mtime = 0
        self._scanned_at = float("-inf")
        self._swept_at = float("-inf")
        self._next_settings: deque[ProcessorSettings] = deque(maxlen=1)
        self._troubles: dict[str, str] = {}

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
        sweep_removed(self._layout)
        self._queue.forget_all()
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
            self._scanned_at = float("-inf")
            self._queue.forget_all()
        self._settle_ended()
        self._scan()
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
            if moment - self._swept_at >= _FULL_SCAN_SECONDS:
                self._swept_at = moment
                threading.Thread(target=self._sweep, name="sweep", daemon=True).start()
            self._troubles = {job_id: reason for job_id, reason in self._troubles.items() if job_id in self._queue}
        self._queue.due(self._clock.now().timestamp())

    def _sweep(self) -> None:
        """Have the runs ended that belong to no job any more: cancelled or failed while nobody followed them."""
        kinds = {spec.runner for spec in self._settings.modules.values()}
        for kind, runner in self._settings.runners.items():
            if kind in kinds:
                with contextlib.suppress(MercureError):  # an engine that is away is asked again in a minute
                    runner.sweep(lambda job_id: (self._layout.processing / job_id).is_dir())

    def _settle_odd(self) -> None:
        """Settle what cannot be processed: damaged jobs, and those that a processor which died had finished."""
        while self._queue.odd:
            job_id = self._queue.odd.pop()
            if job_id in self._active:
                continue
            taken = self._claim(job_id)
            if taken is None:
                self._later(job_id, _AGAIN_SECONDS)
                continue
            try:
                if self._settlement.odd(taken):
                    self._queue.read(job_id, self._clock.now().timestamp())
            except (OSError, SpoolError) as error:
                self._put_off(job_id, "settled", error)
            finally:
                taken.close()

    def _claim(self, job_id: str) -> Claim | None:
        try:
            return claim(self._layout, Stage.PROCESSING, job_id)
        except (SpoolError, OSError) as error:
            self._complain(job_id, "claimed", error)
            return None

    # -- starting ----------------------------------------------------------------------------------------------------

    def _start_due(self) -> None:
        if self._stopping.is_set():
            return
        while self._queue.begun:
            # Whatever is held or full: it may still run, and nothing else may have its places and GPUs.
            self._start(self._queue.begun.pop(), was_begun=True)
        if is_held(self._layout, Stage.PROCESSING):
            return
        off_peak_now = self._settings.is_off_peak(self._clock.now())
        blocked: set[Chain] = set()
        while self._slots.count < self._settings.max_parallel:
            lines = [chain for chain in self._queue.chains() if chain not in blocked]
            taken = self._queue.take(lines, off_peak_now=off_peak_now)
            if taken is None:
                return
            job_id, line = taken
            if not self._start(job_id):
                blocked.add(line)

    def _start(self, job_id: str, *, was_begun: bool = False) -> bool:
        """Start a job. False when something that its modules need is not free; the job waits on then."""
        if is_held(self._layout, Stage.PROCESSING, job_id) and not was_begun:
            self._later(job_id, _AGAIN_SECONDS)
            return True
        taken = self._claim(job_id)
        if taken is None:
            self._later(job_id, _AGAIN_SECONDS)
            return True
        try:
            job = taken.read()
            steps, specs = steps_of(job, self._settings)
            slot = self._slots.take(specs, self._settings, gpus_begun_with(taken.folder) if was_begun else None)
        except PermanentError as error:
            self._settle_failed(taken, error)
            return True
        except (SpoolError, OSError) as error:
            taken.close()
            self._put_off(job_id, "started", error)
            return True
        if slot is None:
            taken.close()
            self._queue.read(job_id, self._clock.now().timestamp())
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
        self._settlement.began(job)
        threading.Thread(target=self._work, args=(active,), name=f"process-{job.id}", daemon=True).start()

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
            del self._active[active.job.id]
            self._slots.give_back(active.slot)
            try:
                waits = self._settlement.settle(active.claim, active.job, active.outcome, active.run, self._settings)
            except (OSError, SpoolError) as error:
                self._put_off(active.job.id, "written down", error)
            else:
                if waits:
                    self._queue.read(active.job.id)
            finally:
                active.claim.close()

    def _settle_failed(self, taken: Claim, error: PermanentError) -> None:
        try:
            self._settlement.fail(taken, taken.read(), str(error))
        except (OSError, SpoolError) as trouble:
            self._put_off(taken.id, "settled", trouble)
        finally:
            taken.close()

    def _later(self, job_id: str, seconds: float) -> None:
        self._queue.read_later(job_id, self._clock.now().timestamp() + seconds)

    def _complain(self, job_id: str, what: str, error: OSError | SpoolError) -> None:
        """Say what is wrong with a job once, not each time."""
        reason = str(error.strerror if isinstance(error, OSError) else error)
        if self._troubles.get(job_id) != reason:
            log.error("job %s cannot be %s now: %s", job_id, what, reason)
        self._troubles[job_id] = reason

    def _put_off(self, job_id: str, what: str, error: OSError | SpoolError) -> None:
        self._complain(job_id, what, error)
        self._later(job_id, _TROUBLE_SECONDS)

    def _end_running(self) -> None:
        self._stopping.set()
        deadline = time.monotonic() + _STOP_SECONDS
        while self._active and time.monotonic() < deadline:
            self._bell.wait(0.1)
            self._settle_ended()
