"""Series whose jobs stand in memory: with a real tmpfs that is emptied, and a real router that looks again."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from tests.arrivals import arrive, census, make_job, settings
from tests.builders import BuiltSeries, small_series
from tests.fake_clock import FakeClock, Recorded
from tests.no_descriptors import no_descriptor_left
from tests.small_disk import fill, small_disk

from mercure.core.stages import Stage
from mercure.core.task import Delivery, FailStage, Job, Processing, SeriesInfo
from mercure.services.router import Router
from mercure.spool import controls, sealing
from mercure.spool import layout as names
from mercure.spool.durable import move_folder
from mercure.spool.job_files import read_task, write_task
from mercure.spool.jobs import Claim, claim
from mercure.spool.kept import KeptSeries, is_in_memory, kept_again_id, note_safe
from mercure.spool.layout import Layout
from mercure.spool.plans import PlacedJob, plan_of
from mercure.spool.sealing import Sealed
from mercure.spool.trees import copy_tree, remove_tree


@pytest.fixture
def series(tmp_path: Path) -> BuiltSeries:
    return small_series(tmp_path / "series", 3)


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    """A data folder whose `processing/` lies in memory."""
    layout = Layout.under(tmp_path / "data")
    layout.create()
    with small_disk(layout.processing):
        yield layout


class Desk:
    """A router, and the jobs that it was made to make."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.clock = FakeClock()
        self.router = Router(layout, settings(), self.clock, Recorded())

    def work(self) -> None:
        """Let the router look at everything again, a while later."""
        self.clock.advance(6.0)
        while self.router.step():
            pass

    def sealed(self) -> list[str]:
        return sorted(os.listdir(self.layout.sealed))

    def where(self, job: Job) -> list[Stage]:
        return [stage for stage in Stage if (self.layout.stage(stage) / job.id).exists()]


@pytest.fixture
def desk(layout: Layout) -> Desk:
    return Desk(layout)


def begin(desk: Desk, series: BuiltSeries, *stages: Stage) -> list[Job]:
    """Have a series come, with a plan of one job in each of the stages, and let the router make them."""
    arrive(desk.layout, series)
    (reception,) = sealing.receptions(desk.layout)
    sealed = sealing.seal(desk.layout, reception, desk.clock.now())
    assert isinstance(sealed, Sealed)
    contents = sealed.contents()
    assert contents is not None
    info = SeriesInfo(contents.series_uid, contents.study_uid)
    jobs = [
        Job(
            f"{sealed.id}-{number}",
            "process" if stage is Stage.PROCESSING else "route",
            info,
            desk.clock.now(),
            contents.instances,
            deliveries=() if stage is Stage.PROCESSING else (Delivery("archive"),),
            process={"module_name": "m"} if stage is Stage.PROCESSING else {},
        )
        for number, stage in enumerate(stages, start=1)
    ]
    sealed.write_plan(plan_of([PlacedJob(job, stage) for job, stage in zip(jobs, stages, strict=True)]))
    sealed.close()
    desk.work()
    for job, stage in zip(jobs, stages, strict=True):
        assert desk.where(job) == [stage]
    return jobs


def lose_memory(layout: Layout) -> None:
    """Do what a restart of the machine, or of a container, does to a tmpfs."""
    for path in list(layout.processing.iterdir()):
        remove_tree(path)


def taken(layout: Layout, stage: Stage, job: Job) -> Claim:
    claimed = claim(layout, stage, job.id)
    assert claimed is not None
    return claimed


def move_on(layout: Layout, job: Job, to: Stage, stage: Stage = Stage.PROCESSING) -> None:
    claimed = taken(layout, stage, job)
    claimed.commit(claimed.read(), to)


