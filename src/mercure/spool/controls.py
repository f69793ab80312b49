"""What an operator may do with jobs: retry, cancel, hold, release. Files again, so it works from any process."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from mercure.core.errors import SpoolError
from mercure.core.stages import Stage
from mercure.core.task import FailStage, Job, Processing
from mercure.spool import layout as names
from mercure.spool.durable import fsync_folder, give_to_owner
from mercure.spool.jobs import Claim, claim, is_unprocessed
from mercure.spool.kept import is_in_memory, kept_again_id, note_safe
from mercure.spool.layout import Layout
from mercure.spool.moves import move_job
from mercure.spool.plans import PlacedJob, plan_of, write_plan
from mercure.spool.sealing import new_seal_id
from mercure.spool.trees import remove_tree

_LONG_ID = 80
"""Ids grow with each retry; from here on a new one begins."""

_LET_GO_SECONDS = 1.0

_NAME_FREE_SECONDS = 2.0
"""How long the router may need to remove what it kept of a job that has just left the memory."""

HOLDABLE = (Stage.PROCESSING, Stage.OUTGOING)


def retry(layout: Layout, job_id: str, now: datetime, *, as_then: bool = False) -> str:
    """Let a job go on: from `error/` at the step that failed; one that waits, at once instead of at its next time.

    A job that failed in its modules is processed anew from `received/`, with the rule and the modules of today unless
    `as_then` asks for the settings it was made with. So is every other one that has modules and no results of theirs:
    what a retry that was cut off left is never sent as it came.

    Returns what happens now, for a person. Raises `SpoolError` when the job cannot be retried, saying why.
    """
    taken = _claim_anywhere(layout, job_id, (Stage.ERROR, Stage.OUTGOING, Stage.PROCESSING))
    if taken is None:
        return "is being sent right now; what fails of it is tried again at once"
    with contextlib.closing(taken):
        job = taken.read()
        if taken.stage is Stage.PROCESSING:
            taken.defer(replace(_not_failed(job), processing=replace(job.processing, not_before=None)))
            _mark(layout.control)
            return "is due now"
        if taken.stage is Stage.OUTGOING and not is_unprocessed(job):
            taken.takes_up_retry()
            taken.defer(_not_failed(job.due_again(now)))
            _mark(layout.control)
            return "is due now"
        return _begin_again(layout, taken, job, now, as_then=as_then)


def _begin_again(layout: Layout, taken: Claim, job: Job, now: datetime, *, as_then: bool) -> str:
    """Have a job go back to the stage of the step that failed.

    The step follows from what the job holds wherever that is not the same as what it says it failed at: a retry that
    was killed before the job moved has written down already that it did not fail.
    """
    if job.fail_stage is FailStage.RECEIVING:
        raise SpoolError("the instance could not be read; mend or remove the file, or have it sent again")
    if job.fail_stage is FailStage.ROUTING:
        _check_instances(taken, job)
        _route_again(layout, taken, job, now)
        return "is routed again with the rules of now"
    if job.fail_stage is FailStage.PROCESSING or is_unprocessed(job):
        _check_instances(taken, job)
        again = replace(job.due_again(now), results=None, processing=Processing(uses_today=not as_then))
        with _says_as_before(taken, replace(job, results=None)):
            _process_again(layout, taken, _not_failed(again))
        return f"is processed again with the settings of {'then' if as_then else 'now'}"
    if not job.deliveries:
        raise SpoolError("the job names no target; it cannot be retried from here")
    with _says_as_before(taken, job):
        taken.commit(_not_failed(job.due_again(now)), Stage.OUTGOING)
    _mark(layout.control)
    return "is dispatched again to the targets that do not have everything"


def route_by(layout: Layout, job_id: str, rule: str, now: datetime) -> str:
    """Have a series in `error/` or `discard/` routed again by one rule, which is followed without being asked.

    Returns what happens now, for a person. Raises `SpoolError` when that cannot be done, saying why.
    """
    taken = _claim_anywhere(layout, job_id, (Stage.ERROR, Stage.DISCARD))
    if taken is None:
        raise SpoolError(f"job {job_id} is being worked on")
    with contextlib.closing(taken):
        job = taken.read()
        if taken.stage is Stage.ERROR and job.fail_stage is not FailStage.ROUTING:
            raise SpoolError("only what was discarded or failed at routing can be routed again")
        _check_instances(taken, job)
        with _says_as_before(taken, job):
            taken.save(replace(job, forced_rule=rule, done=()))
            _route_again(layout, taken, job, now)
    return f"is routed again by rule {rule!r}"


def cancel(layout: Layout, job_id: str, now: datetime) -> str:
    """Stop a job: it goes to `error/`, from where it can be retried. A running one stops within a second or two."""
    for stage in (Stage.OUTGOING, Stage.PROCESSING):
        folder = layout.stage(stage) / names.check_job_id(job_id)
        if not folder.is_dir():
            continue
        taken = claim(layout, stage, job_id)
        if taken is None:
            _mark(folder / names.CANCEL_FILE, f"job {job_id} has just left {stage.value}/")
            _mark(layout.control)
            # The worker may have let go of it meanwhile, without seeing the mark.
            taken = claim(layout, stage, job_id)
        if taken is None:
            return "is being stopped"
        with contextlib.closing(taken):
            job = taken.read()
            was_sent = stage is Stage.OUTGOING and not is_unprocessed(job)
            failed_at = FailStage.DISPATCHING if was_sent else FailStage.PROCESSING
            taken.fail(job, failed_at, "cancelled by an operator", now)
        return "is cancelled"
    raise SpoolError(f"no waiting or running job {job_id}")


def hold(layout: Layout, stage: Stage, job_id: str = "") -> None:
    """Start nothing more: in a stage, or of one job. What runs goes on. Raises `SpoolError` for an unknown job."""
    _check_holdable(layout, stage, job_id)
    folder = layout.stage(stage)
    mark = folder / job_id / names.JOB_HOLD_FILE if job_id else folder / names.HOLD_FILE
    _mark(mark, f"job {job_id} has just left {stage.value}/")
    _mark(layout.control)


def release(layout: Layout, stage: Stage, job_id: str = "") -> None:
    """End a hold; without one nothing happens."""
    _check_holdable(layout, stage, job_id)
    folder = layout.stage(stage)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / job_id / names.JOB_HOLD_FILE if job_id else folder / names.HOLD_FILE)
    _mark(layout.control)


def _mark(path: Path, gone: str = "") -> None:
    """Touch a marker file. Raises `SpoolError` saying `gone` when its folder is not there any more."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except FileNotFoundError:
        raise SpoolError(gone or f"there is no folder {path.parent}") from None
    try:
        give_to_owner(descriptor, path.parent)
        os.utime(descriptor)
    finally:
        os.close(descriptor)


