"""A job keeps everything on its way through `task.json`, and no content of the file breaks the reader."""

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mercure.core.errors import SpoolError
from mercure.core.task import (
    Delivery,
    DeliveryState,
    FailStage,
    Job,
    Priority,
    SeriesInfo,
    from_json,
    to_json,
)

text = st.text(max_size=20)
title = text.filter(lambda value: value != "MISSING")
value_or_missing = st.one_of(st.just("MISSING"), st.text(min_size=1, max_size=20))
times = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis wants naive limits
seconds = times.map(lambda time: time.replace(microsecond=0))

deliveries = st.lists(
    st.builds(
        Delivery,
        text,
        st.sampled_from(DeliveryState),
        st.integers(0, 1000),
        st.none() | times,
        st.none() | seconds,
        text,
    ),
    unique_by=lambda delivery: delivery.target,
    max_size=4,
).map(tuple)

series = st.builds(
    SeriesInfo,
    text,
    text,
    title,
    title,
    title,
    value_or_missing,
    value_or_missing,
    value_or_missing,
    st.none() | text,
)

names = st.lists(text, unique=True, max_size=4).map(tuple)
jobs = st.builds(
    Job,
    id=text,
    action=text,
    series=series,
    created_at=times,
    instances=st.lists(text, max_size=4).map(tuple),
    triggered_rules=names,
    applied_rule=text,
    priority=st.sampled_from(Priority),
    deliveries=deliveries,
    fail_stage=st.none() | st.sampled_from(FailStage),
    reason=text,
    process=st.dictionaries(text, text, max_size=2),
    study=st.dictionaries(text, text, max_size=2),
    complete_at=st.none() | times,
    settled_at=st.none() | times,
    done=names,
    appliance=text,
    server=text,
)


def json_with(floats: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    """Any JSON. With a NaN, which is no JSON, nothing is equal to itself."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | floats | text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=6,
    )


@given(jobs, text)
def test_a_job_survives_its_file(job: Job, version: str) -> None:
    assert from_json(json.loads(json.dumps(to_json(job, version=version)))) == job


@given(json_with(st.floats()))
def test_any_json_is_read_or_refused(data: Any) -> None:
    with contextlib.suppress(SpoolError):
        assert isinstance(from_json(data), Job)


@given(jobs, st.data())
def test_a_damaged_file_is_read_or_refused(job: Job, data: st.DataObject) -> None:
    content = json.loads(json.dumps(to_json(job)))
    section = data.draw(st.sampled_from(["info", "dispatch", "mercure", "process", "study"]))
    target = content if data.draw(st.booleans()) or not content[section] else content[section]
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(json_with(st.floats(allow_nan=False)))
    try:
        read = from_json(content)
    except SpoolError:
        return
    assert from_json(json.loads(json.dumps(to_json(read)))) == read
