"""Folders with all that is in them: removed and copied, whatever a program of somebody else made of them.

A module can make folders within folders a hundred thousand deep, take every permission away, and leave links to
anywhere. So nothing here calls itself, no path is longer than a name, few descriptors are open, no link is followed.
"""

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path

from mercure.core.errors import SpoolError

_MAXIMUM_DEPTH = 100
"""Deepest folder that is copied. A job holds less: what a module made is bounded before it becomes a result."""

_MAXIMUM_PATH_BYTES = 2048
_HANDLE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_ALL_FOR_OWNER = 0o700


def remove_tree(folder: str | os.PathLike[str]) -> None:
    """Remove a folder, whatever modes its content has, or what stands in its place. No link is followed.

    Without effect when there is nothing. Raises `OSError` for what cannot be removed; the rest may be gone then.
    """
    path = Path(folder)
    try:
        here = os.open(path.parent, _HANDLE)
    except (FileNotFoundError, NotADirectoryError):
        return
    _remove_below(here, path.name)


def _remove_below(here: int, name: str) -> None:
    """Remove one entry of a folder whose handle is given, and is closed.

    Goes down by names and up by `..`, so that one handle is enough; where `..` is another folder than the one that was
    left, somebody moves things about, and nothing more is removed.
    """
    left = [[name]]  # the folders that still stand, at each level of the way down
    way: list[tuple[str, tuple[int, int]]] = []  # the names gone into, and which folder each of them was in
    try:
        while left:
            if left[-1]:
                entered = _enter(here, left[-1][-1])
                if entered is None:
                    left[-1].pop()
                    continue
                way.append((left[-1].pop(), _identity(here)))
                os.close(here)
                here = entered
                left.append(_remove_files(here))
            else:
                left.pop()
                if way:
                    above = os.open("..", _HANDLE, dir_fd=here)
                    os.close(here)
                    here = above
                    name, parent = way.pop()
                    if _identity(here) != parent:
                        raise OSError(errno.ESTALE, "a folder was moved while it was being removed")
                    os.rmdir(name, dir_fd=here)
    finally:
        os.close(here)


def _enter(here: int, name: str) -> int | None:
    """Return a handle of a folder that may be listed and emptied; None after removing what is no folder."""
    try:
        entered = os.open(name, _HANDLE | os.O_NOFOLLOW, dir_fd=here)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=here)
        return None
    try:
        if os.fstat(entered).st_mode & _ALL_FOR_OWNER != _ALL_FOR_OWNER:
            # By the handle: a name could be a link by now.
            os.chmod(f"/proc/self/fd/{entered}", _ALL_FOR_OWNER)
    except OSError:
        os.close(entered)
        raise
    return entered


def _remove_files(here: int) -> list[str]:
    """Remove everything in a folder but the folders, whose names are returned."""
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
    try:
        with os.scandir(readable) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    finally:
        os.close(readable)
    for name, is_folder in found:
        if not is_folder:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=here)
    return [name for name, is_folder in found if is_folder]


def _identity(handle: int) -> tuple[int, int]:
    status = os.fstat(handle)
    return status.st_dev, status.st_ino


def copy_tree(source: Path, target: Path) -> tuple[list[str], list[str]]:
    """Copy a folder to a name that is free; links stay links. Returns the files and the folders that it made.

    Raises `SpoolError` for what no job folder holds (devices, pipes, sockets, folders deeper than 100), and `OSError`.
    Nothing is durable, and what was copied so far stays: the caller removes it.
    """
    if not stat.S_ISDIR(os.lstat(source).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    files: list[str] = []
    folders: list[str] = []
    pending = [("", 0)]
    while pending:
        below, depth = pending.pop()
        if depth > _MAXIMUM_DEPTH or len(os.fsencode(below)) > _MAXIMUM_PATH_BYTES:
            raise SpoolError("the job holds folders within folders that are too deep to be copied")
        place, copy = os.path.join(source, below), os.path.join(target, below)
        os.mkdir(copy, _ALL_FOR_OWNER)
        folders.append(copy)
        with os.scandir(place) as entries:
            for entry in entries:
                path = os.path.join(below, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    pending.append((path, depth + 1))
                else:
                    copy_entry(entry.path, os.path.join(target, path))
                    files.append(os.path.join(target, path))
    for copy in reversed(folders):
        shutil.copystat(os.path.join(source, os.path.relpath(copy, target)), copy)
    return files, folders


def copy_entry(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy a regular file, or a link as a link. Raises `SpoolError` for anything else, and `OSError`."""
    mode = os.lstat(source).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise SpoolError("the job holds something that is neither a file nor a folder and cannot be copied")
    shutil.copy2(source, target, follow_symlinks=False)
