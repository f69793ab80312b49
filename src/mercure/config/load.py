"""From the text of a configuration file to checked values, with everything that is wrong and where.

A rule, target or module that cannot be read is set aside with its reason, and the rest is usable. A fault anywhere else
makes the file unusable.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mercure.config import flat, json_text
from mercure.config.build import ENTRIES, Builder
from mercure.config.environment import with_tls_of_environment, with_volumes_of_environment
from mercure.config.problems import InvalidConfigError, Problem, path_text
from mercure.config.schema import Config
from mercure.core.errors import ConfigError

Form = Literal["nested", "flat"]


@dataclass(frozen=True)
class Loaded:
    """A configuration as it was read.

    `revision` is the SHA-256 of the bytes. The broken ones are set aside: name (of a rule without one: rules[2]) to
    reason. What a broken rule might have taken must not be discarded by another.
    """

    config: Config
    problems: tuple[Problem, ...]
    revision: str
    form: Form
    broken_rules: Mapping[str, str]
    broken_targets: Mapping[str, str]
    broken_modules: Mapping[str, str]
    rule_names: tuple[str, ...] = ()
    """All rules in the order of the file, those that were set aside included."""
    broken_conditions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of each broken rule, the conditions of its entries, each once: only what these may take has to wait.

    Two entries of one name have one each. It is "" when an entry has none, and may be text that does not parse.
    """
    disabled_broken_rules: frozenset[str] = frozenset()
    """Broken rules that are switched off all the same: they take nothing, and nothing has to wait for them."""
    fallback_broken_rules: frozenset[str] = frozenset()
    """Broken rules that are asked only when no other takes the series."""
    has_only_folders: bool = False
    """Only the folders were read; everything else is a default, and not what the file says."""

    @property
    def schema_errors(self) -> tuple[Problem, ...]:
        """The problems for which a reload keeps the last good configuration."""
        return tuple(one for one in self.problems if one.severity == "error" and one.kind == "schema")

    def why_unusable(self, target: str) -> str | None:
        """Say why nothing can be sent to the target of this name, or None when something can."""
        if target in self.broken_targets:
            return f"the target cannot be read: {self.broken_targets[target]}"
        return self.config.why_unusable(target)


def load(path: Path, *, environment: Mapping[str, str] = os.environ) -> Loaded:
    """Read a file. Raises ConfigError with all problems when it cannot be used."""
    try:
        with open(path, "rb") as file:
            content = file.read(json_text.MAXIMUM_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    return parse(content, environment=environment)


def parse(text: bytes | str, *, environment: Mapping[str, str] = os.environ) -> Loaded:
    """Read a text in either form. Raises ConfigError with all problems when it cannot be used."""
    document = read_object(text)
    form = form_of(document.value)
    translation = flat.translate(document.value) if form == "flat" else None
    nested = translation.nested if translation else document.value
    nested = with_volumes_of_environment(with_tls_of_environment(nested, environment), environment)
    builder = Builder(document.lines, translation)
    return Loaded(
        config=builder.build(nested),
        problems=tuple(builder.problems),
        revision=revision_of(text),
        form=form,
        broken_rules=builder.broken["rules"],
        broken_targets=builder.broken["targets"],
        broken_modules=builder.broken["modules"],
        rule_names=tuple(builder.rule_names),
        broken_conditions=builder.broken_conditions,
        disabled_broken_rules=frozenset(builder.disabled_broken_rules),
        fallback_broken_rules=frozenset(builder.fallback_broken_rules),
    )


def load_folders(path: Path) -> Loaded:
    """Read nothing but the folders of a file: for looking at the data while the rest of the file is broken.

    Raises ConfigError when the file is no JSON, or the folders themselves are wrong.
    """
    try:
        value = read_object(path.read_bytes()).value
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    section = value.get("mercure") if form_of(value) == "nested" else None
    folders = {"mercure": _folders(section)} if isinstance(section, dict) else _folders(value)
    return replace(parse(json.dumps(folders)), has_only_folders=True)


def _folders(section: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key.endswith("_folder")}


def revision_of(text: bytes | str) -> str:
    """Return what tells one version of a file from another: the SHA-256 of its bytes."""
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return hashlib.sha256(content).hexdigest()


def read_object(text: bytes | str) -> json_text.Document:
    """Read the JSON object that every configuration is. Raises InvalidConfigError."""
    try:
        document = json_text.read(text)
    except json_text.JsonTextError as error:
        message = f"{error.message} (column {error.column})"
        raise InvalidConfigError([Problem(path_text(error.path), message, line=error.line)]) from None
    if not isinstance(document.value, dict):
        raise InvalidConfigError([Problem("", "the file must hold one JSON object")])
    return document


def form_of(value: dict[str, Any]) -> Form:
    """Tell which form a file has: a section of ours or a list of rules makes it nested; then flat keys decide."""
    sections = set(Config.model_fields) - set(ENTRIES) - {"features"}
    if isinstance(value.get("rules"), list) or any(isinstance(value.get(name), dict) for name in sections):
        return "nested"
    keys = set(flat.top_level_keys()) - set(ENTRIES) - {"features"}
    if isinstance(value.get("rules"), dict) or keys & set(value):
        return "flat"
    targets = value.get("targets")
    entries = targets.values() if isinstance(targets, dict) else ()
    renamed = flat.entry_names("targets")
    return "flat" if any(isinstance(entry, dict) and renamed.keys() & entry.keys() for entry in entries) else "nested"
