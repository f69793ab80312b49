"""`mercure echo`: whether a target answers."""

import difflib
import time
from typing import Annotated

import typer

from mercure.cli import installation
from mercure.cli.exits import CommandError, Exit
from mercure.cli.options import JSON, ae_title, host_and_port, new_app
from mercure.cli.output import clean, print_json, say, span
from mercure.cli.target_trial import Trial, trial_of, try_all
from mercure.core.delivery import Target
from mercure.targets.dicom import DicomNode, DicomTarget

app = new_app()

_WORTH_SAYING_SECONDS = 0.1


@app.command()
def echo(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Target of the configuration, or HOST:PORT.")],
    *,
    called: Annotated[str | None, typer.Option(metavar="AE", help="AE title of the node; with HOST:PORT.")] = None,
    calling: Annotated[str, typer.Option(metavar="AE", help="Our AE title; with HOST:PORT.")] = "MERCURE",
    timeout: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Longest wait for the answer.")] = 10.0,
    as_json: JSON = False,
) -> None:
    """Ask a target whether it answers: a DICOM node by C-ECHO, a folder by writing to it.

    Exit status 1: it does not answer.
    """
    if ":" in target:
        node = _node(target, called, calling, timeout)
        trial = Trial(target, lambda: node)
    else:
        if called is not None:
            raise CommandError("--called goes with HOST:PORT", "A target has its own AE title.", Exit.USAGE)
        trial = _configured(target, timeout)
    started = time.perf_counter()
    result = try_all([trial], timeout)[target]
    seconds = time.perf_counter() - started
    if as_json:
        answer = {"detail": result.detail, "remedy": result.remedy, "seconds": round(seconds, 6)}
        print_json({"target": target, "reachable": result.reachable, **answer})
    elif result.reachable:
        say(clean(result.detail))
    else:
        waited = f" (after {span(seconds)})" if seconds >= _WORTH_SAYING_SECONDS else ""
        raise CommandError(clean(f"{target}: {result.detail}{waited}"), result.remedy)
    if not result.reachable:
        raise typer.Exit(Exit.FAILED)


def _node(text: str, called: str | None, calling: str, timeout: float) -> Target:
    host, port = host_and_port(text)
    if called is None:
        raise CommandError(
            "HOST:PORT needs --called AE", "The AE title of the node, such as --called PACS.", Exit.USAGE
        )
    return DicomTarget(
        DicomNode(
            host,
            port,
            ae_title(called),
            ae_title(calling),
            connect_timeout_seconds=timeout,
            response_timeout_seconds=timeout,
        )
    )


def _configured(name: str, timeout: float) -> Trial:
    loaded = installation.configuration()
    if name not in loaded.config.targets and name not in loaded.broken_targets:
        known = (*loaded.config.targets, *loaded.broken_targets)
        close = difflib.get_close_matches(name, known, 1)
        remedy = f"Did you mean {close[0]}?" if close else f"Targets: {', '.join(known) or 'none'}; or give HOST:PORT."
        raise CommandError(f"there is no target {name!r}", remedy, Exit.USAGE)
    if reason := loaded.why_unusable(name):
        raise CommandError(f"target {name!r} cannot be used: {reason}", "", Exit.CONFIGURATION)
    return trial_of(name, loaded.config, timeout)
