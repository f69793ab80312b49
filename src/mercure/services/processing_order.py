"""Who goes next when not all can: nobody waits for ever for what others take in turn.

A job may need several things at once: two GPUs, two limited modules, a folder that stays between jobs. Beside a stream
of jobs that need one of them they would never be free together. So a line whose head was refused for a minute has what
it needs kept for it: what becomes free goes to none that comes after it. Urgent jobs still go first, but before a job
that starves only two of them do; and after it, two urgent ones may go before the next.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mercure.core.scheduling import Candidate, pick
from mercure.services.processing_slots import Needs

Chain = tuple[str, ...]
"""The modules of a job, in order."""

STARVES_AFTER_SECONDS = 60.0
_MAY_PASS = 2
"""So many urgent jobs go before one that starves, as `pick` lets two of them go before another."""


class Line(NamedTuple):
    """Jobs that need the same, and of which one is as good as another but for its age."""

    chain: Chain
    is_urgent: bool


@dataclass(slots=True)
class _Wait:
    since: float
    needs: Needs
    passed: int = 0
    """How many urgent jobs have taken something of what it needs, since another of its kind did."""


class Patience:
    """Which lines were refused what they need, and since when. Times are seconds of one monotonic clock."""

    def __init__(self, seconds: float = STARVES_AFTER_SECONDS) -> None:
        """A line starves that was refused for so many seconds."""
        self._seconds = seconds
        self._waits: dict[Line, _Wait] = {}

    def refused(self, line: Line, needs: Needs, now: float) -> None:
        """The head of a line could not start: something that it needs is not free, or kept for another."""
        self._waits.setdefault(line, _Wait(now, needs)).needs = needs

    def started(self, line: Line, needs: Needs) -> None:
        """A job of a line has started."""
        self._waits.pop(line, None)
        for other, wait in self._waits.items():
            if not other.is_urgent and wait.needs.shares_with(needs):
                wait.passed = wait.passed + 1 if line.is_urgent else 0

    def keep_only(self, lines: Collection[Line]) -> None:
        """Forget lines in which nobody waits any more."""
        self._waits = {line: wait for line, wait in self._waits.items() if line in lines}

    def starves(self, line: Line, now: float) -> bool:
        """Whether what a line needs is kept from those that come after it."""
        wait = self._waits.get(line)
        return wait is not None and now - wait.since >= self._seconds

    def is_due(self, line: Line, now: float) -> bool:
        """Whether a line goes before all that do not starve: urgent ones too, if enough of them have passed it."""
        return self.starves(line, now) and (line.is_urgent or self._waits[line].passed >= _MAY_PASS)


class Round:
    """One look at the heads of all lines: who was refused in it, and what is kept for those that starve."""

    def __init__(self, patience: Patience, now: float) -> None:
        """Begin at a time of the clock of `patience`."""
        self._patience = patience
        self._now = now
        self._refused: set[Line] = set()
        self._kept: list[tuple[Needs, bool]] = []

    def choose(self, heads: Mapping[Candidate, Line], turn: int, *, off_peak_now: bool) -> Candidate | None:
        """Return who goes next among those that were not refused yet, or None.

        First who is due, and among them who is not urgent: he has let urgent ones pass, and they may pass again after
        him. Then who `pick` gives.
        """
        left = {head: line for head, line in heads.items() if line not in self._refused}
        due = [head for head, line in left.items() if self._patience.is_due(line, self._now)]
        for wanted in (False, True):
            some = [head for head in due if left[head].is_urgent is wanted]
            if (chosen := pick(some, turn, off_peak_now=off_peak_now)) is not None:
                return chosen
        return pick(left, turn, off_peak_now=off_peak_now)

    def refuse(self, line: Line, needs: Needs) -> None:
        """The head of a line cannot start now. If it starves, keep what it needs from those that come after it."""
        self._refused.add(line)
        self._patience.refused(line, needs, self._now)
        if self._patience.starves(line, self._now):
            self._kept.append((needs, self._patience.is_due(line, self._now)))

    def kept_from(self, line: Line) -> Sequence[Needs]:
        """Return what a line must leave for others. Urgent jobs may take from who is not due."""
        return [needs for needs, is_due in self._kept if is_due or not line.is_urgent]
