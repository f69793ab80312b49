from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercure.core.scheduling import Candidate, OffPeak, WaitingLine, pick
from mercure.core.task import Priority

START = datetime(2024, 1, 1, tzinfo=UTC)
NORMAL, URGENT, OFFPEAK = Priority.NORMAL, Priority.URGENT, Priority.OFFPEAK


def candidate(key: str, priority: Priority = NORMAL, age: int = 0, sequence: int = 0) -> Candidate:
    """A candidate; the greater `age`, the longer it has waited."""
    return Candidate(key, priority, START - timedelta(seconds=age), sequence)


def line_of(candidates: list[Candidate]) -> WaitingLine:
    line = WaitingLine()
    for one in candidates:
        line.add(one)
    return line


def order(candidates: list[Candidate], *, off_peak_now: bool = False) -> str:
    line, keys = line_of(candidates), ""
    while (one := line.pop(len(keys), off_peak_now=off_peak_now)) is not None:
        keys += one.key
    return keys


@pytest.mark.parametrize("off_peak_now", [True, False])
def test_nothing_is_picked_of_nothing(off_peak_now: bool) -> None:
    assert all(pick([], turn, off_peak_now=off_peak_now) is None for turn in range(4))


def test_the_oldest_goes_first_and_the_sequence_decides_between_equals() -> None:
    assert order([candidate("a", age=1), candidate("c", sequence=2), candidate("b", sequence=1)]) == "abc"


def test_urgent_jobs_go_first_but_every_third_turn_is_for_the_others() -> None:
    urgent = [candidate(key, URGENT) for key in "ABCDE"]
    normal = [candidate(key, age=100) for key in "xyz"]
    assert order([*normal, *urgent]) == "ABxCDyEz"


@pytest.mark.requirement("S10")
def test_many_urgent_jobs_without_a_normal_one_all_run() -> None:
    assert order([candidate(key, URGENT) for key in "ABCDEFG"]) == "ABCDEFG"


def test_off_peak_jobs_wait_for_their_hours_and_are_like_normal_ones_then() -> None:
    waiting = [candidate("o", OFFPEAK, age=5), candidate("n"), candidate("U", URGENT), candidate("V", URGENT)]
    assert order(waiting) == "UVn"
    assert order(waiting, off_peak_now=True) == "UVon"


@pytest.mark.parametrize(
    ("start", "end", "inside", "outside"),
    [
        ("08:00", "18:00", ["08:00", "12:00", "18:00"], ["07:59", "18:01", "00:00"]),
        ("22:00", "06:00", ["22:00", "23:59", "00:00", "06:00"], ["06:01", "12:00", "21:59"]),
        ("05:00", "05:00", ["05:00", "00:00", "23:59"], []),
    ],
)
def test_the_off_peak_hours_include_both_ends_and_may_go_over_midnight(
    start: str, end: str, inside: list[str], outside: list[str]
) -> None:
    hours = OffPeak(time.fromisoformat(start), time.fromisoformat(end))
    assert [hours.contains(time.fromisoformat(text)) for text in inside] == [True] * len(inside)
    assert [hours.contains(time.fromisoformat(text)) for text in outside] == [False] * len(outside)


def test_a_candidate_that_is_added_again_is_replaced() -> None:
    line = line_of([candidate("a"), candidate("b", age=1)])
    line.add(candidate("a", URGENT))
    assert (len(line), "a" in line) == (2, True)
    assert [one.key for one in line.heads()] == ["b", "a"]
    line.add(candidate("a", URGENT))
    assert line.remove("a")
    assert not line.remove("a")
    assert line.pick(0, off_peak_now=False) == candidate("b", age=1)
    assert len(line) == 1


def test_the_heads_of_several_lines_compete_as_one_line() -> None:
    first, second = line_of([candidate("a", age=1), candidate("b", age=9)]), line_of([candidate("c", age=5)])
    assert pick([*first.heads(), *second.heads()], 0, off_peak_now=False) == candidate("b", age=9)


def test_a_line_does_not_grow_when_its_candidates_come_and_go() -> None:
    line = line_of([candidate("head", age=9)])
    for number in range(5000):
        line.add(candidate(f"k{number % 7}", age=number % 3))
        line.remove(f"k{number % 7}")
    assert sum(len(heap) for heap in line._heaps.values()) < 200
    assert line.pop(0, off_peak_now=False) == candidate("head", age=9)


keys = st.sampled_from("abcdefghij")
candidates = st.builds(candidate, keys, st.sampled_from(Priority), st.integers(0, 3), st.integers(0, 2))
moves = st.one_of(
    st.tuples(st.just("add"), candidates),
    st.tuples(st.just("remove"), keys),
    st.tuples(st.just("pop"), st.tuples(st.integers(0, 5), st.booleans())),
)


@given(st.lists(moves, max_size=60))
def test_the_line_always_agrees_with_the_plain_choice(todo: list[tuple[str, object]]) -> None:
    line, plain = WaitingLine(), dict[str, Candidate]()
    for _, what in todo:
        if isinstance(what, Candidate):
            line.add(what)
            plain[what.key] = what
        elif isinstance(what, str):
            assert line.remove(what) == (plain.pop(what, None) is not None)
        elif isinstance(what, tuple):
            turn, off_peak_now = what
            expected = pick(plain.values(), turn, off_peak_now=off_peak_now)
            assert line.pop(turn, off_peak_now=off_peak_now) == expected
            if expected:
                del plain[expected.key]
        assert len(line) == len(plain)


@given(st.lists(candidates, unique_by=lambda one: one.key))
def test_every_job_runs_in_the_off_peak_hours_and_no_other_waits_for_ever(waiting: list[Candidate]) -> None:
    assert sorted(order(waiting, off_peak_now=True)) == sorted(one.key for one in waiting)
    assert sorted(order(waiting)) == sorted(one.key for one in waiting if one.priority is not OFFPEAK)