def test_a_job_lost_with_its_memory_is_made_again_and_no_other(desk: Desk, series: BuiltSeries) -> None:
    lost, safe = begin(desk, series, Stage.PROCESSING, Stage.OUTGOING)
    move_on(desk.layout, safe, Stage.SUCCESS, Stage.OUTGOING)
    remove_tree(desk.layout.success / safe.id)  # a cleaner
    for _ in range(2):
        lose_memory(desk.layout)
        desk.work()
        assert desk.where(lost) == [Stage.PROCESSING]
        assert desk.where(safe) == []
    assert len(os.listdir(desk.layout.processing / lost.id / names.RECEIVED)) == 4


def test_a_job_that_reached_a_disk_and_was_deleted_is_never_made_again(desk: Desk, series: BuiltSeries) -> None:
    done, waiting = begin(desk, series, Stage.PROCESSING, Stage.PROCESSING)
    move_on(desk.layout, done, Stage.SUCCESS)
    remove_tree(desk.layout.success / done.id)  # before the router looks
    lose_memory(desk.layout)
    desk.work()
    assert (desk.where(done), desk.where(waiting)) == ([], [Stage.PROCESSING])
    move_on(desk.layout, waiting, Stage.ERROR)
    desk.work()
    assert desk.sealed() == []
    desk.work()
    assert (desk.where(done), desk.where(waiting)) == ([], [Stage.ERROR])


def test_a_job_that_was_brought_to_a_disk_from_outside_is_noted_when_it_is_seen(
    desk: Desk, series: BuiltSeries
) -> None:
    moved, waiting = begin(desk, series, Stage.PROCESSING, Stage.PROCESSING)
    (seal,) = desk.sealed()
    os.mkdir(desk.layout.success / moved.id)
    write_task(desk.layout.success / moved.id, moved)
    remove_tree(desk.layout.processing / moved.id)
    desk.work()
    assert (desk.layout.sealed / seal / f"{names.SAFE_PREFIX}{moved.id}").exists()
    remove_tree(desk.layout.success / moved.id)
    lose_memory(desk.layout)
    desk.work()
    assert (desk.where(moved), desk.where(waiting)) == ([], [Stage.PROCESSING])


def test_a_job_that_left_memory_is_not_made_again_while_that_memory_lasts(desk: Desk, series: BuiltSeries) -> None:
    gone, waiting = begin(desk, series, Stage.PROCESSING, Stage.PROCESSING)
    remove_tree(desk.layout.processing / gone.id)  # by hand, so nobody noted it
    for _ in range(3):
        desk.work()
    assert (desk.where(gone), desk.where(waiting)) == ([], [Stage.PROCESSING])
    assert len(desk.sealed()) == 1


def test_a_job_that_is_routed_again_is_not_made_again_by_what_is_kept(desk: Desk, series: BuiltSeries) -> None:
    waiting, refused = begin(desk, series, Stage.PROCESSING, Stage.OUTGOING)
    taken(desk.layout, Stage.OUTGOING, refused).fail(refused, FailStage.ROUTING, "no such target", desk.clock.now())
    controls.retry(desk.layout, refused.id, desk.clock.now())
    desk.work()
    lose_memory(desk.layout)
    desk.work()
    assert (desk.where(waiting), desk.where(refused)) == ([Stage.PROCESSING], [])
    made = [job for jobs in census(desk.layout).jobs.values() for job in jobs]
    assert sorted(made) == sorted([waiting.id, f"{refused.id}-r-1"])


def test_what_a_crash_left_between_a_job_and_its_note_is_noted_later(desk: Desk, series: BuiltSeries) -> None:
    first, second = begin(desk, series, Stage.PROCESSING, Stage.OUTGOING)
    (seal,) = desk.sealed()
    note = desk.layout.sealed / seal / names.MADE_FILE
    content = json.loads(note.read_text())
    assert sorted(content["jobs"]) == [first.id, second.id]
    for damaged in ("", "[]", '{"jobs": 5, "memory": ""}', json.dumps({**content, "jobs": []})):
        note.write_text(damaged)
        desk.work()
        assert json.loads(note.read_text()) == content
        assert (desk.where(first), desk.where(second)) == ([Stage.PROCESSING], [Stage.OUTGOING])


