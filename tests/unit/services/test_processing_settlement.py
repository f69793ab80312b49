"""How jobs leave the processor when an operator has cancelled them, and when the disk does not take what they are."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.builders import BuiltSeries, small_series
from tests.peers import wait_until
from tests.processing_desk import Desk

from mercure.core.errors import MercureError, PermanentError, TransientError
from mercure.core.events import EventKind
from mercure.core.processing import Running, RunOrder
from mercure.core.stages import Stage
from mercure.core.task import Job
from mercure.runners.process import ProcessRunner
from mercure.services.processing_settings import ProcessorSettings
from mercure.spool import controls
from mercure.spool.layout import Layout


class RunnerThatStartsNothing(ProcessRunner):
    """Does what the test wants in place of a start, and then raises."""

    def __init__(self, before: Callable[[], object], error: MercureError) -> None:
        super().__init__()
        self._before = before
        self._error = error
        self.starts = 0

    def start(self, order: RunOrder) -> Running:
        del order
        self.starts += 1
        self._before()
        raise self._error


class EndedRun:
    """A run of a process; when its end is known, and nobody asks any more for what stops it, something happens."""

    def __init__(self, run: Running, then: Callable[[], object]) -> None:
        self._run = run
        self._then = then
        self.image_digest = ""

    def wait(self, seconds: float) -> int | None:
        return self._run.wait(seconds)

    def stop(self) -> None:
        self._run.stop()

    def kill(self) -> None:
        self._run.kill()

    def leave(self) -> None:
        self._run.leave()

    def close(self) -> None:
        self._run.close()
        self._then()


class RunnerWithAnEnd(ProcessRunner):
    """Starts what ends so."""

    def __init__(self, then: Callable[[], object]) -> None:
        super().__init__()
        self._then = then

    def start(self, order: RunOrder) -> Running:
        return EndedRun(super().start(order), self._then)


@pytest.fixture
def series(tmp_path: Path) -> BuiltSeries:
    return small_series(tmp_path / "series", 2)


@pytest.fixture
def desk(layout: Layout, tmp_path: Path) -> Desk:
    return Desk(layout, tmp_path)


def use(desk: Desk, runner: ProcessRunner) -> None:
    desk.processor.configure(ProcessorSettings(desk.modules, runners={"process": runner}, **desk.more))


def cancelled(desk: Desk, job: Job) -> None:
    assert desk.ends_in(Stage.ERROR, job).reason == "cancelled by an operator"
    assert not [name for name in (".step", "in", "out") if (desk.place(Stage.ERROR, job) / name).exists()]


# -- cancelled ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [TransientError("the engine is away"), PermanentError("refused")])
def test_a_job_that_was_cancelled_is_not_put_off_whatever_else_went_wrong(
    desk: Desk, series: BuiltSeries, error: MercureError
) -> None:
    desk.module("copy", "copy_all()")
    job = desk.job(series, "copy")

    def cancel() -> None:
        assert controls.cancel(desk.layout, job.id, desk.clock.now()) == "is being stopped"

    runner = RunnerThatStartsNothing(cancel, error)
    use(desk, runner)
    cancelled(desk, job)
    assert runner.starts == 1


def test_a_job_that_was_cancelled_when_it_was_put_off_is_not_waited_for_nor_run_again(
    desk: Desk, series: BuiltSeries
) -> None:
    desk.module("copy", "copy_all()")
    job = desk.job(series, "copy")
    runner = RunnerThatStartsNothing(lambda: None, TransientError("the engine is away"))
    use(desk, runner)
    desk.until(lambda: desk.events.count(EventKind.PROCESSING_DEFERRED), "the job is put off")
    (desk.place(Stage.PROCESSING, job) / ".cancel").touch()
    desk.layout.control.touch()
    os.utime(desk.layout.control, (1.0, 1.0))
    cancelled(desk, job)
    assert runner.starts == 1


def test_the_next_step_of_a_job_that_was_cancelled_is_not_begun(desk: Desk, series: BuiltSeries) -> None:
    desk.module("first", "copy_all()")
    desk.module("second", "copy_all()")
    job = desk.job(series, "first", "second")
    use(desk, RunnerWithAnEnd(lambda: controls.cancel(desk.layout, job.id, desk.clock.now())))
    cancelled(desk, job)
    assert "step 2/2" not in (desk.layout.processing / "process.log").read_text()


def test_a_job_that_was_cancelled_as_its_last_module_ended_sends_nothing(desk: Desk, series: BuiltSeries) -> None:
    desk.module("copy", "copy_all()")
    job = desk.job(series, "copy", targets=("pacs",))
    use(desk, RunnerWithAnEnd(lambda: controls.cancel(desk.layout, job.id, desk.clock.now())))
    cancelled(desk, job)
    assert not list(desk.layout.outgoing.glob("*/task.json"))
    assert desk.events.count(EventKind.PROCESSING_COMPLETE) == 0
    desk.module("copy", "copy_all()")
    controls.retry(desk.layout, job.id, desk.clock.now())
    assert desk.ends_in(Stage.OUTGOING, job).results == tuple(sorted(job.instances))


def test_a_job_that_was_cancelled_while_its_results_were_stored_sends_nothing(desk: Desk, series: BuiltSeries) -> None:
    desk.module("copy", "copy_all()")
    job = desk.job(series, "copy", targets=("pacs",))
    desk.processor.step()
    active = desk.processor._active[job.id]
    wait_until(lambda: active.outcome, "it has ended, and is settled by the next step only")
    assert controls.cancel(desk.layout, job.id, desk.clock.now()) == "is being stopped"
    cancelled(desk, job)


# -- a disk that does not take it --------------------------------------------------------------------------------------


def stands_in_the_way(desk: Desk, job: Job) -> Path:
    """What keeps `task.json` from being written, as a full disk does."""
    place = desk.place(Stage.PROCESSING, job) / ".task.json.new"
    place.mkdir()
    return place


def test_modules_that_have_ended_do_not_run_again_because_the_job_cannot_be_moved_now(
    desk: Desk, series: BuiltSeries, caplog: pytest.LogCaptureFixture
) -> None:
    desk.module("copy", "copy_all()\nprint('run')")
    job = desk.job(series, "copy", targets=("pacs",))
    hindrance = stands_in_the_way(desk, job)
    with caplog.at_level(logging.ERROR):
        desk.until(lambda: "cannot be written down" in caplog.text, "it was tried")
        for _ in range(4):
            desk.clock.advance(6.0)
            desk.processor.step()
    assert caplog.text.count("cannot be written down") == 1
    hindrance.rmdir()
    desk.clock.advance(6.0)
    desk.ends_in(Stage.OUTGOING, job)
    assert (desk.place(Stage.OUTGOING, job) / "logs" / "1-copy.log").read_text() == "run\n"
    assert (desk.events.count(EventKind.PROCESSING_STARTED), desk.events.count(EventKind.PROCESSING_COMPLETE)) == (1, 1)
    assert desk.processor.is_idle


def test_a_job_whose_modules_have_ended_can_be_cancelled_while_it_cannot_be_moved(
    desk: Desk, series: BuiltSeries, caplog: pytest.LogCaptureFixture
) -> None:
    desk.module("copy", "copy_all()")
    job = desk.job(series, "copy", targets=("pacs",))
    hindrance = stands_in_the_way(desk, job)
    desk.until(lambda: "cannot be written down" in caplog.text, "it was tried")
    hindrance.rmdir()
    assert "stopped" in controls.cancel(desk.layout, job.id, desk.clock.now())
    desk.clock.advance(6.0)
    cancelled(desk, job)


def test_a_job_that_somebody_removed_while_its_modules_ran_is_forgotten(desk: Desk, series: BuiltSeries) -> None:
    desk.module("copy", "copy_all()")
    job = desk.job(series, "copy", targets=("pacs",))
    desk.processor.step()
    active = desk.processor._active[job.id]
    wait_until(lambda: active.outcome, "it has ended, and is settled by the next step only")
    shutil.rmtree(desk.place(Stage.PROCESSING, job))
    desk.until(lambda: desk.processor.is_idle, "it is forgotten")
    desk.clock.advance(61.0)
    desk.processor.step()
    assert desk.processor.is_idle
