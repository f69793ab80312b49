"""A job's side of a delivery, kept in memory: what a target recorded, and the means to cancel or break it off."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from mercure.core.delivery import InstanceResult, Outcome
from mercure.core.errors import CancelledError


@dataclass
class Ledger:
    """A Progress. `cancel_after` cancels the job when that many results are recorded."""

    cancel_after: int | None = None
    results: list[InstanceResult] = field(default_factory=list)
    checks: int = 0
    attached: threading.Event = field(default_factory=threading.Event)
    close: Callable[[], None] = lambda: None
    cancelled: bool = False

    def record(self, result: InstanceResult) -> None:
        self.results.append(result)

    def check(self) -> None:
        self.checks += 1
        if self.cancelled or (self.cancel_after is not None and len(self.results) >= self.cancel_after):
            raise CancelledError("cancelled by the test")

    def attach(self, close: Callable[[], None]) -> None:
        self.close = close
        self.attached.set()

    def names(self, outcome: Outcome) -> list[str]:
        """The names that have this outcome, in order of their recording."""
        return [result.name for result in self.results if result.outcome is outcome]

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """The last outcome of each name."""
        return {result.name: result.outcome for result in self.results}

    def detail(self, name: str) -> str:
        """The detail of the last result of this name."""
        return next(result.detail for result in reversed(self.results) if result.name == name)
