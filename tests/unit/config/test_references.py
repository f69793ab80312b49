from typing import Any

import pytest
from tests.unit.config.samples import archive, good, route, text_of

from mercure.config.load import Loaded, parse

FOLDER = {"target_type": "folder", "folder": "/srv/out"}


def _loaded(value: Any) -> Loaded:
    return parse(text_of(value), environment={})


@pytest.mark.parametrize(
    ("target", "entry", "message"),
    [
        ("nowhere", None, "'nowhere': there is no target of this name"),
        ("bad", {"target_type": "dicom"}, "'bad': the target cannot be read: host is missing"),
        ("s3", {"target_type": "s3", "region": "r", "bucket": "b", "prefix": "", "access_key_id": "a",
                "secret_access_key": "b"}, "'s3': targets of the type s3 are not built yet"),
        ("dummy", {"target_type": "dummy"}, "'dummy': targets of the type dummy need features.dummy_target"),
        ("source", archive(direction="pull"), "'source': its direction is pull"),
        ("", None, "the action route needs a target"),
    ],
)  # fmt: skip
def test_a_rule_whose_target_cannot_be_reached_stays_and_is_reported(target: str, entry: Any, message: str) -> None:
    targets = {target: entry} if entry is not None else {}
    loaded = _loaded({"rules": [{"name": "broken", "condition": ""}, route(target=target)], "targets": targets})
    assert "ct" in [rule.name for rule in loaded.config.rules]
    (problem,) = [one for one in loaded.problems if one.kind == "reference" and one.path == "rules[1].target"]
    assert problem.message.startswith(message)
    assert problem.severity == "error"
    assert problem not in loaded.schema_errors
    assert problem.line is not None


def test_a_dummy_target_is_usable_when_it_was_asked_for() -> None:
    loaded = _loaded({"features": {"dummy_target": True}, "targets": {"d": {"target_type": "dummy"}}})
    assert loaded.why_unusable("d") is None


def test_several_targets_are_each_looked_at() -> None:
    rule = route(target=["archive", "a", "b"])
    assert [problem.message.partition(":")[0] for problem in _loaded(good(rules=[rule])).problems] == ["'a'", "'b'"]


@pytest.mark.parametrize("rule", [{"disabled": True}, {"condition": "False"}])
def test_a_rule_that_takes_nothing_needs_no_target(rule: dict[str, Any]) -> None:
    assert _loaded({"rules": [route(target="", **rule)]}).problems == ()
    assert _loaded({"rules": [route(target="")]}).problems != ()


def test_rules_of_existing_files_without_text_or_target_are_no_problem() -> None:
    assert _loaded({"port": 11112, "rules": {"a": {}, "b": {"rule": "True", "disabled": "True"}}}).problems == ()


def test_an_empty_called_ae_title_is_usable_only_when_that_of_the_sender_is_forwarded() -> None:
    empty = {"a": archive(called_ae_title=""), "b": archive(called_ae_title=" ", forward_called_ae_title=True)}
    loaded = _loaded({"targets": empty, "rules": [route(target=["a", "b"])]})
    assert loaded.broken_targets == {}
    assert [(one.path, one.severity, one.kind) for one in loaded.problems] == [
        ("rules[0].target", "error", "reference"),
        ("targets.a.called_ae_title", "error", "reference"),
    ]
    assert "no AE title to call" in (loaded.why_unusable("a") or "")
    assert loaded.why_unusable("b") is None


def test_an_unknown_additional_tag_comes_with_a_guess() -> None:
    tags = {"SliceLocation": "1", "slicelocaton": "1", "0019,1001": "x", "Qqqqqqq": "y"}
    problems = _loaded({"receiver": {"additional_tags": tags}}).problems
    assert [(one.path, one.severity, one.kind) for one in problems] == [
        ("receiver.additional_tags.slicelocaton", "error", "reference"),
        ("receiver.additional_tags.Qqqqqqq", "error", "reference"),
    ]
    assert "did you mean SliceLocation?" in problems[0].message
    assert "gggg,eeee" in problems[1].message
    flat = _loaded({"dicom_receiver": {"additional_tags": {"Modalty": "CT"}}, "port": 11112})
    (problem,) = flat.problems
    assert problem.path == "dicom_receiver.additional_tags.Modalty"
    assert "did you mean Modality?" in problem.message


def test_a_disabled_rule_only_warns() -> None:
    (problem,) = _loaded(good(rules=[route(target="nowhere", disabled=True)])).problems
    assert (problem.severity, problem.kind) == ("warning", "reference")


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        (route(action_trigger="study"), "rules[0].action_trigger"),
        (route(notification_email="a@b"), "rules[0]"),
        (route(action="notification", target=""), "rules[0]"),
    ],
)
def test_what_is_not_built_yet_is_said(rule: Any, path: str) -> None:
    assert path in [problem.path for problem in _loaded(good(rules=[rule])).problems]


