"""What came of a trial, for people and for programs."""

import json
from pathlib import Path
from typing import Any

from mercure.cli.modules_trial import Outcome
from mercure.cli.output import Column, clean, complain, counted, print_table, say, size, span
from mercure.core.processing import ModuleSpec
from mercure.services.module_run import describe_exit

_LOG_LINES = 20
_LINE_CHARACTERS = 1000
_FILES = 20
_RESULT_CHARACTERS = 4000
_NOTHING_TO_SEND = (
    "without an instance there is nothing to send: a job with targets would go to error, unless its rule has "
    "processing_retain_images or the module routes its result to no target"
)


def outcome_to_json(spec: ModuleSpec, outcome: Outcome) -> dict[str, Any]:
    """Return all that is known of a trial."""
    return {
        "module": spec.name,
        "runner": spec.runner,
        "image_digest": outcome.image_digest or None,
        "exit_code": outcome.exit_code,
        "seconds": None if outcome.seconds is None else round(outcome.seconds, 3),
        "failed": bool(outcome.reason),
        "reason": outcome.reason,
        "log": outcome.log.decode("utf-8", "replace"),
        "series": [
            {
                "modality": one.modality,
                "description": one.description,
                "series_uid": one.series_uid,
                "instances": one.instances,
            }
            for one in outcome.series
        ],
        "files": [{"path": _readable(path), "bytes": count} for path, count in outcome.files],
        "note": _note(outcome),
        "result": outcome.result,
        "result_fault": outcome.result_fault,
    }


def print_outcome(spec: ModuleSpec, outcome: Outcome, output: Path | None) -> None:
    """Print a trial: how it ended, the end of its log, what it made."""
    image = f", image {outcome.image_digest}" if outcome.image_digest else ""
    if outcome.exit_code is not None and outcome.seconds is not None:
        say(clean(f"{spec.name} ended: {describe_exit(outcome.exit_code)} after {span(outcome.seconds)}{image}"))
    _print_log(outcome.log)
    _print_made(outcome)
    if output is not None:
        say(clean(f"What it made is in {output}"))
    if outcome.reason:
        complain(clean(f"mercure: {outcome.reason}"))


def _print_log(log: bytes) -> None:
    lines = log.decode("utf-8", "replace").splitlines()
    if not lines:
        say("It printed nothing.")
        return
    more = len(lines) - _LOG_LINES
    say(f"It printed (the last {_LOG_LINES} lines):" if more > 0 else "It printed:")
    for line in lines[-_LOG_LINES:]:
        say(f"  {_line(line)}")


def _line(text: str) -> str:
    """Return a line of a log as it stands, but for what could control a terminal."""
    shown = "".join(char if char.isprintable() else "?" for char in text.expandtabs()[:_LINE_CHARACTERS])
    return shown.rstrip()


def _print_made(outcome: Outcome) -> None:
    if outcome.series:
        columns = [Column("MODALITY"), Column("SERIES DESCRIPTION", wraps=True), Column("INSTANCES", numeric=True)]
        print_table(columns, [(one.modality, one.description, one.instances) for one in outcome.series])
    else:
        say("It made no DICOM instance.")
    if note := _note(outcome):
        complain(f"note: {note}")
    for path, count in outcome.files[:_FILES]:
        say(f"  {clean(_readable(path))}  {size(count)}")
    if len(outcome.files) > _FILES:
        say(f"  and {counted(len(outcome.files) - _FILES, 'file')} more")
    if outcome.result_fault:
        complain(f"note: {outcome.result_fault}")
    elif outcome.result is not None:
        text = clean(json.dumps(outcome.result))
        say(f"result.json: {text[:_RESULT_CHARACTERS]}{' ...' if len(text) > _RESULT_CHARACTERS else ''}")


def _note(outcome: Outcome) -> str:
    """Say what some jobs would refuse although the module did nothing wrong, or "". Only their rules tell which."""
    return "" if outcome.reason or outcome.series else _NOTHING_TO_SEND


def _readable(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