def test_the_kept_series_goes_when_all_its_jobs_are_safe(desk: Desk, series: BuiltSeries) -> None:
    first, second = begin(desk, series, Stage.PROCESSING, Stage.PROCESSING)
    move_on(desk.layout, first, Stage.OUTGOING)
    desk.work()
    assert len(desk.sealed()) == 1
    move_on(desk.layout, second, Stage.ERROR)
    desk.work()
    assert desk.sealed() == []
    move_on(desk.layout, first, Stage.SUCCESS, Stage.OUTGOING)
    assert len(os.listdir(desk.layout.success / first.id / names.RECEIVED)) == 4


def test_a_note_that_cannot_be_read_just_now_is_not_taken_for_an_empty_one(desk: Desk, series: BuiltSeries) -> None:
    done, _waiting = begin(desk, series, Stage.OUTGOING, Stage.PROCESSING)
    move_on(desk.layout, done, Stage.SUCCESS, Stage.OUTGOING)
    remove_tree(desk.layout.success / done.id)  # a cleaner
    (seal,) = desk.sealed()
    with no_descriptor_left(), pytest.raises(OSError, match="Too many open files"):
        KeptSeries(desk.layout, desk.layout.sealed / seal)
    note = desk.layout.sealed / seal / names.MADE_FILE
    os.rename(note, note.with_name("aside"))
    note.mkdir()  # reading it is an error, as of a failing disk
    desk.work()
    assert desk.where(done) == []
    note.rmdir()
    os.rename(note.with_name("aside"), note)
    desk.clock.advance(60.0)
    desk.work()
    assert desk.where(done) == []


def test_originals_stay_while_the_process_can_open_nothing(desk: Desk, series: BuiltSeries) -> None:
    (job,) = begin(desk, series, Stage.PROCESSING)
    (sealed,) = sealing.open_sealed(desk.layout)
    with no_descriptor_left(), pytest.raises(OSError, match="Too many open files"):
        sealed.create_jobs([PlacedJob(job, Stage.PROCESSING)], resumed=True)
    sealed.close()
    assert {*job.instances} < {*os.listdir(desk.layout.sealed / sealed.id / names.RECEIVED)}


def test_a_memory_that_is_full_gets_no_leftovers_of_its_mark(desk: Desk, series: BuiltSeries) -> None:
    (desk.layout.processing / f"{names.MEMORY_FILE}-0123").touch()  # a crash left it
    ballast = fill(desk.layout.processing)
    arrive(desk.layout, series)
    (reception,) = sealing.receptions(desk.layout)
    sealed = sealing.seal(desk.layout, reception, desk.clock.now())
    assert isinstance(sealed, Sealed)
    contents = sealed.contents()
    assert contents is not None
    job = Job(f"{sealed.id}-1", "process", SeriesInfo(contents.series_uid), desk.clock.now(), contents.instances)
    sealed.write_plan(plan_of([PlacedJob(job, Stage.PROCESSING)]))
    sealed.close()
    for _ in range(3):
        desk.work()
        assert os.listdir(desk.layout.processing) == [ballast.name]
    ballast.unlink()
    desk.work()
    assert sorted(os.listdir(desk.layout.processing)) == [names.MEMORY_FILE, job.id]


@pytest.mark.parametrize("jobs_come_along", [True, False])
def test_a_processing_folder_that_is_moved_to_a_disk_ends_the_keeping(
    desk: Desk, series: BuiltSeries, tmp_path: Path, *, jobs_come_along: bool
) -> None:
    first, second, last = begin(desk, series, Stage.PROCESSING, Stage.OUTGOING, Stage.PROCESSING)
    move_on(desk.layout, last, Stage.SUCCESS)
    remove_tree(desk.layout.success / last.id)
    on_disk = Desk(replace(desk.layout, processing=tmp_path / "processing on a disk"))
    on_disk.layout.processing.mkdir()
    if jobs_come_along:
        move_folder(desk.layout.processing / first.id, on_disk.layout.processing / first.id)
    on_disk.work()
    assert on_disk.sealed() == []
    assert [on_disk.where(job) for job in (first, second, last)] == [[Stage.PROCESSING], [Stage.OUTGOING], []]
    assert len(os.listdir(on_disk.layout.processing / first.id / names.RECEIVED)) == 4


