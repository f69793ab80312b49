"""What every service is, and the bell that wakes it."""

import threading
from typing import Protocol


class Service(Protocol):
    """A part of the platform that runs until it is told to stop."""

    name: str

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set. May raise: the supervisor starts it again after a while."""

    def wake(self) -> None:
        """Look for work, or at `stop`, now. Callable from any thread."""


class Bell:
    """Wakes a service that waits. Ringing twice before it wakes counts once; a ring is never lost."""

    def __init__(self) -> None:
        """Start silent."""
        self._event = threading.Event()

    def ring(self) -> None:
        """Wake whoever waits, or the next one who would."""
        self._event.set()

    def wait(self, timeout_seconds: float) -> bool:
        """Wait for a ring; True when there was one."""
        rang = self._event.wait(timeout_seconds)
        self._event.clear()
        return rang
