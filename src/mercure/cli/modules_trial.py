"""One run of a module on a folder of images, outside the pipeline. It sees what it would see in a job."""

import contextlib
import os
import shutil
import signal
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from mercure import __version__
from mercure.cli.exits import CommandError, Exit
from mercure.cli.trial_folder import clear_left_behind, trial_folder
from mercure.core.errors import JobError, PermanentError
from mercure.core.module_result import MAXIMUM_RESULT_BYTES, parse_result
from mercure.core.processing import ModuleRunner, ModuleSpec, RunOrder
from mercure.core.processing_steps import StepPlan, step_section
from mercure.core.task import MISSING, Job, SeriesInfo, to_json
from mercure.dicom.tags_reader import read_tags
from mercure.services.module_output import identify, tags_for_module
from mercure.services.module_run import Watch, check_output, describe_exit, follow_run
from mercure.spool import layout as names
from mercure.spool.module_folders import copy_file, lay_out_input, remove_tree
from mercure.spool.module_results import MAXIMUM_DEPTH, is_dicom, output_files

_LOG_BYTES = 64 << 10
_SIGNALS = {signal.SIGTERM: Exit.TERMINATED, signal.SIGHUP: Exit.HUNG_UP}


@dataclass(frozen=True, slots=True)
class Series:
    """Instances that a module made, by what they say of their series."""

    modality: str
    description: str
    series_uid: str
    instances: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a trial. `reason` says why a job would have failed, or ""."""

    exit_code: int | None = None
    seconds: float | None = None
    image_digest: str = ""
    reason: str = ""
    log: bytes = b""
    series: tuple[Series, ...] = ()
    files: tuple[tuple[str, int], ...] = ()
    """Other files, by path, with their size in bytes."""
    result: Any = None
    result_fault: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried. `output` takes what the module makes, and stays; None: it is looked at and removed."""

    spec: ModuleSpec
    step: StepPlan
    files: Sequence[str]
    gpus: tuple[str, ...] = ()
    kill_grace_seconds: float = 10.0
    additional_tags: tuple[str, ...] = ()
    calling_ae_title: str = ""
    called_ae_title: str = ""
    output: Path | None = None

    def run(self, runner: ModuleRunner) -> Outcome:
        """Run the module. The images themselves are copied first: nothing touches the folder they came from.

        Raises `CommandError` when the input or the output folder cannot be used, `OSError`, and `SystemExit` on SIGTERM
        and SIGHUP. Whatever is raised, neither the module nor a copy is left.
        """
        _check_output_folder(self.output)
        with _ended_by_signals() as end_no_more:
            return self._run(runner, end_no_more)

    def _run(self, runner: ModuleRunner, end_no_more: Callable[[], None]) -> Outcome:
        clear_left_behind(runner)
        with trial_folder() as work:
            try:
                order = self._lay_out(work)
                outcome = self._follow(runner, order)
                if self.output is not None:
                    _hand_over(Path(order.output_folder), self.output)
                return outcome
            finally:
                end_no_more()
                remove_tree(work)

    def _lay_out(self, work: Path) -> RunOrder:
        instances = _copied(self.files, work / names.RECEIVED)
        series = self._series(instances[0])
        job_id = work.name
        job = Job(job_id, "process", series, datetime.now(UTC), tuple(path.name for path in instances))
        task = {**to_json(job, version=__version__), "process": step_section(self.step)}
        made, kept = work / names.MODULE_OUTPUT, work / "persistence"
        os.mkdir(made, 0o770)
        if self.spec.persistence:
            os.mkdir(kept, 0o770)
        lay_out_input(
            work / names.MODULE_INPUT,
            instances,
            task,
            copy=self.spec.writes_input,
            tags=lambda path: tags_for_module(path, series, self.additional_tags),
        )
        limits = replace(self.spec.limits, gpus=self.gpus[: self.spec.gpu_count])
        kept_text = str(kept) if self.spec.persistence else ""
        taken = str(work / names.MODULE_INPUT)
        return RunOrder(job_id, 0, self.spec, taken, str(made), kept_text, limits, _drop)

    def _series(self, first: Path) -> SeriesInfo:
        tags = read_tags(first)
        return SeriesInfo(
            tags.get("SeriesInstanceUID", ""),
            tags.get("StudyInstanceUID", ""),
            self.calling_ae_title,
            self.called_ae_title,
            "127.0.0.1",
            tags.get("PatientName") or MISSING,
            tags.get("PatientID") or MISSING,
            tags.get("AccessionNumber") or MISSING,
            tags.get("DeviceSerialNumber") or None,
        )

    def _follow(self, runner: ModuleRunner, order: RunOrder) -> Outcome:
        tail = _Tail()
        order = replace(order, output=tail.take)
        limit = self.spec.output_limit_bytes
        watch = Watch(self.step.timeout_seconds, limit, self.kill_grace_seconds, _is_not_stopped)
        try:
            ended = follow_run(runner.start(order), order, watch)
        except JobError as error:
            return replace(_looked_at(order), reason=str(error), log=tail.content)
        outcome = _looked_at(order)
        reason = outcome.reason
        if ended.exit_code != 0:
            reason = f"the module failed: {describe_exit(ended.exit_code)}"
        elif not reason and limit is not None:
            reason = _too_much(order, limit)
        return replace(
            outcome,
            exit_code=ended.exit_code,
            seconds=ended.seconds,
            image_digest=ended.image_digest,
            reason=reason,
            log=tail.content,
        )


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[Callable[[], None]]:
    """Let SIGTERM and SIGHUP raise `SystemExit`, once, with the status that a shell would show.

    Gives what ends that: nothing may interrupt the clearing up. Other threads than the main one get no signals.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _SIGNALS if is_main}
    # One that is ignored stays so, as with nohup.
    caught = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}

    def end_no_more() -> None:
        for number in caught:
            signal.signal(number, signal.SIG_IGN)

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        end_no_more()
        raise SystemExit(_SIGNALS[signal.Signals(number)])

    for number in caught:
        signal.signal(number, end)
    try:
        yield end_no_more
    finally:
        for number, handler in caught.items():
            signal.signal(number, handler)


@dataclass(slots=True)
class _Tail:
    """The end of what a module prints. Safe to use from many threads."""

    _held: bytearray = field(default_factory=bytearray)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, data: bytes) -> None:
        with self._lock:
            self._held += data[-_LOG_BYTES:]
            del self._held[:-_LOG_BYTES]

    @property
    def content(self) -> bytes:
        with self._lock:
            return bytes(self._held)


def _is_not_stopped() -> str:
    return ""


def _drop(data: bytes) -> None:
    del data


def _too_much(order: RunOrder, limit_bytes: int) -> str:
    try:
        check_output(order, limit_bytes)
    except PermanentError as error:
        return str(error)
    return ""


def _check_output_folder(folder: Path | None) -> None:
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CommandError(f"{folder} is not empty", "Give --output a folder that is new or empty.", Exit.USAGE)


def _copied(files: Sequence[str], folder: Path) -> list[Path]:
    """Copy the images under the names that they have in a job."""
    os.mkdir(folder, 0o750)
    copies: dict[str, Path] = {}
    for file in files:
        try:
            name = names.instance_name(*identify(file))
        except PermanentError:
            raise CommandError(f"{file} cannot be read as a DICOM instance", "Take it out of the input.") from None
        if name not in copies:
            copies[name] = folder / name
            copy_file(file, copies[name])
    return list(copies.values())


def _looked_at(order: RunOrder) -> Outcome:
    """Look at what a module made, as the processor does before it believes it."""
    folder = Path(order.output_folder)
    try:
        made = output_files(folder)
        images = [one for one in made if one.path != names.TASK_FILE and is_dicom(str(folder / one.path))]
        series = tuple(_series_made(folder, [one.path for one in images]))
    except PermanentError as error:
        return Outcome(reason=str(error))
    seen = {one.path for one in images}
    others = tuple((one.path, one.size) for one in made if one.path not in seen)
    content = None
    with contextlib.suppress(FileNotFoundError), open(folder / names.RESULT_FILE, "rb") as file:
        content = file.read(MAXIMUM_RESULT_BYTES + 1)
    result, fault = parse_result(content)
    return Outcome(series=series, files=others, result=result, result_fault=fault)


def _series_made(folder: Path, paths: Sequence[str]) -> Iterator[Series]:
    counts: dict[tuple[str, str, str], int] = {}
    for path in paths:
        series_uid, _ = identify(str(folder / path))
        tags: Mapping[str, str] = read_tags(folder / path)
        key = (tags.get("Modality", ""), tags.get("SeriesDescription", ""), series_uid)
        counts[key] = counts.get(key, 0) + 1
    return (Series(*key, count) for key, count in counts.items())


def _hand_over(made: Path, output: Path) -> None:
    """Give the folders and regular files that were made to the caller; nothing else is followed, read or kept.

    Folders deeper than any that the processor takes are left out.
    """
    for place, folders, files in os.walk(made):
        below = Path(place).relative_to(made)
        into = output / below
        into.mkdir(parents=True, exist_ok=True)
        deep = len(below.parts) > MAXIMUM_DEPTH
        folders[:] = [] if deep else [name for name in folders if not os.path.islink(os.path.join(place, name))]
        for name in files:
            if stat.S_ISREG(os.lstat(os.path.join(place, name)).st_mode):
                shutil.move(os.path.join(place, name), into / name)
