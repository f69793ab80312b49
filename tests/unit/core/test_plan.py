import json
from dataclasses import replace
from typing import Any

import pytest

from mercure.core.plan import (
    NO_RULE_MATCHED,
    NOTHING_LEFT,
    Plan,
    PlannedJob,
    RoutingRule,
    make_plan,
    plan_to_json,
)
from mercure.core.rules import Expression
from mercure.core.stages import Stage
from mercure.core.tags import Tags
from mercure.core.task import FailStage, Priority

TAGS = Tags({"Modality": "CT", "PatientName": "DOE^JOHN", "SeriesDescription": "THORAX"})
TARGETS = {"pacs": "", "ai": "", "folder": "", "half": "its host is missing"}


def rule(name: str, expression: str = "True", **fields: Any) -> RoutingRule:
    return RoutingRule(name, Expression.parse(expression), **fields)


def failing(name: str, **fields: Any) -> RoutingRule:
    return rule(name, "tags.Modality < 5", **fields)


def broken(name: str, **fields: Any) -> RoutingRule:
    return RoutingRule(name, None, broken="its expression has no end", **fields)


def plan(*rules: RoutingRule, done: tuple[str, ...] = (), forced: str = "") -> Plan:
    return make_plan(TAGS, rules, TARGETS, done, forced)


def at(made: Plan, stage: Stage) -> list[PlannedJob]:
    return [job for job in made.jobs if job.stage is stage]


def outcomes(made: Plan) -> dict[str, str]:
    return {trace.rule: trace.outcome for trace in made.trace}


def test_a_series_that_no_rule_wants_is_discarded_with_the_reason() -> None:
    for made in (plan(), plan(rule("mr", "tags.Modality == 'MR'", targets=("pacs",)))):
        assert made.jobs == (PlannedJob(Stage.DISCARD, "discard", reason=NO_RULE_MATCHED),)
        assert made.triggered == made.done == ()


def test_a_route_rule_gives_one_job_for_each_target() -> None:
    made = plan(rule("r", targets=("pacs", "ai", "pacs"), priority=Priority.URGENT))
    assert made.jobs == (
        PlannedJob(Stage.OUTGOING, "route", ("r",), "r", ("pacs",), Priority.URGENT),
        PlannedJob(Stage.OUTGOING, "route", ("r",), "r", ("ai",), Priority.URGENT),
    )
    assert made.triggered == ("r",)


@pytest.mark.requirement("S10")
def test_rules_with_the_same_target_share_a_job_that_is_as_urgent_as_the_most_urgent_of_them() -> None:
    made = plan(
        rule("a", targets=("pacs",), priority=Priority.OFFPEAK),
        rule("b", targets=("pacs", "ai")),
        rule("c", targets=("pacs",), priority=Priority.OFFPEAK),
    )
    assert made.jobs == (
        PlannedJob(Stage.OUTGOING, "route", ("a", "b", "c"), "", ("pacs",), Priority.NORMAL),
        PlannedJob(Stage.OUTGOING, "route", ("b",), "b", ("ai",), Priority.NORMAL),
    )
    off_peak = plan(
        rule("a", targets=("pacs",), priority=Priority.OFFPEAK), rule("c", targets=("pacs",), priority=Priority.OFFPEAK)
    )
    assert off_peak.jobs[0].priority is Priority.OFFPEAK


def test_process_and_both_rules_have_a_job_of_their_own_and_both_keeps_its_targets() -> None:
    made = plan(
        rule("p", action="process", modules=("m",), priority=Priority.URGENT),
        rule("b", action="both", modules=("m", "n"), targets=("pacs", "ai")),
        rule("r", targets=("pacs",)),
    )
    assert made.jobs == (
        PlannedJob(Stage.PROCESSING, "process", ("p",), "p", (), Priority.URGENT),
        PlannedJob(Stage.PROCESSING, "both", ("b",), "b", ("pacs", "ai")),
        PlannedJob(Stage.OUTGOING, "route", ("r",), "r", ("pacs",)),
    )


def test_notification_rules_alone_settle_the_series_in_success() -> None:
    made = plan(rule("n", action="notification"), rule("o", action="notification", priority=Priority.URGENT))
    assert made.jobs == (PlannedJob(Stage.SUCCESS, "notification", ("n", "o"), "", (), Priority.URGENT),)


def test_notification_rules_beside_others_give_no_job_but_are_triggered() -> None:
    made = plan(rule("n", action="notification"), rule("r", targets=("pacs",)))
    assert [job.stage for job in made.jobs] == [Stage.OUTGOING]
    assert made.triggered == ("n", "r")


