"""Checks a configuration in our form part by part: sections, then each target, rule and module by itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from mercure.config import flat, folders
from mercure.config.json_text import JsonPath
from mercure.config.modules import forbidden_parts
from mercure.config.problems import InvalidConfigError, Problem, line_of, path_text, schema_failures, unknown_key
from mercure.config.references import Broken, doubts, unresolved
from mercure.config.rule_tags import ADDITIONAL_TAGS
from mercure.config.rules import Module, Rule
from mercure.config.schema import Config
from mercure.config.sections import MercureSection, ProcessorSection
from mercure.config.targets import KINDS, FolderTarget, TargetBase, target_kind
from mercure.config.values import EntryName
from mercure.core.errors import ExpressionError
from mercure.core.rules import Expression

ENTRIES: Final = ("targets", "rules", "modules")

_Model = TypeVar("_Model", bound=BaseModel)

_entry_name: TypeAdapter[str] = TypeAdapter(EntryName)
_truth: TypeAdapter[bool] = TypeAdapter(bool)
_SENTENCES: Final = ("is ", "must", "has ", "cannot ", "lies ")
"""How messages begin that go on from the name of a key."""


@dataclass
class Builder:
    """Checks one file and gathers what is wrong in `problems`; `broken` holds the entries that were set aside.

    With a `translation`, the file was flat: paths in problems are then those of the file.
    """

    lines: Mapping[JsonPath, int]
    translation: flat.Translation | None = None
    problems: list[Problem] = field(default_factory=list)
    broken: dict[str, dict[str, str]] = field(default_factory=lambda: {name: {} for name in ENTRIES})
    rule_names: list[str] = field(default_factory=list)
    """All rules in the order of the file, those that were set aside included."""
    broken_conditions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    disabled_broken_rules: set[str] = field(default_factory=set)
    fallback_broken_rules: set[str] = field(default_factory=set)
    _stages: MercureSection = field(default_factory=MercureSection)
    _processor: ProcessorSection = field(default_factory=ProcessorSection)
    _reasons: dict[JsonPath, list[str]] = field(default_factory=dict)
    _is_fatal: bool = False

    def build(self, nested: dict[str, Any]) -> Config:
        """Return the usable part. Raises InvalidConfigError when a fault is outside of the entries."""
        for path, message in self.translation.failures if self.translation else ():
            self._fail(path, message)
        for path, message in self.translation.notes if self.translation else ():
            self._report(path, message, "warning", "schema")
        sections = self._sections(nested)
        self._stages = sections.get("mercure", self._stages)
        self._processor = sections.get("processor", self._processor)
        self._check_folders()
        targets = self._named("targets", nested.get("targets", {}))
        rules = self._rules(nested.get("rules", []))
        modules = self._named("modules", nested.get("modules", {}))
        if self._is_fatal:
            raise InvalidConfigError(self.problems)
        config = Config(**sections, targets=targets, rules=tuple(rules.values()), modules=modules)
        self._look_around(config, list(rules))
        return config

    def _sections(self, nested: dict[str, Any]) -> dict[str, Any]:
        known = Config.model_fields
        for name in nested.keys() - known.keys():
            self._fail((name,), unknown_key(name, known, flat.OURS_BY_FLAT_NAME))
        made = {}
        for name in [name for name in known if name in nested and name not in ENTRIES]:
            model = known[name].annotation
            if isinstance(model, type) and issubclass(model, BaseModel):
                made[name] = self._checked(model, nested[name], (name,), flat.OURS_BY_FLAT_NAME)
        return {name: section for name, section in made.items() if section is not None}

    def _check_folders(self) -> None:
        for name, how, other in folders.overlaps(self._stages):
            keys = {one: ("mercure", f"{one}_folder") for one in (name, other)}
            where = {one: f"{path_text(self._shown(key))} ({self._stages.folder(one)})" for one, key in keys.items()}
            self._fail(keys[name], f"{how} that of {where[other]}; each stage needs a folder of its own")

    def _named(self, collection: Literal["targets", "modules"], entries: Any) -> dict[str, Any]:
        if not isinstance(entries, dict):
            self._fail((collection,), "must be an object")
            return {}
        made = {}
        for name, entry in entries.items():
            path = (collection, name)
            self._check_name(name, path)
            found = self._target(entry, path) if collection == "targets" else self._module(entry, path)
            if path in self._reasons:
                self.broken[collection][name] = "; ".join(self._reasons[path])
            elif found is not None:
                made[name] = found
        return made

    def _module(self, entry: Any, path: JsonPath) -> Module | None:
        module = self._checked(Module, entry, path)
        for key, message in forbidden_parts(module, self._processor) if module else ():
            self._fail((*path, key), message)
        return module

    def _check_name(self, name: str, path: JsonPath) -> None:
        try:
            _entry_name.validate_python(name)
        except ValidationError:
            self._fail(path, "its name must be 1 to 128 printable characters without / and \\, not starting with .")

    def _target(self, entry: Any, path: JsonPath) -> TargetBase | None:
        kind = target_kind(entry)
        if kind in KINDS:
            target = self._checked(KINDS[kind], entry, path, flat.entry_names("targets"))
            self._check_outside(target, path)
            return target
        kinds = ", ".join(KINDS)
        if not isinstance(entry, dict):
            self._fail(path, "must be an object")
        elif kind is None and "target_type" not in entry:
            self._fail((*path, "target_type"), f"is missing; one of {kinds}")
        else:
            self._fail((*path, "target_type"), f"is none of {kinds}")
        return None

    def _check_outside(self, target: TargetBase | None, path: JsonPath) -> None:
        """Refuse a folder target in a stage: what it gets would be taken for jobs and series there."""
        if isinstance(target, FolderTarget) and (stage := folders.stage_around(target.folder, self._stages)):
            key = path_text(self._shown(("mercure", f"{stage}_folder")))
            where = f"{self._stages.folder(stage)} ({key})"
            self._fail((*path, "folder"), f"lies in {where}: what is delivered there would be taken for work to do")

    def _rules(self, entries: Any) -> dict[int, Rule]:
        """Return the good rules by their place in the file."""
        if not isinstance(entries, list):
            self._fail(("rules",), "must be a list")
            return {}
        made: dict[int, Rule] = {}
        names = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
        for index, entry in enumerate(entries):
            path = ("rules", index)
            found = self._checked(Rule, entry, path, flat.entry_names("rules"))
            if found is not None and names.count(found.name) > 1:
                self._fail((*path, "name"), "is the name of another rule, too")
            if found is not None:
                self._check_condition(found.condition, path)
            label = str(names[index] if isinstance(names[index], str) else path_text(path))
            self.rule_names.append(label)
            if path in self._reasons:
                self.broken["rules"][label] = "; ".join(self._reasons[path])
                conditions = (*self.broken_conditions.get(label, ()), _condition_of(entry))
                self.broken_conditions[label] = tuple(dict.fromkeys(conditions))
            elif found is not None:
                made[index] = found
        self.disabled_broken_rules = self._broken_with("disabled", entries)
        self.fallback_broken_rules = self._broken_with("fallback", entries)
        return made

    def _broken_with(self, flag: str, entries: list[Any]) -> set[str]:
        """Return the broken rules whose every entry has a flag that can be read, and is true."""
        flags: dict[str, list[bool]] = {}
        for label, entry in zip(self.rule_names, entries, strict=True):
            flags.setdefault(label, []).append(_is_set(entry, flag))
        return {label for label in self.broken["rules"] if all(flags[label])}

    def _check_condition(self, condition: str, path: JsonPath) -> None:
        try:
            Expression.parse(condition)
        except ExpressionError as error:
            self._fail((*path, "condition"), f"cannot be read: {error}")

    def _checked(
        self, model: type[_Model], value: Any, path: JsonPath, elsewhere: Mapping[str, str] | None = None
    ) -> _Model | None:
        """Return the part as a value of its model, or None after its failures were noted."""
        try:
            return model.model_validate(value)
        except ValidationError as error:
            for inner, message in schema_failures(error, model, elsewhere):
                self._fail(path + inner, message)
        return None

    def _fail(self, path: JsonPath, message: str) -> None:
        """Note an error: it breaks the entry that it is in, or, outside of entries, the whole file."""
        self._report(path, message, "error", "schema")
        if len(path) > 1 and path[0] in ENTRIES:
            inner = path_text(self._shown(path)[2:])
            link = " " if message.startswith(_SENTENCES) else ": "
            self._reasons.setdefault(path[:2], []).append(f"{inner}{link}{message}" if inner else message)
        else:
            self._is_fatal = True

    def _look_around(self, config: Config, places: list[int]) -> None:
        """Report names that lead nowhere, and what is allowed but hardly meant."""
        broken = Broken(self.broken["targets"], self.broken["modules"])
        additional_tags = "dicom_receiver.additional_tags" if self.translation else ADDITIONAL_TAGS
        for doubt in (*unresolved(config, broken), *doubts(config, additional_tags)):
            path = doubt.path
            if path[0] == "rules" and isinstance(path[1], int):
                path = ("rules", places[path[1]], *path[2:])
            self._report(path, doubt.message, doubt.severity, doubt.kind)

    def _report(
        self, path: JsonPath, message: str, severity: Literal["error", "warning"], kind: Literal["schema", "reference"]
    ) -> None:
        shown = self._shown(path)
        self.problems.append(Problem(path_text(shown), message, severity, kind, line_of(shown, self.lines)))

    def _shown(self, path: JsonPath) -> JsonPath:
        return self.translation.origin(path) if self.translation else path


def _condition_of(entry: Any) -> str:
    condition = entry.get("condition") if isinstance(entry, dict) else None
    return condition if isinstance(condition, str) else ""


def _is_set(entry: Any, flag: str) -> bool:
    try:
        return isinstance(entry, dict) and _truth.validate_python(entry.get(flag, False))
    except ValidationError:
        return False
