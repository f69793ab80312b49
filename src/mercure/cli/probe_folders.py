"""Whether the folders of the data folder can be used: asked by doing, not by looking at permissions."""

import contextlib
import errno
import fcntl
import os
import secrets
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mercure.spool.layout import Layout

MISSING = "does not exist"
NO_FOLDER = "is not a folder"
"""It, or one above it, is something else."""
NO_SPACE = "is full"
NO_INODES = "is on a file system without a free inode"
"""Space or not: nothing can be made there."""

_FSYNC_BYTES = 64 << 10
_FSYNC_TIMES = 5


def why_unusable(folder: Path) -> str:
    """Say why nothing can be made in a folder, or return ""."""
    try:
        probe = _made(folder)
    except OSError as error:
        if isinstance(error, NotADirectoryError) or (isinstance(error, FileNotFoundError) and os.path.islink(folder)):
            return NO_FOLDER
        if isinstance(error, FileNotFoundError):
            return MISSING
        if error.errno == errno.ENOSPC:
            return _why_full(folder)
        reasons = {errno.EROFS: "is read-only", errno.EACCES: "cannot be written to"}
        return reasons.get(error.errno or 0, f"cannot be used: {error.strerror}")
    with contextlib.suppress(OSError):
        os.rmdir(probe)
    return ""


def _why_full(folder: Path) -> str:
    try:
        found = os.statvfs(folder)
    except OSError:
        return NO_SPACE
    return NO_INODES if found.f_files and not found.f_favail else NO_SPACE


def state_of(layout: Layout) -> dict[Path, str]:
    """Return why each folder that cannot be used cannot be used."""
    folders = {*layout.folders().values(), layout.sealed, layout.drafts}
    state = {path: reason for path in sorted(folders) if (reason := why_unusable(path))}
    for path in need_links(layout):
        if path not in state and (reason := link_failure(path, path)):
            state[path] = f"takes no hard links ({reason}), and nothing works without"
    return state


def need_links(layout: Layout) -> tuple[Path, Path]:
    """Return the folders within which files must be able to have two names: instances get theirs so."""
    return layout.incoming, layout.jobs


@dataclass(frozen=True, slots=True)
class Groups:
    """Which folders a rename works between. `failures` are those where it failed for another reason than the border."""

    groups: tuple[tuple[str, ...], ...]
    failures: tuple[str, ...]


def rename_groups(folders: dict[str, Path]) -> Groups:
    """Move a folder between every two of the folders, there and back.

    Equal device numbers prove nothing: between two bind mounts of one file system a rename fails all the same.
    """
    groups: list[list[str]] = []
    failures = []
    border: set[tuple[str, str]] = set()
    names = list(folders)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            reason = _rename_between(folders[first], folders[second])
            if reason == errno.EXDEV:
                border.add((first, second))
            elif reason:
                failures.append(f"{first} -> {second}: {os.strerror(reason)}")
    for name in names:
        home = next((group for group in groups if not any((other, name) in border for other in group)), None)
        if home is None:
            groups.append([name])
        else:
            home.append(name)
    return Groups(tuple(tuple(group) for group in groups), tuple(failures))


def _rename_between(first: Path, second: Path) -> int:
    """Move an empty folder there and back; return 0 or the number of the error."""
    try:
        probe = _made(first)
    except OSError as error:
        return error.errno or errno.EIO
    far = second / probe.name
    try:
        os.rename(probe, far)
        os.rename(far, probe)
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        for path in (probe, far):
            with contextlib.suppress(OSError):
                os.rmdir(path)
    return 0


def link_failure(source: Path, target: Path) -> str:
    """Say why a file of one folder cannot get a second name in another, or in the same, or return ""."""
    try:
        with _probe_file(source) as (path, _):
            second = target / f"{path.name}-2"
            os.link(path, second)
            os.unlink(second)
    except OSError as error:
        return error.strerror or "unknown"
    return ""


def lock_failure(folder: Path) -> str:
    """Say why `flock` does not keep two processes apart in a folder, or return ""."""
    with _probe_file(folder) as (path, descriptor):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.strerror or "unknown"
        other = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ""
        except OSError as error:
            return error.strerror or "unknown"
        finally:
            os.close(other)
    return "two holders got the same lock"


def fsync_seconds(folder: Path) -> float:
    """Return how long it takes to make 64 KB durable in a folder: the median of a few times."""
    taken = []
    with _probe_file(folder) as (_, descriptor):
        for number in range(_FSYNC_TIMES):
            os.pwrite(descriptor, bytes(_FSYNC_BYTES), number * _FSYNC_BYTES)
            started = time.perf_counter()
            os.fsync(descriptor)
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def clock_skew_seconds(folder: Path) -> float:
    """Return how far the times of a file system are from the clock of this machine; positive: ahead."""
    with _probe_file(folder) as (_, descriptor):
        os.write(descriptor, b".")
        return os.fstat(descriptor).st_mtime - time.time()


def _made(folder: Path) -> Path:
    probe = folder / f".probe-{os.getpid()}-{secrets.token_hex(6)}"
    os.mkdir(probe, 0o700)
    return probe


@contextlib.contextmanager
def _probe_file(folder: Path) -> Iterator[tuple[Path, int]]:
    path = folder / f".probe-{os.getpid()}-{secrets.token_hex(6)}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield path, descriptor
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(path)
