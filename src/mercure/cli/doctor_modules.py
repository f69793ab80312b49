"""Modules: what runs them answers, their programs exist, what they keep can be written."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mercure.cli.doctor_findings import Finding
from mercure.cli.doctor_folders import existing_above, give_remedy
from mercure.cli.modules_engine import Engine
from mercure.cli.modules_usable import program_trouble, search_path
from mercure.cli.probe_folders import MISSING, why_unusable
from mercure.config.load import Loaded
from mercure.config.modules import chain_of, module_spec, module_trouble
from mercure.config.schema import Config, Module
from mercure.core.errors import ConfigError
from mercure.core.module_policy import root_trouble
from mercure.core.processing import ModuleSpec


def module_findings(loaded: Loaded) -> Iterator[Finding]:
    """Examine what modules need. What no rule in use asks for is no more than a warning."""
    config = loaded.config
    asked = {link.module for rule in config.rules if not rule.disabled for link in chain_of(rule, config)}
    specs: dict[str, ModuleSpec] = {}
    for name, module in config.modules.items():
        try:
            specs[name] = module_spec(name, module, config.processor)
        except ConfigError as error:
            yield _unusable(name, module, config, str(error), is_asked=name in asked)
    yield from _engine(config, specs, asked)
    for name, spec in specs.items():
        yield from _root(spec, is_asked=name in asked)
        if spec.runner == "process":
            yield _program(spec, is_asked=name in asked)
    yield from _persistence(config, specs, asked)


def _severity(*, is_asked: bool) -> Literal["error", "warning"]:
    return "error" if is_asked else "warning"


def _unusable(name: str, module: Module, config: Config, reason: str, *, is_asked: bool) -> Finding:
    if module_trouble(module, config.processor):
        remedy = "Change the module, or the section processor."
    else:
        remedy = "Put its secret there, readable by the user of the services, and run this as that user."
    return Finding("modules", _severity(is_asked=is_asked), f"module {name} {reason}", remedy)


def _engine(config: Config, specs: dict[str, ModuleSpec], asked: set[str]) -> Iterator[Finding]:
    images = [name for name, spec in specs.items() if spec.runner == "docker"]
    if not images:
        return
    reason = Engine(config).why_away()
    if not reason:
        yield Finding("modules", "ok", f"the Docker engine answers, for {_named(images)}")
        return
    where = config.processor.docker_host or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    message = f"{reason} at {where}, and {_named(images)} cannot run without"
    remedy = "Start it, let the user of the services use its socket (group docker), or set processor.docker_host."
    yield Finding("modules", _severity(is_asked=bool(asked & set(images))), message, f"{remedy} Jobs wait meanwhile.")


def _root(spec: ModuleSpec, *, is_asked: bool) -> Iterator[Finding]:
    reason = root_trouble(spec, os.geteuid())
    if reason:
        remedy = "Run the services as root (and this as root), or take requires_root from the module."
        yield Finding("modules", _severity(is_asked=is_asked), f"module {spec.name} cannot run: {reason}", remedy)


def _program(spec: ModuleSpec, *, is_asked: bool) -> Finding:
    program = spec.command[0]
    reason = program_trouble(spec)
    if not reason:
        return Finding("modules", "ok", f"module {spec.name}: there is a program {program}")
    remedy = "Install it, or write its absolute path in command." if "/" not in program else "Mend the path in command."
    hint = f" It is looked for in {search_path(spec)}." if "/" not in program else ""
    return Finding("modules", _severity(is_asked=is_asked), f"module {spec.name}: {reason}", f"{remedy}{hint}")


def _persistence(config: Config, specs: dict[str, ModuleSpec], asked: set[str]) -> Iterator[Finding]:
    keeping = {name: spec.persistence for name, spec in specs.items() if spec.persistence}
    if not keeping:
        return
    root = config.mercure.folder("persistence")
    faults = list(_unwritable(root, sorted(set(keeping.values()))))
    severity = _severity(is_asked=bool(asked & set(keeping)))
    for path, reason in faults:
        message = f"{path} {reason}, where {_named(list(keeping))} keep what stays between jobs"
        yield Finding("modules", severity, message, give_remedy(path))
    if not faults:
        yield Finding("modules", "ok", f"what stays between jobs can be written to {root}")


def _unwritable(root: Path, names: list[str]) -> Iterator[tuple[Path, str]]:
    """Find the folders that cannot be written to; what does not exist is made where the folder above can be."""
    reason = why_unusable(root)
    if reason == MISSING:
        if why_unusable(existing_above(root)):
            yield root, "does not exist and cannot be made"
    elif reason:
        yield root, reason
    else:
        for path in (root / name for name in names):
            if (inner := why_unusable(path)) and inner != MISSING:
                yield path, inner


def _named(names: list[str]) -> str:
    return f"module {names[0]}" if len(names) == 1 else f"modules {', '.join(names)}"