@pytest.mark.parametrize("elsewhere", [True, False])
@pytest.mark.parametrize("is_lost", [True, False])
def test_what_an_older_version_kept_without_notes_is_made_again_before_it_goes(
    tmp_path: Path, series: BuiltSeries, *, elsewhere: bool, is_lost: bool
) -> None:
    layout = Layout.under(tmp_path / "data")
    layout.create()
    with ExitStack() as disks:
        if elsewhere:
            disks.enter_context(small_disk(layout.outgoing))
        with small_disk(layout.processing):
            jobs = begin(Desk(layout), series, Stage.PROCESSING, Stage.OUTGOING)
            (seal,) = os.listdir(layout.sealed)
            (layout.sealed / seal / names.MADE_FILE).unlink()
            if not is_lost:
                move_on(layout, jobs[0], Stage.SUCCESS)
        desk = Desk(layout)  # `processing/` lies on a disk from now on
        for _ in range(2):
            desk.work()
            place = Stage.PROCESSING if is_lost else Stage.SUCCESS
            assert [desk.where(job) for job in jobs] == [[place], [Stage.OUTGOING]]
            assert desk.sealed() == []
            assert {*jobs[0].instances} < {*os.listdir(layout.stage(place) / jobs[0].id / names.RECEIVED)}


def failed_job(layout: Layout, series: BuiltSeries) -> Job:
    job = make_job(
        layout,
        series,
        "archive",
        stage=Stage.ERROR,
        fail_stage=FailStage.PROCESSING,
        reason="exit code 1",
        results=("x.dcm",),
        process={"module_name": "m"},
    )
    folder = layout.error / job.id
    for name in (names.RESULTS, names.MODULE_OUTPUT, names.MODULE_LOGS):
        (folder / name).mkdir()
    (folder / names.MODULE_LOGS / "1-m.log").write_text("the reason")
    (folder / names.ERROR_LOG).write_text("exit code 1\n")
    (folder / names.JOB_HOLD_FILE).touch()
    (folder / names.STEP_FILE).write_text("{}")
    return job