def test_a_discard_rule_ends_the_evaluation_and_takes_all() -> None:
    made = plan(rule("r", targets=("pacs",)), rule("d", action="discard"), rule("s", targets=("ai",)), failing("f"))
    (job,) = made.jobs
    assert (job.stage, job.rules, job.applied_rule) == (Stage.DISCARD, ("d",), "d")
    assert "'d'" in job.reason
    assert made.triggered == ("r", "d")
    assert outcomes(made) == {"r": "matched", "d": "matched", "s": "skipped", "f": "skipped"}


def test_a_discard_rule_that_does_not_match_changes_nothing() -> None:
    made = plan(rule("d", "tags.Modality == 'MR'", action="discard"), rule("r", targets=("pacs",)))
    assert [job.stage for job in made.jobs] == [Stage.OUTGOING]


@pytest.mark.requirement("D14")
@pytest.mark.parametrize("bad", [failing("f"), broken("f")])
def test_nothing_is_discarded_while_a_rule_is_unknown(bad: RoutingRule) -> None:
    for made in (plan(bad), plan(bad, rule("d", action="discard"))):
        (job,) = made.jobs
        assert (job.stage, job.fail_stage) == (Stage.ERROR, FailStage.ROUTING)
        assert "'f'" in job.reason
        assert "f" in job.rules
    assert "'d'" in plan(bad, rule("d", action="discard")).jobs[0].reason


@pytest.mark.requirement("D14")
def test_a_rule_that_fails_goes_to_error_beside_the_jobs_of_the_good_ones() -> None:
    made = plan(broken("x"), rule("r", targets=("pacs",)), failing("y"))
    assert [job.targets for job in at(made, Stage.OUTGOING)] == [("pacs",)]
    (error,) = at(made, Stage.ERROR)
    assert error.rules == ("x", "y")
    assert error.applied_rule == ""
    assert "rule 'x' cannot be used: its expression has no end" in error.reason
    assert "rule 'y' could not be evaluated: " in error.reason


def test_reasons_and_traces_hold_no_values_of_tags() -> None:
    made = plan(rule("a", "tags.PatientName < 5"), rule("b", "tags.Nothing == tags.PatientName"))
    shown = json.dumps(plan_to_json(made))
    assert "PatientName" in shown
    assert "DOE" not in shown


@pytest.mark.requirement("D1")
@pytest.mark.parametrize(("target", "why"), [("typo", "is not in the configuration"), ("half", "its host is missing")])
def test_a_target_that_cannot_be_used_goes_to_error_and_the_others_go_on(target: str, why: str) -> None:
    made = plan(rule("r", targets=("pacs", target)), rule("s", targets=(target,)))
    assert [job.targets for job in at(made, Stage.OUTGOING)] == [("pacs",)]
    (error,) = at(made, Stage.ERROR)
    assert error.rules == ("r", "s")
    assert f"target {target!r} of rule 'r'" in error.reason
    assert why in error.reason


@pytest.mark.requirement("D2")
@pytest.mark.parametrize("action", ["route", "both"])
def test_a_rule_without_a_target_goes_to_error(action: Any) -> None:
    (error,) = plan(rule("r", action=action, modules=("m",))).jobs
    assert (error.stage, error.applied_rule) == (Stage.ERROR, "r")
    assert error.reason == "rule 'r' has no target"


@pytest.mark.requirement("S11")
@pytest.mark.parametrize("action", ["process", "both"])
def test_a_rule_without_a_module_goes_to_error(action: Any) -> None:
    (error,) = plan(rule("r", action=action, targets=("pacs",))).jobs
    assert (error.stage, error.action, error.reason) == (Stage.ERROR, action, "rule 'r' has no module")


def test_a_both_rule_whose_targets_are_all_unusable_waits_unprocessed() -> None:
    made = plan(rule("b", action="both", modules=("m",), targets=("typo", "half")))
    assert [job.stage for job in made.jobs] == [Stage.ERROR]


@pytest.mark.parametrize("action", ["route", "discard", "notification"])
def test_a_study_rule_that_matches_goes_to_error_and_stops_nothing(action: Any) -> None:
    made = plan(rule("s", action=action, targets=("pacs",), level="study"), rule("r", targets=("ai",)))
    assert [job.stage for job in made.jobs] == [Stage.OUTGOING, Stage.ERROR]
    assert "'s'" in made.jobs[1].reason


