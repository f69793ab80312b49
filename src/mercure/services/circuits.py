"""The circuits of the targets: which of them are left in peace just now, shared by all jobs of a target."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta

from mercure.core.errors import CancelledError, TransientError
from mercure.core.retry import RetryPolicy, TargetHealth
from mercure.services.delivery_run import Attempt
from mercure.services.settlement import Pause

_POLICY_OF_NO_TARGET = RetryPolicy(30.0, 3600.0)
"""For attempts that end after their target left the configuration."""


class Circuits:
    """Keeps the health of each target by name. Times are those of the monotonic clock, in seconds."""

    def __init__(self) -> None:
        """Take every target for well."""
        self._policies: Mapping[str, RetryPolicy] = {}
        self._health: dict[str, TargetHealth] = {}
        self._again: set[str] = set()
        """The targets that are to be tried once more at once, should the attempt fail that is under way."""

    def follow(self, policies: Mapping[str, RetryPolicy], changed: Iterable[str]) -> None:
        """Take new policies; targets that changed count as well again."""
        self._policies = policies
        for name in changed:
            self._health.pop(name, None)
            self._again.discard(name)

    def probe_all(self) -> None:
        """Allow one attempt at each target now: an operator who asks for one may have mended it."""
        for name in self._health:
            self.probe(name)

    def probe(self, target: str) -> None:
        """Allow one attempt at this target now; if one is under way, another one as soon as that has failed."""
        health = self._of(target)
        self._health[target] = replace(health, not_before=0.0)
        if health.is_probing:
            self._again.add(target)

    def may_try(self, target: str, moment: float) -> bool:
        """Whether an attempt may start now."""
        return self._of(target).may_try(moment)

    def begin(self, target: str) -> None:
        """Note that an attempt starts."""
        self._health[target] = self._of(target).begin()

    def end(self, attempt: Attempt, moment: float, random01: float) -> Pause:
        """Note how an attempt ended. One that delivered anything shows that the target is there.

        Returns how long the job of the attempt waits if it waits for another one: never less than its target is left
        in peace, so that the time which the job announces is the time at which it is tried.
        """
        target = attempt.target
        health = self._of(target)
        if isinstance(attempt.error, CancelledError):
            health = health.abandon()
        elif isinstance(attempt.error, TransientError) and not attempt.sent:
            health = health.record_failure(moment, attempt.started_at, random01)
        else:
            health = health.record_success()
        in_peace = timedelta(seconds=max(health.not_before - moment, 0.0))
        if target in self._again and not health.is_probing:
            self._again.discard(target)
            health = replace(health, not_before=0.0)
        self._health[target] = health
        policy = self.policy(target)

        def pause(attempts: int) -> timedelta | None:
            own = policy.after(attempts, random01)
            return None if own is None else max(own, in_peace)

        return pause

    def next_probe(self, targets: Iterable[str], moment: float) -> float | None:
        """Return when the next of these targets may be tried that may not be tried now; None when there is none."""
        times = [self._health[name].not_before for name in targets if name in self._health]
        return min((time for time in times if time > moment), default=None)

    def policy(self, target: str) -> RetryPolicy:
        """Return how attempts at a target are repeated."""
        return self._policies.get(target, _POLICY_OF_NO_TARGET)

    def _of(self, target: str) -> TargetHealth:
        return self._health.get(target) or TargetHealth(self.policy(target))
