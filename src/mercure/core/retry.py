"""When to try again: back-off for a job, and a circuit for each target so that a dead one is left in peace."""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Self

_MOST_DOUBLINGS = 64
"""Longer than any maximum; a power of 1024 would overflow."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off: the delay doubles with each failed attempt up to the maximum.

    `maximum_attempts` of 0 never gives up. `jitter` is the part of the delay by which it may be longer or shorter,
    0 to 1, so that jobs which failed together do not come back together.
    """

    first_delay_seconds: float
    maximum_delay_seconds: float
    maximum_attempts: int = 0
    jitter: float = 0.2

    def after(self, attempts: int, random01: float) -> timedelta | None:
        """Return how long to wait after so many failed attempts (1 or more), or None to give up.

        `random01` is from 0 to 1; 0.5 gives the delay without jitter.
        """
        if 0 < self.maximum_attempts <= attempts:
            return None
        return timedelta(seconds=self.delay_seconds(attempts, random01))

    def delay_seconds(self, attempts: int, random01: float) -> float:
        """Return the delay after so many failures, however many: the maximum and its jitter at most."""
        doublings = min(max(attempts, 1) - 1, _MOST_DOUBLINGS)
        plain = min(self.first_delay_seconds * 2.0**doublings, self.maximum_delay_seconds)
        return plain * (1 + self.jitter * (2 * random01 - 1))


@dataclass(frozen=True, slots=True)
class TargetHealth:
    """The circuit of one target: closed while it works, open after a failure, then one probe at a time.

    All jobs of a target share it, so a thousand waiting jobs make one attempt at a dead target per delay, not a
    thousand. Only what the target as a whole does counts (it cannot be reached, it does not answer), not that it
    refuses an instance.

    The value never changes; its owner keeps what `begin`, `record_success`, `record_failure` and `abandon` return.
    Times are seconds of one clock, the monotonic one if the value does not outlive the process.
    """

    policy: RetryPolicy
    failures: int = 0
    """Failures in a row. 0: the circuit is closed."""
    failed_at: float = 0.0
    not_before: float = 0.0
    """When the next probe may start."""
    is_probing: bool = False

    def may_try(self, now: float) -> bool:
        """Whether an attempt may start: always while the target works, else when its delay is over, one at a time."""
        return self.failures == 0 or (now >= self.not_before and not self.is_probing)

    def begin(self) -> Self:
        """Note that an attempt starts which `may_try` allowed."""
        return replace(self, is_probing=self.failures > 0)

    def record_success(self) -> Self:
        """Close the circuit: the target has answered."""
        return replace(self, failures=0, failed_at=0.0, not_before=0.0, is_probing=False)

    def record_failure(self, now: float, started_at: float, random01: float) -> Self:
        """Open the circuit, for longer than the last time, after an attempt that began at `started_at`.

        Several attempts run when a target dies, and all of them fail. They are one failure: an attempt that began
        before the last failure says nothing new.
        """
        if self.failures and started_at < self.failed_at:
            return self
        failures = self.failures + 1
        pause = self.policy.delay_seconds(failures, random01)
        return replace(self, failures=failures, failed_at=now, not_before=now + pause, is_probing=False)

    def abandon(self) -> Self:
        """Note that an attempt ended without an answer of the target: cancelled, or stopped with the service."""
        return replace(self, is_probing=False)