def test_a_disabled_rule_is_skipped_even_when_it_is_broken() -> None:
    made = plan(broken("x", disabled=True), rule("r", targets=("pacs",)))
    assert [job.stage for job in made.jobs] == [Stage.OUTGOING]
    assert outcomes(made) == {"x": "skipped", "r": "matched"}


def test_the_last_fallback_rule_that_matches_is_used_when_no_other_rule_matched() -> None:
    made = plan(
        rule("a", fallback=True, targets=("pacs",)),
        rule("b", fallback=True, targets=("ai",)),
        rule("c", "tags.Modality == 'MR'", fallback=True, targets=("folder",)),
        rule("r", "False", targets=("folder",)),
    )
    assert [job.rules for job in made.jobs] == [("b",)]
    assert outcomes(made) == {"a": "skipped", "b": "matched", "c": "not_matched", "r": "not_matched"}


@pytest.mark.parametrize(
    "other", [rule("r", targets=("pacs",)), rule("r", targets=("typo",)), failing("r"), broken("r")]
)
def test_a_fallback_rule_is_not_used_when_another_matched_or_failed(other: RoutingRule) -> None:
    made = plan(rule("f", fallback=True, targets=("ai",)), other)
    assert outcomes(made)["f"] == "skipped"
    assert all("f" not in job.rules for job in made.jobs)


def test_a_fallback_rule_that_fails_is_an_error_only_when_it_is_needed() -> None:
    assert [job.stage for job in plan(broken("f", fallback=True)).jobs] == [Stage.ERROR]
    assert [job.stage for job in plan(broken("f", fallback=True), rule("r", targets=("pacs",))).jobs] == [
        Stage.OUTGOING
    ]


def test_a_rule_that_is_broken_beside_its_expression_fails_only_for_what_it_takes() -> None:
    made = plan(rule("x", "tags.Modality == 'CT'", broken="its priority is none"), rule("r", targets=("pacs",)))
    assert [job.targets for job in at(made, Stage.OUTGOING)] == [("pacs",)]
    assert at(made, Stage.ERROR)[0].reason == "rule 'x' cannot be used: its priority is none"
    assert (outcomes(made)["x"], made.trace[0].read, made.triggered) == ("failed", ("Modality",), ("r",))
    made = plan(rule("x", "tags.Modality == 'MR'", broken="its priority is none"), rule("f", fallback=True))
    assert outcomes(made) == {"x": "not_matched", "f": "matched"}
    assert at(made, Stage.ERROR)[0].rules == ("f",), "it has no target"


def test_a_rule_that_is_broken_and_cannot_be_evaluated_fails_with_both_reasons() -> None:
    (job,) = plan(failing("x", broken="its priority is none"), rule("f", fallback=True, targets=("pacs",))).jobs
    assert job.stage is Stage.ERROR
    assert job.reason.startswith("rule 'x' cannot be used: its priority is none; it could not be evaluated: ")


def test_a_fallback_rule_may_discard() -> None:
    (job,) = plan(rule("f", action="discard", fallback=True)).jobs
    assert (job.stage, job.applied_rule) == (Stage.DISCARD, "f")


def test_two_rules_with_one_name_are_not_mixed_up() -> None:
    made = plan(rule("r", targets=("pacs",)), rule("r", targets=("ai",)))
    assert [job.targets for job in at(made, Stage.OUTGOING)] == [("pacs",)]
    assert at(made, Stage.ERROR)[0].reason == "rule 'r' cannot be used: another rule has the same name"


def test_after_the_mend_only_what_was_not_done_is_made() -> None:
    both = rule("b", action="both", modules=("m",), targets=("pacs", "typo"))
    first = plan(rule("r", targets=("ai", "typo")), both, rule("p", action="process", modules=("m",)), broken("x"))
    second = make_plan(
        TAGS,
        (
            rule("r", targets=("ai", "typo")),
            both,
            rule("p", action="process", modules=("m",)),
            rule("x", targets=("ai", "folder")),
        ),
        {**TARGETS, "typo": ""},
        first.done,
    )
    assert [(job.stage, job.applied_rule, job.targets) for job in second.jobs] == [
        (Stage.PROCESSING, "b", ("typo",)),
        (Stage.OUTGOING, "r", ("typo",)),
        (Stage.OUTGOING, "x", ("folder",)),
    ]
    assert set(first.done) < set(second.done)


def test_what_is_still_wrong_is_an_error_again_and_what_was_done_stays_done() -> None:
    first = plan(rule("r", targets=("pacs", "typo")))
    second = plan(rule("r", targets=("pacs", "typo")), done=first.done)
    assert second.jobs == tuple(at(first, Stage.ERROR))
    assert second.done == first.done


