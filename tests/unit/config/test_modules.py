import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.unit.config.samples import FLAT, GUIDE, archive, good, route, text_of

from mercure.config.dump import dump
from mercure.config.load import Loaded, parse
from mercure.config.modules import chain_of, module_spec, public_part, steps_of
from mercure.config.rules import Module
from mercure.config.schema import ProcessorSection
from mercure.config.store import ConfigStore
from mercure.config.values import bytes_of
from mercure.core.errors import ConfigError
from mercure.core.processing import Limits, ModuleSpec
from mercure.core.processing_steps import StepPlan

IMAGE = {"docker_tag": "example/segment:1"}


def _loaded(value: Any, **environment: str) -> Loaded:
    return parse(text_of(value), environment=environment)


def _spec(module: dict[str, Any], **processor: Any) -> ModuleSpec:
    return module_spec("seg", Module.model_validate(module), ProcessorSection.model_validate(processor))


def _steps(rule: dict[str, Any], **parts: Any) -> tuple[StepPlan, ...]:
    config = _loaded({"rules": [{"name": "r", "condition": "True", **rule}], **parts}).config
    return steps_of(config.rules[0], config)


# -- modules as they stand in the file -------------------------------------------------------------------------------


def test_an_image_runs_by_docker_and_a_command_as_a_process() -> None:
    assert _spec({"docker_tag": "a:1"}).runner == "docker"
    assert _spec({"docker_tag": "a:1", "runner": "docker"}).runner == "docker"
    spec = _spec({"command": ["/opt/x", "a b; rm -rf /", ""]})
    assert (spec.runner, spec.command, spec.image) == ("process", ("/opt/x", "a b; rm -rf /", ""), "")


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ({}, "needs either docker_tag (an image) or command (a program of this machine), and has neither"),
        ({"docker_tag": ""}, "has neither"),
        ({**IMAGE, "command": ["x"]}, "has both"),
        ({"command": "rm -rf /"}, "command must be a list of texts: the program, then each argument; no shell"),
        ({"command": ["x", 1]}, "command must be a list of texts"),
        ({"command": [" ", "x"]}, "command must begin with a program"),
        ({**IMAGE, "runner": "process"}, "has an image, which the runner process cannot run"),
        ({"command": ["x"], "runner": "docker"}, "has a command, which the runner docker cannot run"),
        ({**IMAGE, "pull": "sometimes"}, "pull must be 'always', 'missing' or 'never'"),
        ({**IMAGE, "memory_limit": "much"}, "memory_limit must be a size such as 512M or 4G"),
        ({**IMAGE, "memory_limit": "5M"}, "memory_limit must be at least 6M"),
        ({"command": ["x"], "docker_arguments": {"shm_size": "1g"}}, "docker_arguments is for images, and the module"),
        ({"command": ["x"], "additional_volumes": {"/a": {"bind": "/b"}}}, "additional_volumes is for images"),
        ({**IMAGE, "timeout": -1}, "timeout must"),
        ({**IMAGE, "gpus": True}, "gpus must be a number, not true or false"),
        ({**IMAGE, "max_parallel": 0}, "max_parallel must"),
        ({**IMAGE, "memory_limt": "4G"}, "did you mean memory_limit?"),
        ({**IMAGE, "docker_arguments": {"privileged": True}}, "docker_arguments: privileged is no argument"),
        ({**IMAGE, "docker_arguments": {"shm_size": "huge"}}, "docker_arguments: shm_size is no size"),
        ({**IMAGE, "additional_volumes": {"/etc": {"bind": "/x", "mode": "ro"}}}, "additional_volumes: /etc leads to"),
        ({**IMAGE, "additional_volumes": '{"/srv/a": {"bind": "/x"}}'}, "additional_volumes: /srv/a is not below"),
    ],
)  # fmt: skip
def test_a_module_that_cannot_run_is_set_aside_with_a_clear_sentence(module: dict[str, Any], reason: str) -> None:
    loaded = _loaded(good(modules={"bad": module, "fine": IMAGE}))
    assert list(loaded.config.modules) == ["fine"]
    assert reason in loaded.broken_modules["bad"]
    assert loaded.schema_errors


