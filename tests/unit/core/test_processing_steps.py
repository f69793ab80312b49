import json
from typing import Any

import pytest

from mercure.core.errors import SpoolError
from mercure.core.processing_steps import StepPlan, process_section, step_section, steps_from

FIRST = StepPlan("segment", {"threshold": 0.5}, 300.0, True, {"docker_tag": "example/segment:1"}, {"volume": 7})
SECOND = StepPlan("report")


def test_one_step_is_one_object_with_the_keys_of_the_contract() -> None:
    assert process_section([FIRST]) == {
        "module_name": "segment",
        "module_config": {"docker_tag": "example/segment:1"},
        "settings": {"threshold": 0.5},
        "retain_input_images": True,
        "output": {"volume": 7},
        "timeout_seconds": 300.0,
        "image_digest": None,
    }
    assert process_section([FIRST]) == step_section(FIRST)


def test_a_step_that_says_little_has_all_keys() -> None:
    section = process_section([SECOND])
    assert section == {
        "module_name": "report",
        "module_config": {},
        "settings": {},
        "retain_input_images": False,
        "output": None,
        "timeout_seconds": None,
        "image_digest": None,
    }


def test_a_chain_is_a_list_in_order() -> None:
    assert process_section([FIRST, SECOND]) == [step_section(FIRST), step_section(SECOND)]


def test_no_steps_are_an_empty_object() -> None:
    assert process_section([]) == {}
    assert steps_from({}) == ()
    assert steps_from([]) == ()


@pytest.mark.parametrize("steps", [(FIRST,), (SECOND,), (FIRST, SECOND), (SECOND, FIRST, FIRST)])
def test_what_was_written_is_read_back(steps: tuple[StepPlan, ...]) -> None:
    assert steps_from(json.loads(json.dumps(process_section(steps)))) == steps


def test_a_section_does_not_share_what_it_was_made_of() -> None:
    settings = {"a": 1}
    section = process_section([StepPlan("m", settings)])
    section["settings"]["a"] = 2
    assert settings == {"a": 1}


def test_a_file_of_an_existing_installation_is_read() -> None:
    old = {
        "module_name": "segment",
        "module_config": {"docker_tag": "x", "environment": '{"A": "b"}', "settings": {}},
        "settings": {"a": 1},
        "retain_input_images": True,
        "output": None,
    }
    (step,) = steps_from(old)
    assert (step.module, step.settings, step.retain_input_images) == ("segment", {"a": 1}, True)
    assert step.timeout_seconds is None
    (step,) = steps_from({"module_name": "segment", "module_config": None, "settings": None})
    assert (step.settings, step.module_config, step.output) == ({}, {}, None)


@pytest.mark.parametrize(
    "process",
    [
        None,
        5,
        "segment",
        True,
        ["segment"],
        [None],
        [[]],
        {"settings": {}},
        {"module_name": 5},
        {"module_name": None},
        {"module_name": ["a"]},
        {"module_name": "a", "settings": []},
        {"module_name": "a", "settings": "x"},
        {"module_name": "a", "module_config": 1},
        {"module_name": "a", "timeout_seconds": 0},
        {"module_name": "a", "timeout_seconds": -1},
        {"module_name": "a", "timeout_seconds": "5"},
        {"module_name": "a", "timeout_seconds": True},
        [{"module_name": "a"}, {"module_name": "b", "settings": 3}],
    ],
)
def test_what_is_no_list_of_steps_is_refused(process: Any) -> None:
    with pytest.raises(SpoolError, match=r"task\.json"):
        steps_from(process)


def test_only_true_keeps_the_input() -> None:
    for value in (1, "true", [True], None, False):
        (step,) = steps_from({"module_name": "a", "retain_input_images": value})
        assert step.retain_input_images is False


def test_no_value_of_a_damaged_file_is_repeated() -> None:
    for process in ({"module_name": "a", "settings": "DOE^JOHN"}, {"module_name": "a", "timeout_seconds": "DOE^JOHN"}):
        with pytest.raises(SpoolError) as error:
            steps_from(process)
        assert "DOE" not in str(error.value)
