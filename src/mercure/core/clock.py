"""The port of time: services ask for it, tests set it."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Says what time it is."""

    def now(self) -> datetime:
        """Return the time of day, aware, in UTC. It may jump when the clock of the machine is set."""

    def monotonic(self) -> float:
        """Return seconds that only ever grow, from an unknown start: for durations and deadlines in one process."""
