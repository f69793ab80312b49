"""The command `mercure`: which commands there are, and what becomes of errors.

A command is imported when it is called, so that `mercure --help` answers at once. Errors that somebody can do something
about become one line on stderr and an exit status (see `exits.py`); there is never a traceback for them.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mercure import __version__
from mercure.cli.exits import CommandError, Exit, as_command_error
from mercure.core.errors import MercureError


@dataclass(frozen=True, slots=True)
class Entry:
    """A command or group of commands: its line in the help, and where it is."""

    help: str
    module: str
    attribute: str = "app"


COMMANDS = {
    "run": Entry("Run the platform, or some of its services.", "mercure.cli.run"),
    "demo": Entry(
        "Show the whole platform at work, with real series.",
        "mercure.cli.demo",
        "demo",
    ),
    "config": Entry("Check, show and import the configuration.", "mercure.cli.config"),
    "rules": Entry("Try rules on a DICOM file, or on tags given by hand.", "mercure.cli.rules"),
    "modules": Entry("See, add and try processing modules, and fetch their images.", "mercure.cli.modules"),
    "queue": Entry("See, retry, cancel, hold and release jobs.", "mercure.cli.queue"),
    "echo": Entry("Ask a target whether it answers.", "mercure.cli.echo"),
    "send": Entry("Send DICOM files to a node with C-STORE.", "mercure.cli.send"),
    "doctor": Entry("Examine this installation, and say what to mend.", "mercure.cli.doctor"),
    "version": Entry("Print the version.", "mercure.cli.version"),
}


def load(name: str) -> Any:
    """Import a command and return it as the parser needs it: a command, or a group with its commands."""
    entry = COMMANDS[name]
    found = getattr(importlib.import_module(entry.module), entry.attribute)
    if not isinstance(found, typer.Typer):
        function, found = found, typer.Typer(rich_markup_mode=None, add_completion=False)
        found.command(name)(function)
    return typer.main.get_command(found)


class Commands(TyperGroup):
    """The commands of the top level."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is called, and load it in the place of its entry in the help."""
        name, placeholder, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in COMMANDS else placeholder, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn its errors into a line and an exit status."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of our output has gone (`| head`). Python would complain about it once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(Exit.OK) from None
        except KeyboardInterrupt:
            raise typer.Exit(Exit.INTERRUPTED) from None
        except (MercureError, OSError) as error:
            raise typer.Exit(_complain(as_command_error(error))) from None


def _complain(error: CommandError) -> Exit:
    if _is_debugging():
        traceback.print_exc()
    message = " ".join(str(error).split())
    stop = "" if message.endswith((".", "?", "!")) else "."
    typer.echo(f"mercure: {message}{stop} {error.remedy}".rstrip(), err=True)
    return error.status


def _is_debugging() -> bool:
    return os.environ.get("MERCURE_DEBUG", "").strip().lower() in ("1", "true", "yes", "on")


def _placeholder() -> Callable[[], None]:
    def command() -> None:
        raise AssertionError("a command was not loaded")

    return command


def _print_version(is_asked: bool) -> None:  # noqa: FBT001 - so the parser calls it
    if is_asked:
        typer.echo(f"mercure {__version__}")
        raise typer.Exit(Exit.OK)


def _top(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Nothing is to be done before a command."""


def _built() -> typer.Typer:
    built = typer.Typer(
        cls=Commands,
        name="mercure",
        help="Mercure: receives DICOM series, decides by rules what becomes of them, and delivers them.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    built.callback()(_top)
    for name, entry in COMMANDS.items():
        built.command(name, help=entry.help)(_placeholder())
    return built


app = _built()


def main() -> None:
    """Run a command and end the process with its exit status."""
    try:
        app(prog_name="mercure")
    except Exception as error:  # noqa: BLE001 - an error of ours: one line, for the traceback may show what it should not
        if _is_debugging():
            traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} in {os.path.basename(where.filename)}, line {where.lineno}"
        typer.echo(f"mercure: internal error ({kind}). Please report it; MERCURE_DEBUG=true shows more.", err=True)
        sys.exit(Exit.INTERNAL)


if __name__ == "__main__":
    main()
