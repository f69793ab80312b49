"""Moving a job folder to another file system: what a crash between the copy and the removal leaves is finished later.

On one file system a move is one rename. To another one it is a copy that appears by one rename at the far side, and
then the removal of the source. The copy says where it came from, so that whoever works on it next removes the source
first, and nobody works on both. A copy that was cut off has no name yet; it is removed by `sweep_copies`.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from mercure.core.errors import SpoolError
from mercure.core.stages import Stage
from mercure.spool import layout as names
from mercure.spool.durable import COPY_SUFFIX, copy_folder, give_to_owner, is_abandoned, write_durably
from mercure.spool.job_files import read_task
from mercure.spool.kept import kept_again_id
from mercure.spool.layout import Layout
from mercure.spool.trees import remove_tree

_MOVED_FROM = ".moved-from"
_GONE = ".gone"


def move_job(source: Path, target: Path, stage: Stage) -> None:
    """Move a job folder, whose claim the caller holds, from its stage to a name that is free. Raises `OSError`."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        write_durably(source / _MOVED_FROM, f"{stage.value}/{source.name}".encode())
        copy_folder(source, target)
        remove_job(source)
        _unmark(target)


def remove_job(folder: Path) -> None:
    """Remove a job folder: at once from sight, so that nobody meets a part of it. Without effect when it is gone."""
    hidden = folder.with_name(f".{folder.name}{_GONE}")
    remove_tree(hidden)  # of an earlier removal that was cut off
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, hidden)
    remove_tree(hidden)


def sweep_removed(layout: Layout) -> None:
    """Remove what a crash left of job folders that were being removed."""
    for stage in Stage:
        for folder in _hidden(layout.stage(stage), _GONE):
            with contextlib.suppress(OSError):
                remove_tree(folder)


def sweep_copies(layout: Layout) -> None:
    """Remove what a crash left of copies of jobs to another file system; they take space, and nobody goes on with them.

    Safe at any time: who copies a job holds its lock. What cannot be removed stays for the next time.
    """
    for stage in Stage:
        for draft in _hidden(layout.stage(stage), COPY_SUFFIX):
            with contextlib.suppress(OSError, SpoolError):  # `BlockingIOError`: it is being copied just now
                _remove_cut_off(layout, draft)


def _hidden(folder: Path, suffix: str) -> list[Path]:
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.name.startswith(".") and entry.name.endswith(suffix)]


def _remove_cut_off(layout: Layout, draft: Path) -> None:
    """Remove a copy while the locks of all that it can be a copy of are held. Raises `BlockingIOError`."""
    job_id = names.check_job_id(draft.name[1 : -len(COPY_SUFFIX)])
    with contextlib.ExitStack() as locks:
        originals = 0
        for folder in _possible_originals(layout, job_id):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                locks.enter_context(_locked(folder))
                originals += 1
        if originals or is_abandoned(draft):
            remove_tree(draft)


def _possible_originals(layout: Layout, job_id: str) -> Iterator[Path]:
    yield from (layout.stage(stage) / job_id for stage in Stage)
    yield layout.sealed / kept_again_id(job_id)  # a router gives it back


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a job folder. Raises `BlockingIOError` when somebody has it, `FileNotFoundError`."""
    lock = os.open(folder / names.LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        give_to_owner(lock, folder)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)


def finish_move(layout: Layout, folder: Path) -> None:
    """Remove what this job folder was copied from, if a crash left it. Raises `OSError` when that is not possible.

    `BlockingIOError` among them: who holds the claim of the source copies it just now, or works on it.
    """
    try:
        stage_name, _, job_id = (folder / _MOVED_FROM).read_text(encoding="utf-8", errors="replace").partition("/")
    except FileNotFoundError:
        return
    with contextlib.suppress(ValueError, SpoolError):  # somebody else's file, or the source has gone
        source = layout.stage(Stage(stage_name)) / names.check_job_id(job_id)
        if source != folder and read_task(source).id == read_task(folder).id:
            _remove_unclaimed(source)
    _unmark(folder)


def _remove_unclaimed(source: Path) -> None:
    with contextlib.suppress(FileNotFoundError), _locked(source):
        remove_job(source)


def _unmark(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / _MOVED_FROM)
