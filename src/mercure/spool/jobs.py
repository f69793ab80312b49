"""Jobs in their stages: claim, commit, defer, fail.

A claim is a `flock` on the job's own lock file. The kernel frees it when the worker dies, so there is no stale marker
and nothing to recover: a job of a dead worker is just a job that nobody has claimed.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from mercure.core.errors import SpoolError
from mercure.core.stages import Stage
from mercure.core.task import FailStage, Job, SeriesInfo
from mercure.spool import layout as names
from mercure.spool.durable import fsync_folder, give_to_owner
from mercure.spool.job_files import read_task, write_error_log, write_task
from mercure.spool.kept import note_safe
from mercure.spool.layout import Layout
from mercure.spool.moves import finish_move, move_job, remove_job
from mercure.spool.trees import remove_tree


def is_unprocessed(job: Job) -> bool:
    """Whether modules must work on the job before anything of it may be sent, whatever it says it failed at.

    A job of an existing installation that names no instances does not tell; see `Claim.read`.
    """
    return bool(job.process) and job.results is None and bool(job.instances)


class Claim:
    """A job that this process works on. Close it, or give it up by `commit`, `defer` or `fail`, exactly once."""

    def __init__(self, layout: Layout, stage: Stage, job_id: str, lock: int) -> None:
        """Take over the descriptor that holds the lock."""
        self._layout = layout
        self._lock = lock
        self.stage = stage
        self.id = job_id
        self.folder = layout.stage(stage) / job_id

    @property
    def received(self) -> Path:
        """The instances as received."""
        return self.folder / names.RECEIVED

    def payload(self, job: Job) -> Path:
        """The folder of what is delivered: the results of modules, else the instances as received."""
        return self.received if job.results is None else self.folder / names.RESULTS

    def read(self) -> Job:
        """Read `task.json`. Raises `SpoolError` when it is not valid, `OSError` when the folder cannot be used.

        A job of an existing installation names no instances and holds them beside `task.json`: they are taken over.
        Where it was to be sent its modules had replaced them by their results.
        """
        job = read_task(self.folder)
        if job.id != self.id:
            raise SpoolError("task.json belongs to another job")
        if job.instances:
            return job
        if job.process and (self.stage is Stage.OUTGOING or job.fail_stage is FailStage.DISPATCHING):
            results = self._adopt(names.RESULTS)
            return replace(job, instances=results, results=results)
        return replace(job, instances=self._adopt(names.RECEIVED))

    def _adopt(self, place: str) -> tuple[str, ...]:
        """Move instances that lie in the folder itself to a folder in it, and return the names of all of them."""
        folder = self.folder / place
        loose = [entry.name for entry in os.scandir(self.folder) if _is_instance(entry)]
        if loose:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o750)
            for name in loose:
                os.rename(self.folder / name, folder / name)
        try:
            return tuple(names.in_order(entry.name for entry in os.scandir(folder) if _is_instance(entry)))
        except FileNotFoundError:
            return ()

    def is_cancelled(self) -> bool:
        """Whether an operator wants this job to stop."""
        return os.path.exists(self.folder / names.CANCEL_FILE)

    def takes_up_retry(self) -> bool:
        """Whether an operator wants what failed to be tried again at once. The wish is used up by asking.

        On a disk that does not take that (full, read-only, failing) the wish stays, and is not followed yet.
        """
        try:
            os.unlink(self.folder / names.RETRY_FILE)
        except OSError:
            return False
        return True

    def save(self, job: Job) -> None:
        """Replace `task.json` and keep the claim. Its content is durable when it returns."""
        write_task(self.folder, job)

    def commit(self, job: Job, to: Stage) -> None:
        """Write down the job and move it to another stage. Durable when it returns; the claim is over.

        What was there for modules only does not go along.
        """
        self.save(job)
        self._clear_marks()
        self.clear_of_modules(job)
        target = self._layout.stage(to) / self.id
        if not target.exists():
            move_job(self.folder, target, self.stage)
        elif self._is_copied_to(target):
            remove_job(self.folder)
        else:  # a rename onto an empty folder would silently replace it
            raise SpoolError(f"there is a job {self.id} in {to.value} already")
        for stage in (to, self.stage):
            fsync_folder(self._layout.stage(stage))
        if self.stage is Stage.PROCESSING:
            with contextlib.suppress(OSError):  # it has moved in any case; the router will see where it stands
                note_safe(self._layout, self.id)
        self.close()

    def clear_of_modules(self, job: Job) -> None:
        """Forget the step that was begun, and remove input and output of modules as far as that is possible.

        A note of an old step would make a job that is processed anew look begun. What an existing installation left of
        a job that names no instances stays: they may be in there.
        """
        for name in (names.STEP_FILE, f"{names.STEP_FILE}.new"):
            remove_tree(self.folder / name)
        for name in (names.MODULE_INPUT, names.MODULE_OUTPUT) if job.instances else ():
            with contextlib.suppress(OSError):
                remove_tree(self.folder / name)

    def defer(self, job: Job) -> None:
        """Write down the job and leave it where it is for a later attempt; the claim is over."""
        self.save(job)
        self.close()

    def fail(self, job: Job, fail_stage: FailStage, reason: str, at: datetime) -> None:
        """Move the job to `error/` with the reason. Durable when it returns; the claim is over."""
        write_error_log(self.folder, reason, at)
        self.commit(replace(job, fail_stage=fail_stage, reason=reason, settled_at=at), Stage.ERROR)

    def fail_unreadable(self, reason: str, at: datetime) -> None:
        """Move a job whose `task.json` is not valid to `error/`, so that it is seen once and stops nothing.

        What was to be done with it is not known any more, so a retry asks the rules again.
        """
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.folder / names.TASK_FILE, self.folder / "task.json.unreadable")
        job = Job(self.id, "none", SeriesInfo(), at, self._adopt(names.RECEIVED))
        self.fail(job, FailStage.ROUTING, reason, at)

    def close(self) -> None:
        """End the claim and change nothing."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _is_copied_to(self, target: Path) -> bool:
        """Whether the target is this job, moved across file systems by a worker that died before it removed this."""
        try:
            there = read_task(target)
        except SpoolError:
            return False
        return there.id == self.id and os.stat(target).st_dev != os.stat(self.folder).st_dev

    def _clear_marks(self) -> None:
        for mark in (names.CANCEL_FILE, names.RETRY_FILE):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.folder / mark)


