import subprocess
import sys
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.unit.config.samples import route

from mercure.config.problems import schema_failures
from mercure.config.schema import Config, Module, Rule
from mercure.config.values import Frozen


def _failures(model: type[Frozen], value: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(value)
    return [message for _, message in schema_failures(caught.value, model)]


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Config().mercure.retention_days = 1


def test_hours_and_zones_are_values_to_count_with() -> None:
    mercure = Config.model_validate({"mercure": {"offpeak_start": "6:05", "local_time": "Asia/Tokyo"}}).mercure
    assert (mercure.offpeak_start, mercure.offpeak_end) == (time(6, 5), time(6))
    assert datetime(2024, 1, 1, tzinfo=mercure.zone).utcoffset() == timedelta(hours=9)
    assert mercure.model_copy() == mercure.model_validate(mercure.model_dump())


def test_a_configuration_is_made_of_values_as_well_as_of_json() -> None:
    section = Config.model_validate({"receiver": {"networks": ["10.0.0.0/8"]}}).receiver
    again = Config.model_validate({"receiver": section.model_dump(), "targets": {}})
    assert again.receiver.model_dump(mode="json") == section.model_dump(mode="json")
    assert type(section).model_validate({"networks": section.networks}) == section


@pytest.mark.parametrize(
    ("target", "names"),
    [("a", ("a",)), ("", ()), (" ", ()), (["a", "", "b", "a"], ("a", "b")), ([], ())],
)
def test_targets_are_one_text_or_several_each_counted_once(target: Any, names: tuple[str, ...]) -> None:
    assert Rule.model_validate(route(target=target)).target == names


@pytest.mark.parametrize("target", [5, None, {"a": 1}, ["a", 5], [["a"]]])
def test_anything_else_names_no_target(target: Any) -> None:
    assert _failures(Rule, route() | {"target": target}) == ["must be text or a list of texts"]


@pytest.mark.parametrize("settings", [5, "x", [5], None])
def test_settings_are_an_object_or_one_for_each_step(settings: Any) -> None:
    assert _failures(Rule, route(processing_settings=settings)) == ["must be an object, or a list of objects"]


@pytest.mark.parametrize("name", ["", " a", "a ", "a\nb", "x" * 129])
def test_a_rule_has_a_name_that_can_be_shown(name: str) -> None:
    assert "printable" in _failures(Rule, route(name))[0]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ({"environment": 5}, "must be an object"),
        ({"environment": {"A": None}}, "must be text"),
        ({"environment": "[1]"}, "must be an object"),
        ({"additional_volumes": '{"a": 1, "a": 2}'}, "must be an object"),
        ({"settings": []}, "must be an object"),
        ({"persistence_folder_name": "../x"}, "must be 1 to 128"),
    ],
)
def test_what_a_module_gets_is_checked(module: Any, words: str) -> None:
    assert words in _failures(Module, module)[0]


@pytest.mark.parametrize("size", ["4 elephants", "", "G"])
def test_a_size_has_a_number(size: str) -> None:
    assert _failures(Config, {"processor": {"gpu_memory_limit": size}}) == ["must be a size such as 512M or 4G"]


def test_a_failure_never_repeats_a_value() -> None:
    value = {"webgui": {"auth_token_key": ["Geheim"], "ssl_key": "Geheim"}, "mercure": {"local_time": "Geheim"}}
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(value)
    assert "Geheim" not in str(caught.value)
    assert "Geheim" not in str(schema_failures(caught.value, Config))


def test_reading_a_configuration_loads_nothing_heavy() -> None:
    code = "import sys, mercure.config.store; print(*sys.modules)"
    source = str(Path(__file__).parents[3] / "src")
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": source}
    )
    assert not {"pydicom", "numpy", "rich", "typer", "asyncio", "ssl"} & set(found.stdout.split())