def test_a_fault_of_a_module_has_its_line() -> None:
    text = text_of(good(modules={"bad": {**IMAGE, "docker_arguments": {"privileged": True}}}))
    (problem,) = parse(text, environment={}).problems
    assert problem.path == "modules.bad.docker_arguments"
    assert '"docker_arguments"' in text.splitlines()[(problem.line or 0) - 1]


def test_both_forms_take_every_key_of_a_module() -> None:
    module = {
        "docker_tag": "a:1", "runner": "docker", "timeout": 5, "pull": "never", "writes_input": True,
        "memory_limit": "1G", "cpu_limit": "1.5", "pids_limit": 9, "shm_size": "64M", "gpus": 1,
        "gpu_memory_limit": "2G", "output_limit_gb": 0.5, "max_parallel": 2, "network_enabled": False,
    }  # fmt: skip
    flat, nested = _loaded({"port": 104, "modules": {"m": module}}), _loaded({"mercure": {}, "modules": {"m": module}})
    assert (flat.form, nested.form) == ("flat", "nested")
    assert not flat.problems
    assert flat.config.modules == nested.config.modules
    assert set(Module.model_fields) > set(module)


@pytest.mark.parametrize("nothing", ["", " ", "false", "False", "FALSE"])
def test_fields_of_existing_files_that_hold_json_as_text_may_say_nothing(nothing: str) -> None:
    fields = ("additional_volumes", "environment", "docker_arguments")
    loaded = _loaded({"port": 104, "modules": {"m": {**IMAGE, **dict.fromkeys(fields, nothing)}}})
    assert not loaded.problems
    assert all(getattr(loaded.config.modules["m"], name) == {} for name in fields)


def test_modules_of_existing_files_load_and_can_run() -> None:
    loaded = _loaded({**FLAT, "process_runner": "docker"})
    spec = module_spec("segment", loaded.config.modules["segment"], loaded.config.processor)
    assert spec.environment == {"TOKEN": "module-Geheim", "THREADS": "4"}
    assert spec.docker_arguments == {"runtime": "nvidia", "shm_size": "1g"}
    assert spec.volumes == {"/opt/mercure/processor_volumes/host": {"bind": "/c", "mode": "ro"}}
    assert spec.persistence == "seg"


def test_a_module_that_asks_for_more_than_is_allowed_cannot_be_saved(tmp_path: Path) -> None:
    path = tmp_path / "mercure.json"
    path.write_text(text_of(good(modules={"m": IMAGE})))
    store = ConfigStore(path)
    before = path.read_bytes()
    for forbidden in (
        {"docker_arguments": {"privileged": True}},
        {"docker_arguments": '{"cap_add": ["SYS_ADMIN"]}'},
        {"additional_volumes": {"/var/run/docker.sock": {"bind": "/x"}}},
        {"additional_volumes": {"/opt/mercure/processor_volumes/../data": {"bind": "/x"}}},
    ):
        with pytest.raises(ConfigError, match=r"modules\.m\."):
            store.save(good(modules={"m": {**IMAGE, **forbidden}}), store.current.revision)
    assert path.read_bytes() == before


def test_variables_among_the_arguments_of_docker_are_used_and_not_shown() -> None:
    arguments = {"environment": {"TOKEN": "Geheim"}}
    loaded = _loaded(good(modules={"m": {**IMAGE, "docker_arguments": arguments}}))
    assert loaded.problems == ()
    assert module_spec("m", loaded.config.modules["m"], loaded.config.processor).docker_arguments == arguments
    assert "Geheim" not in json.dumps(dump(loaded.config))


# -- where volumes may lie -------------------------------------------------------------------------------------------


