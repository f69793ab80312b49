"""What an operator does with jobs, one result for each, every act in the journal."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from mercure.cli.queue_waits import Waits
from mercure.core.errors import SpoolError
from mercure.core.events import Event, EventKind
from mercure.core.stages import Stage
from mercure.core.task import FailStage
from mercure.journal.writer import JournalWriter
from mercure.spool import controls
from mercure.spool.layout import Layout
from mercure.spool.views import JobView, find_job, list_jobs

_BY = "by an operator"


@dataclass(frozen=True, slots=True)
class Acted:
    """What became of one act. `subject` is a job, or a stage."""

    subject: str
    done: bool
    message: str

    @property
    def sentence(self) -> str:
        """One line for a person."""
        if self.done:
            return f"{self.subject} {self.message}"
        named = self.message if self.subject in self.message else f"{self.subject}: {self.message}"
        return f"mercure: {named}"

    def to_json(self) -> dict[str, Any]:
        """Return the result for a program."""
        return {"subject": self.subject, "done": self.done, "message": self.message}


class Operator:
    """Acts on the jobs of a data folder. Services that run notice by themselves.

    What it does stands in one file of the journal, from the first act to `close`; a context manager closes it.
    """

    def __init__(self, layout: Layout, waits: Waits) -> None:
        """Touch nothing yet. `waits` knows the hours of off-peak jobs."""
        self._layout = layout
        self._waits = waits
        self._journal = JournalWriter(layout.journal, "operator")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Make what was done durable in the journal."""
        self._journal.close()

    def failed(self) -> tuple[list[str], int]:
        """Return the jobs in `error/`, oldest first, without those of broken DICOM, and how many these are."""
        views = list(list_jobs(self._layout, (Stage.ERROR,), now=self._now()))
        jobs = [view.id for view in views if not _is_broken_dicom(view)]
        return jobs, len(views) - len(jobs)

    def retry(self, job_id: str, *, as_then: bool = False) -> Acted:
        """Let a job go on; what its modules failed at, with the settings of today, or of then."""

        def act(view: JobView) -> str:
            _check_can_be_retried(view)
            message = controls.retry(self._layout, job_id, self._now(), as_then=as_then)
            self._tell(EventKind.JOB_RETRIED, view, f"{_BY}, from {view.stage.value}{_when(view, as_then=as_then)}")
            return self._with_hours(view, message)

        return self._act(job_id, act)

    def route_by(self, job_id: str, rule: str) -> Acted:
        """Have a series that was discarded, or that failed at routing, routed again by one rule."""

        def act(view: JobView) -> str:
            _check_can_be_routed(view)
            message = controls.route_by(self._layout, job_id, rule, self._now())
            self._tell(EventKind.JOB_RETRIED, view, f"{_BY}, from {view.stage.value}, by rule {rule!r}")
            return message

        return self._act(job_id, act)

    def cancel(self, job_id: str) -> Acted:
        """Stop a job. One that runs is told to the journal by the service that stops it."""

        def act(view: JobView) -> str:
            _check_has_not_ended(view, "cancelled")
            message = controls.cancel(self._layout, job_id, self._now())
            if self._stands_in(job_id, Stage.ERROR):
                self._tell(EventKind.JOB_CANCELLED, view, _BY)
                self._tell(EventKind.JOB_SETTLED, view, Stage.ERROR.value)
            return message

        return self._act(job_id, act)

    def hold(self, job_id: str, stage: Stage | None) -> Acted:
        """Start no more of a stage, or not this job."""
        if stage is not None:
            return self._hold_stage(stage)

        def act(view: JobView) -> str:
            _check_has_not_ended(view, "held")
            controls.hold(self._layout, view.stage, job_id)
            self._tell(EventKind.JOB_HELD, view, _BY)
            return "is held; what runs of it goes on" if view.state == "running" else "is held"

        return self._act(job_id, act)

    def release(self, job_id: str, stage: Stage | None) -> Acted:
        """End a hold."""
        if stage is not None:
            return self._release_stage(stage)

        def act(view: JobView) -> str:
            _check_has_not_ended(view, "released")
            controls.release(self._layout, view.stage, job_id)
            self._tell(EventKind.JOB_RELEASED, view, _BY)
            return "may run"

        return self._act(job_id, act)

    def _hold_stage(self, stage: Stage) -> Acted:
        controls.hold(self._layout, stage)
        self._journal.emit(Event(EventKind.JOB_HELD, self._now(), detail=f"{_BY}, all of {stage.value}"))
        return Acted(f"{stage.value}/", done=True, message=f"is held until `mercure queue release --stage {stage}`")

    def _release_stage(self, stage: Stage) -> Acted:
        controls.release(self._layout, stage)
        self._journal.emit(Event(EventKind.JOB_RELEASED, self._now(), detail=f"{_BY}, all of {stage.value}"))
        return Acted(f"{stage.value}/", done=True, message="may run")

    def _act(self, job_id: str, act: Callable[[JobView], str]) -> Acted:
        try:
            view = find_job(self._layout, job_id, now=self._now())
            if view is None:
                return Acted(job_id, done=False, message="there is no such job; `mercure queue list` shows all")
            return Acted(job_id, done=True, message=act(view))
        except SpoolError as error:
            return Acted(job_id, done=False, message=str(error))
        except OSError as error:
            return Acted(job_id, done=False, message=f"{error.strerror} (is the data folder writable for this user?)")

    def _with_hours(self, view: JobView, message: str) -> str:
        """Add to what becomes of a retried job that it waits for its hours, unless rules make another one of it."""
        if view.job is None or view.job.fail_stage is FailStage.ROUTING or view.state == "running":
            return message
        hours = self._waits.for_hours(view.job, self._now())
        if not hours:
            return message
        return f"{message.replace('is due now', 'is due')}; it {hours}"

    def _stands_in(self, job_id: str, stage: Stage) -> bool:
        return (self._layout.stage(stage) / job_id).is_dir()

    def _tell(self, kind: EventKind, view: JobView, detail: str) -> None:
        series = view.job.series if view.job else None
        self._journal.emit(
            Event(
                kind,
                self._now(),
                job_id=view.id,
                series_uid=series.series_uid or None if series else None,
                study_uid=series.study_uid or None if series else None,
                count=len(view.job.instances) if view.job else None,
                detail=detail,
            )
        )

    @staticmethod
    def _now() -> datetime:
        return datetime.now(UTC)


