"""What must hold for every configuration, however broken, and every order of its rules."""

from collections import Counter
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from mercure.core.plan import Plan, RoutingRule, make_plan
from mercure.core.rules import Expression
from mercure.core.stages import Stage
from mercure.core.tags import Tags
from mercure.core.task import Priority

TAGS = Tags({"Modality": "CT"})
FINE = [Expression.parse(text) for text in ("True", "tags.Modality == 'CT'", "False", "tags.Missing == 'x'")]
FAILING = Expression.parse("tags.Modality < 5")
NAMES = ["pacs", "ai", "folder", "typo"]

targets = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["", "", "", "its host is missing"]))


@st.composite
def rules(draw: st.DrawFn, *, with_fallback: bool = True) -> list[RoutingRule]:
    count = draw(st.integers(0, 6))
    return [draw(rule(f"rule-{number}", with_fallback=with_fallback)) for number in range(count)]


def rule(name: str, *, with_fallback: bool = True) -> st.SearchStrategy[RoutingRule]:
    return st.builds(
        lambda expression, fault, **fields: RoutingRule(
            name, expression, broken=fault if expression else "it does not parse", **fields
        ),
        st.sampled_from([*FINE, *FINE, FAILING, None]),
        st.sampled_from(["", "", "", "its priority is none"]),
        action=st.sampled_from(["route", "route", "both", "process", "discard", "notification"]),
        targets=st.lists(st.sampled_from(NAMES), max_size=3).map(tuple),
        priority=st.sampled_from(Priority),
        disabled=st.sampled_from([False, False, False, True]),
        fallback=st.booleans() if with_fallback else st.just(False),
        level=st.sampled_from(["series", "series", "series", "study"]),
        modules=st.lists(st.just("module"), max_size=2).map(tuple),
    )


def work(plan: Plan) -> Counter[tuple[str, ...]]:
    """What a plan gets done, however it is cut into jobs."""
    done: Counter[tuple[str, ...]] = Counter()
    for job in plan.jobs:
        if job.stage is Stage.OUTGOING:
            done.update(("route", target) for target in job.targets)
        elif job.action == "both" and job.stage is Stage.PROCESSING:
            done.update(("both", job.applied_rule, target) for target in job.targets)
        elif job.stage is Stage.PROCESSING:
            done["process", job.applied_rule] += 1
    return done


@given(rules(), targets)
def test_a_plan_always_has_a_job_and_never_the_same_one_twice(some: list[RoutingRule], known: dict[str, str]) -> None:
    plan = make_plan(TAGS, some, known)
    assert plan.jobs
    assert max(Counter((job.stage, job.targets, job.applied_rule) for job in plan.jobs).values()) == 1
    assert max(work(plan).values(), default=1) == 1
    stages = [job.stage for job in plan.jobs]
    assert stages.count(Stage.ERROR) <= 1
    assert Stage.DISCARD not in stages or stages == [Stage.DISCARD]


@given(rules(), targets)
def test_a_reason_names_every_rule_that_it_is_about(some: list[RoutingRule], known: dict[str, str]) -> None:
    for job in make_plan(TAGS, some, known).jobs:
        assert bool(job.reason) == (job.stage in (Stage.ERROR, Stage.DISCARD))
        if job.reason:
            assert all(repr(name) in job.reason for name in job.rules)


@given(rules(), targets)
def test_what_a_failed_rule_may_have_wanted_is_never_discarded(some: list[RoutingRule], known: dict[str, str]) -> None:
    plan = make_plan(TAGS, some, known)
    if any(trace.outcome == "failed" for trace in plan.trace):
        assert all(job.stage is not Stage.DISCARD for job in plan.jobs)
        (error,) = [job for job in plan.jobs if job.stage is Stage.ERROR]
        assert {trace.rule for trace in plan.trace if trace.outcome == "failed"} <= set(error.rules)


@given(rules(), targets, st.data())
def test_the_same_values_give_the_same_plan(
    some: list[RoutingRule], known: dict[str, str], data: st.DataObject
) -> None:
    first = make_plan(TAGS, some, known)
    assert make_plan(TAGS, tuple(some), dict(known)) == first
    shuffled = data.draw(st.permutations(first.done))
    assert make_plan(TAGS, some, known, shuffled) == make_plan(TAGS, some, known, set(first.done))


@given(rules(), targets, rule("extra"), st.integers(0, 6))
def test_a_disabled_rule_changes_nothing_but_the_trace(
    some: list[RoutingRule], known: dict[str, str], extra: RoutingRule, place: int
) -> None:
    plan = make_plan(TAGS, some, known)
    more = make_plan(TAGS, [*some[:place], replace(extra, disabled=True), *some[place:]], known)
    assert replace(more, trace=plan.trace) == plan
    assert [trace for trace in more.trace if trace.rule != "extra"] == list(plan.trace)


@given(rules(with_fallback=False), targets)
def test_a_bad_rule_takes_no_job_from_the_good_ones(some: list[RoutingRule], known: dict[str, str]) -> None:
    good = [one for one in some if one.expression not in (None, FAILING) and not one.broken]
    assert work(make_plan(TAGS, good, known)) <= work(make_plan(TAGS, some, known))


@given(rules(with_fallback=False), targets)
def test_a_bad_target_takes_no_job_from_the_good_ones(some: list[RoutingRule], known: dict[str, str]) -> None:
    usable = {name for name, fault in known.items() if not fault}
    good = [replace(one, targets=tuple(name for name in one.targets if name in usable)) for one in some]
    assert work(make_plan(TAGS, good, known)) == work(make_plan(TAGS, some, known))


@given(rules(), targets)
def test_a_mended_configuration_gets_all_done_once_by_both_plans(
    some: list[RoutingRule], known: dict[str, str]
) -> None:
    mended_rules = [
        replace(one, broken="")
        if one.expression not in (None, FAILING)
        else replace(one, expression=FINE[0], broken="")
        for one in some
    ]
    mended_targets = dict.fromkeys(NAMES, "")
    at_once = make_plan(TAGS, mended_rules, mended_targets)
    assume(all(job.stage is not Stage.DISCARD for job in at_once.jobs))
    first = make_plan(TAGS, some, known)
    second = make_plan(TAGS, mended_rules, mended_targets, first.done)
    assert work(first) + work(second) == work(at_once)
    third = make_plan(TAGS, mended_rules, mended_targets, second.done)
    assert not work(third)