def test_volumes_lie_below_the_roots_of_the_file_and_of_the_environment(tmp_path: Path) -> None:
    mine, extra = tmp_path / "mine", tmp_path / "extra"
    value = good(
        processor={"allowed_volume_roots": [str(mine)]},
        modules={name: {**IMAGE, "additional_volumes": {f"{root}/models": {"bind": "/models", "mode": "ro"}}}
                 for name, root in (("mine", mine), ("extra", extra))},
    )  # fmt: skip
    assert list(_loaded(value).config.modules) == ["mine"]
    assert list(_loaded(value, MERCURE_PROCESSOR_EXTRA_VOLUMES=f"/srv/a;{extra}").config.modules) == ["mine", "extra"]


def test_the_environment_adds_to_the_default_root_in_both_forms(tmp_path: Path) -> None:
    forms: list[dict[str, Any]] = [{"mercure": {}}, {"port": 104}]
    for value in forms:
        for named in (f"{tmp_path};/srv/x", f"{tmp_path}:/srv/x", f"{tmp_path},/srv/x", f" ;{tmp_path} ; /srv/x;"):
            roots = _loaded(value, MERCURE_PROCESSOR_EXTRA_VOLUMES=named).config.processor.allowed_volume_roots
            assert roots == (Path("/opt/mercure/processor_volumes"), tmp_path, Path("/srv/x"))
        assert _loaded(value, MERCURE_PROCESSOR_EXTRA_VOLUMES=" False ").config.processor == ProcessorSection()


def test_a_root_of_the_environment_that_is_no_absolute_path_is_refused() -> None:
    with pytest.raises(ConfigError, match="MERCURE_PROCESSOR_EXTRA_VOLUMES must name absolute paths"):
        _loaded({"mercure": {}}, MERCURE_PROCESSOR_EXTRA_VOLUMES="models")


def test_a_volume_that_leaves_its_root_by_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    os.symlink("/etc", tmp_path / "root" / "models")
    volumes = {f"{tmp_path}/root/models": {"bind": "/models", "mode": "ro"}}
    value = good(
        processor={"allowed_volume_roots": [f"{tmp_path}/root"]},
        modules={"m": {**IMAGE, "additional_volumes": volumes}},
    )
    assert "leads to the machine itself" in _loaded(value).broken_modules["m"]


# -- from a module to what a runner takes ----------------------------------------------------------------------------


def test_limits_of_a_module_go_before_those_of_the_processor() -> None:
    common = {
        "memory_limit": "8G", "cpu_limit": 4, "pids_limit": 100, "gpu_memory_limit": "4G", "output_limit_gb": 2,
        "timeout": 60,
    }  # fmt: skip
    spec = _spec(IMAGE, **common)
    assert spec.limits == Limits(4, 8 << 30, 100, None, 4 << 30)
    assert (spec.output_limit_bytes, spec.timeout_seconds) == (2 * 10**9, 60)
    own = {
        "memory_limit": "1G", "cpu_limit": 0.5, "pids_limit": 7, "gpu_memory_limit": "1M", "output_limit_gb": 1,
        "timeout": 5, "shm_size": "64m", "gpus": 1, "max_parallel": 2, "pull": "never", "writes_input": True,
        "network_enabled": True,
    }  # fmt: skip
    spec = _spec({**IMAGE, **own}, gpus=1, **common)
    assert spec.limits == Limits(0.5, 1 << 30, 7, 64 << 20, 1 << 20)
    assert (spec.output_limit_bytes, spec.timeout_seconds, spec.gpu_count) == (10**9, 5, 1)
    assert (spec.max_parallel, spec.pull, spec.writes_input, spec.network_enabled) == (2, "never", True, True)


ALL_GPUS = {"device_requests": [{"count": -1, "capabilities": [["gpu"]]}]}
NVIDIA = {"runtime": "nvidia"}
SEES_ALL = {"NVIDIA_VISIBLE_DEVICES": "all"}


