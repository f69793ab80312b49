"""One job while it is being dispatched: its claim, its ledger, and a thread for each target that is being served."""

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from mercure.core.clock import Clock
from mercure.core.delivery import InstanceResult, Outcome, Parcel, Target
from mercure.core.errors import CancelledError, PermanentError, TransientError
from mercure.core.task import Delivery, DeliveryState, Job, Priority
from mercure.spool.instances import make_readable
from mercure.spool.job_files import Ledger, read_ledger
from mercure.spool.jobs import Claim
from mercure.spool.layout import LEDGER_FILE, sop_instance_uid_of

log = logging.getLogger(__name__)

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one attempt at one target ended. `error` is None when the target has everything."""

    target: str
    error: TransientError | PermanentError | CancelledError | None
    sent: int
    seconds: float
    started_at: float


class ActiveJob:
    """A claimed job. The dispatcher's thread owns it; `record` is called by the threads that send."""

    def __init__(self, claim: Claim, job: Job) -> None:
        """Open the ledger of the claimed job."""
        self.claim = claim
        self.job = job
        self.running: dict[str, DeliveryRun] = {}
        self.again: set[str] = set()
        """The running targets at which an operator wants another attempt at once if this one fails."""
        self._lock = threading.Lock()
        self._results = read_ledger(claim.folder)
        self._ledger = Ledger(claim.folder)

    def record(self, target: str, result: InstanceResult) -> None:
        """Write a line of the ledger. Raises `OSError`."""
        with self._lock:
            self._ledger.record(target, result)
            self._results[target, result.name] = result

    def outstanding(self, target: str) -> list[str]:
        """Return the instances that the target has not confirmed."""
        with self._lock:
            return [name for name in self.job.payload if not self._is_there(target, name)]

    def results(self, target: str, outcome: Outcome) -> list[InstanceResult]:
        """Return the instances that ended so at a target."""
        with self._lock:
            found = (self._results.get((target, name)) for name in self.job.payload)
            return [result for result in found if result and result.outcome is outcome]

    def _is_there(self, target: str, name: str) -> bool:
        result = self._results.get((target, name))
        return result is not None and result.outcome.is_there

    def close(self) -> None:
        """Close the ledger; the claim is the caller's."""
        self._ledger.close()


class DeliveryRun:
    """One attempt at one target, on a thread of its own."""

    def __init__(
        self, active: ActiveJob, target_name: str, target: Target, clock: Clock, on_end: Callable[[Attempt], None]
    ) -> None:
        """Prepare; `start` begins. `on_end` is called on the thread when the attempt is over."""
        self.active = active
        self.target_name = target_name
        self.progressed_at = clock.monotonic()
        self._started_at = self.progressed_at
        self._target = target
        self._clock = clock
        self._on_end = on_end
        self._sent = 0
        self._close: Callable[[], None] | None = None
        self._cancelled = ""
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to send. Raises `RuntimeError` when there is no thread to be had; nothing is begun then."""
        threading.Thread(target=self._run, name=f"deliver-{self.target_name}", daemon=True).start()

    def cancel(self, reason: str) -> None:
        """End the attempt soon, also when the target hangs. Raises nothing: the others are to be ended, too."""
        with self._lock:
            self._cancelled = reason
            close = self._close
        try:
            if close:
                close()
        except Exception:
            log.exception("delivery of job %s to %s cannot be broken off", self.active.job.id, self.target_name)

    # -- core.delivery.Progress: called by the target on the sending thread -------------------------------------------

    def record(self, result: InstanceResult) -> None:
        """Put the result of one instance into the ledger. Raises `TransientError` when the disk does not take it."""
        try:
            self.active.record(self.target_name, result)
        except OSError as error:  # not one of the target, which might take it for its own
            raise TransientError(f"the ledger of the job cannot be written now: {error.strerror}") from None
        self.progressed_at = self._clock.monotonic()
        self._sent += result.outcome.is_there

    def check(self) -> None:
        """Raise `CancelledError` when the attempt is to end. Called before each instance, so it is progress, too."""
        self.progressed_at = self._clock.monotonic()
        if self._cancelled:
            raise CancelledError(self._cancelled)

    def attach(self, close: Callable[[], None]) -> None:
        """Keep what ends a blocking send."""
        with self._lock:
            self._close = close
            cancelled = self._cancelled
        if cancelled:
            close()

    def _run(self) -> None:
        error: TransientError | PermanentError | CancelledError | None
        try:
            error = self._send()
        except (TransientError, PermanentError, CancelledError) as raised:
            error = raised
        except BaseException as raised:
            # An error of ours in one target must not end the service; the job waits and is seen. Whatever ends this
            # thread is told, also what is no error (`SystemExit`): else the job would be in delivery for ever.
            log.exception("delivery of job %s to %s failed by an error of ours", self.active.job.id, self.target_name)
            error = TransientError(f"internal error ({type(raised).__name__}), see the log")
        if self._cancelled and error is not None:
            error = CancelledError(self._cancelled)
        if isinstance(error, PermanentError) and (count := self._make_readable()):
            error = TransientError(f"{count} instances could not be read just then: a module had changed their modes")
        seconds = self._clock.monotonic() - self._started_at
        self._on_end(Attempt(self.target_name, error, self._sent, seconds, self._started_at))

    def _send(self) -> TransientError | PermanentError | None:
        active, job = self.active, self.active.job
        names = active.outstanding(self.target_name)
        if names:
            self._make_readable()
            parcel = Parcel(
                job.id,
                os.fspath(active.claim.payload(job)),
                names,
                job.series.calling_ae_title,
                job.series.called_ae_title,
                job.series.peer_address,
                urgent=job.priority is Priority.URGENT,
            )
            self._target.send(parcel, self)
        return self._verdict(len(job.payload))

    def _make_readable(self) -> int:
        return make_readable(self.active.claim.payload(self.active.job), self.active.job.payload)

    def _verdict(self, total: int) -> TransientError | PermanentError | None:
        """Judge by the ledger, never by the absence of an error (D10)."""
        active, name = self.active, self.target_name
        if not total:
            return PermanentError("the job holds no instance")
        deferred = active.results(name, Outcome.DEFERRED)
        refused = active.results(name, Outcome.REFUSED)
        silent = len(active.outstanding(name)) - len(deferred) - len(refused)
        if deferred:
            return TransientError(f"{len(deferred)} of {total} instances not taken now: {deferred[0].detail}")
        if silent:
            return TransientError(f"{silent} of {total} instances have no result")
        if refused:
            return PermanentError(f"{len(refused)} of {total} instances refused: {_listed(refused)}")
        return None


def _listed(results: list[InstanceResult]) -> str:
    """Return the instances with their reasons, for a person; of many only some, the ledger has them all."""
    shown = [f"{sop_instance_uid_of(result.name) or result.name} ({result.detail})" for result in results[:_SHOWN]]
    more = len(results) - len(shown)
    return ", ".join([*shown, f"and {more} more (see {LEDGER_FILE})"] if more else shown)


def settled(delivery: Delivery, state: DeliveryState, at: datetime, detail: str = "") -> Delivery:
    """Return the delivery in a final state."""
    return replace(delivery, state=state, updated_at=at, not_before=None, detail=detail)
