"""The progress bar of `mercure send`."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mercure.cli.output import size
from mercure.cli.send_transfer import Transfer

_REFRESH_SECONDS = 0.1


@contextmanager
def shown_progress(transfer: Transfer, *, shown: bool) -> Iterator[None]:
    """Show on stderr how far the transfer is, with its rate; nothing when nobody looks."""
    if not shown:
        yield
        return
    columns = (
        TextColumn("Sending"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    ended = threading.Event()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(transfer.instances), rate="")

        def follow() -> None:
            while True:
                over = ended.wait(_REFRESH_SECONDS)
                elapsed = progress.tasks[0].elapsed or 0.0
                rate = ""
                if elapsed > 0:
                    rate = f"{transfer.done / elapsed:.0f}/s {size(transfer.sent_bytes / elapsed)}/s"
                progress.update(task, completed=transfer.done, rate=rate)
                if over:
                    return

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            ended.set()
            follower.join()