@pytest.mark.parametrize(
    ("module", "processor", "takes_all"),
    [
        ({"docker_arguments": ALL_GPUS}, {}, True),
        ({"docker_arguments": {"device_requests": []}}, {}, False),
        ({"docker_arguments": NVIDIA}, {}, True),
        ({"docker_arguments": {"runtime": "runc"}}, {}, False),
        ({"docker_arguments": ALL_GPUS, "gpus": 1}, {"gpus": 2}, False),
        ({"docker_arguments": NVIDIA, "environment": {"NVIDIA_VISIBLE_DEVICES": "void"}}, {}, False),
        ({"docker_arguments": {**NVIDIA, "environment": ["NVIDIA_VISIBLE_DEVICES=none"]}}, {}, False),
        ({}, {"runtime": "nvidia"}, False),
        ({"environment": SEES_ALL}, {"runtime": "nvidia"}, True),
        ({"docker_arguments": {"env": SEES_ALL}}, {"runtime": "nvidia"}, True),
        ({"docker_arguments": {"runtime": "runc"}, "environment": SEES_ALL}, {"runtime": "nvidia"}, False),
        ({"environment": SEES_ALL}, {}, False),
    ],
)
def test_a_module_whose_arguments_give_it_gpus_takes_all(
    module: dict[str, Any], processor: dict[str, Any], *, takes_all: bool
) -> None:
    assert _spec({**IMAGE, **module}, **processor).takes_all_gpus is takes_all


def test_a_limit_of_zero_is_none() -> None:
    own = {"timeout": 0, "output_limit_gb": 0, "memory_limit": "0"}
    spec = _spec({**IMAGE, **own}, timeout=60, memory_limit="1G")
    assert (spec.timeout_seconds, spec.output_limit_bytes, spec.limits.memory_bytes) == (None, None, None)


def test_a_processor_that_says_nothing_still_limits_processes_and_output() -> None:
    spec = _spec(IMAGE)
    assert spec.limits == Limits(processes=1024)
    assert spec.output_limit_bytes == 50 * 10**9
    assert spec.timeout_seconds is None
    assert _spec(IMAGE, pids_limit=None).limits.processes is None


def test_the_runtime_of_the_processor_is_that_of_every_image_but_of_those_with_their_own() -> None:
    assert _spec(IMAGE, runtime="nvidia").docker_arguments == {"runtime": "nvidia"}
    assert (
        _spec({**IMAGE, "docker_arguments": {"runtime": "own"}}, runtime="nvidia").docker_arguments["runtime"] == "own"
    )
    assert _spec({"command": ["x"]}, runtime="nvidia").docker_arguments == {}


def test_a_runtime_that_no_engine_can_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"processor\.runtime"):
        _loaded({"processor": {"runtime": "nvidia --privileged"}})
    assert _spec(IMAGE, runtime="").docker_arguments == {}


def test_a_persistent_folder_has_the_name_of_the_module_or_its_own() -> None:
    assert _spec(IMAGE).persistence == ""
    assert _spec({**IMAGE, "persistence_folder_name": "p"}).persistence == ""
    assert _spec({**IMAGE, "requires_persistence": True}).persistence == "seg"
    assert _spec({**IMAGE, "requires_persistence": True, "persistence_folder_name": "p"}).persistence == "p"


def test_secrets_of_a_module_are_read_when_it_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from a file\n")
    monkeypatch.setenv("MODULE_TOKEN", "from the environment")
    environment = {"A": {"env": "MODULE_TOKEN"}, "B": {"file": str(tmp_path / "key")}, "C": "text", "D": 4}
    spec = _spec({**IMAGE, "environment": environment})
    assert spec.environment == {"A": "from the environment", "B": "from a file", "C": "text", "D": "4"}
    monkeypatch.delenv("MODULE_TOKEN")
    with pytest.raises(ConfigError, match="cannot be used: the environment variable MODULE_TOKEN"):
        _spec({**IMAGE, "environment": environment})


