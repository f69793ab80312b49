"""From a gathering reception to its jobs: the router's side of `incoming/`.

Each step is one rename or is repeated without harm after a crash:

1. `seal`: the reception folder becomes `.sealed/<id>/received`, under an exclusive lock on the reception. From now on
   nothing can be added to it.
2. `write_plan`: which jobs come of it, durable before the first of them exists.
3. `create_jobs`: each job is drafted under a dot name in its stage and published by a rename. All but the last one
   link the instances; the last one takes the folder itself, so that most series cost no link at all.
4. The sealed folder, now without instances, is removed.

A router that died is repeated from step 2 by whoever holds the lock of the sealed folder. Job ids derive from the id of
the seal and the place in the plan, so a job that exists already, wherever it stands, is not made again.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from mercure.core.errors import SpoolError
from mercure.core.stages import Stage
from mercure.core.task import FailStage, Job
from mercure.spool import layout as names
from mercure.spool import plans
from mercure.spool.durable import fsync_folder, link_or_copy, move_folder
from mercure.spool.job_files import read_task, write_error_log, write_task
from mercure.spool.kept import KeptSeries, is_in_memory
from mercure.spool.layout import Layout
from mercure.spool.moves import finish_move
from mercure.spool.plans import PlacedJob
from mercure.spool.sealed_contents import Contents, read_contents
from mercure.spool.sealed_leftovers import sweep_leftover
from mercure.spool.trees import copy_entry, copy_tree, remove_tree

__all__ = [
    "Contents",
    "MissingInstancesError",
    "PlacedJob",
    "SealOutcome",
    "Sealed",
    "last_arrival",
    "make_folders",
    "new_seal_id",
    "open_sealed",
    "receptions",
    "seal",
]


_OF_MODULES = (names.MODULE_LOGS, names.RESULTS, f".{names.RESULTS}", names.MODULE_INPUT, names.MODULE_OUTPUT)


class MissingInstancesError(SpoolError):
    """A job cannot be made: instances of it are not there any more."""


class Sealed:
    """A sealed reception whose lock this process holds."""

    def __init__(self, layout: Layout, seal_id: str, lock: int) -> None:
        """Take over the lock's descriptor."""
        self._layout = layout
        self._lock = lock
        self.id = seal_id
        self.folder = layout.sealed / seal_id
        self.received = self.folder / names.RECEIVED

    def close(self) -> None:
        """Release the lock; what is not finished stays for the next router."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def contents(self) -> Contents | None:
        """Return what was sealed, or None when the crash came before the seal and there is nothing.

        Raises `OSError` when it cannot be read just now.
        """
        return read_contents(self.received, self.earlier_job)

    def earlier_job(self) -> Job | None:
        """Return the job that was taken back from `error/` to be routed again, or None for a fresh reception."""
        try:
            return read_task(self.folder)
        except SpoolError:
            return None

    def read_plan(self) -> Mapping[str, Any] | None:
        """Return the stored plan, or None when there is none yet. Raises `SpoolError` when it is damaged."""
        return plans.read_plan(self.folder)

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Store the plan. Its content is durable when it returns, its name no later than that of any job."""
        # Names become durable in their order on one file system only.
        elsewhere = any(self._is_elsewhere(stage) for stage in Stage)
        plans.write_plan(self.folder, plan, fsync_name=elsewhere)

    def create_jobs(self, jobs: Sequence[PlacedJob], *, resumed: bool) -> list[PlacedJob]:
        """Make the jobs of the plan, and remove the sealed folder. Returns those that were made now.

        `resumed` says that an earlier router may have made some of them. Raises `OSError` when a disk does not take
        one; then nothing is lost, and the same call can be made again.

        When a job begins in a `processing/` that a restart of the machine empties, the sealed folder stays until the
        job has come to another stage, and the same call then removes it (see `kept`).
        """
        kept = KeptSeries(self._layout, self.folder)
        begins_in_memory = any(placed.stage is Stage.PROCESSING for placed in jobs) and is_in_memory(self._layout)
        if self.received.exists() and (kept.was_begun or begins_in_memory):
            return self._create_and_keep(kept, jobs, resumed=resumed)
        made: list[PlacedJob] = []
        *others, last = jobs
        is_made = resumed and self._is_made(last)
        if not is_made:
            to_make = [placed for placed in others if not (resumed and self._exists(placed))]
        elif self.received.exists():
            # The last job was copied, and a crash brought back the source; or an older version kept the series for
            # jobs in a memory that is gone by now, and noted nothing. Then these may be the only originals.
            to_make = [placed for placed in others if placed.stage is Stage.PROCESSING and not self._exists(placed)]
        else:
            to_make = []
        for placed in to_make:
            self._link_job(placed, resumed=resumed)
            made.append(placed)
        if is_made:
            remove_tree(self.received)
        else:
            self._move_job(last)
            made.append(last)
        self.remove()
        return made

    def _create_and_keep(self, kept: KeptSeries, jobs: Sequence[PlacedJob], *, resumed: bool) -> list[PlacedJob]:
        kept.begin()
        made: list[PlacedJob] = []
        try:
            for placed in kept.missing(jobs) if resumed else jobs:
                self._link_job(placed, resumed=resumed)
                made.append(placed)
        finally:
            kept.note_made(jobs, made)
        if kept.are_safe(jobs):
            remove_tree(self.received)
            self.remove()
        self.close()
        return made

    def give_back(self, jobs: Sequence[PlacedJob], reason: str, now: datetime) -> list[PlacedJob]:
        """Return a job that was to be processed anew to `error/`, as it is, with the reason. Durable when it returns.

        Empty, and without effect, when these jobs are not that one job. Raises `OSError`; then it can be called again.
        """
        earlier = self.earlier_job()
        if earlier is None or [placed.job.id for placed in jobs] != [earlier.id] or self._exists(jobs[0]):
            return []
        remove_tree(self._draft_folder(jobs[0]))
        job = replace(jobs[0].job, fail_stage=FailStage.PROCESSING, reason=reason, settled_at=now)
        write_error_log(self.folder, reason, now)
        write_task(self.folder, job)
        # The plan goes along: until the whole folder has left, it says that these are not to be routed by rules.
        (self.folder / names.MADE_FILE).unlink(missing_ok=True)
        target = self._layout.error / job.id
        move_folder(self.folder, target)
        fsync_folder(self._layout.error)
        (target / names.PLAN_FILE).unlink(missing_ok=True)
        self.close()
        return [PlacedJob(job, Stage.ERROR)]

    def remove(self) -> None:
        """Remove the sealed folder. Raises `OSError` when it still holds an instance: those are never removed here."""
        for folder in (self.received, self.folder):
            with contextlib.suppress(FileNotFoundError):
                # The plan goes last: what is left without it would be planned anew.
                for entry in sorted(os.listdir(folder), key=lambda name: name == names.PLAN_FILE):
                    path = folder / entry
                    if entry in _OF_MODULES and folder == self.folder:  # of the job that this was before
                        remove_tree(path)
                    elif not entry.endswith(".dcm") and not path.is_dir():
                        os.unlink(path)
                os.rmdir(folder)
        self.close()

    def _draft_folder(self, placed: PlacedJob) -> Path:
        return self._layout.stage(placed.stage) / f".{placed.job.id}"

    def _link_job(self, placed: PlacedJob, *, resumed: bool) -> None:
        if resumed:  # a copy in it may have been cut off by the crash
            remove_tree(self._draft_folder(placed))
        try:
            self._draft(placed)
            self._link_instances(placed)
            earlier = self.earlier_job()
            if earlier and earlier.id == placed.job.id:
                self._copy_history(self._draft_folder(placed))
            self._publish(placed)
        except OSError:  # what was copied would hold the space that is missing
            with contextlib.suppress(OSError):
                remove_tree(self._draft_folder(placed))
            raise

    def _move_job(self, placed: PlacedJob) -> None:
        self._draft(placed)
        received = self._draft_folder(placed) / names.RECEIVED
        if not received.exists():
            move_folder(self.received, received)
        elif self.received.exists():  # copied to another file system, and then a crash: the copy is whole
            remove_tree(self.received)
        self._publish(placed)

    def _copy_history(self, folder: Path) -> None:
        """Give a job that is made anew from itself what was written about it, and the hold of an operator."""
        for name in (names.ERROR_LOG, names.LEDGER_FILE, names.JOB_HOLD_FILE):
            with contextlib.suppress(FileNotFoundError):
                copy_entry(self.folder / name, folder / name)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            copy_tree(self.folder / names.MODULE_LOGS, folder / names.MODULE_LOGS)

    def _draft(self, placed: PlacedJob) -> None:
        folder = self._draft_folder(placed)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o750)
        if placed.stage is Stage.ERROR:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(folder / names.ERROR_LOG)
            write_error_log(folder, placed.job.reason, placed.job.created_at)
        write_task(folder, placed.job)

    def _link_instances(self, placed: PlacedJob) -> None:
        received = self._draft_folder(placed) / names.RECEIVED
        with contextlib.suppress(FileExistsError):
            os.mkdir(received, 0o750)
        for name in (*placed.job.instances, names.RECEPTION_FILE):
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                link_or_copy(self.received / name, received / name)
        missing = set(placed.job.instances) - set(os.listdir(received))
        if missing:
            raise MissingInstancesError(f"{len(missing)} instances of job {placed.job.id} are not there any more")
        fsync_folder(received)

    def _publish(self, placed: PlacedJob) -> None:
        stage = self._layout.stage(placed.stage)
        os.rename(self._draft_folder(placed), stage / placed.job.id)
        if self._is_elsewhere(placed.stage):
            fsync_folder(stage)

    def _is_elsewhere(self, stage: Stage) -> bool:
        """Whether a stage lies on another file system than this sealed folder."""
        return os.stat(self._layout.stage(stage)).st_dev != os.stat(self.folder).st_dev

    def _is_made(self, last: PlacedJob) -> bool:
        """Whether the job that takes the instances was published, wherever it has gone since."""
        draft = self._draft_folder(last) / names.RECEIVED
        return self._exists(last) or not (self.received.exists() or draft.exists())

    def _exists(self, placed: PlacedJob) -> bool:
        return any((self._layout.stage(stage) / placed.job.id).exists() for stage in Stage)


