"""When a reception is complete: a decision by times alone, so that it costs one stat of the folder."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CompletionPolicy:
    """How long the router waits for more instances of a series, in seconds.

    `trigger_seconds` is the quiet time after the last arrival. With `on_release`, a reception whose associations have
    all been released is complete `grace_seconds` later, if that is sooner: the sender has said that it sends no more.
    """

    trigger_seconds: float
    on_release: bool = False
    grace_seconds: float = 0.0


def due_at(last_arrival: float, released_at: float | None, policy: CompletionPolicy, seen_at: float) -> float:
    """Return when a reception is complete unless more comes. All times are epoch seconds.

    `seen_at` is the time of the router's clock when it first saw this `last_arrival`; it stays the same as long as
    `last_arrival` does. A time after it comes from a clock that was set back, or from a file server with another clock,
    and counts as `seen_at`: so no series waits for ever, and none is complete while its instances still come.

    A release before the last arrival was that of another association and says nothing.
    """
    quiet = min(last_arrival, seen_at) + policy.trigger_seconds
    if not policy.on_release or released_at is None or released_at < last_arrival:
        return quiet
    return min(quiet, released_at + policy.grace_seconds)
