"""What the dispatcher follows: values, made from the configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo

from mercure.core.delivery import Target
from mercure.core.retry import RetryPolicy
from mercure.core.scheduling import OffPeak


@dataclass(frozen=True, slots=True)
class TargetSetup:
    """A target as the dispatcher uses it: how to send, how many at a time, and when to try again."""

    target: Target
    retry: RetryPolicy
    max_parallel: int = 1


@dataclass(frozen=True, slots=True)
class DispatcherSettings:
    """What the dispatcher follows. `unusable` has the targets that nothing can be sent to, with the reason."""

    targets: Mapping[str, TargetSetup] = field(default_factory=dict)
    unusable: Mapping[str, str] = field(default_factory=dict)
    max_parallel: int = 4
    off_peak: OffPeak | None = None
    zone: tzinfo = UTC
    scan_interval_seconds: float = 1.0

    def is_off_peak(self, now: datetime) -> bool:
        """Whether off-peak jobs may run now; without hours they always may."""
        return self.off_peak is None or self.off_peak.contains(now.astimezone(self.zone).time())

    def policies(self) -> dict[str, RetryPolicy]:
        """Return how attempts at each target are repeated."""
        return {name: setup.retry for name, setup in self.targets.items()}
