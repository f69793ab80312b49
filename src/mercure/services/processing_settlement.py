"""How jobs leave the processor: on to their targets, done, failed, or back to wait."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from mercure.core.clock import Clock
from mercure.core.errors import CancelledError, MercureError, PermanentError, SpoolError, TransientError
from mercure.core.events import Event, EventKind, EventSink
from mercure.core.module_result import Routed, notification_in, route_result
from mercure.core.processing import ModuleSpec
from mercure.core.processing_steps import StepPlan, process_section, steps_from
from mercure.core.stages import Stage
from mercure.core.task import Delivery, FailStage, Job, Processing
from mercure.services.module_chain import ChainRun, Processed
from mercure.services.processing_settings import ProcessorSettings, RuleProcessing
from mercure.services.settlement import STOPPING
from mercure.spool.jobs import Claim

log = logging.getLogger(__name__)

_ASKS = "a module asks for a notification"


def planned_steps(job: Job, settings: ProcessorSettings) -> tuple[StepPlan, ...]:
    """Return the steps that a job was made with, or those of today when an operator wants them.

    Raises `SpoolError` when the job is damaged.
    """
    steps = steps_from(job.process)
    today = settings.rules.get(job.applied_rule)
    return today.steps if job.processing.uses_today and today is not None and today.steps else steps


def steps_of(job: Job, settings: ProcessorSettings) -> tuple[tuple[StepPlan, ...], tuple[ModuleSpec, ...]]:
    """Return the steps of a job and the modules that run them, as both are by now.

    Raises `PermanentError` when a module is gone or cannot be used, or there is nothing to process, `SpoolError` when
    the job is damaged.
    """
    if not job.instances:
        raise PermanentError("the job holds no instance in received/")
    steps = planned_steps(job, settings)
    return steps, specs_of([step.module for step in steps], settings)


def specs_of(modules: Sequence[str], settings: ProcessorSettings) -> tuple[ModuleSpec, ...]:
    """Return what runs these modules. Raises `PermanentError` when one is gone, or can never run here as it is."""
    specs = []
    for module in modules:
        spec = settings.modules.get(module)
        if spec is None:
            raise PermanentError(f"module {module!r} {settings.unusable.get(module, 'is not in the configuration')}")
        if spec.runner not in settings.runners:
            raise PermanentError(f"module {module!r} needs the runner {spec.runner}, which is not there")
        if spec.gpu_count > len(settings.gpus):
            raise PermanentError(f"module {module!r} needs {spec.gpu_count} GPUs, and there are {len(settings.gpus)}")
        specs.append(spec)
    return tuple(specs)


class ProcessingSettlement:
    """Ends what the processor began. Holds no job: the claim is handed in, and is over unless an error was raised."""

    def __init__(self, clock: Clock, events: EventSink, on_jobs: Callable[[], None], draw: Callable[[], float]) -> None:
        """Keep what it works with."""
        self._clock = clock
        self._events = events
        self._on_jobs = on_jobs
        self._draw = draw
        self._told: set[str] = set()
        """Jobs that the journal knows to be complete, and that could not be moved yet."""

    def began(self, job: Job) -> None:
        """Tell the journal that modules work on a job."""
        self._emit(EventKind.PROCESSING_STARTED, job)

    def began_not(self, job: Job, why: str) -> None:
        """Tell the journal that they do not after all, and the job waits on."""
        self._emit(EventKind.PROCESSING_DEFERRED, job, detail=why)

    def settle(
        self,
        taken: Claim,
        job: Job,
        outcome: Processed | MercureError | None,
        run: ChainRun,
        settings: ProcessorSettings,
    ) -> bool:
        """Bring a job to where it belongs after its modules. True when it waits on: for another attempt, or service.

        Raises `OSError` or `SpoolError` when the disk does not take it; tried again later with the same values.
        """
        if isinstance(outcome, Processed):
            self._commit(taken, job, outcome, settings)
            return False
        if isinstance(outcome, CancelledError) and str(outcome) == STOPPING:
            return True
        if isinstance(outcome, TransientError):
            self._put_off(taken, job, outcome, settings)
            return True
        run.clear()
        self.fail(taken, job, str(outcome))
        return False

    def forget(self, job_id: str) -> None:
        """A job that could not be moved is moved, or gone."""
        self._told.discard(job_id)

    def fail(self, taken: Claim, job: Job, reason: str) -> None:
        """Move a job to `error/`. Raises `OSError` or `SpoolError`."""
        taken.fail(job, FailStage.PROCESSING, reason, self._clock.now())
        log.error("job %s went to error: %s", job.id, reason)
        self._emit(EventKind.PROCESSING_FAILED, job, detail=reason)
        self._emit(EventKind.JOB_SETTLED, job, detail=Stage.ERROR.value, count=len(job.instances))

    def give_up(self, taken: Claim, reason: str) -> None:
        """Move a job to `error/` that an error of ours stands in the way of, whether or not it can be read.

        Raises whatever still stands in the way.
        """
        try:
            job = taken.read()
        except OSError:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, the job must come to rest
            taken.fail_unreadable(reason, self._clock.now())
            log.error("job %s went to error: %s", taken.id, reason)  # noqa: TRY400
            return
        self.fail(taken, job, reason)

    def odd(self, taken: Claim) -> bool:
        """Settle a job that no module can run: damaged, or finished by a processor that died before it was moved.

        True when modules can run it after all. Raises `OSError` or `SpoolError` when it cannot be moved.
        """
        try:
            job = taken.read()
            steps = steps_from(job.process)
        except SpoolError as error:
            taken.fail_unreadable(str(error), self._clock.now())
            log.error("job %s is damaged and went to error: %s", taken.id, error)  # noqa: TRY400
            return False
        if job.fail_stage is not None:
            self.fail(taken, job, job.reason)
        elif job.results is not None:
            self._move_on(taken, job)
        elif not steps:
            self.fail(taken, job, "the job names no module")
        else:
            return True
        return False

    def _put_off(self, taken: Claim, job: Job, error: TransientError, settings: ProcessorSettings) -> None:
        now = self._clock.now()
        attempts = job.processing.attempts + 1
        wait = settings.retry.after(attempts, self._draw())
        if wait is None:
            self.fail(taken, job, f"gave up after {attempts} attempts: {error}")
            return
        state = replace(job.processing, attempts=attempts, not_before=now + wait, detail=str(error))
        taken.defer(replace(job, processing=state))
        log.warning("job %s waits to be processed until %s: %s", job.id, f"{now + wait:%Y-%m-%dT%H:%M:%SZ}", error)
        self._emit(EventKind.PROCESSING_DEFERRED, job, detail=str(error))

    def _commit(self, taken: Claim, job: Job, made: Processed, settings: ProcessorSettings) -> None:
        """Write down what the modules made, and where it goes; then move the job."""
        rule = settings.rules.get(job.applied_rule, RuleProcessing())
        fixed = [delivery.target for delivery in job.deliveries]
        last = made.steps[-1].output if made.steps else None
        routed = route_result(last, rule.routing, fixed, settings.targets)
        if routed.targets and not made.results:
            run_reason = "the modules made no DICOM instance, and there are targets that wait for one"
            self.fail(taken, replace(job, process=process_section(made.steps)), run_reason)
            return
        job = replace(
            job,
            process=process_section(made.steps),
            processing=Processing(),
            results=made.results,
            deliveries=_deliveries(job, routed),
        )
        asks = any(notification_in(step.output).requested for step in made.steps)
        parts = (", ".join(step.module for step in made.steps), routed.note, _ASKS if asks else "")
        detail = "; ".join(part for part in parts if part)
        if job.id not in self._told:
            self._emit(EventKind.PROCESSING_COMPLETE, job, count=len(made.results), detail=detail)
            self._told.add(job.id)
        self._move_on(taken, job)
        self.forget(job.id)

    def _move_on(self, taken: Claim, job: Job) -> None:
        if job.deliveries:
            taken.commit(job, Stage.OUTGOING)
            self._on_jobs()
            return
        taken.commit(replace(job, settled_at=self._clock.now(), fail_stage=None, reason=""), Stage.SUCCESS)
        self._emit(EventKind.JOB_SETTLED, job, detail=Stage.SUCCESS.value, count=len(job.payload))

    def _emit(self, kind: EventKind, job: Job, count: int | None = None, detail: str | None = None) -> None:
        self._events.emit(
            Event(
                kind,
                self._clock.now(),
                job_id=job.id,
                series_uid=job.series.series_uid,
                study_uid=job.series.study_uid,
                count=count,
                detail=detail,
            )
        )


def _deliveries(job: Job, routed: Routed) -> tuple[Delivery, ...]:
    kept = {delivery.target: delivery for delivery in job.deliveries}
    return tuple(kept.get(target, Delivery(target)) for target in routed.targets)