def _check_holdable(layout: Layout, stage: Stage, job_id: str) -> None:
    if stage not in HOLDABLE:
        raise SpoolError(f"nothing runs in {stage.value}/")
    if job_id and not (layout.stage(stage) / names.check_job_id(job_id)).is_dir():
        raise SpoolError(f"no job {job_id} in {stage.value}/")


def _claim_anywhere(layout: Layout, job_id: str, stages: tuple[Stage, ...]) -> Claim | None:
    """Claim the job in the stage where it stands; None when a worker has it, who is then told of the wish to retry."""
    for stage in stages:
        folder = layout.stage(stage) / names.check_job_id(job_id)
        if not folder.is_dir():
            continue
        taken = _claim_soon(layout, stage, job_id) if stage.is_final else claim(layout, stage, job_id)
        if taken is None and stage is Stage.OUTGOING:
            if (folder / names.CANCEL_FILE).exists():
                raise SpoolError(f"job {job_id} is being stopped; retry it once it stands in error/")
            _mark(folder / names.RETRY_FILE, f"job {job_id} has just left {stage.value}/")
            _mark(layout.control)
            # The worker may have let go of it meanwhile, without seeing the mark.
            return claim(layout, stage, job_id)
        if taken is None:
            what = "is being processed" if stage is Stage.PROCESSING else "is being worked on"
            raise SpoolError(f"job {job_id} {what}")
        return taken
    raise SpoolError(f"no job {job_id} in {_listed(stages)}")