SealOutcome = Sealed | Literal["busy", "gone"]


def seal(layout: Layout, reception: str, now: datetime) -> SealOutcome:
    """Take a reception out of `incoming/`. "busy": an instance is being added just now; "gone": it is not there."""
    path = layout.incoming / reception
    try:
        # Our receptions have this file from their first moment; in one that lost it, it is made anew.
        descriptor = os.open(path / names.RECEPTION_FILE, os.O_RDWR | os.O_CREAT, 0o640)
    except (FileNotFoundError, NotADirectoryError):
        return "gone"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(path / names.RECEPTION_FILE).st_ino != os.fstat(descriptor).st_ino:
            return "busy"  # another router sealed that one; this is a new one of the same name
        sealed = _new_sealed(layout, new_seal_id(now))
        try:
            os.rename(path, sealed.received)
        except OSError:
            sealed.remove()
            raise
    except BlockingIOError:
        return "busy"
    except FileNotFoundError:
        if not layout.sealed.is_dir():
            raise
        return "busy" if path.is_dir() else "gone"
    finally:
        os.close(descriptor)
    return sealed


def new_seal_id(now: datetime) -> str:
    """Return an id that sorts by time and is never given twice; job ids begin with it."""
    return f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(5)}"


def _new_sealed(layout: Layout, seal_id: str) -> Sealed:
    """Make the folder with its lock held before it has its name, so that no other router can take it."""
    hidden = layout.sealed / f".{seal_id}"
    os.mkdir(hidden, 0o750)
    lock = os.open(hidden / names.LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(hidden, layout.sealed / seal_id)
    except OSError:
        os.close(lock)
        raise
    return Sealed(layout, seal_id, lock)


def _raise(_name: str, error: OSError) -> None:
    raise error


def _any(_name: str) -> bool:
    return True


def open_sealed(
    layout: Layout,
    on_error: Callable[[str, OSError], None] = _raise,
    is_wanted: Callable[[str], bool] = _any,
) -> Iterator[Sealed]:
    """Take over the sealed receptions that nobody works on: those of a router that died, and those to route again.

    One at a time: the lock of each is taken when it is asked for, and is the caller's to close. One that cannot be
    taken is handed to `on_error` with the reason, and stops no other. Those that are not wanted are not touched.
    """
    for name in sorted(os.listdir(layout.sealed)):
        folder = layout.sealed / name
        if name.startswith("."):
            sweep_leftover(folder)
            continue
        if not is_wanted(name):
            continue
        try:
            sealed = _open_one(layout, folder)
        except OSError as error:
            on_error(name, error)
        else:
            if sealed:
                yield sealed


def _open_one(layout: Layout, folder: Path) -> Sealed | None:
    """Take the lock of a sealed reception; None when somebody has it, or the folder has gone."""
    try:
        lock = os.open(folder / names.LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o640)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(folder / names.LOCK_FILE).st_ino == os.fstat(lock).st_ino:
            finish_move(layout, folder)
            return Sealed(layout, folder.name, lock)
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(lock)
        raise
    os.close(lock)
    return None


def make_folders(layout: Layout) -> None:
    """Make what is missing inside `incoming/`, never that folder itself: a disk may just not be mounted.

    Raises `SpoolError` when `incoming/` is not there.
    """
    for path in (layout.drafts, layout.sealed, layout.released):
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o750)
        except OSError as error:
            raise SpoolError(f"the folder {path} cannot be used: {error.strerror}") from error


def receptions(layout: Layout) -> list[str]:
    """Return the names of the gathering receptions. Loose files of existing installations have a mark, too."""
    return [
        name
        for name in os.listdir(layout.incoming)
        if "#" in name and not name.startswith(".") and not name.endswith((".dcm", ".tags"))
    ]


def last_arrival(layout: Layout, reception: str) -> float | None:
    """Return when the newest instance came (seconds since the epoch), or None when the reception is gone."""
    try:
        return os.stat(layout.incoming / reception).st_mtime
    except FileNotFoundError:
        return None
