"""Which job runs next: urgent first, nothing starves, off-peak jobs wait for their hours."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, time

from mercure.core.task import Priority

_TURN_OF_THE_OTHERS = 3
"""Every third turn the jobs that are not urgent go first."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job that could run. Older ones go first; `sequence` decides between those of the same time."""

    key: str
    priority: Priority
    created_at: datetime
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class OffPeak:
    """The hours of off-peak jobs, in local time, both ends included. They may go over midnight.

    Equal ends mean the whole day: a window of one instant is never meant.
    """

    start: time
    end: time

    def contains(self, local_time: time) -> bool:
        """Whether off-peak jobs may run at this time of day."""
        if self.start == self.end:
            return True
        if self.start < self.end:
            return self.start <= local_time <= self.end
        return local_time >= self.start or local_time <= self.end


def pick(candidates: Iterable[Candidate], turn: int, *, off_peak_now: bool) -> Candidate | None:
    """Return the candidate that runs in this turn, or None when none may.

    Urgent ones go first, but in every third turn the oldest of the others does. Off-peak ones wait for the window, and
    are like normal ones within it. The caller counts the turns, one for each job that it starts.
    """
    allowed = [one for one in candidates if off_peak_now or one.priority is not Priority.OFFPEAK]
    urgent = min((one for one in allowed if one.priority is Priority.URGENT), key=_age, default=None)
    other = min((one for one in allowed if one.priority is not Priority.URGENT), key=_age, default=None)
    if urgent is None or (other is not None and turn % _TURN_OF_THE_OTHERS == _TURN_OF_THE_OTHERS - 1):
        return other
    return urgent


_Age = tuple[datetime, int, str]


def _age(candidate: Candidate) -> _Age:
    return candidate.created_at, candidate.sequence, candidate.key


_SLACK = 64
"""So many entries of candidates that have gone may stay in a heap, beside as many as there are candidates."""


@dataclass(slots=True)
class WaitingLine:
    """Candidates in the order of `pick`: adding, removing and picking cost the logarithm of their number.

    Each key is in the line once. Not safe for several threads; the owner locks.
    """

    _serial: int = 0
    _waiting: dict[str, tuple[int, Candidate]] = field(default_factory=dict)
    _heaps: dict[Priority, list[tuple[_Age, int, Candidate]]] = field(
        default_factory=lambda: {priority: [] for priority in Priority}
    )

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, key: object) -> bool:
        return key in self._waiting

    def add(self, candidate: Candidate) -> None:
        """Put a candidate in its place; one with the same key is replaced."""
        self._serial += 1
        self._waiting[candidate.key] = (self._serial, candidate)
        heap = self._heaps[candidate.priority]
        heapq.heappush(heap, (_age(candidate), self._serial, candidate))
        if len(heap) > 2 * len(self._waiting) + _SLACK:
            heap[:] = [entry for entry in heap if self._is_waiting(entry)]
            heapq.heapify(heap)

    def remove(self, key: str) -> bool:
        """Take a candidate out; False when it is not in the line."""
        return self._waiting.pop(key, None) is not None

    def pick(self, turn: int, *, off_peak_now: bool) -> Candidate | None:
        """Return what `pick` gives for all in the line; it stays there."""
        return pick(self.heads(), turn, off_peak_now=off_peak_now)

    def pop(self, turn: int, *, off_peak_now: bool) -> Candidate | None:
        """Take out what `pick` gives."""
        candidate = self.pick(turn, off_peak_now=off_peak_now)
        if candidate is not None:
            self.remove(candidate.key)
        return candidate

    def heads(self) -> list[Candidate]:
        """Return the oldest candidate of each priority. `pick` of the heads of several lines picks among them all."""
        return [heap[0][2] for heap in self._heaps.values() if self._cleared(heap)]

    def _cleared(self, heap: list[tuple[_Age, int, Candidate]]) -> list[tuple[_Age, int, Candidate]]:
        """Return the heap without those at its top that have gone."""
        while heap and not self._is_waiting(heap[0]):
            heapq.heappop(heap)
        return heap

    def _is_waiting(self, entry: tuple[_Age, int, Candidate]) -> bool:
        _, serial, candidate = entry
        return self._waiting.get(candidate.key, (0, None))[0] == serial
