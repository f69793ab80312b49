"""What the command lines of several commands have in common."""

from typing import Annotated

import typer

from mercure.cli.exits import CommandError, Exit
from mercure.core.tags import is_valid_ae_title

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def new_app(text: str | None = None) -> typer.Typer:
    """Return an empty set of commands, with our style of help."""
    return typer.Typer(
        help=text,
        no_args_is_help=text is not None,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def host_and_port(text: str) -> tuple[str, int]:
    """Read HOST:PORT; an IPv6 address stands in brackets. Raises `CommandError`."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise CommandError(
            f"{text[:80]!r} is not HOST:PORT", "Write for example pacs.hospital.org:104 or [::1]:11112.", Exit.USAGE
        )
    return host, int(port)


def ae_title(text: str) -> str:
    """Check an AE title (PS3.5 6.2). Raises `CommandError`."""
    if not is_valid_ae_title(text):
        raise CommandError(f"{text[:80]!r} is no AE title", "It has 1 to 16 characters and no backslash.", Exit.USAGE)
    return text
