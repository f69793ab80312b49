"""The instances that jobs share: links to one file, which belongs to the service."""

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

READ_ONLY = 0o440
"""The mode of an instance that a module may see: nobody writes to it."""


def restore_modes(folder: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Give instances the mode back that they had for a module which has ended. What is not there stays away."""
    for name in names:
        with contextlib.suppress(OSError):
            path = f"{os.fspath(folder)}/{name}"
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode) and stat.S_IMODE(mode) != READ_ONLY:
                os.chmod(path, READ_ONLY)


def make_readable(folder: str | os.PathLike[str], names: Iterable[str]) -> int:
    """Take back the permission to read instances; return of how many it had been taken away.

    A module that runs as a process of the same user may change the modes of what it was given, which are those of the
    same files in jobs of other rules. What is not there, or belongs to somebody else, stays as it is.
    """
    count = 0
    for name in names:
        path = Path(folder) / name
        if not os.access(path, os.R_OK, effective_ids=True):
            with contextlib.suppress(OSError):
                os.chmod(path, READ_ONLY)
                count += 1
    return count
