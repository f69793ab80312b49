"""Keeping what could not be understood: one job in `error/`, with the bytes as they came and the reason."""

import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

from mercure.core.stages import Stage
from mercure.core.task import FailStage, Job, SeriesInfo
from mercure.spool import layout as names
from mercure.spool.durable import fsync_folder, link_or_copy
from mercure.spool.job_files import write_error_log, write_task
from mercure.spool.layout import Layout, Origin


def quarantine(layout: Layout, path: str | Path, origin: Origin, reason: str, *, fsync: bool = True) -> str:
    """Make a job in `error/` of one file that came in and cannot be placed; return its id. Durable when it returns.

    The file keeps its other name, which is the caller's to remove. Raises `OSError` when the disk does not take it.
    """
    now = datetime.now(UTC)
    job_id = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(5)}"
    folder = layout.stage(Stage.ERROR)
    draft = folder / f".{job_id}"
    received = draft / names.RECEIVED
    os.makedirs(received, 0o750)
    link_or_copy(Path(path), received / "unreadable.dcm")
    series = SeriesInfo(
        calling_ae_title=origin.calling_ae_title,
        called_ae_title=origin.called_ae_title,
        peer_address=origin.peer_address,
    )
    job = Job(
        id=job_id,
        action="none",
        series=series,
        created_at=now,
        instances=("unreadable.dcm",),
        fail_stage=FailStage.RECEIVING,
        reason=reason,
        settled_at=now,
    )
    write_error_log(draft, reason, now)
    write_task(draft, job, fsync=fsync)
    if fsync:
        fsync_folder(received)
    os.rename(draft, folder / job_id)
    if fsync:
        fsync_folder(folder)
    return job_id
