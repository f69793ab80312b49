"""From the configuration to the values that the processor works with: modules, and the steps of a rule."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mercure.config.rules import Module, Rule
from mercure.config.schema import Config, ProcessingTarget, ProcessorSection
from mercure.config.values import bytes_of
from mercure.core.errors import ConfigError
from mercure.core.module_policy import asks_for_gpus, check_docker_arguments, check_volumes
from mercure.core.processing import Limits, ModuleSpec
from mercure.core.processing_steps import StepPlan

Json = Any

_GIGABYTE: Final = 10**9
_LONGEST_SECONDS: Final = 1e9
_PUBLIC: Final = (
    "docker_tag", "requires_root", "requires_persistence", "persistence_folder_name", "network_enabled", "contact",
    "comment", "constraints", "resources",
)  # fmt: skip
"""Keys of a module that stand in the task.json of a job, where anybody may read them. Never one that holds a secret."""


def module_spec(name: str, module: Module, processor: ProcessorSection) -> ModuleSpec:
    """Return a module as a runner takes it: secrets resolved, limits of the module over those of the processor.

    Raises `ConfigError`, whose text goes on from the name of the module, when it cannot run as things are.
    """
    if reason := module_trouble(module, processor):
        raise ConfigError(f"cannot be used: {reason}")
    environment = _revealed(module)
    return ModuleSpec(
        name=name,
        runner=module.kind,
        image=module.docker_tag,
        command=module.command,
        environment=environment,
        docker_arguments=_docker_arguments(module, processor),
        volumes=module.additional_volumes,
        network_enabled=module.network_enabled,
        requires_root=module.requires_root,
        writes_input=module.writes_input,
        persistence=(module.persistence_folder_name or name) if module.requires_persistence else "",
        pull=module.pull,
        gpu_count=module.gpus,
        takes_all_gpus=_takes_all_gpus(module, environment, processor),
        limits=_limits(module, processor),
        timeout_seconds=_first(module.timeout, processor.timeout),
        output_limit_bytes=_output_limit(module, processor),
        max_parallel=module.max_parallel,
        settings=module.settings,
    )


def module_trouble(module: Module, processor: ProcessorSection) -> str:
    """Say why a module cannot run as the section processor is, or ""."""
    if module.kind == "docker" and processor.runner == "nomad":
        return "processor.runner is nomad, which is not built yet"
    if module.kind == "docker" and processor.runner == "process":
        return "it is an image, and processor.runner is process: only commands are run here"
    if module.requires_root and not processor.support_root_modules:
        return "it requires root, and processor.support_root_modules is not set"
    if module.gpus > len(processor.gpus):
        return f"it needs {module.gpus} GPUs, and processor.gpus has {len(processor.gpus)}"
    return ""


def forbidden_parts(module: Module, processor: ProcessorSection) -> Iterator[tuple[str, str]]:
    """Find arguments and volumes that no module may have: the key, and what is wrong. Symbolic links are followed."""
    if module.command:
        for key in ("docker_arguments", "additional_volumes"):
            if getattr(module, key):
                yield key, "is for images, and the module is a command"
        return
    for fault in check_docker_arguments(module.docker_arguments):
        yield "docker_arguments", f"{fault.path} {fault.text}"
    roots = [str(root) for root in processor.allowed_volume_roots]
    for fault in check_volumes(module.additional_volumes, roots, os.path.realpath):
        yield "additional_volumes", f"{fault.path} {fault.text}".strip()


def _revealed(module: Module) -> dict[str, str]:
    try:
        return {name: secret.reveal() for name, secret in module.environment.items()}
    except ConfigError as error:
        raise ConfigError(f"cannot be used: {error}") from None


def _docker_arguments(module: Module, processor: ProcessorSection) -> dict[str, Json]:
    common = {"runtime": processor.runtime} if processor.runtime and module.kind == "docker" else {}
    return common | module.docker_arguments


def _takes_all_gpus(module: Module, environment: Mapping[str, str], processor: ProcessorSection) -> bool:
    """Whether a module gets GPUs that the processor does not choose: with a number of them it gets those chosen."""
    if module.gpus or module.kind != "docker":
        return False
    return asks_for_gpus(module.docker_arguments, environment, processor.runtime or "")


def _limits(module: Module, processor: ProcessorSection) -> Limits:
    return Limits(
        cpus=module.cpu_limit if module.cpu_limit is not None else processor.cpu_limit,
        memory_bytes=_bytes(module.memory_limit or processor.memory_limit),
        processes=module.pids_limit or processor.pids_limit,
        shared_memory_bytes=_bytes(module.shm_size),
        gpu_memory_bytes=_bytes(module.gpu_memory_limit or processor.gpu_memory_limit),
    )


def _bytes(size: str | None) -> int | None:
    return bytes_of(size) or None if size else None


def _output_limit(module: Module, processor: ProcessorSection) -> int | None:
    gigabytes = processor.output_limit_gb if module.output_limit_gb is None else module.output_limit_gb
    return int(gigabytes * _GIGABYTE) or None


def _first(*seconds: float | None) -> float | None:
    """Return the first time-out that is given; 0 is given, and means none."""
    return next((one for one in seconds if one is not None), None) or None


@dataclass(frozen=True, slots=True)
class Link:
    """One module that a rule names, with what its target says beside."""

    module: str
    settings: Mapping[str, Json] = field(default_factory=dict)
    timeout: float | None = None


def chain_of(rule: Rule, config: Config) -> tuple[Link, ...]:
    """Return the modules that a rule names, in order, whether they exist or not; none when it processes nothing.

    They stand in the rule itself, or in its targets when these are modules.
    """
    if rule.action not in ("process", "both"):
        return ()
    if rule.processing_module:
        return tuple(Link(name) for name in rule.processing_module)
    named = (config.targets.get(name) for name in rule.target)
    return tuple(
        Link(name, target.settings, _timeout_of(target))
        for target in named
        if isinstance(target, ProcessingTarget)
        for name in target.processing_module
    )


def _timeout_of(target: ProcessingTarget) -> float | None:
    """Return the time-out of a target; one among its settings counts as well, and the module sees it, too."""
    if target.timeout is not None:
        return target.timeout
    found = target.settings.get("timeout")
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return float(found) if 0 <= found <= _LONGEST_SECONDS else None


def steps_of(rule: Rule, config: Config) -> tuple[StepPlan, ...]:
    """Return the steps of a rule, settings merged: those of the module, the target, the rule, key by key.

    A time-out of the rule goes before that of the target, the module, the processor. A module that the configuration
    does not have stays a step: the job then waits where it can be seen.
    """
    return tuple(_step(place, link, rule, config) for place, link in enumerate(chain_of(rule, config)))


def _step(place: int, link: Link, rule: Rule, config: Config) -> StepPlan:
    module = config.modules.get(link.module)
    own = module.settings if module else {}
    return StepPlan(
        link.module,
        {**own, **link.settings, **_settings_of(rule, place)},
        _first(rule.timeout, link.timeout, module.timeout if module else None, config.processor.timeout),
        rule.processing_retain_images,
        public_part(module) if module else {},
    )


def _settings_of(rule: Rule, place: int) -> Mapping[str, Json]:
    given = rule.processing_settings
    if isinstance(given, Mapping):
        return given
    return given[place] if place < len(given) else {}


def public_part(module: Module) -> dict[str, Json]:
    """Return what a module's `task.json` says about it: no environment, no arguments, no paths of this machine."""
    shown = module.model_dump(mode="json", include=set(_PUBLIC))
    return {"runner": module.kind} | {name: shown[name] for name in _PUBLIC}
