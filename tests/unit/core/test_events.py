import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercure.core.errors import SpoolError
from mercure.core.events import Event, EventKind

NOON = datetime(2024, 5, 6, 12, tzinfo=UTC)

text = st.none() | st.text(max_size=30)
number = st.none() | st.integers(0, 2**60)
events = st.builds(
    Event,
    kind=st.sampled_from(EventKind),
    at=st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis wants naive limits
    job_id=text,
    reception=text,
    series_uid=text,
    study_uid=text,
    target=text,
    count=number,
    size_bytes=number,
    duration_seconds=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    detail=text,
    id=text,
)


@given(events)
def test_an_event_survives_json(event: Event) -> None:
    assert Event.from_json(json.loads(json.dumps(event.to_json()))) == event


def test_what_does_not_apply_takes_no_room() -> None:
    event = Event(EventKind.JOB_HELD, NOON, job_id="j-1", count=0)
    assert event.to_json() == {"kind": "job_held", "at": "2024-05-06T12:00:00+00:00", "job_id": "j-1", "count": 0}


def test_times_of_other_zones_are_read_as_utc() -> None:
    event = Event(EventKind.RECOVERED, NOON.astimezone(timezone(timedelta(hours=-5))))
    read = Event.from_json(event.to_json())
    assert (read.at, read.at.tzinfo) == (NOON, UTC)


def test_keys_of_later_versions_are_left_out() -> None:
    assert Event.from_json({"kind": "recovered", "at": NOON.isoformat(), "colour": "red"}) == Event(
        EventKind.RECOVERED, NOON
    )


GOOD = {"kind": "recovered", "at": NOON.isoformat()}


@pytest.mark.parametrize(
    "data",
    [
        None,
        "recovered",
        [],
        {"kind": "recovered"},
        {"at": NOON.isoformat()},
        {**GOOD, "kind": "exploded"},
        {**GOOD, "at": 5},
        {**GOOD, "at": "2024-05-06T12:00:00"},
        {**GOOD, "at": "soon"},
        {**GOOD, "at": "9999-12-31T23:59:59-12:00"},
        {**GOOD, "count": "3"},
        {**GOOD, "count": True},
        {**GOOD, "job_id": 3},
        {**GOOD, "duration_seconds": float("nan")},
        {**GOOD, "detail": ["x"]},
    ],
)
def test_what_is_no_event_is_refused(data: Any) -> None:
    with pytest.raises(SpoolError, match="an event"):
        Event.from_json(data)
