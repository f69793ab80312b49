"""Names and locks of journal files: the one place that knows both, for the writer and for the reader.

A file is `<service>-<pid>-<start>.jsonl`, start in nanoseconds since 1970. Its writer holds an exclusive `flock` on it
from before it has this name until it is done with it. The kernel releases the lock when the writer dies.
"""

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path
from typing import Final

_SERVICE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_NAME: Final = re.compile(rf"{_SERVICE.pattern}-[0-9]+-(?P<start>[0-9]{{1,20}})\.jsonl")


def check_service(service: str) -> str:
    """Return the name of a service if it can be part of a file name. Raises `ValueError`."""
    if not _SERVICE.fullmatch(service):
        raise ValueError("the name of a service is 1 to 64 letters, digits and _ . -")
    return service


def make_folder(folder: Path) -> None:
    """Make the folder of a journal, unless it is there; its parent must be, and its owner gets what root makes.

    Raises `OSError`.
    """
    try:
        os.mkdir(folder, 0o750)
    except FileExistsError:
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _give_to_owner(descriptor, folder.parent)
    finally:
        os.close(descriptor)


def create(folder: Path, service: str) -> tuple[int, Path]:
    """Make a new file, locked for its writer; return its descriptor, open for appending, and its path.

    The lock is there before the name, so that nobody takes a file that was just made for that of a dead writer. What
    root makes belongs to the owner of the folder. Raises `OSError`.
    """
    path = folder / f"{service}-{os.getpid()}-{time.time_ns()}.jsonl"
    draft = folder / f".{path.name}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _give_to_owner(descriptor, folder)
        os.rename(draft, path)
    except OSError:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    return descriptor, path


def _give_to_owner(descriptor: int, folder: Path) -> None:
    """Give what was just made to the owner of the folder around it: an operator may be root, the services are not."""
    if os.geteuid() == 0:
        owner = os.stat(folder)
        with contextlib.suppress(PermissionError):  # root of a container or on NFS may not: better so than no journal
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


def start_of(name: str) -> int | None:
    """Return when a file was begun, nanoseconds since 1970; None for what is no journal file."""
    match = _NAME.fullmatch(name)
    return int(match["start"]) if match else None


def has_writer(descriptor: int) -> bool:
    """Whether somebody may still write to a file. The descriptor must be closed soon: it may hold a shared lock now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True  # locked, or a file system without locks, where nobody can know
    return False