@pytest.mark.parametrize("as_then", [True, False])
def test_a_retry_into_memory_keeps_a_copy_on_the_disk(desk: Desk, series: BuiltSeries, *, as_then: bool) -> None:
    job = failed_job(desk.layout, series)
    said = controls.retry(desk.layout, job.id, desk.clock.now(), as_then=as_then)
    assert said == f"is processed again with the settings of {'then' if as_then else 'now'}"
    assert (desk.where(job), desk.sealed()) == ([], [kept_again_id(job.id)])
    desk.work()
    for _ in range(2):
        again = read_task(desk.layout.processing / job.id)
        assert (again.results, again.fail_stage, again.reason) == (None, None, "")
        assert again.processing == Processing(uses_today=not as_then)
        assert [delivery.target for delivery in again.deliveries] == ["archive"]
        assert sorted(os.listdir(desk.layout.processing / job.id)) == sorted(
            [names.TASK_FILE, names.RECEIVED, names.ERROR_LOG, names.MODULE_LOGS, names.JOB_HOLD_FILE]
        )
        assert os.listdir(desk.layout.processing / job.id / names.MODULE_LOGS) == ["1-m.log"]
        lose_memory(desk.layout)
        desk.work()
    assert {name for jobs in census(desk.layout).jobs.values() for name in jobs} == {job.id}
    move_on(desk.layout, job, Stage.SUCCESS)
    desk.work()
    assert (desk.where(job), desk.sealed()) == ([Stage.SUCCESS], [])
    assert len(os.listdir(desk.layout.success / job.id / names.RECEIVED)) == 3


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_retry_of_what_is_not_whole_any_more_ends_in_error_again(
    desk: Desk, tmp_path: Path, *, elsewhere: bool
) -> None:
    with ExitStack() as disks:
        if elsewhere:
            disks.enter_context(small_disk(desk.layout.error))
        job = failed_job(desk.layout, small_series(desk.layout.error / ".files", 3))
        for time in (1, 2):
            controls.retry(desk.layout, job.id, desk.clock.now())
            kept = desk.layout.sealed / kept_again_id(job.id) / names.RECEIVED
            os.rename(kept / job.instances[0], tmp_path / "instance")
            desk.work()
            assert (desk.where(job), desk.sealed()) == ([Stage.ERROR], [])
            again = read_task(desk.layout.error / job.id)
            assert (again.fail_stage, again.instances) == (FailStage.PROCESSING, job.instances)
            assert again.reason == f"1 instances of job {job.id} are not there any more"
            log = (desk.layout.error / job.id / names.ERROR_LOG).read_text()
            assert (log.count("exit code 1"), log.count(again.reason)) == (1, time)
            received = desk.layout.error / job.id / names.RECEIVED
            assert {*job.instances[1:]} == {*os.listdir(received)}
            shutil.copyfile(tmp_path / "instance", received / job.instances[0])  # it was found again
        assert not {names.PLAN_FILE, names.MADE_FILE} & {*os.listdir(desk.layout.error / job.id)}
        assert os.listdir(desk.layout.error / job.id / names.MODULE_LOGS) == ["1-m.log"]
        taken(desk.layout, Stage.ERROR, job).close()
        assert [name for name in os.listdir(desk.layout.processing) if name != names.MEMORY_FILE] == []


def test_a_return_to_error_that_a_crash_cut_off_is_finished(desk: Desk, series: BuiltSeries) -> None:
    job = failed_job(desk.layout, series)
    controls.retry(desk.layout, job.id, desk.clock.now())
    seal = desk.layout.sealed / kept_again_id(job.id)
    (seal / names.RECEIVED / job.instances[0]).unlink()
    copy_tree(seal, desk.layout.error / job.id)  # and then the crash
    desk.work()
    assert (desk.where(job), desk.sealed()) == ([Stage.ERROR], [])
    received = desk.layout.error / job.id / names.RECEIVED
    assert {*job.instances[1:]} == {*os.listdir(received)}
    shutil.copyfile(series.files[0], received / job.instances[0])
    controls.retry(desk.layout, job.id, desk.clock.now())
    desk.work()
    assert desk.where(job) == [Stage.PROCESSING]


def test_a_fresh_series_that_is_not_whole_any_more_stays_sealed_and_is_said(
    desk: Desk, series: BuiltSeries, caplog: pytest.LogCaptureFixture
) -> None:
    job, _other = begin(desk, series, Stage.PROCESSING, Stage.OUTGOING)
    (seal,) = desk.sealed()
    (desk.layout.sealed / seal / names.RECEIVED / job.instances[0]).unlink()
    lose_memory(desk.layout)
    desk.work()
    assert (desk.where(job), desk.sealed()) == ([], [seal])
    assert f"1 instances of job {job.id} are not there any more" in caplog.text


def test_a_job_that_fails_once_more_is_retried_once_more(desk: Desk, series: BuiltSeries) -> None:
    job = failed_job(desk.layout, series)
    for _ in range(3):
        controls.retry(desk.layout, job.id, desk.clock.now())
        desk.work()
        controls.cancel(desk.layout, job.id, desk.clock.now())
        assert desk.where(job) == [Stage.ERROR]
        desk.work()
        assert desk.sealed() == []


