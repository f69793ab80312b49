"""The modules of a configuration, each with what runs it, and the rules that use it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mercure.cli.modules_usable import why_it_cannot_run
from mercure.cli.output import Column, print_table, say
from mercure.config.load import Loaded
from mercure.config.modules import chain_of

_ID_CHARACTERS = 19


@dataclass(frozen=True, slots=True)
class Listed:
    """One module. `trouble` says why it cannot run, or ""."""

    name: str
    runner: str
    image: str
    command: tuple[str, ...]
    digest: str
    rules: tuple[str, ...]
    trouble: str

    @property
    def runs(self) -> str:
        """The image, or the command as a person would type it."""
        return self.image or " ".join(self.command)

    def to_json(self) -> dict[str, Any]:
        """Return it for a program."""
        return {
            "module": self.name,
            "runner": self.runner or None,
            "image": self.image or None,
            "command": list(self.command) or None,
            "digest": self.digest or None,
            "rules": list(self.rules),
            "usable": not self.trouble,
            "reason": self.trouble,
        }


def modules_of(loaded: Loaded, digest: Callable[[str], str]) -> list[Listed]:
    """Return all modules by name, also those that were set aside. `digest` gives that of an image, or ""."""
    users = _users(loaded)
    found = [
        Listed(
            name,
            module.kind,
            module.docker_tag,
            module.command,
            digest(module.docker_tag) if module.docker_tag else "",
            users.get(name, ()),
            why_it_cannot_run(name, module, loaded.config.processor),
        )
        for name, module in loaded.config.modules.items()
    ]
    broken = [
        Listed(name, "", "", (), "", users.get(name, ()), reason) for name, reason in loaded.broken_modules.items()
    ]
    return sorted([*found, *broken], key=lambda one: one.name)


def _users(loaded: Loaded) -> dict[str, tuple[str, ...]]:
    users: dict[str, tuple[str, ...]] = {}
    for rule in loaded.config.rules:
        for name in dict.fromkeys(link.module for link in chain_of(rule, loaded.config)):
            users[name] = (*users.get(name, ()), rule.name)
    return users


def print_modules(modules: list[Listed]) -> None:
    """Print a table, and below it why some of them cannot run."""
    if not modules:
        say("The configuration has no modules; `mercure modules add` makes one.")
        return
    columns = [
        Column("MODULE"),
        Column("RUNNER"),
        Column("IMAGE OR COMMAND", wraps=True),
        Column("DIGEST"),
        Column("RULES", wraps=True),
        Column("STATE", styles={"unusable": "red bold"}),
    ]
    print_table(columns, (_row(one) for one in modules))
    for one in modules:
        if one.trouble:
            say(f"{one.name}: {one.trouble}.")


def _row(one: Listed) -> tuple[str, ...]:
    state = "unusable" if one.trouble else "ok"
    digest = one.digest.rpartition("@")[2][:_ID_CHARACTERS]
    return one.name, one.runner or "-", one.runs or "-", digest or "-", ", ".join(one.rules) or "-", state
