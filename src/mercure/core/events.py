"""Events: what happened, as the journal keeps it. History is made of these, never of log lines.

An event holds no patient data because it has no place for any: UIDs, ids, AE titles and names of rules and targets
only. Whoever fills `detail` keeps to that too.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

from mercure.core.errors import SpoolError

Json = Any
"""A value that came from JSON; narrowed where it is used."""


class EventKind(StrEnum):
    """What happened. The value stands in the journal, so it never changes its meaning."""

    ASSOCIATION_REJECTED = "association_rejected"
    ASSOCIATION_CLOSED = "association_closed"
    """An association has ended, in whatever way; `count` instances of `size_bytes` were stored by it."""
    INSTANCES_REFUSED = "instances_refused"
    """`count` instances got a failure status, or were set aside in `error/`; `detail` says why."""
    SERIES_COMPLETE = "series_complete"
    """A reception was sealed: nothing can be added to it any more."""
    JOB_CREATED = "job_created"
    PROCESSING_STARTED = "processing_started"
    PROCESSING_COMPLETE = "processing_complete"
    PROCESSING_DEFERRED = "processing_deferred"
    PROCESSING_FAILED = "processing_failed"
    DELIVERY_STARTED = "delivery_started"
    DELIVERY_COMPLETE = "delivery_complete"
    DELIVERY_DEFERRED = "delivery_deferred"
    DELIVERY_FAILED = "delivery_failed"
    JOB_SETTLED = "job_settled"
    """A job came to its final stage, which `detail` names."""
    JOB_RETRIED = "job_retried"
    JOB_CANCELLED = "job_cancelled"
    JOB_HELD = "job_held"
    JOB_RELEASED = "job_released"
    CONFIG_LOADED = "config_loaded"
    CONFIG_REJECTED = "config_rejected"
    SERVICE_STARTED = "service_started"
    SERVICE_STOPPED = "service_stopped"
    RECOVERED = "recovered"
    """What a process left behind when it died was taken up again."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, at an aware time; what does not apply is None.

    `id` is unique in the journal. The writer gives it, unless the event has one.
    """

    kind: EventKind
    at: datetime
    job_id: str | None = None
    reception: str | None = None
    series_uid: str | None = None
    study_uid: str | None = None
    target: str | None = None
    count: int | None = None
    size_bytes: int | None = None
    duration_seconds: float | None = None
    detail: str | None = None
    id: str | None = None

    def to_json(self) -> dict[str, Json]:
        """Return the event as it stands in the journal; what is None is left out."""
        data: dict[str, Json] = {"kind": self.kind.value, "at": self.at.isoformat()}
        for name in _OPTIONAL:
            value = getattr(self, name)
            if value is not None:
                data[name] = value
        return data

    @classmethod
    def from_json(cls, data: Json) -> "Event":
        """Read what `to_json` gave. Raises `SpoolError`; keys that it does not know are left out."""
        try:
            at = datetime.fromisoformat(data["at"])
            if at.tzinfo is None:
                raise SpoolError("an event has a time without a zone")
            return cls(
                EventKind(data["kind"]),
                at.astimezone(UTC),
                **{name: _checked(name, data[name]) for name in _OPTIONAL if data.get(name) is not None},
            )
        except KeyError as error:
            raise SpoolError(f"an event lacks {error}") from error
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise SpoolError(f"an event is not valid ({type(error).__name__})") from error


_TYPES: dict[str, type | tuple[type, ...]] = {
    "job_id": str,
    "reception": str,
    "series_uid": str,
    "study_uid": str,
    "target": str,
    "count": int,
    "size_bytes": int,
    "duration_seconds": (int, float),
    "detail": str,
    "id": str,
}
_OPTIONAL = tuple(_TYPES)


def _checked(name: str, value: Json) -> Json:
    if isinstance(value, bool) or not isinstance(value, _TYPES[name]):
        raise SpoolError(f"an event has no valid {name}")
    if isinstance(value, float) and not math.isfinite(value):
        raise SpoolError(f"an event has no valid {name}")
    return value


class EventSink(Protocol):
    """Takes events."""

    def emit(self, event: Event) -> None:
        """Record an event. Never raises and never waits for the network; safe to call from any thread."""
