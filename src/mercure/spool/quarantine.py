"""Keeping what could not be understood: one job in `error/`, with the bytes as they came and the reason."""

import hashlib
import os
import secrets
import shutil
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


def quarantine(layout: Layout, path: str | Path, origin: Origin, reason: str, *, fsync: bool = True) -> str:
    """Make a job in `error/` of one file that came in and cannot be placed; return its id. Durable when it returns.

    The file keeps its other name, which is the caller's to remove. Raises `OSError` when the disk does not take it;
    then nothing is left in `error/`.
    """
    now = datetime.now(UTC)
    job_id = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(5)}"
    folder = layout.stage(Stage.ERROR)
    draft = _draft_folder(layout, path)
    forget_attempt(layout, path)
    try:
        _fill(draft, Path(path), _job(job_id, origin, reason, now), fsync=fsync)
        os.rename(draft, folder / job_id)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    if fsync:
        fsync_folder(folder)
    return job_id


def forget_attempt(layout: Layout, path: str | Path) -> None:
    """Remove what is left of an attempt to keep this file, whose process died before the job could be seen."""
    shutil.rmtree(_draft_folder(layout, path), ignore_errors=True)


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