def test_a_target_that_was_served_may_go_from_the_configuration() -> None:
    first = plan(rule("r", targets=("pacs", "typo")))
    second = make_plan(TAGS, [rule("r", targets=("pacs", "typo"))], {"typo": ""}, first.done)
    assert [(job.stage, job.targets) for job in second.jobs] == [(Stage.OUTGOING, ("typo",))]


def test_when_all_was_done_before_the_rest_is_discarded_with_that_reason() -> None:
    first = plan(rule("r", targets=("pacs",)), broken("x"))
    second = plan(rule("r", targets=("pacs",)), rule("x", "False"), rule("n", action="notification"), done=first.done)
    assert second.jobs == (PlannedJob(Stage.DISCARD, "discard", reason=NOTHING_LEFT),)


def test_a_fallback_rule_is_not_used_for_what_remains_of_a_series() -> None:
    first = plan(rule("r", targets=("pacs",)), broken("x"))
    second = plan(rule("r", "False"), rule("f", fallback=True, targets=("ai",)), done=first.done)
    assert [job.reason for job in second.jobs] == [NOTHING_LEFT]


def test_a_fallback_rule_goes_on_when_its_target_is_mended() -> None:
    fallback = rule("f", fallback=True, targets=("pacs", "typo"))
    first = plan(fallback)
    second = make_plan(TAGS, [fallback], {"pacs": "", "typo": ""}, first.done)
    assert [job.targets for job in second.jobs] == [("typo",)]


def test_a_fallback_rule_is_used_after_the_mend_when_nothing_was_done_before() -> None:
    fallback = rule("f", fallback=True, targets=("pacs",))
    first = plan(broken("x"), fallback)
    assert first.done == ()
    assert [job.rules for job in plan(rule("x", "False"), fallback, done=first.done).jobs] == [("f",)]


def test_a_notification_is_settled_once() -> None:
    first = plan(rule("n", action="notification"), broken("x"))
    assert [job.stage for job in first.jobs] == [Stage.SUCCESS, Stage.ERROR]
    second = plan(rule("n", action="notification"), rule("x", "False"), done=first.done)
    assert [job.reason for job in second.jobs] == [NOTHING_LEFT]


def test_a_rule_without_expression_and_reason_counts_as_failed() -> None:
    assert plan(RoutingRule("r", None)).jobs[0].stage is Stage.ERROR


def test_a_plan_becomes_json() -> None:
    made = plan(rule("r", targets=("pacs", "typo")), broken("x"), rule("m", "tags.Missing == 'a'"))
    stored = json.loads(json.dumps(plan_to_json(made)))
    assert [job["stage"] for job in stored["jobs"]] == [job.stage.value for job in made.jobs]
    assert [trace["rule"] for trace in stored["trace"]] == ["r", "x", "m"]
    assert stored["done"] == list(made.done)


def test_a_rule_that_an_operator_chose_is_followed_alone_and_unasked() -> None:
    never = replace(rule("chosen", "False", targets=("pacs",)), disabled=True)
    made = plan(rule("other", targets=("pacs",)), never, forced="chosen", done=("route:pacs",))
    (job,) = made.jobs
    assert (job.stage, job.rules, job.targets) == (Stage.OUTGOING, ("chosen",), ("pacs",))
    assert outcomes(made) == {"other": "skipped", "chosen": "matched"}


def test_a_chosen_rule_that_is_gone_or_broken_leaves_the_series_in_error() -> None:
    (gone,) = plan(rule("r", targets=("pacs",)), forced="typo").jobs
    assert (gone.stage, gone.fail_stage) == (Stage.ERROR, FailStage.ROUTING)
    assert "'typo', which an operator chose, is not in the configuration" in gone.reason
    for bad in (broken("x"), rule("x", targets=("pacs",), broken="its priority is none")):
        (unusable,) = plan(bad, forced="x").jobs
        assert unusable.stage is Stage.ERROR
        assert unusable.reason == f"rule 'x' cannot be used: {bad.broken}"


def test_a_module_that_cannot_be_used_is_a_fault_of_its_rule() -> None:
    faulty = rule("r", action="process", modules=("m",), module_fault="names module 'm', which is not there")
    (job,) = plan(faulty).jobs
    assert job.stage is Stage.ERROR
    assert "names module 'm'" in job.reason


def test_what_modules_do_goes_with_the_job() -> None:
    (job,) = plan(rule("r", action="process", modules=("m",), process={"module_name": "m"})).jobs
    assert (job.stage, job.process) == (Stage.PROCESSING, {"module_name": "m"})
