"""`mercure send`: files to a DICOM node."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mercure.cli.exits import CommandError, Exit
from mercure.cli.options import JSON, ae_title, host_and_port, new_app
from mercure.cli.output import clean, complain, counted, print_json, say, size
from mercure.cli.send_files import Found, find_instances
from mercure.cli.send_progress import shown_progress
from mercure.cli.send_transfer import Transfer
from mercure.targets.dicom import DicomNode

app = new_app()

_NAMED = 10


@app.command()
def send(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files, and folders with all below them.")],
    *,
    to: Annotated[str, typer.Option(metavar="HOST:PORT", help="Node to send to.")],
    called: Annotated[str, typer.Option(metavar="AE", help="AE title of the node.")],
    calling: Annotated[str, typer.Option(metavar="AE", help="Our AE title.")] = "MERCURE",
    associations: Annotated[
        int, typer.Option(min=1, max=64, metavar="N", help="Associations in parallel, 64 at most.")
    ] = 1,
    as_json: JSON = False,
) -> None:
    """Send DICOM files to a node with C-STORE, and say what became of them.

    What the node does not take as it is stored is sent uncompressed. Exit status 1: something was not delivered.
    """
    host, port = host_and_port(to)
    node = DicomNode(host, port, ae_title(called), ae_title(calling), associations_idle_seconds=0.0)
    for path in paths:
        if not path.exists():
            raise CommandError(f"{path} does not exist", "Check the path.", Exit.USAGE)
    found = find_instances(paths)
    if not found.instances:
        _name_others(found)
        raise CommandError("there is no DICOM file to send", "Check the path.")
    transfer = Transfer(node, found.instances, associations)
    try:
        with shown_progress(transfer, shown=sys.stderr.isatty() and not as_json):
            transfer.run()
    except KeyboardInterrupt:
        transfer.stop()
        complain(f"Interrupted: {transfer.delivered} of {counted(len(found.instances), 'instance')} were delivered.")
        raise
    if as_json:
        print_json(_report(transfer, found))
    else:
        _print_summary(transfer, found, f"{called} at {to}")
    if transfer.delivered < len(found.instances) or found.named_others:
        raise typer.Exit(Exit.FAILED)


def _report(transfer: Transfer, found: Found) -> dict[str, object]:
    return {
        "instances": len(found.instances),
        "delivered": transfer.delivered,
        "bytes": transfer.sent_bytes,
        "seconds": round(transfer.seconds, 6),
        "statuses": transfer.statuses(),
        "errors": transfer.errors,
        "not_delivered": [{"file": one.path, "reason": one.reason} for one in transfer.undelivered()],
        "not_dicom": [{"file": path, "reason": reason} for path, reason in found.others],
    }


def _print_summary(transfer: Transfer, found: Found, where: str) -> None:
    seconds = max(transfer.seconds, 1e-9)
    count = len(found.instances)
    rate = f"{transfer.delivered / seconds:.0f} instances/s, {size(transfer.sent_bytes / seconds)}/s"
    say(f"{transfer.delivered:,} of {counted(count, 'instance')} delivered to {where} in {seconds:.2f} s ({rate}).")
    statuses = transfer.statuses()
    if len(statuses) > 1 or "success" not in statuses:
        for status, number in statuses.items():
            say(f"  {number:,} {clean(status)}")
    for error in transfer.errors:
        complain(f"mercure: {clean(error)}. `mercure echo HOST:PORT --called AE` tries the connection.")
    undelivered = [one for one in transfer.undelivered() if one.was_sent]
    for one in undelivered[:_NAMED]:
        complain(f"not delivered: {clean(one.path)}: {clean(one.reason)}")
    if len(undelivered) > _NAMED:
        complain(f"not delivered: {len(undelivered) - _NAMED:,} more; --json names all of them")
    _name_others(found)


def _name_others(found: Found) -> None:
    if found.others:
        complain(f"{counted(len(found.others), 'file')} left out:")
        for path, reason in found.others[:_NAMED]:
            complain(f"  {clean(path)}: {clean(reason)}")
        if len(found.others) > _NAMED:
            complain(f"  and {len(found.others) - _NAMED:,} more")
