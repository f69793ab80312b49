"""What waits to be dispatched: pairs of a job and a target, in memory, made from the folders at any time."""

import heapq
import itertools
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from mercure.core.errors import SpoolError
from mercure.core.scheduling import Candidate, WaitingLine, pick
from mercure.core.stages import Stage
from mercure.core.task import DeliveryState, Job
from mercure.services.settlement import is_waiting
from mercure.spool.job_files import read_task
from mercure.spool.jobs import job_ids
from mercure.spool.layout import Layout


@dataclass(frozen=True, slots=True)
class Unit:
    """One target of one job."""

    job_id: str
    target: str


_LAST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
"""A time zone can put what a job says beyond the last day of the calendar."""


class DispatchQueue:
    """The waiting units: one line for each target, and a heap of those whose time has not come."""

    def __init__(self, layout: Layout) -> None:
        """Start empty; `scan` fills it."""
        self._layout = layout
        self._lines: dict[str, WaitingLine] = {}
        self._delayed: list[tuple[float, int, Unit, Candidate]] = []
        self._times: dict[Unit, float] = {}
        self._later: list[tuple[float, str]] = []
        self._later_at: dict[str, float] = {}
        self._known: set[str] = set()
        self._sequence = itertools.count()
        self._turn = 0
        self.odd: list[str] = []
        """Jobs that cannot wait for any target: damaged, or without one. The dispatcher settles them."""

    def scan(self) -> None:
        """Notice jobs that are new in `outgoing/`, and forget those that left it."""
        listed = set(job_ids(self._layout, Stage.OUTGOING))
        fresh = listed - self._known
        self._known = listed
        for job_id in sorted(fresh):
            self._read(job_id)

    def __contains__(self, job_id: object) -> bool:
        """Whether the job was in `outgoing/` at the last scan."""
        return job_id in self._known

    def read_later(self, job_id: str, at: float) -> None:
        """Read the job anew at a time (seconds since the epoch), if it is still there: once, at the earliest one asked.

        Each of its targets may ask, and once it is read, each of them can ask again.
        """
        if at < self._later_at.get(job_id, float("inf")):
            self._later_at[job_id] = at
            heapq.heappush(self._later, (at, job_id))

    def forget_all(self) -> None:
        """Read everything anew at the next scan."""
        self._known.clear()
        self._lines.clear()
        self._delayed.clear()
        self._times.clear()
        self._later.clear()
        self._later_at.clear()
        self.odd.clear()

    def add(self, job: Job, *, not_before: float = 0.0) -> None:
        """Put the open targets of a job in their lines, not before a time (seconds since the epoch)."""
        for delivery in job.deliveries:
            if delivery.state is not DeliveryState.WAITING:
                continue
            own = delivery.not_before.timestamp() if delivery.not_before else 0.0
            self._put(Unit(job.id, delivery.target), self._candidate(job), min(max(own, not_before), _LAST))

    def due(self, now: float) -> None:
        """Move the units whose time has come into their lines, and read the jobs that were to be read by now."""
        while self._later and self._later[0][0] <= now:
            at, job_id = heapq.heappop(self._later)
            if self._later_at.get(job_id) == at:
                del self._later_at[job_id]
                self._read(job_id)
        while self._delayed and self._delayed[0][0] <= now:
            at, _, unit, candidate = heapq.heappop(self._delayed)
            if self._times.get(unit) == at:
                del self._times[unit]
                self._line(unit.target).add(candidate)

    def next_due(self) -> float | None:
        """Return when the next unit becomes due (seconds since the epoch), or None."""
        while self._delayed and self._times.get(self._delayed[0][2]) != self._delayed[0][0]:
            heapq.heappop(self._delayed)
        while self._later and self._later_at.get(self._later[0][1]) != self._later[0][0]:
            heapq.heappop(self._later)
        times = [heap[0][0] for heap in (self._delayed, self._later) if heap]
        return min(times, default=None)

    def take_odd(self) -> Iterator[str]:
        """Take the jobs in `odd`, one after the other."""
        while self.odd:
            yield self.odd.pop()

    def targets(self) -> Iterator[str]:
        """Return the targets that something waits for."""
        return (name for name, line in self._lines.items() if len(line))

    def take(self, targets: Collection[str], *, off_peak_now: bool) -> Unit | None:
        """Take the unit that goes next among some targets, or None when none may go now."""
        heads = {head: target for target in targets if target in self._lines for head in self._lines[target].heads()}
        chosen = pick(heads, self._turn, off_peak_now=off_peak_now)
        if chosen is None:
            return None
        self._turn += 1
        target = heads[chosen]
        self._lines[target].remove(chosen.key)
        return Unit(chosen.key, target)

    def add_missing(self, job: Job) -> None:
        """Put back the open targets of a job that have no place in the queue: those that were tried just now."""
        waiting = tuple(d for d in job.deliveries if job.id not in self._line(d.target))
        self.add(replace(job, deliveries=waiting))

    def expedite(self, targets: Collection[str]) -> None:
        """Move what waits for its time into the lines, except for these targets."""
        for entry in self._delayed:
            at, _, unit, candidate = entry
            if unit.target not in targets and self._times.get(unit) == at:
                del self._times[unit]
                self._line(unit.target).add(candidate)

    def drain(self, target: str) -> list[Unit]:
        """Take everything that waits for a target and is due."""
        line = self._lines.pop(target, WaitingLine())
        units = []
        while head := line.pop(0, off_peak_now=True):
            units.append(Unit(head.key, target))
        return units

    def read(self, job_id: str) -> Job | None:
        """Read a job as it stands in `outgoing/`; None when it left.

        Raises `SpoolError` when it is damaged, `OSError` when it cannot be read just now.
        """
        folder = self._layout.stage(Stage.OUTGOING) / job_id
        try:
            return read_task(folder)
        except SpoolError:
            if os.path.isdir(folder):
                raise
            return None

    def _read(self, job_id: str) -> None:
        try:
            job = self.read(job_id)
        except (SpoolError, OSError):
            self.odd.append(job_id)  # settled under its claim, where it is read again
            return
        if job is None:
            return
        if is_waiting(job) and job.id == job_id:
            self.add(job)
        else:
            self.odd.append(job_id)

    def _candidate(self, job: Job) -> Candidate:
        return Candidate(job.id, job.priority, job.created_at, next(self._sequence))

    def _put(self, unit: Unit, candidate: Candidate, not_before: float) -> None:
        """Give a unit its one place; an earlier one is given up."""
        if not_before > 0.0:
            self._line(unit.target).remove(unit.job_id)
            self._times[unit] = not_before
            # It has had its turn: when its time comes, it goes behind those that have waited since before that.
            candidate = replace(candidate, created_at=datetime.fromtimestamp(not_before, UTC))
            heapq.heappush(self._delayed, (not_before, next(self._sequence), unit, candidate))
        else:
            self._times.pop(unit, None)
            self._line(unit.target).add(candidate)

    def _line(self, target: str) -> WaitingLine:
        return self._lines.setdefault(target, WaitingLine())
