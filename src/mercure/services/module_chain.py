"""One job in the hands of its modules: input, steps, output. On a thread of its own; decides nothing about the job.

What a crash leaves is known by the file `.step` in the job: which step was begun, and the outputs before it. A run of
that step that still goes on is adopted; in any other case the job begins anew from `received/`.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mercure import __version__
from mercure.core.errors import CancelledError, JobError, PermanentError, SpoolError, TransientError
from mercure.core.module_result import MAXIMUM_RESULT_BYTES, parse_result
from mercure.core.processing import ModuleRunner, ModuleSpec, Running, RunOrder
from mercure.core.processing_steps import StepPlan, step_section, steps_from
from mercure.core.task import Job, to_json
from mercure.services.module_log import ModuleLog
from mercure.services.module_output import identify, json_bytes, tags_for_module
from mercure.services.module_run import Ended, Watch, check_output, describe_exit, follow_run
from mercure.services.processing_settings import ProcessorSettings
from mercure.services.settlement import STOPPING
from mercure.spool import layout as names
from mercure.spool.instances import restore_modes
from mercure.spool.module_folders import lay_out_input, remove_tree, write_task_of_step
from mercure.spool.module_results import open_up, output_files, store_results

log = logging.getLogger(__name__)

Json = Any


@dataclass(frozen=True, slots=True)
class Processed:
    """What the modules made of a job: names of the instances in `results/`, and the steps with their outputs."""

    results: tuple[str, ...]
    steps: tuple[StepPlan, ...]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A step that runs, what it was told, and where its output goes."""

    running: Running
    order: RunOrder
    log: ModuleLog


