"""What a receiver worker left behind when it died: found, told apart, cleaned up.

A worker holds the lock of its folder of drafts for life, so a folder whose lock is free has no owner. What is in it:
complete drafts, whose instances may have been acknowledged (they are given to the caller to be published); drafts that
are complete and have a second name already (published, only the removal was missed); drafts that are cut off and
receptions that never got their name (nobody was told that they exist). Safe beside living workers and beside another
recovery: the lock decides who does it.
"""

import contextlib
import fcntl
import filecmp
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mercure.core.errors import SpoolError
from mercure.spool import layout as names
from mercure.spool.inventory import find_copies
from mercure.spool.job_files import read_task
from mercure.spool.layout import Layout, Origin
from mercure.spool.quarantine import forget_attempt

_GRACE_SECONDS = 10.0
"""A folder without a lock may belong to a worker that is just starting or just ending."""


@dataclass(frozen=True, slots=True)
class AbandonedDraft:
    """A whole instance, file meta information included, that has no other name."""

    path: str
    origin: Origin


def abandoned_drafts(layout: Layout) -> Iterator[AbandonedDraft]:
    """Give out the complete drafts of dead workers, one by one, and remove everything else they left.

    The caller publishes or quarantines each draft before it asks for the next. What it leaves in place stays for the
    next recovery. Raises `OSError` when the folder of drafts cannot be read.
    """
    for entry in sorted(os.listdir(layout.drafts)):
        folder = f"{layout.drafts}/{entry}"
        lock = _take(folder)
        if lock >= 0:
            try:
                yield from _drafts_in(layout, folder)
                _remove(folder)
            finally:
                os.close(lock)


def was_published(layout: Layout, abandoned: AbandonedDraft, series_uid: str, sop_instance_uid: str) -> bool:
    """Whether a job of the same series from the same sender to the same called AE title holds these very bytes.

    A draft that was published keeps a second name only while it and the jobs lie on one file system, and the job
    exists. Raises `SpoolError` for impossible UIDs and `OSError` when the folders cannot be read.
    """
    names.check_uid(series_uid, "SeriesInstanceUID")
    names.check_uid(sop_instance_uid, "SOPInstanceUID")
    for path in find_copies(layout, series_uid, sop_instance_uid):
        with contextlib.suppress(FileNotFoundError):  # it has just moved on
            received = os.path.dirname(path)
            if _origin_of(received) == abandoned.origin and filecmp.cmp(path, abandoned.path, shallow=False):
                return True
    return False


def _origin_of(received: str) -> Origin | None:
    """Return who sent what a job or a sealed reception holds; None when it does not say."""
    try:
        series = read_task(Path(received).parent).series
        return Origin(series.calling_ae_title, series.called_ae_title, series.peer_address)
    except SpoolError:
        pass
    try:
        with open(f"{received}/{names.RECEPTION_FILE}", encoding="utf-8") as file:
            data = json.load(file)
        return Origin(data["sender_aet"], data["receiver_aet"], data["sender_address"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _take(folder: str) -> int:
    """Return the descriptor of the folder's lock, held; -1 when the folder has an owner or is gone."""
    path = f"{folder}/{names.LOCK_FILE}"
    try:
        # A name with a dot is that of a worker which has not got its lock yet.
        may_be_starting = os.path.basename(folder).startswith(".") or not os.path.exists(path)
        if may_be_starting and time.time() - os.stat(folder).st_mtime < _GRACE_SECONDS:
            return -1
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    except OSError:  # gone meanwhile, or not a folder
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except OSError:  # held by a living worker or by another recovery, or removed by one
        pass
    os.close(descriptor)
    return -1


def _drafts_in(layout: Layout, folder: str) -> Iterator[AbandonedDraft]:
    for entry in sorted(os.listdir(folder)):
        path = f"{folder}/{entry}"
        if entry == names.LOCK_FILE:
            continue
        forget_attempt(layout, path)  # a second name that nobody sees would make the draft look like a published one
        status = os.lstat(path)
        parsed = names.parse_draft_name(entry)
        if parsed and parsed[0] == status.st_size and status.st_nlink == 1:
            yield AbandonedDraft(path, parsed[1])
        elif os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def _remove(folder: str) -> None:
    """Remove the folder unless a draft is left in it. The lock file goes last, while the lock is held."""
    with contextlib.suppress(OSError):
        if os.listdir(folder) == [names.LOCK_FILE]:
            os.unlink(f"{folder}/{names.LOCK_FILE}")
            os.rmdir(folder)