MODULES: dict[str, Any] = {"seg": {"docker_tag": "a:1"}, "bad": {}}
AI = {"processing_module": "seg", "settings": {}}


def _reported(rule: dict[str, Any], **targets: Any) -> list[tuple[str, str]]:
    loaded = _loaded(good(rules=[rule], targets={"archive": archive(), **targets}, modules=MODULES))
    assert [one.name for one in loaded.config.rules] == ["ct"]
    return [(one.path, one.message) for one in loaded.problems if one.kind == "reference"]


@pytest.mark.parametrize(
    "rule",
    [
        route(action="process", processing_module="seg", target=""),
        route(action="both", processing_module=["seg", "seg"]),
        route(action="process", target="ai"),
        route(action="both", target=["ai", "archive"]),
    ],
)
def test_modules_that_are_there_are_no_problem(rule: dict[str, Any]) -> None:
    assert _reported(rule, ai=AI) == []


@pytest.mark.parametrize(
    ("rule", "path", "message"),
    [
        (route(action="process", processing_module="x", target=""), "processing_module",
         "'x': there is no module of this name"),
        (route(action="process", processing_module=["seg", "bad"], target=""), "processing_module",
         "'bad': the module cannot be read: needs either docker_tag"),
        (route(action="process", target="lost"), "target", "module 'x': there is no module of this name"),
        (route(action="process", target=""), "processing_module", "the action process needs a module"),
        (route(action="both", target="ai"), "target", "the action both needs a target"),
        (route(action="both", target="archive"), "processing_module", "the action both needs a module"),
        (route(target="ai"), "target", "'ai': it is a module: it takes series of rules with the action process"),
        (route(action="process", processing_module="seg", target="ai"), "target", "'ai': it is a module, and the rule"),
        (route(action="process", processing_module="seg", target="", processing_settings=[{}, {}]),
         "processing_settings", "has 2 objects for 1 modules"),
        (route(action="both", processing_module="seg", dynamic_routing=True,
               dynamic_routing_allowed_targets=["archive", "gone"]),
         "dynamic_routing_allowed_targets", "'gone': there is no target of this name"),
        (route(action="both", processing_module="seg", dynamic_routing=True, conditional_alternate_target="ai"),
         "conditional_alternate_target", "'ai': it is a module"),
    ],
)  # fmt: skip
def test_a_rule_whose_modules_cannot_run_stays_and_is_reported(rule: dict[str, Any], path: str, message: str) -> None:
    (found,) = _reported(rule, ai=AI, **({"lost": {"processing_module": "x"}} if rule["target"] == "lost" else {}))
    assert found[0] == f"rules[0].{path}"
    assert found[1].startswith(message)


def test_a_rule_that_takes_nothing_needs_no_module() -> None:
    assert _reported(route(action="process", target="", disabled=True)) == []


def test_a_module_as_a_target_that_no_rule_uses_only_warns() -> None:
    loaded = _loaded(good(targets={"archive": archive(), "ai": {"processing_module": "gone"}}))
    (problem,) = loaded.problems
    assert (problem.path, problem.severity) == ("targets.ai.processing_module", "warning")


def test_targets_of_dynamic_routing_matter_only_when_it_is_on() -> None:
    rule = route(action="both", processing_module="seg", dynamic_routing_allowed_targets=["gone"])
    assert _reported(rule) == []


def test_a_discard_rule_needs_no_target() -> None:
    assert _loaded(good(rules=[route(action="discard", target="")])).problems == ()


def test_placeholders_and_a_late_cleaner_are_warned_of() -> None:
    loaded = _loaded(
        {
            "webgui": {"auth_token_key": "generate_random_key_here"},
            "bookkeeper": {"api_key": {"env": "TOKEN"}},
            "cleaner": {"min_free_space_gb": 0.5},
        }
    )
    assert [(problem.path, problem.severity) for problem in loaded.problems] == [
        ("webgui.auth_token_key", "warning"),
        ("cleaner.min_free_space_gb", "warning"),
    ]


def test_a_series_that_is_complete_at_once_is_warned_of() -> None:
    for value, path in (
        ({"mercure": {"series_complete_trigger": 0}}, "mercure.series_complete_trigger"),
        ({"port": 11112, "series_complete_trigger": "0"}, "series_complete_trigger"),
    ):
        (problem,) = _loaded(value).problems
        assert (problem.path, problem.severity) == (path, "warning")
        assert "becomes several jobs" in problem.message
    assert _loaded({"mercure": {"series_complete_trigger": 0.5}}).problems == ()
