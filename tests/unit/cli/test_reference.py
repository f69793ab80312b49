"""docs/commands.md says what the commands are."""

from pathlib import Path
from typing import Any

import pytest

from mercure.cli.exits import MEANINGS, Exit
from mercure.cli.main import COMMANDS, load
from mercure.cli.reference import reference

PAGE = (Path(__file__).parents[3] / "docs" / "commands.md").read_text(encoding="utf-8")


def commands() -> dict[str, Any]:
    """Every command that does something, by its words."""
    found = {}
    for name in COMMANDS:
        command = load(name)
        subcommands = getattr(command, "commands", {})
        found.update({f"{name} {word}": inner for word, inner in subcommands.items()} or {name: command})
    return found


def test_the_page_is_what_the_commands_print() -> None:
    assert reference() == PAGE, "run: python -m mercure.cli.reference > docs/commands.md"


@pytest.mark.parametrize("words", commands())
def test_every_command_and_option_is_on_the_page(words: str) -> None:
    _, heading, section = PAGE.partition(f"# `mercure {words}`\n")
    assert heading
    section = section.partition("\n## ")[0].partition("\n### ")[0]
    for parameter in commands()[words].params:
        if getattr(parameter, "hidden", False):
            continue
        spellings = parameter.opts if parameter.param_type_name == "option" else [parameter.metavar]
        assert all(f"`{one}" in section or f", {one}" in section for one in spellings), spellings
        assert parameter.help


def test_the_issue_s_commands_are_all_there() -> None:
    wanted = (
        "run, demo, config check, config show, config schema, config import, rules test, queue list, queue show, "
        "queue retry, queue cancel, queue hold, queue release, echo, send, doctor, modules list, modules add, "
        "modules test, modules pull"
    )
    assert set(wanted.split(", ")) <= set(commands())


def test_every_exit_status_is_on_the_page() -> None:
    assert set(MEANINGS) == set(Exit)
    assert all(f"| {status.value} | {meaning} |" in PAGE for status, meaning in MEANINGS.items())
