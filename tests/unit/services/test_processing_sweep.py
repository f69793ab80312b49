"""Which runs are ended as nobody's: only those whose job was missing twice, from a folder that is certainly there."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fake_clock import FakeClock
from tests.peers import wait_until
from tests.small_disk import small_disk

from mercure.core.errors import PermanentError, TransientError
from mercure.core.processing import Running, RunOrder
from mercure.services.processing_sweep import RunSweep


class RunsOfJobs:
    """A runner with a run for each of these jobs, as the port `ModuleRunner` has it."""

    def __init__(self, *jobs: str) -> None:
        self.jobs = list(jobs)
        self.sweeps = 0
        self.raises: Exception | None = None
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    @property
    def protects_input(self) -> bool:
        raise AssertionError

    def start(self, order: RunOrder) -> Running:
        raise AssertionError(order)

    def adopt(self, order: RunOrder) -> Running | None:
        raise AssertionError(order)

    def sweep(self, is_wanted: Callable[[str], bool]) -> None:
        self.sweeps += 1
        self.may_go_on.wait(60)
        if self.raises:
            raise self.raises
        self.jobs = [job for job in self.jobs if is_wanted(job)]


class Place:
    """A folder of jobs, and a sweep of it whose minutes the test lets pass."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.sweep = RunSweep(folder, self.clock)
        self.sweep.begin()

    def minute(self, *runners: RunsOfJobs) -> None:
        self.clock.advance(60.0)
        self.sweep.start_due(runners)
        wait_until(lambda: not self.is_sweeping(), "the sweep has ended")

    def is_sweeping(self) -> bool:
        return any(thread.name == "sweep" for thread in threading.enumerate())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "processing" / "lives").mkdir(parents=True)
    return Place(tmp_path / "processing")


def test_a_run_whose_job_was_missing_in_two_sweeps_is_ended_and_not_before(place: Place) -> None:
    runner = RunsOfJobs("lives", "gone")
    place.minute(runner)
    assert runner.jobs == ["lives", "gone"]
    place.minute(runner)
    assert runner.jobs == ["lives"]


def test_nothing_is_swept_in_the_first_minute_nor_twice_in_one(place: Place) -> None:
    runner = RunsOfJobs()
    place.clock.advance(59.0)
    place.sweep.start_due([runner])
    assert not place.is_sweeping()
    place.clock.advance(1.0)
    for _ in range(3):
        place.minute(runner)
    place.sweep.start_due([runner])
    assert runner.sweeps == 3


def test_a_job_that_is_back_between_two_sweeps_must_be_missing_twice_again(place: Place) -> None:
    runner, job = RunsOfJobs("job"), place.folder / "job"
    place.minute(runner)
    job.mkdir()
    place.minute(runner)
    job.rmdir()
    place.minute(runner)
    assert runner.jobs == ["job"]
    place.minute(runner)
    assert runner.jobs == []


def test_a_sweep_that_fails_between_two_others_makes_them_count_anew(place: Place) -> None:
    runner = RunsOfJobs("gone")
    place.minute(runner)
    runner.raises = TransientError("the engine is away")
    place.minute(runner)
    runner.raises = None
    place.minute(runner)
    assert runner.jobs == ["gone"]


@pytest.mark.parametrize("returns", [True, False])
def test_while_the_folder_of_jobs_is_not_the_one_of_the_start_no_run_is_ended(
    place: Place, returns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    runner = RunsOfJobs("lives", "gone")
    place.minute(runner)
    with small_disk(place.folder):  # over it, as an empty folder is seen while a disk is away
        for _ in range(3):
            place.minute(runner)
        assert runner.jobs == ["lives", "gone"]
    assert [record.message for record in caplog.records] == [
        "runs of modules that no job has are not looked for now: the folder of jobs is another one than at the start"
    ]
    if returns:
        place.minute(runner)
        place.minute(runner)
        assert runner.jobs == ["lives"]


def test_a_folder_of_jobs_that_vanished_ends_no_run(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    runner = RunsOfJobs("lives")
    place.folder.rename(place.folder.with_name("elsewhere"))
    for _ in range(3):
        place.minute(runner)
    assert (runner.jobs, runner.sweeps) == (["lives"], 0)
    place.folder.mkdir()
    for _ in range(3):
        place.minute(runner)
    assert runner.jobs == ["lives"]
    assert "No such file or directory" in caplog.text


def test_a_folder_of_jobs_that_is_not_there_at_the_start_is_known_when_it_comes(tmp_path: Path) -> None:
    place, runner = Place(tmp_path / "later"), RunsOfJobs("gone")
    place.minute(runner)
    place.folder.mkdir()
    for _ in range(2):
        place.minute(runner)
    assert runner.jobs == ["gone"]
    place.minute(runner)
    assert runner.jobs == []


@pytest.mark.parametrize("odd", ["../processing", "a/b", "", ".hidden", "x" * 300, "nul\0"])
def test_a_run_whose_job_has_an_odd_name_is_not_ours_to_end(place: Place, odd: str) -> None:
    runner = RunsOfJobs(odd)
    for _ in range(3):
        place.minute(runner)
    assert runner.jobs == [odd]


def test_a_job_that_cannot_be_looked_at_counts_as_there(place: Place) -> None:
    (place.folder / "loop").symlink_to("loop")
    runner = RunsOfJobs("loop")
    for _ in range(3):
        place.minute(runner)
    assert runner.jobs == ["loop"]


def test_a_runner_without_an_engine_is_passed_over_in_silence_and_an_error_of_ours_is_logged(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    away, other = RunsOfJobs("gone"), RunsOfJobs("gone")
    for error in (TransientError("no engine"), PermanentError("no SDK")):
        away.raises = error
        for _ in range(2):
            place.minute(away, other)
        assert other.jobs == []
        other.jobs = ["gone"]
    assert caplog.records == []
    away.raises = ValueError("odd")
    with caplog.at_level(logging.ERROR):
        place.minute(away, other)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_sweep_that_hangs_is_not_joined_by_another(place: Place) -> None:
    runner = RunsOfJobs()
    runner.may_go_on.clear()
    place.clock.advance(60.0)
    place.sweep.start_due([runner])
    wait_until(lambda: runner.sweeps == 1, "the sweep hangs")
    place.clock.advance(60.0)
    place.sweep.start_due([runner])
    runner.may_go_on.set()
    wait_until(lambda: not place.is_sweeping(), "the sweep has ended")
    assert runner.sweeps == 1


def test_no_descriptor_stays_open(place: Place) -> None:
    place.minute(RunsOfJobs("gone"))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        place.minute(RunsOfJobs("gone"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_machine_without_room_for_a_thread_sweeps_later(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    runner = RunsOfJobs("gone")
    place.minute(runner)
    before = threading.stack_size(1 << 46)
    try:
        place.minute(runner)
    finally:
        threading.stack_size(before)
    assert (runner.jobs, runner.sweeps) == (["gone"], 1)
    assert "no thread can be started" in caplog.text
    place.minute(runner)
    assert runner.jobs == []
