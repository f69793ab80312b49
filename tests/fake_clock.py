"""A clock that stands still until the test moves it: the port `core.clock.Clock`, and an event sink that remembers."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from mercure.core.events import Event, EventKind


class FakeClock:
    """Starts at the real time, because folders get their time stamps from the real clock. Safe for many threads."""

    def __init__(self) -> None:
        self._now = datetime.now(UTC)
        self._monotonic = 1000.0
        self._lock = threading.Lock()

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._now += timedelta(seconds=seconds)
            self._monotonic += seconds


@dataclass
class Recorded:
    """An event sink that keeps what it was told."""

    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: EventKind) -> list[Event]:
        return [event for event in self.events if event.kind is kind]

    def count(self, kind: EventKind) -> int:
        return len(self.of(kind))


@dataclass
class ActsAtFirst(Recorded):
    """Does something in the moment in which it is told of the first event of a kind: in the middle of a step."""

    kind: EventKind = EventKind.JOB_SETTLED
    act: Callable[[], None] = lambda: None

    def emit(self, event: Event) -> None:
        super().emit(event)
        if event.kind is self.kind and self.count(event.kind) == 1:
            self.act()