def test_a_retry_brings_back_the_job_as_it_is_now_and_not_as_it_came(desk: Desk, series: BuiltSeries) -> None:
    job, sibling = begin(desk, series, Stage.PROCESSING, Stage.PROCESSING)
    claimed = taken(desk.layout, Stage.PROCESSING, job)
    claimed.fail(claimed.read(), FailStage.PROCESSING, "exit code 1", desk.clock.now())
    controls.retry(desk.layout, job.id, desk.clock.now())
    desk.work()
    lose_memory(desk.layout)
    desk.work()
    assert read_task(desk.layout.processing / job.id).processing.uses_today
    assert not read_task(desk.layout.processing / sibling.id).processing.uses_today


def test_a_retry_that_was_cut_off_does_not_bind_the_next_plan(desk: Desk, series: BuiltSeries) -> None:
    job = failed_job(desk.layout, series)
    (desk.layout.error / job.id / names.PLAN_FILE).write_text(
        json.dumps(plan_of([PlacedJob(job, Stage.PROCESSING)]))  # of a try before the job was moved
    )
    write_task(desk.layout.error / job.id, replace(job, fail_stage=FailStage.ROUTING))
    controls.retry(desk.layout, job.id, desk.clock.now())
    assert not (desk.layout.sealed / f"{job.id}-r" / names.PLAN_FILE).exists()
    desk.work()
    assert (desk.where(job), desk.sealed()) == ([], [])  # its logs do not keep it there
    assert list(census(desk.layout).jobs[Stage.DISCARD]) == [f"{job.id}-r-1"]


def test_on_a_disk_a_retry_is_one_move(tmp_path: Path, series: BuiltSeries) -> None:
    layout = Layout.under(tmp_path / "data")
    layout.create()
    job = failed_job(layout, series)
    assert not is_in_memory(layout)
    controls.retry(layout, job.id, FakeClock().now())
    assert not (layout.processing / job.id / names.STEP_FILE).exists()
    assert not (layout.processing / job.id / names.PLAN_FILE).exists()
    assert os.listdir(layout.sealed) == []


def test_everything_in_one_memory_needs_no_second_copy(tmp_path: Path, series: BuiltSeries) -> None:
    with small_disk(tmp_path / "memory") as memory:
        layout = Layout.under(memory / "data")
        layout.create()
        assert not is_in_memory(layout)
        desk = Desk(layout)
        begin(desk, series, Stage.PROCESSING)
        assert desk.sealed() == []


def test_a_job_of_which_nothing_is_kept_leaves_no_note(layout: Layout) -> None:
    (layout.sealed / "20260301T120000-0123456789").mkdir()
    for job_id in ("20260301T120000-0123456789-1", "x", "a-b"):
        note_safe(layout, job_id)
    assert [name for _, _, files in os.walk(layout.sealed) for name in files] == []


def test_jobs_that_were_all_made_are_not_made_again_when_the_first_has_ended_long_ago(
    tmp_path: Path, series: BuiltSeries
) -> None:
    layout = Layout.under(tmp_path / "data")
    layout.create()
    desk = Desk(layout)
    arrive(layout, series)
    (reception,) = sealing.receptions(layout)
    sealed = sealing.seal(layout, reception, desk.clock.now())
    assert isinstance(sealed, Sealed)
    contents = sealed.contents()
    assert contents is not None
    jobs = [
        Job(f"{sealed.id}-{number}", "route", SeriesInfo(contents.series_uid), desk.clock.now(), contents.instances)
        for number in (1, 2)
    ]
    sealed.write_plan(plan_of([PlacedJob(job, Stage.OUTGOING) for job in jobs]))
    for job in jobs:  # and then the crash
        os.mkdir(layout.success / job.id)
    remove_tree(sealed.received)
    remove_tree(layout.success / jobs[0].id)
    sealed.close()
    desk.work()
    assert desk.sealed() == []
    assert desk.where(jobs[0]) == []
