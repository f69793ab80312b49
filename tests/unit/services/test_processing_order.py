"""Nobody starves: told of single rounds, and seen in hours of work that pass in a moment."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mercure.core.processing import ModuleSpec
from mercure.core.scheduling import Candidate
from mercure.core.task import Priority
from mercure.services.processing_order import STARVES_AFTER_SECONDS, Chain, Line, Patience, Round
from mercure.services.processing_settings import ProcessorSettings
from mercure.services.processing_slots import Needs, Slot, Slots, needs_of

START = datetime(2024, 1, 1, tzinfo=UTC)
NORMAL, URGENT, OFFPEAK = Priority.NORMAL, Priority.URGENT, Priority.OFFPEAK
BOTH, ONE, OTHER = Line(("both",), False), Line(("one",), False), Line(("other",), False)
RUSH = Line(("one",), True)
TWO_GPUS, ONE_GPU = Needs(gpus=2), Needs(gpus=1)


def patience_of(line: Line, needs: Needs, *, passed_by: int = 0) -> Patience:
    """A line that was refused at 0 s, and was passed by urgent jobs since."""
    patience = Patience()
    patience.refused(line, needs, 0.0)
    for _ in range(passed_by):
        patience.started(RUSH, ONE_GPU)
    return patience


def kept(patience: Patience, at: float, line: Line, needs: Needs, by: Line) -> Sequence[Needs]:
    one = Round(patience, at)
    one.refuse(line, needs)
    return one.kept_from(by)


def test_what_a_line_needs_is_kept_for_it_when_it_was_refused_for_a_minute() -> None:
    patience = patience_of(BOTH, TWO_GPUS)
    assert kept(patience, STARVES_AFTER_SECONDS - 1, BOTH, TWO_GPUS, ONE) == []
    assert kept(patience, STARVES_AFTER_SECONDS, BOTH, TWO_GPUS, ONE) == [TWO_GPUS]


def test_urgent_jobs_take_what_is_kept_until_two_have_passed() -> None:
    for passed, wanted in ((0, []), (1, []), (2, [TWO_GPUS])):
        patience = patience_of(BOTH, TWO_GPUS, passed_by=passed)
        assert kept(patience, 60.0, BOTH, TWO_GPUS, RUSH) == wanted


def test_what_an_urgent_line_needs_is_kept_from_all() -> None:
    urgent = Line(("both",), True)
    for by in (RUSH, ONE):
        assert kept(patience_of(urgent, TWO_GPUS), 60.0, urgent, TWO_GPUS, by) == [TWO_GPUS]


def test_a_start_begins_the_wait_anew_and_lets_urgent_jobs_pass_those_that_share_again() -> None:
    patience = patience_of(BOTH, TWO_GPUS, passed_by=2)
    patience.refused(OTHER, ONE_GPU, 0.0)
    for _ in range(2):
        patience.started(RUSH, ONE_GPU)
    assert patience.is_due(OTHER, 60.0)
    patience.started(BOTH, TWO_GPUS)
    assert not patience.starves(BOTH, 60.0)
    assert patience.starves(OTHER, 60.0)
    assert not patience.is_due(OTHER, 60.0)


def test_who_shares_nothing_does_not_count() -> None:
    patience = patience_of(BOTH, Needs(folders=frozenset({"cache"})), passed_by=9)
    assert not patience.is_due(BOTH, 60.0)


def test_a_line_in_which_nobody_waits_is_forgotten() -> None:
    patience = patience_of(BOTH, TWO_GPUS)
    patience.keep_only({BOTH})
    assert patience.starves(BOTH, 60.0)
    patience.keep_only({ONE})
    assert not patience.starves(BOTH, 60.0)


def test_who_is_due_goes_first_and_is_chosen_once_in_a_round() -> None:
    patience = patience_of(BOTH, TWO_GPUS, passed_by=2)
    heads = {Candidate("j", NORMAL, START): BOTH, Candidate("u", URGENT, START - timedelta(1)): RUSH}
    one, chosen = Round(patience, 60.0), []
    while (head := one.choose(heads, 0, off_peak_now=False)) is not None:
        chosen.append(head.key)
        one.refuse(heads[head], ONE_GPU)
    assert chosen == ["j", "u"]
    early = Round(patience, 59.0).choose(heads, 0, off_peak_now=False)
    assert early is not None
    assert early.key == "u"


def test_an_off_peak_job_is_not_due_outside_its_hours() -> None:
    patience = patience_of(BOTH, TWO_GPUS, passed_by=2)
    heads = {Candidate("o", OFFPEAK, START): BOTH}
    assert Round(patience, 60.0).choose(heads, 0, off_peak_now=False) is None
    assert Round(patience, 60.0).choose(heads, 0, off_peak_now=True) is not None


# -- hours of work in a moment -----------------------------------------------------------------------------------------


@dataclass
class Stream:
    """Jobs of one kind, of which one waits always, or which come one at a time."""

    module: str
    priority: Priority
    seconds: int
    always: int = 1
    """So many wait at any time."""


@dataclass
class Hours:
    """A processor without jobs: its slots and its order, with a clock that jumps from second to second."""

    settings: ProcessorSettings
    streams: Sequence[Stream]
    places: int = 8
    slots: Slots = field(default_factory=Slots)
    patience: Patience = field(default_factory=Patience)
    turn: int = 0
    waiting: dict[Candidate, Stream] = field(default_factory=dict)
    running: list[tuple[int, Slot]] = field(default_factory=list)
    started: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def pass_by(self, seconds: int) -> None:
        for now in range(seconds):
            for end, slot in [run for run in self.running if run[0] <= now]:
                self.slots.give_back(slot)
                self.running.remove((end, slot))
            for stream in self.streams:
                while sum(one is stream for one in self.waiting.values()) < stream.always:
                    number = next(self.numbers)
                    key = Candidate(f"{number}", stream.priority, START + timedelta(seconds=now), number)
                    self.waiting[key] = stream
            self.start_due(now)

    def heads(self) -> dict[Candidate, Line]:
        first: dict[tuple[Chain, Priority], Candidate] = {}
        for one, stream in self.waiting.items():  # in the order of their ages
            first.setdefault(((stream.module,), stream.priority), one)
        return {one: Line(chain, priority is URGENT) for (chain, priority), one in first.items()}

    def start_due(self, now: int) -> None:
        one = Round(self.patience, now)
        while self.slots.count < self.places:
            heads = self.heads()
            head = one.choose(heads, self.turn, off_peak_now=True)
            if head is None:
                return
            line, specs = heads[head], (self.settings.modules[heads[head].chain[0]],)
            needs = needs_of(specs, self.settings)
            if not self.slots.has_room(specs, self.settings, one.kept_from(line)):
                one.refuse(line, needs)
                continue
            slot = self.slots.take(specs, self.settings)
            assert slot is not None
            stream = self.waiting.pop(head)
            self.running.append((now + stream.seconds, slot))
            self.patience.started(line, needs)
            self.turn += 1
            self.started[f"{stream.module} {stream.priority.value}"].append(now)


def settings_of(*modules: ModuleSpec) -> ProcessorSettings:
    return ProcessorSettings({spec.name: spec for spec in modules}, gpus=("0", "1"), max_parallel=8)


MODULES = (
    ModuleSpec("both", "process", gpu_count=2),
    ModuleSpec("one", "process", gpu_count=1),
    ModuleSpec("other", "process", gpu_count=1),
    ModuleSpec("free", "process"),
)


@pytest.mark.parametrize("others", [NORMAL, URGENT])
@pytest.mark.parametrize("seconds", [7, 90])
def test_a_job_that_needs_two_gpus_is_not_starved_by_a_stream_that_needs_one(others: Priority, seconds: int) -> None:
    """The stream is always there, and its jobs do not end together."""
    streams = [Stream("one", others, seconds, 2), Stream("other", others, seconds + 3, 2), Stream("both", NORMAL, 5)]
    hours = Hours(settings_of(*MODULES), streams)
    hours.pass_by(3600)
    begun = hours.started["both normal"]
    gaps = [after - before for before, after in itertools.pairwise([0, *begun])]
    assert len(begun) >= 5
    assert max(gaps) <= 60 + 4 * (seconds + 3)


def test_urgent_jobs_are_not_starved_by_those_that_starve_and_still_go_before_them() -> None:
    """Two kinds of normal jobs starve all the time, because each of them takes minutes."""
    streams = [Stream("one", URGENT, 30), Stream("both", NORMAL, 300), Stream("other", NORMAL, 300)]
    hours = Hours(settings_of(*MODULES), streams)
    hours.pass_by(6 * 3600)
    urgent = hours.started["one urgent"]
    normal = len(hours.started["both normal"]) + len(hours.started["other normal"])
    assert max(after - before for before, after in itertools.pairwise(urgent)) <= 700
    assert len(urgent) >= normal
    assert min(len(hours.started["both normal"]), len(hours.started["other normal"])) > 5


def test_an_urgent_job_that_needs_much_and_a_normal_one_that_needs_little_both_get_on() -> None:
    streams = [Stream("both", URGENT, 100), Stream("one", NORMAL, 100), Stream("other", URGENT, 90)]
    hours = Hours(settings_of(*MODULES), streams)
    hours.pass_by(6 * 3600)
    assert {name for name, begun in hours.started.items() if len(begun) > 5} == {
        "both urgent",
        "one normal",
        "other urgent",
    }


def test_what_is_kept_for_one_holds_up_nobody_who_does_not_need_it() -> None:
    streams = [Stream("one", NORMAL, 1000), Stream("both", NORMAL, 10), Stream("free", NORMAL, 10)]
    hours = Hours(settings_of(*MODULES), streams)
    hours.pass_by(900)
    assert max(after - before for before, after in itertools.pairwise(hours.started["free normal"])) <= 10


all_streams = st.lists(
    st.builds(
        Stream,
        st.sampled_from([spec.name for spec in MODULES]),
        st.sampled_from([NORMAL, URGENT, OFFPEAK]),
        st.integers(1, 200),
        st.integers(1, 3),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda stream: (stream.module, stream.priority is URGENT),
)


@settings(max_examples=25)
@given(all_streams, st.integers(1, 4))
def test_whatever_comes_in_whatever_mix_every_kind_of_job_runs_again_and_again(
    streams: list[Stream], places: int
) -> None:
    hours = Hours(settings_of(*MODULES), streams, places)
    hours.pass_by(3 * 3600)
    for stream in streams:
        begun = hours.started[f"{stream.module} {stream.priority.value}"]
        gaps = [after - before for before, after in itertools.pairwise([0, *begun, 3 * 3600])]
        assert max(gaps) <= 60 + 24 * 200, stream