@dataclass(frozen=True, slots=True)
class ChainRun:
    """All that one run of a job's modules needs. `told` is called with a line for `process.log`."""

    folder: Path
    job: Job
    steps: tuple[StepPlan, ...]
    specs: tuple[ModuleSpec, ...]
    settings: ProcessorSettings
    gpus: tuple[str, ...]
    stopped: Callable[[], str]
    told: Callable[[str], None]

    def run(self) -> Processed:
        """Run the steps. `results/` is durable when it returns, and what was only for the modules is removed.

        Raises `TransientError` or `PermanentError` when a step failed, `CancelledError` when it was stopped.
        """
        done, adopted = self._left_behind()
        if adopted is None:
            for remove in self._removals():
                remove()
            done = ()
        for number in range(len(done), len(self.steps)):
            done = (*done, self._step(number, done, adopted))
            adopted = None
        self._heed_operator()
        results = self._store(done)
        self.clear()
        return Processed(results, done)

    def clear(self) -> None:
        """Remove what was only for the modules, after they have ended.

        Does not raise, so that the job ends as it should: what cannot be removed now is removed with the job.
        """
        for remove in self._removals():
            try:
                remove()
            except OSError as error:  # without the name of the file, which is the module's
                log.error("job %s: what its modules left cannot be removed: %s", self.job.id, error.strerror)  # noqa: TRY400
            except Exception:
                log.exception("job %s: what its modules left cannot be removed, by an error of ours", self.job.id)

    def _removals(self) -> tuple[Callable[[], None], ...]:
        return (
            partial(self._step_file().unlink, missing_ok=True),
            partial(remove_tree, self.folder / names.MODULE_INPUT),
            partial(remove_tree, self.folder / names.MODULE_OUTPUT),
        )

    def _left_behind(self) -> tuple[tuple[StepPlan, ...], _Begun | None]:
        """Return the steps that an earlier service brought to their end, and the run of the next that still goes on."""
        try:
            done = steps_from(_read_step(self.folder)["done"])
        except SpoolError:
            return (), None
        if len(done) >= len(self.steps):
            return (), None
        number = len(done)
        module_log = self._log(number, anew=self.specs[number].runner == "docker")  # it gives its output from the start
        order = self._order(number, module_log)
        try:
            running = self._runner(number).adopt(order)
        except BaseException:
            module_log.close()
            raise
        if running is None:
            module_log.close()
            return (), None
        return done, _Begun(running, order, module_log)

    def _heed_operator(self) -> None:
        """Raise `CancelledError` when an operator wants the job to stop.

        A service that stops goes on here: a container that is begun now is taken up again, the steps before are not.
        """
        why = self.stopped()
        if why and why != STOPPING:
            raise CancelledError(why)

    # -- one step ----------------------------------------------------------------------------------------------------

    def _step(self, number: int, done: Sequence[StepPlan], adopted: _Begun | None) -> StepPlan:
        step = self.steps[number]
        if adopted is None:
            self._heed_operator()
            self._prepare(number, done)
            self._heed_operator()
        self._tell(number, "began" if adopted is None else "goes on")
        try:
            begun = adopted or self._start(number)
            ended = self._follow(step, begun, self._seconds_since_begin() if adopted else 0.0)
        except Exception as error:
            self._tell(number, _broken_off(error))
            raise
        self._check(number, begun.order, ended)
        return replace(step, output=self._result(number), image_digest=ended.image_digest)

    def _follow(self, step: StepPlan, begun: _Begun, elapsed_seconds: float) -> Ended:
        limit, grace = begun.order.module.output_limit_bytes, self.settings.kill_grace_seconds
        watch = Watch(step.timeout_seconds, limit, grace, self.stopped, elapsed_seconds)
        try:
            return follow_run(begun.running, begun.order, watch)
        finally:
            begun.log.close()
            restore_modes(self.folder / names.RECEIVED, self.job.instances)

    def _tell(self, number: int, what: str) -> None:
        self.told(f"step {number + 1}/{len(self.steps)} {self.steps[number].module} {what}")

    def _start(self, number: int) -> _Begun:
        module_log = self._log(number)
        try:
            order = self._order(number, module_log)
            begun = _Begun(self._runner(number).start(order), order, module_log)
        except BaseException:
            module_log.close()
            raise
        os.utime(self._step_file())  # its time runs from here: the image may have had to be pulled
        return begun

    def _runner(self, number: int) -> ModuleRunner:
        return self.settings.runners[self.specs[number].runner]

    def _log(self, number: int, *, anew: bool = False) -> ModuleLog:
        path = self.folder / names.MODULE_LOGS / f"{number + 1}-{self.steps[number].module}.log"
        if anew:
            path.unlink(missing_ok=True)
        return ModuleLog(path, self.settings.log_limit_bytes)

    def _order(self, number: int, module_log: ModuleLog) -> RunOrder:
        spec = self.specs[number]
        kept = ""
        if spec.persistence:
            kept = os.path.join(self.settings.persistence_folder, spec.persistence)
            os.makedirs(kept, mode=0o770, exist_ok=True)
        limits = replace(spec.limits, gpus=self.gpus if spec.gpu_count else ())
        taken, made = (str(self.folder / name) for name in (names.MODULE_INPUT, names.MODULE_OUTPUT))
        return RunOrder(self.job.id, number, spec, taken, made, kept, limits, module_log.write, self.stopped)

    def _prepare(self, number: int, done: Sequence[StepPlan]) -> None:
        """Lay out the input of a step; from here on a crash finds the step begun."""
        taken, made = self.folder / names.MODULE_INPUT, self.folder / names.MODULE_OUTPUT
        self._step_file().unlink(missing_ok=True)
        spec = self.specs[number]
        task = self._task(number)
        remove_tree(taken)
        if number == 0:
            received = self.folder / names.RECEIVED
            sources = [received / name for name in self.job.instances]
            if missing := sum(not os.path.isfile(source) for source in sources):
                raise PermanentError(f"{missing} instances of the job are not there any more")
            copy = spec.writes_input or not self._runner(number).protects_input
            lay_out_input(taken, sources, task, copy=copy, tags=self._tags)
        else:
            os.rename(made, taken)
            (taken / names.RESULT_FILE).unlink(missing_ok=True)
            self._add_tags(taken)
            write_task_of_step(taken, task)
        remove_tree(made)
        os.mkdir(made, 0o770)
        draft = self._step_file().with_name(f"{names.STEP_FILE}.new")
        draft.write_bytes(json_bytes({"done": [step_section(step) for step in done], "gpus": list(self.gpus)}))
        os.rename(draft, self._step_file())

    def _task(self, number: int) -> Json:
        return {**to_json(self.job, version=__version__), "process": step_section(self.steps[number])}

    def _tags(self, path: Path) -> Mapping[str, str]:
        return tags_for_module(path, self.job.series, self.settings.additional_tags)

    def _add_tags(self, folder: Path) -> None:
        """Give each instance that a step made its `.tags`, unless the step did."""
        for made in output_files(folder):
            path = folder / made.path
            beside = path.with_suffix(".tags")
            if path.suffix.lower() == ".dcm" and not os.path.lexists(beside):
                beside.write_bytes(json_bytes(self._tags(path)))

    def _check(self, number: int, order: RunOrder, ended: Ended) -> None:
        step = self.steps[number]
        how = describe_exit(ended.exit_code)
        image = f", image {ended.image_digest}" if ended.image_digest else ""
        self._tell(number, f"ended: {how} after {ended.seconds:.1f} s{image}")
        if ended.exit_code != 0:
            raise PermanentError(f"module {step.module} failed: {how}; see {names.MODULE_LOGS}/")
        open_up(self.folder / names.MODULE_OUTPUT)  # Only what can be looked into is counted.
        if order.module.output_limit_bytes is not None:
            check_output(order, order.module.output_limit_bytes)
        output_files(self.folder / names.MODULE_OUTPUT)
        for name in (names.RESULT_FILE, names.TASK_FILE):
            if (self.folder / names.MODULE_OUTPUT / name).is_dir():
                raise PermanentError(f"the module made a folder of the name {name}")

    def _result(self, number: int) -> Json:
        path = self.folder / names.MODULE_OUTPUT / names.RESULT_FILE
        content = None
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                content = os.read(descriptor, MAXIMUM_RESULT_BYTES + 1)
            finally:
                os.close(descriptor)
        output, fault = parse_result(content)
        if fault:
            log.warning("job %s, module %s: %s", self.job.id, self.steps[number].module, fault)
            self.told(f"{self.steps[number].module}: {fault}")
        return output

    # -- before and after --------------------------------------------------------------------------------------------

    def _step_file(self) -> Path:
        return self.folder / names.STEP_FILE

    def _seconds_since_begin(self) -> float:
        """Return how long the step runs already: of a run that was taken up, since an earlier service began it."""
        return max(0.0, time.time() - os.stat(self._step_file()).st_mtime)

    def _store(self, steps: Sequence[StepPlan]) -> tuple[str, ...]:
        retain = bool(self.steps) and self.steps[0].retain_input_images
        received = self.folder / names.RECEIVED
        kept = [received / name for name in self.job.instances] if retain else []
        if len(steps) > 1:
            chain = json_bytes([[step.module, step.output] for step in steps])
            (self.folder / names.MODULE_OUTPUT / names.RESULT_FILE).unlink(missing_ok=True)
            (self.folder / names.MODULE_OUTPUT / names.RESULT_FILE).write_bytes(chain)
        try:
            return store_results(self.folder, self.folder / names.MODULE_OUTPUT, identify, kept)
        except OSError as error:
            raise TransientError(f"the results cannot be stored now: {error.strerror}") from error


def _broken_off(error: Exception) -> str:
    """Say why a step is over before it ended by itself; one that was left may be taken up again."""
    if isinstance(error, CancelledError) and str(error) == STOPPING:
        return "left: the service stops"
    if isinstance(error, JobError):
        return f"{'left' if isinstance(error, TransientError) else 'ended'}: {error}"
    return f"ended: {type(error).__name__}"  # its text may have a name that the module made


def gpus_begun_with(job_folder: Path) -> tuple[str, ...]:
    """Return the GPUs that an earlier service gave to the step that it began."""
    try:
        return tuple(str(gpu) for gpu in _read_step(job_folder)["gpus"])
    except SpoolError:
        return ()


def _read_step(job_folder: Path) -> Mapping[str, Json]:
    """Read what stands in `.step`. Raises `SpoolError` when it is not there or damaged."""
    try:
        found = json.loads((job_folder / names.STEP_FILE).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise SpoolError("no step was begun") from error
    if not isinstance(found, dict) or not isinstance(found.get("gpus"), list) or "done" not in found:
        raise SpoolError("the note of the step that was begun is damaged")
    return found
