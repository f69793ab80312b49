"""What the receiver tells the router of associations that end, when a series may be complete on release."""

import contextlib
import fcntl
import os

from mercure.spool import layout as names
from mercure.spool.layout import Layout


def is_released(layout: Layout, reception: str) -> bool:
    """Whether no open association has added to the reception (only with `hold_open` at the receiver)."""
    try:
        descriptor = os.open(layout.incoming / reception / names.OPEN_FILE, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def released_hints(layout: Layout) -> dict[str, float]:
    """Return the receptions for which an association said its end, with the time (seconds since the epoch)."""
    hints = {}
    with os.scandir(layout.released) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # without it, the quiet time decides
                hints[entry.name] = entry.stat(follow_symlinks=False).st_mtime
    return hints


def forget_hint(layout: Layout, reception: str) -> None:
    """Remove a hint that has been followed or has no reception any more."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(layout.released / reception)
