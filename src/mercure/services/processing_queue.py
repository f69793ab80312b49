"""The jobs that wait in `processing/`: in memory, made from the folder at any time."""

import heapq
import itertools
from collections.abc import Callable, Collection

from mercure.core.scheduling import Candidate, WaitingLine
from mercure.core.stages import Stage
from mercure.core.task import Job, Priority
from mercure.services.processing_order import Chain, Line, Round
from mercure.spool.job_files import read_task
from mercure.spool.jobs import job_ids
from mercure.spool.layout import CANCEL_FILE, STEP_FILE, Layout


class ProcessingQueue:
    """A line of jobs for each chain of modules that any of them needs, and a heap of those whose time has not come."""

    def __init__(self, layout: Layout, chain_of: Callable[[Job], Chain]) -> None:
        """Start empty; `scan` fills it. `chain_of` names the modules of a job; what it raises makes the job odd."""
        self._layout = layout
        self._chain_of = chain_of
        self._lines: dict[Chain, WaitingLine] = {}
        self._chains: dict[str, Chain] = {}
        self._later: list[tuple[float, str]] = []
        self._known: set[str] = set()
        self._sequence = itertools.count()
        self._turn = 0
        self._was_read = False
        self._left: set[str] = set()
        self.begun: list[str] = []
        """Jobs that a processor which is gone had begun: what it left of them must be found before anything else.

        A job that is put off comes back here, until it is `taken_up`.
        """
        self.odd: list[str] = []
        """Jobs that no module can run: damaged ones. The processor settles them."""

    def __contains__(self, job_id: object) -> bool:
        """Whether the job was there at the last scan."""
        return job_id in self._known

    def scan(self, running: Collection[str]) -> None:
        """Notice jobs that are new and do not run, and forget those that left."""
        listed = set(job_ids(self._layout, Stage.PROCESSING))
        for job_id in self._known - listed:
            self._remove(job_id)
            self._left.discard(job_id)
        for job_id in sorted(listed - self._known - set(running)):
            self.read(job_id)
        self._known = listed
        self._was_read = True

    def forget_all(self) -> None:
        """Read everything anew at the next scan."""
        self._known.clear()
        self._lines.clear()
        self._chains.clear()
        self._later.clear()
        self.begun.clear()
        self.odd.clear()

    def start_anew(self) -> None:
        """Read everything at the next scan as at the first: what was begun was begun by a processor that is gone."""
        self.forget_all()
        self._left.clear()
        self._was_read = False

    def read_later(self, job_id: str, at: float) -> None:
        """Read a job anew at a time (seconds since the epoch), if it is still there."""
        heapq.heappush(self._later, (at, job_id))

    def due(self, now: float) -> None:
        """Put the jobs whose time has come into their lines."""
        while self._later and self._later[0][0] <= now:
            job_id = heapq.heappop(self._later)[1]
            if job_id in self._known:
                self.read(job_id, now)

    def next_due(self) -> float | None:
        """Return when the next job becomes due (seconds since the epoch), or None."""
        return self._later[0][0] if self._later else None

    def lines(self) -> set[Line]:
        """Return the lines in which something waits."""
        return set(self._heads().values())

    def next(self, one: Round, *, off_peak_now: bool) -> tuple[str, Line] | None:
        """Return the job that goes next in a round, and its line, or None when none may go now. It stays there."""
        heads = self._heads()
        chosen = one.choose(heads, self._turn, off_peak_now=off_peak_now)
        return None if chosen is None else (chosen.key, heads[chosen])

    def take(self, job_id: str) -> None:
        """Take a job out of its line."""
        self._remove(job_id)

    def taken_up(self, job_id: str) -> None:
        """A job has started: that was its turn, and if an earlier processor had begun it, that is over."""
        self._left.discard(job_id)
        self._turn += 1

    def _heads(self) -> dict[Candidate, Line]:
        return {
            head: Line(chain, head.priority is Priority.URGENT)
            for chain, line in self._lines.items()
            for head in line.heads()
        }

    def read(self, job_id: str, now: float = 0.0) -> None:
        """Read a job, and put it where it belongs: in its line, or aside until its time (seconds since the epoch).

        One that was cancelled just when it was put off is not waited for: it ends when it is started.
        """
        folder = self._layout.stage(Stage.PROCESSING) / job_id
        try:
            job = read_task(folder)
            chain = self._chain_of(job)
        except Exception:  # noqa: BLE001 - settled, or logged, under its claim, where it is read again
            self.odd.append(job_id)
            return
        not_before = job.processing.not_before
        if job.id != job_id or not chain or job.fail_stage is not None or job.results is not None:
            self.odd.append(job_id)
        elif (not self._was_read or job_id in self._left) and (folder / STEP_FILE).exists():
            self._left.add(job_id)
            self.begun.append(job_id)
        elif not_before is not None and not_before.timestamp() > now and not (folder / CANCEL_FILE).exists():
            self.read_later(job_id, not_before.timestamp())
        else:
            self._add(job, chain)

    def _add(self, job: Job, chain: Chain) -> None:
        self._remove(job.id)
        self._chains[job.id] = chain
        candidate = Candidate(job.id, job.priority, job.created_at, next(self._sequence))
        self._lines.setdefault(chain, WaitingLine()).add(candidate)

    def _remove(self, job_id: str) -> None:
        chain = self._chains.pop(job_id, None)
        if chain is not None:
            self._lines[chain].remove(job_id)