@pytest.mark.parametrize(
    ("module", "processor", "reason"),
    [
        (IMAGE, {"runner": "nomad"}, "nomad"),
        (IMAGE, {"runner": "process"}, "only commands are run here"),
        ({**IMAGE, "requires_root": True}, {}, "support_root_modules"),
        ({**IMAGE, "gpus": 2}, {"gpus": 1}, "it needs 2 GPUs, and processor.gpus has 1"),
    ],
)
def test_a_module_that_the_processor_cannot_run_is_refused_and_reported(
    module: dict[str, Any], processor: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=r"^cannot be used: ") as error:
        _spec(module, **processor)
    assert reason in str(error.value)
    rule = route(action="process", target="", processing_module="m")
    (problem,) = _loaded({"processor": processor, "modules": {"m": module}, "rules": [rule]}).problems
    assert (problem.path, problem.kind, problem.severity) == ("rules[0].processing_module", "reference", "error")
    assert reason in problem.message


def test_commands_run_whatever_runs_images() -> None:
    for runner in ("", "docker", "process", "nomad"):
        assert _spec({"command": ["x"]}, runner=runner).runner == "process"
    assert _spec({**IMAGE, "requires_root": True}, support_root_modules=True).requires_root


@pytest.mark.parametrize(
    ("size", "count"),
    [("512M", 512 << 20), ("1.5g", 3 << 29), ("4 GiB", 4 << 30), ("4GB", 4 << 30), ("7", 7), ("9B", 9), ("2T", 2 << 40),
     ("3k", 3072), ("3ib", 3)],
)  # fmt: skip
def test_sizes_are_counted_as_docker_does(size: str, count: int) -> None:
    assert bytes_of(size) == count


@pytest.mark.parametrize(
    ("given", "ids"),
    [(0, ()), (2, ("0", "1")), ([], ()), (["GPU-8f5b", 3], ("GPU-8f5b", "3")), (["0", "0"], ("0",))],
)
def test_gpus_are_a_number_or_ids(given: Any, ids: tuple[str, ...]) -> None:
    assert ProcessorSection(gpus=given).gpus == ids


@pytest.mark.parametrize("given", [True, -1, 65, "all", ["a b"], [""], ["-x"], [1.5], {"0": 1}, None])
def test_what_names_no_gpus_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"processor\.gpus: must be"):
        _loaded({"processor": {"gpus": given}})


# -- the steps of a rule ---------------------------------------------------------------------------------------------


def test_settings_of_module_and_rule_are_merged_for_each_step() -> None:
    modules = {
        "a": {**IMAGE, "settings": {"x": 1, "y": {"deep": 1, "gone": 2}}},
        "b": {**IMAGE, "settings": {"z": 1}},
        "c": IMAGE,
    }
    rule = {"action": "process", "processing_module": ["a", "b", "c"]}
    one = _steps({**rule, "processing_settings": {"y": {"deep": 2}, "w": 3}}, modules=modules)
    assert [step.settings for step in one] == [
        {"x": 1, "y": {"deep": 2}, "w": 3},
        {"z": 1, "y": {"deep": 2}, "w": 3},
        {"y": {"deep": 2}, "w": 3},
    ]
    each = _steps({**rule, "processing_settings": [{"x": 2}, {"z": 2}]}, modules=modules)
    assert [step.settings for step in each] == [{"x": 2, "y": {"deep": 1, "gone": 2}}, {"z": 2}, {}]


def test_a_module_may_run_twice_in_a_chain() -> None:
    rule = {"action": "process", "processing_module": ["a", "b", "a"]}
    assert [step.module for step in _steps(rule, modules={"a": IMAGE, "b": IMAGE})] == ["a", "b", "a"]


def test_the_form_of_the_guide_takes_modules_settings_and_time_out_from_the_target() -> None:
    loaded = _loaded({**GUIDE, "modules": {"mercure-monaisegment": {**IMAGE, "settings": {"batch_size": 1, "own": 2}}}})
    assert [one for one in loaded.problems if one.kind == "reference"] == []
    (rule,) = loaded.config.rules
    (step,) = steps_of(rule, loaded.config)
    assert step.module == "mercure-monaisegment"
    assert step.settings == {"batch_size": 16, "timeout": 600, "own": 2}
    assert step.timeout_seconds == 300