def _claim_soon(layout: Layout, stage: Stage, job_id: str) -> Claim | None:
    """Claim a job that has ended: whoever moved it there lets go of it a moment later."""
    deadline = time.monotonic() + _LET_GO_SECONDS
    while (taken := claim(layout, stage, job_id)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return taken


def _listed(stages: tuple[Stage, ...]) -> str:
    *some, last = (stage.value for stage in stages)
    return f"{', '.join(some)} or {last}" if some else last


def _check_instances(taken: Claim, job: Job) -> None:
    """Raise `SpoolError` unless all that was received is there: without one of them nobody could go on."""
    if not job.instances:
        raise SpoolError("the job holds no instance; nothing of it can be sent")
    try:
        with os.scandir(taken.received) as entries:
            there = {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
    except (FileNotFoundError, NotADirectoryError):
        there = set()
    missing = len(set(job.instances) - there)
    if missing:
        raise SpoolError(f"{missing} of {len(job.instances)} instances are not in received/ any more")


def _not_failed(job: Job) -> Job:
    return replace(job, fail_stage=None, reason="", settled_at=None)


@contextlib.contextmanager
def _says_as_before(taken: Claim, job: Job) -> Iterator[None]:
    """Have a job that could not be moved say again what it failed at, as far as the disk takes that."""
    try:
        yield
    except (OSError, SpoolError):
        with contextlib.suppress(OSError, SpoolError):
            taken.save(job)
        raise


def _process_again(layout: Layout, taken: Claim, job: Job) -> None:
    """Have a job processed from `received/`, as the given one."""
    remove_tree(taken.folder / names.RESULTS)
    if is_in_memory(layout):
        # Memory is no place for the only copy: a router makes the job from the sealed folder, and keeps that.
        _seal_again(layout, taken, job, kept_again_id(taken.id), plan_of([PlacedJob(job, Stage.PROCESSING)]))
    else:
        taken.commit(job, Stage.PROCESSING)
    _mark(layout.control)


def _route_again(layout: Layout, taken: Claim, job: Job, now: datetime) -> None:
    """Make the job a sealed reception again; the router finds it and plans what is not done yet."""
    # The id follows from that of the job: what a crash left of an earlier try is found and replaced.
    seal_id = kept_again_id(taken.id) if len(taken.id) < _LONG_ID else new_seal_id(now)
    _seal_again(layout, taken, job, seal_id)


def _seal_again(layout: Layout, taken: Claim, job: Job, seal_id: str, plan: Mapping[str, Any] | None = None) -> None:
    """Move the job among the sealed receptions, by one rename, with the plan that is followed, or to be planned."""
    _wait_for_name(layout.sealed / seal_id)
    taken.clear_of_modules(job)
    if plan is None:
        (taken.folder / names.PLAN_FILE).unlink(missing_ok=True)  # of an earlier try that was cut off
    else:
        write_plan(taken.folder, plan)
    # What is kept of the series since it came must not bring back the job as it was then.
    note_safe(layout, taken.id)
    move_job(taken.folder, layout.sealed / seal_id, taken.stage)
    fsync_folder(layout.sealed)
    fsync_folder(layout.stage(taken.stage))


def _wait_for_name(folder: Path) -> None:
    """Wait for the router to remove what it kept of a job that has just left. Raises `SpoolError` when it does not."""
    deadline = time.monotonic() + _NAME_FREE_SECONDS
    while folder.exists():
        if time.monotonic() >= deadline:
            raise SpoolError("the job is being routed again already")
        time.sleep(0.02)
