"""Who may write the configuration file: one at a time, under a lock that all share who may save it at all."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mercure.core.errors import ConfigError


class CannotSaveError(ConfigError):
    """The file cannot be written, whatever is to stand in it. `remedy` says what to do."""

    def __init__(self, path: Path, error: OSError) -> None:
        """Name the file that is in the way when it is another one: a lock or a draft beside it."""
        named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes | Path) else path
        what = "" if named == path else f"{named}: "
        super().__init__(f"{path} cannot be saved: {what}{error.strerror}")
        self.remedy = _remedy(named, error)


@contextmanager
def exclusive(path: Path) -> Iterator[Path]:
    """Hold the lock of a configuration file, among threads and processes, and give its real path."""
    path = Path(os.path.realpath(path))  # a link to the file stays a link
    descriptor = _open_lock(path.with_name(f".{path.name}.lock"))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield path
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    """Open the lock file, which is made when it is not there and stays. No link is followed."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        with suppress(FileNotFoundError):
            return os.open(path, flags)
        with suppress(FileExistsError):  # somebody else made it just now
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                _share(descriptor, path.parent)
            except OSError:
                os.close(descriptor)
                raise
            return descriptor


def _share(descriptor: int, folder: Path) -> None:
    """Let those lock who may save: the owner of the folder, and its group if that may write to it."""
    found = os.stat(folder)
    with suppress(PermissionError):  # of a group that we are not in, or root that may not: then it stays ours
        os.fchown(descriptor, found.st_uid if os.geteuid() == 0 else -1, found.st_gid)
        os.fchmod(descriptor, 0o660 if found.st_mode & stat.S_IWGRP else 0o600)


def _remedy(path: Path, error: OSError) -> str:
    folder = path.parent
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"Make room on the file system of {folder}."
    if error.errno == errno.EROFS:
        return f"Mount {folder} read-write."
    if not folder.is_dir():
        return f"Make the folder {folder}."
    if not isinstance(error, PermissionError):
        return f"Examine {folder}."
    if os.path.lexists(path) and os.access(folder, os.W_OK | os.X_OK):  # made by another user
        for_group = f" && chmod g+rw {path}" if folder.stat().st_mode & stat.S_IWGRP else ""
        return f"As root: chown -h --reference={folder} {path}{for_group}"
    return f"Run this as a user who may write to {folder}."
