"""Writing so that it is still there after a crash or a power cut."""

import contextlib
import ctypes
import errno
import os
import shutil
import time
from pathlib import Path

from mercure.core.errors import SpoolError
from mercure.spool.trees import copy_tree, remove_tree

COPY_SUFFIX = ".copy"
"""Ends the name, hidden by a dot, of a folder while it is copied from another file system."""

_ABANDONED_SECONDS = 24 * 3600.0
"""No copy takes so long without a change to its folder. Whoever wants the job again begins it anew anyway."""


def fsync_folder(path: str | os.PathLike[str]) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: str | os.PathLike[str]) -> None:
    """Make the bytes of a file durable. A symbolic link is not followed and has nothing to make durable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_ORDERS_NAMES = frozenset({"ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs"})
_IN_MEMORY = frozenset({0x01021994, 0x858458F6})
"""The numbers of tmpfs and ramfs, as `statfs` says them."""

_STATFS_BYTES = 512
"""More than any machine's `struct statfs`, which begins with the number of the kind."""

_libc = ctypes.CDLL(None, use_errno=True)


def orders_names(folder: Path) -> bool:
    """Whether the file system writes a new or changed name of a file no later than the fsync of that file.

    True of those known to: they log names and files together, or (ext4 without a journal) write the folder of a new
    file along with it. POSIX does not promise it, so of any other kind the answer is no.
    """
    kinds = _file_system_kinds(folder)
    return bool(kinds) and kinds <= _ORDERS_NAMES


def is_volatile(folder: Path) -> bool:
    """Whether what is in a folder is gone after a restart of the machine, because it lies in memory.

    Asks the kernel about this very folder, and needs no file descriptor for it. Raises `OSError` when it cannot be
    known: "no" would be taken as leave to remove originals.
    """
    status = (ctypes.c_long * (_STATFS_BYTES // ctypes.sizeof(ctypes.c_long)))()
    if _libc.statfs(os.fsencode(folder), status):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return status[0] & 0xFFFFFFFF in _IN_MEMORY


def _file_system_kinds(folder: Path) -> frozenset[str]:
    """Return the kind of file system of a folder: one, or none when it cannot be known."""
    device = os.stat(folder).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            mounts = [line.split() for line in file]
    except OSError:
        return frozenset()
    return frozenset(fields[fields.index("-") + 1] for fields in mounts if fields[2] == wanted and "-" in fields)


def write_durably(path: Path, data: bytes, *, fsync: bool = True, fsync_name: bool = True) -> None:
    """Replace a file atomically: a reader sees the old content or the new, whole. Durable when it returns.

    Without `fsync_name` the content is durable before it gets its name, but the name itself only with the next commit
    of the file system: enough where the steps that follow are names too, since names become durable in their order.
    Only one writer at a time may write the same path (jobs are claimed, plans have one router).
    """
    draft = path.with_name(f".{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
    try:
        write_all(descriptor, data)
        give_to_owner(descriptor, path.parent)
        if fsync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(draft, path)
    if fsync and fsync_name:
        fsync_folder(path.parent)


def give_to_owner(descriptor: int, folder: str | os.PathLike[str]) -> None:
    """Give a new file to the owner of its folder: what an operator makes as root must not lock out the services."""
    if os.geteuid() == 0:
        owner = os.stat(folder)
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write everything; `os.write` may stop early on a nearly full disk."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def move_folder(source: Path, target: Path) -> None:
    """Move a folder; across file systems by copy, fsync and rename at the far side, then removal of the source.

    The target must not exist. When this is interrupted, either the source is whole or the target is; both may be there.
    """
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy_folder(source, target)
        remove_tree(source)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder durably; it appears under its name only when it is whole.

    Raises `SpoolError` for what no job folder holds, see `copy_tree`, and `OSError`. Nothing stays of a copy that
    fails: on a full disk it would hold the space that is missing.
    """
    draft = target.with_name(f".{target.name.lstrip('.')}{COPY_SUFFIX}")
    remove_tree(draft)
    try:
        files, folders = copy_tree(source, draft)
        for file in files:
            fsync_file(file)
        for folder in folders:
            fsync_folder(folder)
        os.rename(draft, target)
    except (OSError, SpoolError):
        with contextlib.suppress(OSError):  # the first error says more
            remove_tree(draft)
        raise
    fsync_folder(target.parent)


def is_abandoned(draft: Path) -> bool:
    """Whether a copy that `copy_folder` began is so old that nobody can be at it any more. Raises `OSError`."""
    # Not the time of modification: a copy takes that over from the original.
    return time.time() - os.lstat(draft).st_ctime > _ABANDONED_SECONDS


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; where the file system has no hard links, or not here, make a durable copy."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
    else:
        return
    try:
        shutil.copyfile(source, target)
        fsync_file(target)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(target)
        raise
