"""Moving a job folder to another file system: what a crash between the copy and the removal leaves is finished later.

On one file system a move is one rename. To another one it is a copy that appears by one rename at the far side, and
then the removal of the source. The copy says where it came from, so that whoever works on it next removes the source
first, and nobody works on both.
"""

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from mercure.core.errors import SpoolError
from mercure.core.stages import Stage
from mercure.spool import layout as names
from mercure.spool.durable import copy_folder, write_durably
from mercure.spool.job_files import read_task
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
        with os.scandir(layout.stage(stage)) as entries:
            gone = [entry.path for entry in entries if entry.name.startswith(".") and entry.name.endswith(_GONE)]
        for path in gone:
            with contextlib.suppress(OSError):
                remove_tree(path)


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
    try:
        lock = os.open(source / names.LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_job(source)
    finally:
        os.close(lock)


def _unmark(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / _MOVED_FROM)
