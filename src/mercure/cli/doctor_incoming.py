"""What lies in `incoming/` and is no reception: left by another version, or put there by hand. Nothing routes it."""

import os
import re
from collections.abc import Iterator

from mercure.cli.doctor_findings import Finding
from mercure.config.schema import Config
from mercure.core.tags import is_valid_uid
from mercure.spool.layout import Layout

_MARK = re.compile(r"[0-9a-f]{10}")
_NAMED = 3


def incoming_findings(layout: Layout, config: Config) -> Iterator[Finding]:
    """Find entries of `incoming/` that are neither receptions nor folders of the services."""
    try:
        with os.scandir(layout.incoming) as entries:
            strays = sorted(entry.name for entry in entries if not _is_ours(entry))
    except OSError:
        return  # said by the finding about the folder
    if not strays:
        return
    more = f" and {len(strays) - _NAMED} more" if len(strays) > _NAMED else ""
    what = "is no reception" if len(strays) == 1 else "are no receptions"
    count = "1 entry" if len(strays) == 1 else f"{len(strays):,} entries"
    message = f"{count} of {layout.incoming} {what} and will never be routed: {', '.join(strays[:_NAMED])}{more}"
    receiver = config.receiver
    port = receiver.port or "PORT"
    called = receiver.called_ae_titles[0] if receiver.called_ae_titles else "MERCURE"
    remedy = (
        f"Move them to another folder and send them in: mercure send FOLDER --to {receiver.host or '127.0.0.1'}:{port} "
        f"--called {called}"
    )
    yield Finding("incoming", "warning", message, remedy)


def _is_ours(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith("."):
        return True
    series_uid, _, mark = entry.name.partition("#")
    return is_valid_uid(series_uid) and bool(_MARK.fullmatch(mark)) and entry.is_dir(follow_symlinks=False)
