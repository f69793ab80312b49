"""Commands for single tags, as the anonymizer module in use today knows them, and the macros of `set(...)`."""

import re
from collections.abc import Mapping as Map
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from mercure_anonymizer.errors import SettingsError
from mercure_anonymizer.mapping import Mapping

Command = Literal["keep", "safe", "remove", "clear", "set", "truncdate"]

_PLAIN: Map[str, Command] = {
    "keep": "keep",
    "safe": "safe",
    "remove": "remove",
    "clear": "clear",
    "truncdate": "truncdate",
}
_TAG = re.compile(r"\(?([0-9A-Fa-f]{4}),\s?([0-9A-Fa-f]{4})\)?")
_SET = re.compile(r"set\((.*)\)", re.DOTALL)
_MACRO = re.compile(r"@([a-z_]+)(?:\(([0-9A-Fa-f]{4}),([0-9A-Fa-f]{4})\))?@")
_MACROS = frozenset(
    "project_name project_owner project_prefix process_date process_time random_uid fake_name fake_mrn fake_acc"
    " value".split()
)
_NEEDED = frozenset({0x00080016, 0x00080018, 0x0020000D, 0x0020000E})
"""Without SOP class, instance, study and series UID an instance cannot be stored."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the settings say about one tag."""

    command: Command
    text: str = ""
    """Of `set`: the value, macros not yet replaced."""

    @property
    def reveals(self) -> bool:
        """Tell whether something of the present value may stay."""
        return self.command in {"keep", "safe", "truncdate"} or "@value" in self.text

    @property
    def sources(self) -> frozenset[int]:
        """The tags whose present values `set` takes."""
        return frozenset(int(a + b, 16) for name, a, b in _MACRO.findall(self.text) if a)


@dataclass(frozen=True, slots=True)
class Project:
    """What macros say about the project."""

    name: str = ""
    owner: str = ""
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Macros:
    """What macros say about one instance."""

    project: Project
    mapping: Mapping
    now: datetime
    patient: str
    accession: str
    instance: str
    values: Map[int, str]
    """The values that the instance had in the tags that any `set` takes."""

    def fill(self, assignment: Assignment, tag: int, present: str) -> str:
        """Return the value that `set` gives to a tag, with `present` for its present value."""

        def replacement(match: re.Match[str]) -> str:
            return self._one(match, tag, present)

        return _MACRO.sub(replacement, assignment.text)

    def _one(self, match: re.Match[str], tag: int, present: str) -> str:
        name = match[1]
        if name == "value":
            return self.values.get(int(match[2] + match[3], 16), "") if match[2] else present
        if name == "random_uid":
            return self.mapping.uid(present or f"{self.instance}\0{tag:08X}")
        return self._constant(name)

    def _constant(self, name: str) -> str:
        constants = {
            "project_name": self.project.name,
            "project_owner": self.project.owner,
            "project_prefix": self.project.prefix,
            "process_date": f"{self.now:%m%d%Y}",
            "process_time": f"{self.now:%H%M%S}{self.now.microsecond // 1000:03d}",
            "fake_name": self.mapping.name(self.patient),
            "fake_mrn": self.mapping.number("mrn", self.patient, 14),
            "fake_acc": self.mapping.number("acc", self.accession, 14),
        }
        return constants[name]


def parse_tag(key: str) -> int | None:
    """Return the tag that a key like `(0010,0010)` names, None for other keys."""
    match = _TAG.fullmatch(key.strip())
    return int(match[1] + match[2], 16) if match else None


def parse_assignment(tag: int, text: object) -> Assignment:
    """Return what a command means for a tag. Raises `SettingsError`, which names the tag only."""
    name = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
    if not isinstance(text, str):
        raise SettingsError(f"{name}: the command is no text")
    command = text.strip()
    match = _SET.fullmatch(command)
    if match:
        _check_macros(match[1], name)
        return Assignment("set", match[1])
    if command not in _PLAIN:
        raise SettingsError(f"{name}: unknown command (keep, safe, remove, clear, set(...), truncdate)")
    if tag in _NEEDED and command in {"remove", "clear", "truncdate"}:
        raise SettingsError(f"{name} cannot be left out: instances need it")
    return Assignment(_PLAIN[command])


def _check_macros(text: str, name: str) -> None:
    unknown = [
        found for found, group, _ in _MACRO.findall(text) if found not in _MACROS or (group and found != "value")
    ]
    if unknown:
        raise SettingsError(f"{name}: unknown macro @{unknown[0]}@")
