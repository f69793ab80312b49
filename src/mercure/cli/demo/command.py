"""The command: options, signals, exit status."""

import logging
import re
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mercure.cli.demo.demonstration import Demonstration
from mercure.cli.demo.site import Site, log_to
from mercure.cli.exits import CommandError, Exit
from mercure.core.errors import MercureError

_COLUMNS = 120
"""Where there is no terminal that says its own."""


def demo(
    *,
    exit_: Annotated[bool, typer.Option("--exit", help="End after the check instead of running on.")] = False,
    folder: Annotated[
        Path,
        typer.Option(help="Where everything is kept. What one without --exit left is moved to old-1, old-2 ... in it."),
    ] = Path("demo-data"),
    slices: Annotated[int, typer.Option(min=1, max=5000, help="Instances in each series.")] = 120,
    picture: Annotated[Path | None, typer.Option(hidden=True, help="Write what was shown as SVG.")] = None,
) -> None:
    """Show the whole platform at work: real series go in over DICOM and leave at their targets.

    Exit status 0: every instance is where it must be, unchanged; 1: something is missing.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    console = Console(highlight=False, record=picture is not None)
    if not console.is_terminal:
        console.width = _COLUMNS
    try:
        with Site(folder) as site:
            log_to(site.folder / "mercure.log")
            status = _run(Demonstration(site, console, slices), stop, runs_on=not exit_)
            if exit_:
                site.note_replaceable()
            if picture is not None:
                picture.write_text(_without_web_fonts(console.export_svg(title="make demo")), encoding="utf-8")
    except (MercureError, OSError) as error:
        raise CommandError(f"the demo cannot run: {error}", "See the option --folder.", Exit.DATA_FOLDER) from error
    finally:
        logging.shutdown()
    raise typer.Exit(status)


def _run(demonstration: Demonstration, stop: threading.Event, *, runs_on: bool) -> Exit:
    demonstration.prepare()
    demonstration.play(stop)
    if stop.is_set():
        return Exit.INTERRUPTED
    findings = demonstration.check()
    demonstration.say_where()
    if runs_on:
        demonstration.follow(stop)
    return Exit.OK if all(finding.is_complete for finding in findings) else Exit.FAILED


def _without_web_fonts(svg: str) -> str:
    """Return a picture that loads nothing from anywhere."""
    return re.sub(r"@font-face {.*?}", "", svg, flags=re.DOTALL).replace(" \n", "\n")
