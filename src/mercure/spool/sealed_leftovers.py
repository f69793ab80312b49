"""Hidden folders below `.sealed/`: what somebody is just making there, or left when the power went."""

import contextlib
import fcntl
import os
from pathlib import Path

from mercure.spool import layout as names
from mercure.spool.durable import COPY_SUFFIX, is_abandoned
from mercure.spool.trees import remove_tree


def sweep_leftover(folder: Path) -> None:
    """Remove a hidden folder that nobody works on any more. What cannot be removed stays for the next time.

    A seal that has no name yet is locked while its router lives. A copy of a job from another file system (see
    `copy_folder`) is not, and has the lock file of that job in it: it is left alone until it is old.
    """
    with contextlib.suppress(OSError):
        if folder.name.endswith(COPY_SUFFIX):
            if is_abandoned(folder):
                remove_tree(folder)
            return
        if folder.is_symlink():  # the lock file would be that of somebody else
            return
        lock = os.open(folder / names.LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o640)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(folder / names.LOCK_FILE)
            os.rmdir(folder)
        finally:
            os.close(lock)
