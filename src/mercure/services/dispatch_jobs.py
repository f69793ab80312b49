"""The jobs that the dispatcher has claimed, and what becomes of those that it has trouble with.

Whatever goes wrong with one job concerns that job only: it is let go of unless something of it still runs, and read
again from its folder after a while. So no job stays claimed with nothing that works on it.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace

from mercure.core.clock import Clock
from mercure.core.errors import SpoolError
from mercure.core.stages import Stage
from mercure.services.delivery_run import ActiveJob, DeliveryRun
from mercure.services.dispatch_queue import DispatchQueue, Unit
from mercure.services.settlement import is_waiting
from mercure.spool.jobs import Claim, claim
from mercure.spool.layout import Layout

log = logging.getLogger(__name__)

_SOON_SECONDS = 0.05
_AGAIN_SECONDS = 2.0
"""When a job that another process has claimed, or that an operator holds, is looked at again: soon at first, for who
has just put it here lets go of it a moment later, then after twice that and so on up to this."""

_TROUBLE_SECONDS = 5.0
"""When a job that the disk does not let us move or write is tried again."""

_ERROR_OF_OURS_SECONDS = 60.0


class DispatchJobs:
    """Claims jobs in `outgoing/` and keeps them while something of them runs. The dispatcher's thread owns it."""

    def __init__(self, layout: Layout, queue: DispatchQueue, clock: Clock) -> None:
        """Claim nothing yet. `queue` is where a job goes that is to be looked at again."""
        self._layout = layout
        self._queue = queue
        self._clock = clock
        self._active: dict[str, ActiveJob] = {}
        self._troubles: dict[str, str] = {}
        self._patience: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._active)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._active

    def __iter__(self) -> Iterator[ActiveJob]:
        """Return the jobs that are being sent; they may be let go of meanwhile."""
        return iter(list(self._active.values()))

    def runs(self) -> list[DeliveryRun]:
        """Return what is being sent."""
        return [run for active in self._active.values() for run in active.running.values()]

    # -- to have a job, and to let go of it ----------------------------------------------------------------------------

    def claim(self, job_id: str) -> Claim | None:
        """Claim a job; None when it cannot be had now, or is not there."""
        try:
            return claim(self._layout, Stage.OUTGOING, job_id)
        except (SpoolError, OSError) as error:
            self._complain(job_id, "claimed", _reason(error))
            return None

    def take(self, unit: Unit) -> ActiveJob | None:
        """Return the job of a unit to work on, or None when it cannot be had now; it comes back then by itself.

        The job is claimed unless it is ours already, and read again: what the queue knows may be old.
        """
        active = self._active.get(unit.job_id)
        if active:
            return active
        taken = self.claim(unit.job_id)
        if taken is None:
            self.look_again(unit)
            return None
        with contextlib.ExitStack() as let_go:
            let_go.callback(taken.close)
            try:
                job = taken.read()
                if is_waiting(job):
                    active = ActiveJob(taken, job)
            except SpoolError:
                pass  # damaged: said when it is settled
            except OSError as error:
                self.put_off(unit.job_id, "opened", _reason(error))
                return None
            if active is None:
                self._queue.odd.append(unit.job_id)
                return None
            let_go.pop_all()
        self._active[unit.job_id] = active
        self._patience.pop(unit.job_id, None)
        return active

    def forget(self, active: ActiveJob) -> Claim:
        """Forget a job nothing of which runs; its claim is the caller's, who ends the ledger, too."""
        return self._active.pop(active.claim.id).claim

    # -- trouble -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def guard(self, job_id: str, what: str) -> Iterator[None]:
        """Keep what goes wrong with a job to that job; `what` is to be done with it, for the log ("sent")."""
        try:
            yield
        except (OSError, SpoolError) as error:
            # The disk does not take it. The ledger has what was confirmed; the job is read again from its folder.
            self.put_off(job_id, what, _reason(error))
        except Exception:
            # An error of ours in one job must not end the service, nor lose what has ended meanwhile of the others.
            log.exception("job %s cannot be %s by an error of ours", job_id, what)
            self._leave(job_id, _ERROR_OF_OURS_SECONDS)

    def put_off(self, job_id: str, what: str, reason: str) -> None:
        """Say once what is wrong with a job, and look at it again later."""
        self._complain(job_id, what, reason)
        self._leave(job_id, _TROUBLE_SECONDS)

    def look_again(self, unit: Unit) -> None:
        """Put back a unit that cannot start now, if its job is still there."""
        again = self.again(unit.job_id)
        try:
            job = self._queue.read(unit.job_id)
        except (SpoolError, OSError):
            self._queue.read_later(unit.job_id, again)
            return
        if job and is_waiting(job):
            kept = tuple(d for d in job.deliveries if d.target == unit.target)
            self._queue.add(replace(job, deliveries=kept), not_before=again)
        elif job:  # who has it is about to move it; a crash may come before that
            self._queue.read_later(unit.job_id, again)

    def again(self, job_id: str) -> float:
        """Return when to look again at a job that cannot be had now (seconds since the epoch)."""
        wait = self._patience.get(job_id, _SOON_SECONDS)
        self._patience[job_id] = min(2 * wait, _AGAIN_SECONDS)
        return self._clock.now().timestamp() + wait

    def forget_gone(self) -> None:
        """Forget the troubles with jobs that have left `outgoing/` by the last scan."""
        self._troubles = {job_id: reason for job_id, reason in self._troubles.items() if job_id in self._queue}
        self._patience = {job_id: wait for job_id, wait in self._patience.items() if job_id in self._queue}

    def _leave(self, job_id: str, seconds: float) -> None:
        active = self._active.get(job_id)
        if active and not active.running:
            with contextlib.closing(self.forget(active)), contextlib.suppress(OSError):
                active.close()
        self._queue.read_later(job_id, self._clock.now().timestamp() + seconds)

    def _complain(self, job_id: str, what: str, reason: str) -> None:
        """Say what is wrong with a job once, not each time."""
        if self._troubles.get(job_id) != reason:
            log.error("job %s cannot be %s now: %s", job_id, what, reason)
        self._troubles[job_id] = reason


def _reason(error: OSError | SpoolError) -> str:
    return str(error.strerror if isinstance(error, OSError) else error)
