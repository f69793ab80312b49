"""The clock of the machine."""

import time
from datetime import UTC, datetime


class SystemClock:
    """`core.clock.Clock` from the operating system."""

    def now(self) -> datetime:
        """Return the time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()
