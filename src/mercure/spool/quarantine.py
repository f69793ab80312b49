"""Keeping what could not be understood: one job in `error/`, with the bytes as they came and the reason.

The name of the job follows from the bytes and from who sent them. A sender that repeats one broken instance for days
finds it kept each time, by one look, and `error/` does not grow.
"""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from mercure.core.stages import Stage
from mercure.core.task import FailStage, Job, SeriesInfo
from mercure.spool import layout as names
from mercure.spool.durable import fsync_file, fsync_folder, link_or_copy
from mercure.spool.job_files import write_error_log, write_task
from mercure.spool.layout import Layout, Origin

UNREADABLE = "unreadable.dcm"
"""The name of the file in the job: no value that came from outside."""

_MAXIMUM_LOG_BYTES = 16 << 10
"""Repeats are noted in `error.log` up to this size; some hundreds."""

_MAXIMUM_DAMAGED = 100
"""Jobs of the same bytes whose file somebody has removed or changed: they are left alone, and another one is made."""


def quarantine(layout: Layout, path: str | Path, origin: Origin, reason: str, *, fsync: bool = True) -> str:
    """Make a job in `error/` of one file that came in and cannot be placed; return its id. Durable when it returns.

    When a job there holds the same bytes from the same origin, it is that job, and its `error.log` gets a line. The
    file keeps its other name, which is the caller's to remove. Raises `OSError` when the disk does not take it; then
    nothing is left in `error/`.
    """
    forget_attempt(layout, path)
    folder, size = layout.stage(Stage.ERROR), os.stat(path).st_size
    now = datetime.now(UTC)
    for job_id in _job_ids(Path(path), origin):
        target = folder / job_id
        job = _job(job_id, origin, reason, now)
        made = not os.path.lexists(target) and _make(_draft_folder(layout, path), Path(path), job, target, fsync=fsync)
        if made or _holds(target, size):
            if not made:
                _note_repeat(target, now)
            if fsync:
                fsync_folder(folder)
            return job_id
    raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))


def forget_attempt(layout: Layout, path: str | Path) -> None:
    """Remove what is left of an attempt to keep this file, whose process died before the job could be seen."""
    shutil.rmtree(_draft_folder(layout, path), ignore_errors=True)


def _job_ids(path: Path, origin: Origin) -> Iterator[str]:
    """Give out the names of jobs for these bytes from this origin; all but the first are for when one is damaged."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).digest()
    whose = "\0".join((origin.calling_ae_title, origin.called_ae_title, origin.peer_address))
    mark = hashlib.blake2b(digest + whose.encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()
    yield f"broken-{mark}"
    for number in range(2, _MAXIMUM_DAMAGED + 1):
        yield f"broken-{mark}-{number}"


def _holds(job_folder: Path, size: int) -> bool:
    """Whether a job with the right name still has its file."""
    try:
        return os.lstat(job_folder / names.RECEIVED / UNREADABLE).st_size == size
    except OSError:
        return False


def _note_repeat(job_folder: Path, now: datetime) -> None:
    """Say when the same came again, while the log is short. Not worth a failure: the bytes are kept."""
    with contextlib.suppress(OSError):
        log = job_folder / names.ERROR_LOG
        if not log.exists() or log.stat().st_size < _MAXIMUM_LOG_BYTES:
            write_error_log(job_folder, "the same came again and is not kept twice", now)


def _make(draft: Path, path: Path, job: Job, target: Path, *, fsync: bool) -> bool:
    """Make the job; False when another one took the name meanwhile. Raises `OSError`. Nothing half is left."""
    try:
        _fill(draft, path, job, fsync=fsync)
        os.rename(draft, target)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    return True


def _draft_folder(layout: Layout, path: str | Path) -> Path:
    """Return the folder of the attempt. Its name follows from that of the draft, so that a recovery can find it."""
    mark = hashlib.blake2s(os.fsencode("/".join(Path(path).parts[-2:])), digest_size=10).hexdigest()
    return layout.stage(Stage.ERROR) / f".kept-{mark}"


def _job(job_id: str, origin: Origin, reason: str, now: datetime) -> Job:
    series = SeriesInfo(
        calling_ae_title=origin.calling_ae_title,
        called_ae_title=origin.called_ae_title,
        peer_address=origin.peer_address,
    )
    return Job(
        id=job_id,
        action="none",
        series=series,
        created_at=now,
        instances=(UNREADABLE,),
        fail_stage=FailStage.RECEIVING,
        reason=reason,
        settled_at=now,
    )


def _fill(draft: Path, path: Path, job: Job, *, fsync: bool) -> None:
    received = draft / names.RECEIVED
    os.makedirs(received, 0o750)
    link_or_copy(path, received / UNREADABLE)
    write_error_log(draft, job.reason, job.created_at)
    if fsync:
        fsync_file(received / UNREADABLE)
        fsync_folder(received)
    write_task(draft, job, fsync=fsync)
