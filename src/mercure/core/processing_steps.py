"""The steps of a job's modules, as `task.json` says them: one object, or a list of objects for a chain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mercure.core.errors import SpoolError

Json = Any
"""A value that came from JSON; narrowed where it is used."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One module of a job: with which settings it runs, how long it may, and what it was when the job was made."""

    module: str
    settings: Mapping[str, Json] = field(default_factory=dict)
    timeout_seconds: float | None = None
    retain_input_images: bool = False
    module_config: Mapping[str, Json] = field(default_factory=dict)
    """The public part of the module's configuration, for modules and people that read it: never a secret."""
    output: Json = None
    image_digest: str = ""
    """What exactly ran, when it was an image."""


def process_section(steps: Sequence[StepPlan]) -> Json:
    """Return the part `process` of `task.json`: one object for one step, a list for a chain, `{}` for none."""
    section = [step_section(step) for step in steps]
    return section[0] if len(section) == 1 else section or {}


def step_section(step: StepPlan) -> dict[str, Json]:
    """Return one step as it stands in `task.json`, also in the one that the module sees."""
    return {
        "module_name": step.module,
        "module_config": dict(step.module_config),
        "settings": dict(step.settings),
        "retain_input_images": step.retain_input_images,
        "output": step.output,
        "timeout_seconds": step.timeout_seconds,
        "image_digest": step.image_digest or None,
    }


def steps_from(process: Json) -> tuple[StepPlan, ...]:
    """Read what `process_section` gave, also from files of existing installations. Raises `SpoolError`."""
    if isinstance(process, Mapping):
        process = [process] if process else []
    if not isinstance(process, list):
        raise SpoolError("process in task.json is neither an object nor a list of objects")
    return tuple(_step(step) for step in process)


def _step(data: Json) -> StepPlan:
    if not isinstance(data, Mapping) or not isinstance(data.get("module_name"), str):
        raise SpoolError("a step of process in task.json has no module_name")
    timeout = data.get("timeout_seconds")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0):
        raise SpoolError("timeout_seconds of a step in task.json is no positive number")
    return StepPlan(
        data["module_name"],
        _object(data.get("settings"), "settings"),
        timeout,
        data.get("retain_input_images") is True,
        _object(data.get("module_config"), "module_config"),
        data.get("output"),
        str(data.get("image_digest") or ""),
    )


def _object(value: Json, what: str) -> Mapping[str, Json]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SpoolError(f"{what} of a step in task.json is no object")
    return value
