import json
from typing import Any

import pytest

from mercure.core.module_result import (
    MAXIMUM_RESULT_BYTES,
    DynamicRouting,
    Notification,
    Routed,
    notification_in,
    parse_result,
    route_result,
)

KNOWN = ("pacs", "research", "urgent")
FREE = DynamicRouting(enabled=True)
BOUND = DynamicRouting(enabled=True, allowed_targets=("research",), alternate_target="urgent")


def wish(**values: Any) -> dict[str, Any]:
    return {"__mercure_routing": values}


def routed(output: Any, rule: DynamicRouting = FREE) -> Routed:
    return route_result(output, rule, ("pacs",), KNOWN)


def test_a_module_without_a_wish_changes_nothing() -> None:
    outputs: list[Any] = [None, {}, [], "text", 7, {"volume": 3}]
    for output in outputs:
        assert routed(output) == Routed(("pacs",))
    assert routed(wish()) == Routed(("pacs",))


def test_a_module_may_choose_targets_if_the_rule_allows_it() -> None:
    assert routed(wish(target="research")).targets == ("research",)
    assert routed(wish(target=["urgent", "research", "urgent"])).targets == ("urgent", "research")
    assert routed(wish(target="research"), DynamicRouting()).targets == ("pacs",)
    assert "does not allow" in routed(wish(target="research"), DynamicRouting()).note


def test_targets_that_are_unknown_or_not_allowed_change_nothing_and_are_noted() -> None:
    assert routed(wish(target="typo")) == Routed(
        ("pacs",), "the module chose a target that is not in the configuration"
    )
    assert routed(wish(target=["research", "urgent"]), BOUND) == Routed(
        ("pacs",), "the module chose a target that the rule does not allow"
    )
    assert routed(wish(target="research"), BOUND).targets == ("research",)


@pytest.mark.parametrize("odd", [7, [], [7], {}, None, {"a": "pacs"}])
def test_a_target_that_is_no_name_changes_nothing(odd: object) -> None:
    assert routed(wish(target=odd)).targets == ("pacs",)
    assert routed({"__mercure_routing": odd}).targets == ("pacs",)


def test_a_module_may_have_its_result_go_nowhere_or_to_the_alternate_target() -> None:
    assert routed(wish(discard=True, target="research")).targets == ()
    assert routed(wish(discard="yes")).targets == ("pacs",)
    assert routed(wish(use_alternate_target=True), BOUND).targets == ("urgent",)
    assert routed(wish(use_alternate_target=True)).targets == ("pacs",)
    gone = DynamicRouting(enabled=True, alternate_target="gone")
    assert routed(wish(use_alternate_target=True), gone).targets == ("pacs",)


def test_result_json_is_taken_when_it_is_json_and_not_too_long() -> None:
    assert parse_result(None) == (None, "")
    assert parse_result(b'{"a": [1]}') == ({"a": [1]}, "")
    for bad in (b"{", b"\xff", b"[" * 100_000, b'{"a": NaN}', b"[-Infinity]"):
        assert parse_result(bad) == (None, "result.json is no JSON and was not taken")
    long = json.dumps("x" * MAXIMUM_RESULT_BYTES).encode()
    assert parse_result(long) == (None, "result.json is too long and was not taken")


def test_a_module_may_ask_for_a_notification() -> None:
    output = {"__mercure_notification": {"text": "lesion", "requested": True}}
    assert notification_in(output) == Notification("lesion", requested=True)
    odds: list[Any] = [None, [], {"__mercure_notification": 3}, {"__mercure_notification": {"text": 3, "requested": 1}}]
    for odd in odds:
        assert notification_in(odd) == Notification()
    assert len(notification_in({"__mercure_notification": {"text": "x" * 9999}}).text) == 2000


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1e999}', '{"a": [-1e999]}', '{"a": NaN}', '{"a": "\\ud800"}', '{"\\udfff": 1}', '"\\udc00\\ud800"',
        "[" * 101 + "]" * 101, '{"a":' * 101 + "1" + "}" * 101, "[" * 985 + "]" * 985, "[" * 100_000,
        "[" * 200_000 + "]" * 200_000,
    ],
)  # fmt: skip
def test_a_result_that_could_not_be_written_into_a_job_is_not_taken(text: str) -> None:
    output, fault = parse_result(text.encode())
    assert output is None
    assert fault == "result.json is no JSON and was not taken"


@pytest.mark.parametrize("text", ["[" * 100 + "]" * 100, '"\\ud83d\\ude00"', '{"a": [1e308, -0.0, null, true]}'])
def test_a_result_that_is_only_odd_is_taken_as_it_is(text: str) -> None:
    assert parse_result(text.encode()) == (json.loads(text), "")