def test_settings_of_the_rule_go_before_those_of_the_target() -> None:
    targets = {"ai": {"processing_module": ["a", "b"], "settings": {"x": "target", "y": "target"}}, "pacs": archive()}
    rule = {"action": "both", "target": ["ai", "pacs"], "processing_settings": [{"x": "rule"}, {}]}
    modules = {"a": {**IMAGE, "settings": {"x": "module", "z": "module"}}, "b": IMAGE}
    assert [step.settings for step in _steps(rule, targets=targets, modules=modules)] == [
        {"x": "rule", "y": "target", "z": "module"},
        {"x": "target", "y": "target"},
    ]


@pytest.mark.parametrize(
    ("rule", "target", "module", "processor", "seconds"),
    [
        ({"timeout": 1}, {"timeout": 2}, {"timeout": 3}, {"timeout": 4}, 1),
        ({}, {"timeout": 2, "settings": {"timeout": 9}}, {"timeout": 3}, {"timeout": 4}, 2),
        ({}, {"settings": {"timeout": 9}}, {"timeout": 3}, {}, 9),
        ({}, {"settings": {"timeout": "soon"}}, {"timeout": 3}, {"timeout": 4}, 3),
        ({}, {"settings": {"timeout": True}}, {}, {"timeout": 4}, 4),
        ({}, {"settings": {"timeout": -1}}, {}, {}, None),
        ({}, {"settings": {"timeout": 1e12}}, {}, {}, None),
        ({"timeout": 0}, {"timeout": 2}, {"timeout": 3}, {"timeout": 4}, None),
        ({}, {}, {}, {}, None),
    ],
)
def test_the_nearest_time_out_holds(rule: Any, target: Any, module: Any, processor: Any, seconds: float | None) -> None:
    (step,) = _steps(
        {"action": "process", "target": "ai", **rule},
        targets={"ai": {"processing_module": "m", **target}},
        modules={"m": {**IMAGE, **module}},
        processor=processor,
    )
    assert step.timeout_seconds == seconds


@pytest.mark.parametrize("action", ["route", "discard", "notification"])
def test_a_rule_that_does_not_process_has_no_steps(action: str) -> None:
    assert _steps({"action": action, "processing_module": "a", "target": []}, modules={"a": IMAGE}) == ()


def test_a_module_that_is_not_there_stays_a_step() -> None:
    (step,) = _steps({"action": "process", "processing_module": "gone", "processing_settings": {"x": 1}})
    assert (step.module, step.settings, step.module_config) == ("gone", {"x": 1}, {})


def test_modules_of_the_rule_go_before_modules_as_targets() -> None:
    value = {
        "rules": [route(action="process", target="ai", processing_module="own")],
        "targets": {"ai": {"processing_module": "other"}},
        "modules": {"own": IMAGE, "other": IMAGE},
    }
    loaded = _loaded(value)
    assert [link.module for link in chain_of(loaded.config.rules[0], loaded.config)] == ["own"]
    (problem,) = loaded.problems
    assert "name modules in one place" in problem.message


def test_the_public_part_of_a_module_holds_no_secret() -> None:
    module = Module.model_validate(
        {
            **IMAGE,
            "environment": {"TOKEN": "Geheim", "KEY": {"env": "Geheim"}},
            "docker_arguments": {"environment": {"TOKEN": "Geheim"}},
            "additional_volumes": {"/Geheim": {"bind": "/Geheim"}},
            "settings": {"key": "Geheim"},
            "contact": "radiology",
            "network_enabled": True,
        }
    )
    part = public_part(module)
    assert part["docker_tag"] == "example/segment:1"
    assert (part["runner"], part["contact"], part["network_enabled"]) == ("docker", "radiology", True)
    assert "Geheim" not in json.dumps(part)
    assert "Geheim" not in json.dumps(public_part(Module.model_validate({"command": ["x", "--token=Geheim"]})))


def test_input_images_are_kept_when_the_rule_says_so() -> None:
    for retain in (True, False):
        rule = {"action": "process", "processing_module": ["a", "a"], "processing_retain_images": retain}
        assert [step.retain_input_images for step in _steps(rule, modules={"a": IMAGE})] == [retain, retain]
