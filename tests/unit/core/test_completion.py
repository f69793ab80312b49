import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercure.core.completion import CompletionPolicy, due_at

QUIET = CompletionPolicy(trigger_seconds=60)
HINTS = CompletionPolicy(trigger_seconds=60, on_release=True, grace_seconds=2)


@pytest.mark.parametrize(
    ("policy", "arrival", "released", "seen", "due"),
    [
        (QUIET, 1000, None, 1001, 1060),
        (QUIET, 1000, 1001, 1001, 1060),
        (HINTS, 1000, None, 1001, 1060),
        (HINTS, 1000, 1001, 1001, 1003),
        (HINTS, 1000, 1000, 1001, 1002),
        (HINTS, 1000, 1030, 1001, 1032),
        (HINTS, 1000, 1059.5, 1001, 1060),
    ],
)
def test_a_reception_is_due_after_the_quiet_time_or_sooner_after_its_release(
    policy: CompletionPolicy, arrival: float, released: float | None, seen: float, due: float
) -> None:
    assert due_at(arrival, released, policy, seen) == due


def test_a_release_before_the_last_arrival_says_nothing() -> None:
    assert due_at(1000, 999, HINTS, 1001) == 1060


def test_an_arrival_in_the_future_counts_as_the_moment_it_was_seen() -> None:
    assert due_at(9999, None, QUIET, 1000) == 1060


def test_a_release_in_the_future_cannot_make_a_series_wait_longer_or_complete_at_once() -> None:
    assert due_at(1000, 9999, HINTS, 1001) == 1060
    assert due_at(9999, 9999, HINTS, 1001) == 1061


seconds = st.floats(0, 1e10)


@given(seconds, st.none() | seconds, seconds, st.floats(0, 1e5), st.floats(0, 1e5), st.booleans())
def test_no_series_waits_longer_than_the_quiet_time_after_it_was_seen(
    arrival: float, released: float | None, seen: float, trigger: float, grace: float, on_release: bool
) -> None:
    due = due_at(arrival, released, CompletionPolicy(trigger, on_release, grace), seen)
    assert due <= seen + trigger
    assert due >= min(arrival, seen)
