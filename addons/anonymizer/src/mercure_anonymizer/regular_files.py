"""Opening files that are not trusted: never through a link, never a device, a pipe or a folder."""

import os
import stat
from typing import BinaryIO


class NotRegularError(OSError):
    """The name stands for something that is no regular file."""


def open_regular(path: str) -> BinaryIO:
    """Open a regular file to read. Raises `NotRegularError` for anything else, links included, and `OSError`."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise NotRegularError
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    # The name may stand for something else since it was looked at.
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegularError
    return open(descriptor, "rb")
