"""The settings of a job: what `task.json` says, in today's form and in ours, checked.

`process.settings` holds a section `general` and one for each project, named as the called AE title (a prefix AZ_ is
ignored, as is case). Values of the project win over general ones. Plain values outside any section count as general.
"""

import os
import re
from collections.abc import Mapping as Map
from dataclasses import dataclass, field
from typing import Any, Literal

from mercure_anonymizer.actions import Option
from mercure_anonymizer.assignments import Assignment, Project, parse_assignment, parse_tag
from mercure_anonymizer.errors import SettingsError
from mercure_anonymizer.lookup import read_lookup
from mercure_anonymizer.mapping import Mapping, project_key
from mercure_anonymizer.pixel_rules import PixelRule, parse_pixel_rules

Preset = Literal["default", "none"]
Linked = Literal["secret", "this job"]

_LARGEST_SHIFT_DAYS = 36_500
_TAG_KEY = re.compile(r"\([0-9A-F]{8}\)")
"""How tags are written once they are read."""

_FLAGS = {
    "remove_unknown_tags": True,
    "remove_safe_tags": False,
    "remove_curves": True,
    "remove_overlays": True,
    "print_assignment": False,
}
_OTHER = frozenset(
    "secret options preset name owner prefix lookup_table lookup_missing date_shift_days pixel_rules burned_in".split()
)


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """Everything that decides about a job. Holds the key of the project: never printed."""

    mapping: Mapping
    linked: Linked = "this job"
    """How far replacements are the same: wherever the secret is, or in this job only."""
    options: frozenset[Option] = frozenset()
    preset: Preset = "default"
    project: Project = field(default_factory=Project)
    assignments: Map[int, Assignment] = field(default_factory=dict)
    pixel_rules: tuple[PixelRule, ...] = ()
    accept_burned_in: bool = False
    remove_unknown_tags: bool = True
    remove_safe_tags: bool = False
    remove_curves: bool = True
    remove_overlays: bool = True
    print_assignment: bool = False


def read_settings(task: object, environment: Map[str, str]) -> Settings:
    """Return the settings of a job from its `task.json` and the environment (ANONYMIZER_SECRET).

    Raises `SettingsError`, which names keys and never values.
    """
    sections = _sections(task)
    called = _called_ae_title(task)
    general, project = sections.get("general", {}), sections.get(called, {})
    merged = {**general, **project}
    _refuse_unknown(merged)
    secret = _text(merged, "secret") or environment.get("ANONYMIZER_SECRET") or None
    key = project_key(secret, called if called in sections else "")
    flags = {name: _flag(merged, name, default=default) for name, default in _FLAGS.items()}
    return Settings(
        mapping=_mapping(merged, key, environment),
        linked="secret" if secret else "this job",
        options=_options(merged.get("options", [])),
        preset=_preset(merged),
        project=Project(_text(merged, "name"), _text(merged, "owner"), _text(merged, "prefix")),
        assignments=_assignments(merged),
        pixel_rules=parse_pixel_rules(merged.get("pixel_rules", [])),
        accept_burned_in=_one_of(merged, "burned_in", ("refuse", "accept")) == "accept",
        **flags,
    )


def _sections(task: object) -> dict[str, dict[str, Any]]:
    """Return the sections by lower-case name without az_."""
    settings = _process(task).get("settings") or {}
    if not isinstance(settings, dict):
        raise SettingsError("process.settings is no object")
    sections: dict[str, dict[str, Any]] = {}
    plain = {key: value for key, value in settings.items() if not isinstance(value, dict)}
    for key, value in settings.items():
        if isinstance(value, dict):
            sections[_project_name(key)] = _normal_tags(value)
    sections["general"] = {**_normal_tags(plain), **sections.get("general", {})}
    return sections


def _process(task: object) -> dict[str, Any]:
    process = task.get("process") if isinstance(task, dict) else None
    if process is None:
        return {}
    if not isinstance(process, dict):
        raise SettingsError("process in task.json is no object")
    return process


def _normal_tags(section: Map[str, Any]) -> dict[str, Any]:
    """Write all tags of a section in one way, so that a project overrides them however they were written."""
    tags = {key: parse_tag(key) for key in section}
    return {f"({tag:08X})" if (tag := tags[key]) is not None else key: value for key, value in section.items()}


def _called_ae_title(task: object) -> str:
    info = task.get("info") if isinstance(task, dict) else None
    title = info.get("receiver_aet") if isinstance(info, dict) else ""
    return _project_name(title) if isinstance(title, str) else ""


def _project_name(name: str) -> str:
    return name.strip().lower().removeprefix("az_")


def _refuse_unknown(merged: Map[str, Any]) -> None:
    known = _OTHER | set(_FLAGS)
    unknown = sorted(key for key in merged if key not in known and not _TAG_KEY.fullmatch(key))
    if unknown:
        raise SettingsError(f"unknown setting: {', '.join(unknown[:5])}")


def _assignments(merged: Map[str, Any]) -> dict[int, Assignment]:
    tags = {int(key[1:-1], 16): value for key, value in merged.items() if _TAG_KEY.fullmatch(key)}
    return {tag: parse_assignment(tag, value) for tag, value in tags.items()}


def _text(merged: Map[str, Any], key: str) -> str:
    value = merged.get(key, "")
    if not isinstance(value, str):
        raise SettingsError(f"{key} is no text")
    return value


def _flag(merged: Map[str, Any], key: str, *, default: bool) -> bool:
    value = merged.get(key, default)
    if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise SettingsError(f"{key} is neither true nor false")
    return value


def _one_of(merged: Map[str, Any], key: str, choices: tuple[str, ...]) -> str:
    value = merged.get(key, choices[0])
    if value not in choices:
        raise SettingsError(f"{key} is none of: {', '.join(choices)}")
    return str(value)


def _preset(merged: Map[str, Any]) -> Preset:
    return "none" if _one_of(merged, "preset", ("default", "none")) == "none" else "default"


def _options(value: object) -> frozenset[Option]:
    names = [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value
    if not isinstance(names, list):
        raise SettingsError("options is no list")
    known = {option.value: option for option in Option}
    if any(not isinstance(name, str) or name not in known for name in names):
        raise SettingsError(f"options holds something that is none of: {', '.join(known)}")
    options = frozenset(known[name] for name in names)
    if {Option.FULL_DATES, Option.MODIFIED_DATES} <= options:
        raise SettingsError("dates are retained in full or modified, not both")
    return options


def _mapping(merged: Map[str, Any], key: bytes, environment: Map[str, str]) -> Mapping:
    largest = merged.get("date_shift_days", 365)
    if isinstance(largest, bool) or not isinstance(largest, int) or not 1 <= largest <= _LARGEST_SHIFT_DAYS:
        raise SettingsError(f"date_shift_days is no number from 1 to {_LARGEST_SHIFT_DAYS}")
    refuse = _one_of(merged, "lookup_missing", ("refuse", "derive")) == "refuse"
    path = _text(merged, "lookup_table")
    if not path:
        return Mapping(key, largest)
    # A relative path means the persistence folder, which is the one place of a module that an operator can edit.
    path = os.path.join(environment.get("MODULE_PERSISTENCE_DIR", ""), path)
    return Mapping(key, largest, read_lookup(path), refuse)