def _when(view: JobView, *, as_then: bool) -> str:
    is_processed = view.job is not None and view.job.fail_stage is FailStage.PROCESSING
    return f", with the settings of {'then' if as_then else 'today'}" if is_processed else ""


def _is_broken_dicom(view: JobView) -> bool:
    return view.job is not None and view.job.fail_stage is FailStage.RECEIVING


def _check_can_be_retried(view: JobView) -> None:
    """Raise `SpoolError` for what no retry can help, saying what can."""
    if _is_broken_dicom(view):
        raise SpoolError(
            f"job {view.id} is broken DICOM and cannot be retried: have it sent again; "
            "`mercure queue show` says where the file is"
        )
    if view.stage is Stage.DISCARD:
        raise SpoolError(
            f"job {view.id} was discarded: `mercure queue retry {view.id} --rule NAME` routes it again, "
            "by the rule that you name"
        )
    if view.stage is Stage.SUCCESS:
        raise SpoolError("the job has ended, in success/: there is nothing to retry")


def _check_can_be_routed(view: JobView) -> None:
    """Raise `SpoolError` for what is no series that can be routed again, saying what helps instead."""
    failed_at = view.job.fail_stage if view.job else None
    if view.stage is Stage.ERROR and failed_at in (FailStage.PROCESSING, FailStage.DISPATCHING):
        raise SpoolError(
            f"job {view.id} was routed already and failed later: "
            f"`mercure queue retry {view.id}`, without --rule, lets it go on"
        )
    if view.stage not in (Stage.ERROR, Stage.DISCARD):
        raise SpoolError(
            f"job {view.id} stands in {view.stage.value}/: only series in discard/, and those that failed at routing, "
            "can be routed again"
        )


def _check_has_not_ended(view: JobView, what: str) -> None:
    if view.stage.is_final:
        raise SpoolError(f"the job has ended, in {view.stage.value}/: only waiting or running jobs can be {what}")