def claim(layout: Layout, stage: Stage, job_id: str) -> Claim | None:
    """Claim a job. None when it is claimed by another worker, or is not there."""
    folder = layout.stage(stage) / names.check_job_id(job_id)
    try:
        lock = os.open(folder / names.LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        give_to_owner(lock, folder)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The folder may have moved between open and lock: then this is the lock of a job that stands elsewhere.
        if os.stat(folder / names.LOCK_FILE).st_ino == os.fstat(lock).st_ino:
            finish_move(layout, folder)
            return Claim(layout, stage, job_id, lock)
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        os.close(lock)
        raise SpoolError(f"cannot lock job {job_id}: {error.strerror}") from error
    os.close(lock)
    return None


_NO_JOBS = frozenset({names.HOLD_FILE, "lost+found"})
"""Also what the root of a file system holds, when a stage is a disk of its own."""


def job_ids(layout: Layout, stage: Stage) -> Iterator[str]:
    """Return the ids of the jobs in a stage, in no order."""
    with os.scandir(layout.stage(stage)) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.name not in _NO_JOBS and _is_folder(entry):
                yield entry.name


def _is_instance(entry: "os.DirEntry[str]") -> bool:
    return entry.name.endswith(".dcm") and not entry.name.startswith(".") and entry.is_file(follow_symlinks=False)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False


def is_held(layout: Layout, stage: Stage, job_id: str = "") -> bool:
    """Whether an operator holds the stage, or the job in it."""
    folder = layout.stage(stage)
    return os.path.exists(folder / job_id / names.JOB_HOLD_FILE if job_id else folder / names.HOLD_FILE)
