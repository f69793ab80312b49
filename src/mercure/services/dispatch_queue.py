"""What waits to be dispatched: pairs of a job and a target, in memory, made from the folders at any time."""

import heapq
import itertools
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from mercure.core.errors import SpoolError
from mercure.core.scheduling import Candidate, WaitingLine, pick
from mercure.core.stages import Stage
from mercure.core.task import DeliveryState, Job
from mercure.spool.job_files import read_task
from mercure.spool.jobs import job_ids
from mercure.spool.layout import Layout


@dataclass(frozen=True, slots=True)
class Unit:
    """One target of one job."""

    job_id: str
    target: str


class DispatchQueue:
    """The waiting units: one line for each target, and a heap of those whose time has not come."""

    def __init__(self, layout: Layout) -> None:
        """Start empty; `scan` fills it."""
        self._layout = layout
        self._lines: dict[str, WaitingLine] = {}
        self._delayed: list[tuple[float, int, Unit, Candidate]] = []
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

    def forget(self, job_id: str) -> None:
        """Read the job anew at the next scan, if it is still there."""
        self._known.discard(job_id)

    def forget_all(self) -> None:
        """Read everything anew at the next scan."""
        self._known.clear()
        self._lines.clear()
        self._delayed.clear()
        self.odd.clear()

    def add(self, job: Job, *, not_before: float = 0.0) -> None:
        """Put the open targets of a job in their lines, not before a time (seconds since the epoch)."""
        for delivery in job.deliveries:
            if delivery.state is not DeliveryState.WAITING:
                continue
            own = delivery.not_before.timestamp() if delivery.not_before else 0.0
            self._put(Unit(job.id, delivery.target), self._candidate(job), max(own, not_before))

    def due(self, now: float) -> None:
        """Move the units whose time has come into their lines."""
        while self._delayed and self._delayed[0][0] <= now:
            _, _, unit, candidate = heapq.heappop(self._delayed)
            self._line(unit.target).add(candidate)

    def next_due(self) -> float | None:
        """Return when the next unit becomes due (seconds since the epoch), or None."""
        return self._delayed[0][0] if self._delayed else None

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

    def drain(self, target: str) -> list[Unit]:
        """Take everything that waits for a target."""
        line = self._lines.pop(target, WaitingLine())
        units = []
        while head := line.pop(0, off_peak_now=True):
            units.append(Unit(head.key, target))
        return units

    def read(self, job_id: str) -> Job | None:
        """Read a job as it stands in `outgoing/`; None when it left. Raises `SpoolError` when it is damaged."""
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
        except SpoolError:
            self.odd.append(job_id)
            return
        if job is None:
            return
        if any(delivery.state is DeliveryState.WAITING for delivery in job.deliveries) and job.id == job_id:
            self.add(job)
        else:
            self.odd.append(job_id)

    def _candidate(self, job: Job) -> Candidate:
        return Candidate(job.id, job.priority, job.created_at, next(self._sequence))

    def _put(self, unit: Unit, candidate: Candidate, not_before: float) -> None:
        if not_before > 0.0:
            heapq.heappush(self._delayed, (not_before, next(self._sequence), unit, candidate))
        else:
            self._line(unit.target).add(candidate)

    def _line(self, target: str) -> WaitingLine:
        return self._lines.setdefault(target, WaitingLine())
