"""A module written into the configuration file, as it stands there: nothing else of the file changes its meaning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mercure.cli.exits import CommandError, Exit
from mercure.cli.modules_usable import why_it_cannot_run
from mercure.config import json_text
from mercure.config.load import form_of, parse, read_object
from mercure.config.store import ConfigStore
from mercure.core.errors import ConfigError

_MAXIMUM_SETTINGS_BYTES = 1 << 20
_SETTINGS_FILE = "--settings takes a JSON object, or @FILE that holds one."


@dataclass(frozen=True, slots=True)
class NewModule:
    """What the command line says of a module. `keys` are those of the configuration; None says nothing."""

    name: str
    keys: Mapping[str, Any] = field(default_factory=dict)

    def entry(self) -> dict[str, Any]:
        """Return the entry for the file."""
        return {name: value for name, value in self.keys.items() if value is not None and _says_something(value)}


def _says_something(value: Any) -> bool:
    """Whether a value is no default; a limit of 0 is none either."""
    return value is not False and value not in ("", [], {})


def save_module(path: Path, module: NewModule, *, replace: bool) -> str:
    """Add a module to a configuration, or replace it; return a warning about its use, or "". Durable on return.

    The file keeps its form. Raises `CommandError` for a name that is taken, `ConfigError` for a fault of the file or of
    the module, or when somebody else changed the file meanwhile.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    before = parse(content)
    document = read_object(content).value
    entry = module.entry()
    if form_of(document) == "flat":  # where a module may use the network unless the file says no
        entry = {"network_enabled": False, **entry}
    modules = document.setdefault("modules", {})
    if module.name in modules and not replace:
        remedy = "Give --replace to put this one in its place."
        raise CommandError(f"there is a module {module.name!r} already", remedy, Exit.USAGE)
    ConfigStore(path).save({**document, "modules": {**modules, module.name: entry}}, before.revision)
    return _warning(path, module.name)


def _warning(path: Path, name: str) -> str:
    """Say what keeps the module from running although the file is good."""
    config = parse(path.read_bytes()).config
    return why_it_cannot_run(name, config.modules[name], config.processor)


def variables(plain: Sequence[str], files: Sequence[str]) -> dict[str, Any]:
    """Return the environment of a module from NAME=VALUE, and NAME=PATH for those that are read from files."""
    found: dict[str, Any] = {}
    for given, is_file in (*((one, False) for one in plain), *((one, True) for one in files)):
        name, equals, value = given.partition("=")
        if not equals or not name:
            option = "--env-file" if is_file else "--env"
            raise CommandError(f"{option} needs NAME={'PATH' if is_file else 'VALUE'}", "", Exit.USAGE)
        found[name] = {"file": value} if is_file else value
    return found


def settings_of(text: str | None) -> dict[str, Any]:
    """Return settings given as a JSON object, or as @FILE that holds one. Raises `CommandError`."""
    if text is None:
        return {}
    if text.startswith("@"):
        try:
            with open(text[1:], "rb") as file:
                content = file.read(_MAXIMUM_SETTINGS_BYTES + 1)
        except OSError as error:
            raise CommandError(f"{text[1:]} cannot be read: {error.strerror}", _SETTINGS_FILE, Exit.USAGE) from None
        if len(content) > _MAXIMUM_SETTINGS_BYTES:
            raise CommandError(f"{text[1:]} is too long for settings", "", Exit.USAGE)
    else:
        content = text.encode("utf-8", "surrogateescape")
    try:
        found = json_text.read(content).value
    except json_text.JsonTextError as error:
        raise CommandError(f"--settings is no JSON: {error}", "Give an object, or @FILE.", Exit.USAGE) from None
    if not isinstance(found, dict):
        raise CommandError("--settings is no JSON object", "For example '{\"threshold\": 0.5}'.", Exit.USAGE)
    return found
