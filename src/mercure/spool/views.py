"""Read-only views of the data folder, for people: what stands where, and in which state. Disturbs no lock."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from mercure.core.errors import SpoolError
from mercure.core.stages import Stage
from mercure.core.task import DeliveryState, Job
from mercure.spool import layout as names
from mercure.spool.job_files import read_task
from mercure.spool.jobs import is_held, job_ids
from mercure.spool.layout import Layout

State = Literal[
    "gathering", "routing", "waiting", "running", "held", "deferred", "done", "failed", "discarded", "damaged"
]


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as an operator sees it. `job` is None when its `task.json` cannot be read, `problem` then says why."""

    id: str
    stage: Stage
    state: State
    job: Job | None
    folder: Path
    problem: str = ""


@dataclass(frozen=True, slots=True)
class GatheringView:
    """A reception in `incoming/`, or one that is being routed."""

    name: str
    state: State
    series_uid: str
    instances: int
    last_arrival: datetime


def list_jobs(layout: Layout, stages: Sequence[Stage] = tuple(Stage), *, now: datetime) -> Iterator[JobView]:
    """Return the jobs of the stages, oldest first within a stage."""
    locked = locked_inodes()
    for stage in stages:
        for job_id in sorted(job_ids(layout, stage)):
            view = _view(layout, stage, job_id, locked, now)
            if view:
                yield view


def find_job(layout: Layout, job_id: str, *, now: datetime) -> JobView | None:
    """Return the job with this id, wherever it stands; None when there is none. Raises `SpoolError` for a bad id."""
    names.check_job_id(job_id)
    locked = locked_inodes()
    for stage in Stage:
        if (layout.stage(stage) / job_id).is_dir():
            view = _view(layout, stage, job_id, locked, now)
            if view:
                return view
    return None


def list_gathering(layout: Layout) -> Iterator[GatheringView]:
    """Return what is in `incoming/`, without waiting for anybody."""
    for name in sorted(os.listdir(layout.incoming)):
        if not name.startswith(".") and "#" in name:
            yield from _gathering(layout.incoming / name, name, "gathering")
    for name in sorted(os.listdir(layout.sealed)):
        if not name.startswith("."):
            yield from _gathering(layout.sealed / name / names.RECEIVED, name, "routing")


def _gathering(folder: Path, name: str, state: State) -> Iterator[GatheringView]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        files = [entry for entry in os.listdir(folder) if entry.endswith(".dcm")]
        series_uid = files[0].partition("#")[0] if files else name.partition("#")[0]
        arrival = datetime.fromtimestamp(os.stat(folder).st_mtime, UTC)
        yield GatheringView(name, state, series_uid, len(files), arrival)


def _view(layout: Layout, stage: Stage, job_id: str, locked: frozenset[int], now: datetime) -> JobView | None:
    folder = layout.stage(stage) / job_id
    try:
        job = read_task(folder)
    except (SpoolError, OSError) as error:
        problem = f"task.json cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        return JobView(job_id, stage, "damaged", None, folder, problem) if folder.is_dir() else None
    if job.id != job_id:
        return JobView(job_id, stage, "damaged", None, folder, "task.json belongs to another job")
    return JobView(job_id, stage, _state(layout, stage, job, locked=locked, now=now), job, folder)


def _state(layout: Layout, stage: Stage, job: Job, *, locked: frozenset[int], now: datetime) -> State:
    final: dict[Stage, State] = {Stage.SUCCESS: "done", Stage.ERROR: "failed", Stage.DISCARD: "discarded"}
    if stage in final:
        return final[stage]
    with contextlib.suppress(FileNotFoundError):
        if os.stat(layout.stage(stage) / job.id / names.LOCK_FILE).st_ino in locked:
            return "running"
    if is_held(layout, stage) or is_held(layout, stage, job.id):
        return "held"
    if stage is Stage.PROCESSING:  # its targets are not asked before its modules are done
        times = [job.processing.not_before]
    else:
        times = [delivery.not_before for delivery in job.deliveries if delivery.state is DeliveryState.WAITING]
    if times and all(time and time > now for time in times):
        return "deferred"
    return "waiting"


def locked_inodes() -> frozenset[int]:
    """Return the inodes that somebody on this machine holds a `flock` on.

    Trying the lock would tell too, but would also make a worker that claims at that moment believe the job is taken.
    """
    try:
        with open("/proc/locks", encoding="ascii") as file:
            fields = [line.split() for line in file]
    except OSError:
        return frozenset()
    return frozenset(int(field[5].rpartition(":")[2]) for field in fields if len(field) > 5 and field[1] == "FLOCK")
