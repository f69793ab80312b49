"""Claim, commit, defer, fail: with real folders and real locks."""

import fcntl
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.arrivals import make_job
from tests.builders import BuiltSeries, small_series
from tests.small_disk import read_only, small_disk

from mercure.core.errors import SpoolError
from mercure.core.stages import Stage
from mercure.core.task import FailStage
from mercure.spool import layout as names
from mercure.spool.job_files import read_task
from mercure.spool.jobs import Claim, claim, is_held, is_unprocessed, job_ids
from mercure.spool.kept import kept_again_id
from mercure.spool.layout import Layout
from mercure.spool.moves import finish_move, remove_job, sweep_copies, sweep_removed

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def series(tmp_path: Path) -> BuiltSeries:
    return small_series(tmp_path / "series", 2)


def claimed(layout: Layout, job_id: str, stage: Stage = Stage.OUTGOING) -> Claim:
    taken = claim(layout, stage, job_id)
    assert taken is not None
    return taken


def stages_of(layout: Layout, job_id: str) -> list[Stage]:
    return [stage for stage in Stage if (layout.stage(stage) / job_id).exists()]


def test_a_claim_excludes_every_other(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "archive")
    taken = claimed(layout, job.id)
    assert claim(layout, Stage.OUTGOING, job.id) is None
    assert taken.read() == job
    taken.close()
    taken.close()
    claimed(layout, job.id).close()


def test_the_claim_of_a_process_that_was_killed_is_free_at_once(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "archive")
    code = f"import fcntl, time; f = open({str(layout.outgoing / job.id / '.lock')!r}, 'w')\n"
    code += "fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"held\n"
        assert claim(layout, Stage.OUTGOING, job.id) is None
        worker.kill()
        worker.wait()
        claimed(layout, job.id).close()


def test_what_is_not_there_cannot_be_claimed(layout: Layout) -> None:
    assert claim(layout, Stage.OUTGOING, "nothing") is None
    (layout.outgoing / "file").write_bytes(b"")
    assert claim(layout, Stage.OUTGOING, "file") is None
    with pytest.raises(SpoolError, match="not a job id"):
        claim(layout, Stage.OUTGOING, "../x")


def test_a_job_that_moved_between_open_and_lock_is_not_claimed(
    layout: Layout, series: BuiltSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(layout, series, "archive")
    lock = fcntl.flock

    def moved_meanwhile(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        os.rename(layout.outgoing / job.id, layout.success / job.id)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", moved_meanwhile)
    assert claim(layout, Stage.OUTGOING, job.id) is None


def test_a_file_system_without_locks_is_said_clearly(
    layout: Layout, series: BuiltSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(layout, series, "archive")

    def no_locks(_descriptor: int, _operation: int) -> None:
        raise OSError(37, os.strerror(37))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(SpoolError, match="cannot lock job"):
        claim(layout, Stage.OUTGOING, job.id)


def test_a_commit_moves_the_job_and_ends_the_claim(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "archive")
    (layout.outgoing / job.id / names.CANCEL_FILE).touch()
    taken = claimed(layout, job.id)
    assert taken.is_cancelled()
    taken.commit(job, Stage.SUCCESS)
    assert stages_of(layout, job.id) == [Stage.SUCCESS]
    assert not (layout.success / job.id / names.CANCEL_FILE).exists()
    claimed(layout, job.id, Stage.SUCCESS).close()


@pytest.mark.parametrize("content", [(), ("task.json",)])
def test_a_commit_never_replaces_a_folder_that_is_there(
    layout: Layout, series: BuiltSeries, content: tuple[str, ...]
) -> None:
    job = make_job(layout, series, "archive")
    (layout.success / job.id).mkdir()
    for name in content:
        (layout.success / job.id / name).write_text("{}")
    taken = claimed(layout, job.id)
    with pytest.raises(SpoolError, match="in success already"):
        taken.commit(job, Stage.SUCCESS)
    assert sorted(os.listdir(layout.success / job.id)) == list(content)
    assert len(list(taken.received.iterdir())) == 2
    assert claim(layout, Stage.OUTGOING, job.id) is None, "the claim is still held"
    taken.close()


def test_deferring_keeps_the_job_where_it_is(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "archive")
    claimed(layout, job.id).defer(job.with_delivery(job.deliveries[0].__class__("archive", attempts=3)))
    assert read_task(layout.outgoing / job.id).deliveries[0].attempts == 3
    claimed(layout, job.id).close()


def test_a_failed_job_has_stage_reason_and_time(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "archive")
    claimed(layout, job.id).fail(job, FailStage.DISPATCHING, "the target\nsays no", NOW)
    failed = read_task(layout.error / job.id)
    assert (failed.fail_stage, failed.reason, failed.settled_at) == (FailStage.DISPATCHING, "the target\nsays no", NOW)
    assert (layout.error / job.id / names.ERROR_LOG).read_text() == "2026-03-01T12:00:00Z the target says no\n"


@pytest.mark.requirement("S13")
@pytest.mark.parametrize("content", [b"", b"{", b'{"id": 5}', None])
def test_an_unreadable_task_goes_to_error_with_its_instances(
    layout: Layout, series: BuiltSeries, content: bytes | None
) -> None:
    job = make_job(layout, series, "archive")
    path = layout.outgoing / job.id / names.TASK_FILE
    path.unlink() if content is None else path.write_bytes(content)
    taken = claimed(layout, job.id)
    with pytest.raises(SpoolError):
        taken.read()
    taken.fail_unreadable("task.json is no JSON", NOW)
    failed = read_task(layout.error / job.id)
    assert (failed.fail_stage, failed.instances) == (FailStage.ROUTING, tuple(sorted(job.instances)))
    kept = layout.error / job.id / "task.json.unreadable"
    assert kept.exists() == (content is not None)


def test_a_task_of_another_job_is_not_read(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "archive")
    path = layout.outgoing / job.id / names.TASK_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id": "another"}))
    taken = claimed(layout, job.id)
    with pytest.raises(SpoolError, match="another job"):
        taken.read()
    taken.close()


def test_only_folders_with_a_name_are_jobs(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "archive")
    (layout.outgoing / names.HOLD_FILE).touch()
    (layout.outgoing / ".draft").mkdir()
    (layout.outgoing / "file").touch()
    (layout.outgoing / "link").symlink_to(layout.success)
    assert list(job_ids(layout, Stage.OUTGOING)) == [job.id]


def test_holds_of_a_stage_and_of_a_job(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "archive")
    assert not is_held(layout, Stage.OUTGOING)
    assert not is_held(layout, Stage.OUTGOING, job.id)
    (layout.outgoing / names.HOLD_FILE).touch()
    (layout.outgoing / job.id / names.JOB_HOLD_FILE).touch()
    assert is_held(layout, Stage.OUTGOING)
    assert is_held(layout, Stage.OUTGOING, job.id)


def test_a_move_to_another_file_system_is_whole_and_leaves_nothing(tmp_path: Path, series: BuiltSeries) -> None:
    with small_disk(tmp_path / "disk") as disk:
        layout = Layout(**Layout.under(tmp_path / "data").folders() | {"success": disk / "success"})
        layout.create()
        job = make_job(layout, series, "archive")
        claimed(layout, job.id).commit(job, Stage.SUCCESS)
        assert stages_of(layout, job.id) == [Stage.SUCCESS]
        assert sorted(path.name for path in layout.outgoing.iterdir()) == []
        assert not (layout.success / job.id / ".moved-from").exists()
        assert {path.read_bytes() for path in (layout.success / job.id / "received").iterdir()} == {
            path.read_bytes() for path in series.files
        }


def test_a_source_that_a_crash_left_is_removed_with_the_next_claim(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "archive", stage=Stage.ERROR)
    make_job(layout, series, "archive", job_id=job.id)
    (layout.outgoing / job.id / ".moved-from").write_text(f"error/{job.id}")
    claimed(layout, job.id).close()
    assert stages_of(layout, job.id) == [Stage.OUTGOING]
    assert list(layout.error.iterdir()) == []


@pytest.mark.parametrize("mark", ["", "error", "error/../../x", "nowhere/j", "outgoing/{id}", "error/gone"])
def test_a_mark_that_names_nothing_of_ours_removes_nothing(layout: Layout, series: BuiltSeries, mark: str) -> None:
    job = make_job(layout, series, "archive")
    other = make_job(layout, series, "archive", stage=Stage.ERROR, job_id="other")
    (layout.outgoing / job.id / ".moved-from").write_text(mark.format(id=job.id))
    finish_move(layout, layout.outgoing / job.id)
    assert stages_of(layout, job.id) == [Stage.OUTGOING]
    assert stages_of(layout, other.id) == [Stage.ERROR]
    assert not (layout.outgoing / job.id / ".moved-from").exists()


def test_a_mark_never_removes_another_job(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "archive")
    make_job(layout, series, "archive", stage=Stage.ERROR, job_id="other")
    (layout.outgoing / job.id / ".moved-from").write_text("error/other")
    finish_move(layout, layout.outgoing / job.id)
    assert stages_of(layout, "other") == [Stage.ERROR]


def test_a_source_that_somebody_has_claimed_is_not_removed_and_the_copy_is_not_claimed(
    layout: Layout, series: BuiltSeries
) -> None:
    job = make_job(layout, series, "archive", stage=Stage.ERROR)
    make_job(layout, series, "archive", job_id=job.id)
    (layout.outgoing / job.id / ".moved-from").write_text(f"error/{job.id}")
    mover = claimed(layout, job.id, Stage.ERROR)
    assert claim(layout, Stage.OUTGOING, job.id) is None
    assert stages_of(layout, job.id) == [Stage.OUTGOING, Stage.ERROR]
    mover.close()
    claimed(layout, job.id).close()
    assert stages_of(layout, job.id) == [Stage.OUTGOING]


def test_removing_a_job_that_is_gone_is_no_error_and_what_was_cut_off_is_finished(layout: Layout) -> None:
    remove_job(layout.error / "job")
    for folder in ("job", ".job.gone"):
        (layout.error / folder / "received").mkdir(parents=True)
    remove_job(layout.error / "job")
    assert list(layout.error.iterdir()) == []


def test_removals_that_were_cut_off_are_swept(layout: Layout) -> None:
    (layout.error / ".job.gone" / "received").mkdir(parents=True)
    (layout.error / ".job").mkdir()
    sweep_removed(layout)
    assert [path.name for path in layout.error.iterdir()] == [".job"]


def test_a_read_only_data_folder_is_an_error_and_changes_nothing(tmp_path: Path, series: BuiltSeries) -> None:
    with small_disk(tmp_path / "disk") as disk:
        layout = Layout.under(disk)
        layout.create()
        copied = small_series(disk / "series", 1)
        job = make_job(layout, copied, "archive")
        with read_only(disk), pytest.raises(OSError, match="Read-only"):
            claim(layout, Stage.OUTGOING, job.id)
        assert stages_of(layout, job.id) == [Stage.OUTGOING]


def old_layout_job(layout: Layout, stage: Stage, series: BuiltSeries, task: str | None = None) -> Path:
    """A job as existing installations leave it: instances beside `task.json`, which does not name them."""
    folder = layout.stage(stage) / "4f1c-old"
    folder.mkdir()
    for path in series.files:
        (folder / path.name).write_bytes(path.read_bytes())
    content = {
        "id": "4f1c-old",
        "info": {"action": "route", "uid": "1.2", "uid_type": "series", "triggered_rules": {"r": True}},
        "dispatch": {"target_name": ["archive"], "status": {"archive": {"state": "waiting", "time": None}}},
    }
    (folder / "task.json").write_text(json.dumps(content) if task is None else task)
    return folder


def test_a_job_of_an_existing_installation_keeps_its_instances(layout: Layout, series: BuiltSeries) -> None:
    old_layout_job(layout, Stage.OUTGOING, series)
    taken = claimed(layout, "4f1c-old")
    job = taken.read()
    assert list(job.instances) == sorted(path.name for path in series.files)
    assert sorted(path.name for path in taken.received.iterdir()) == list(job.instances)
    assert taken.read().instances == job.instances, "again after a crash"
    taken.close()


@pytest.mark.parametrize(("stage", "failed"), [(Stage.OUTGOING, None), (Stage.ERROR, "DISPATCHING")])
def test_a_job_of_an_existing_installation_that_was_to_be_sent_holds_results(
    layout: Layout, series: BuiltSeries, stage: Stage, failed: str | None
) -> None:
    folder = old_layout_job(layout, stage, series)
    content = json.loads((folder / "task.json").read_text())
    content["process"] = {"module_name": "anonymize"}
    content["info"]["fail_stage"] = failed
    (folder / "task.json").write_text(json.dumps(content))
    assert not is_unprocessed(read_task(folder))
    for _ in range(2):  # a crash may come before it is written down
        taken = claimed(layout, folder.name, stage)
        job = taken.read()
        taken.close()
        assert job.results == job.payload == tuple(sorted(path.name for path in series.files))
        assert sorted(path.name for path in taken.payload(job).iterdir()) == list(job.payload)
        assert not is_unprocessed(job)


def test_a_damaged_job_of_an_existing_installation_keeps_its_instances_in_error(
    layout: Layout, series: BuiltSeries
) -> None:
    old_layout_job(layout, Stage.OUTGOING, series, task="{")
    taken = claimed(layout, "4f1c-old")
    taken.fail_unreadable("task.json is no JSON", NOW)
    assert len(read_task(layout.error / "4f1c-old").instances) == len(series.files)
    assert len(list((layout.error / "4f1c-old" / "received").glob("*.dcm"))) == len(series.files)


@pytest.mark.parametrize("to", [Stage.OUTGOING, Stage.SUCCESS, Stage.ERROR])
def test_what_was_for_modules_only_does_not_leave_with_the_job(layout: Layout, series: BuiltSeries, to: Stage) -> None:
    job = make_job(layout, series, stage=Stage.PROCESSING)
    folder = layout.processing / job.id
    for name in ("in", "out", "logs"):
        (folder / name).mkdir()
        (folder / name / "file").write_text("x")
    os.chmod(folder / "out", 0)
    (folder / names.STEP_FILE).write_text("{}")
    taken = claim(layout, Stage.PROCESSING, job.id)
    assert taken is not None
    taken.commit(job, to)
    left = {path.name for path in (layout.stage(to) / job.id).iterdir()}
    assert left == {"received", "logs", names.TASK_FILE, names.LOCK_FILE}


def test_a_job_that_waits_for_its_engine_keeps_the_note_of_the_step_that_it_began(
    layout: Layout, series: BuiltSeries
) -> None:
    job = make_job(layout, series, stage=Stage.PROCESSING)
    (layout.processing / job.id / names.STEP_FILE).write_text("{}")
    taken = claim(layout, Stage.PROCESSING, job.id)
    assert taken is not None
    taken.defer(job)
    assert (layout.processing / job.id / names.STEP_FILE).exists()


def test_what_an_existing_installation_left_of_a_job_without_instances_goes_along(
    layout: Layout, series: BuiltSeries
) -> None:
    job = replace(make_job(layout, series, stage=Stage.PROCESSING), instances=())
    (layout.processing / job.id / "in").mkdir()
    (layout.processing / job.id / "in" / "1.2#3.dcm").write_text("x")
    taken = claim(layout, Stage.PROCESSING, job.id)
    assert taken is not None
    taken.fail(job, FailStage.PROCESSING, "it ran when the other system was stopped", NOW)
    assert (layout.error / job.id / "in" / "1.2#3.dcm").read_text() == "x"


def test_a_job_with_folders_within_folders_beyond_any_path_is_swept_away(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, stage=Stage.ERROR)
    here = os.open(layout.error / job.id, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    os.rename(layout.error / job.id, layout.error / f".{job.id}.gone")  # a crash came while it was removed
    sweep_removed(layout)
    assert list(layout.error.iterdir()) == []


def test_what_a_file_system_keeps_in_its_root_is_no_job(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "archive")
    (layout.outgoing / "lost+found").mkdir()
    assert list(job_ids(layout, Stage.OUTGOING)) == [job.id]


def cut_off_copy(layout: Layout, job_id: str, stage: Stage) -> Path:
    """Leave what a crash leaves of a job that was being copied to a stage on another file system."""
    draft = layout.stage(stage) / f".{job_id}.copy"
    (draft / names.RECEIVED).mkdir(parents=True)
    (draft / names.RECEIVED / "1.dcm").write_bytes(b"half")
    (draft / names.LOCK_FILE).touch()
    return draft


@pytest.mark.parametrize("to", [Stage.SUCCESS, Stage.ERROR])
def test_a_copy_that_was_cut_off_goes_unless_somebody_works_on_the_job(
    layout: Layout, series: BuiltSeries, to: Stage
) -> None:
    job = make_job(layout, series, "archive")
    draft = cut_off_copy(layout, job.id, to)
    taken = claimed(layout, job.id)
    sweep_copies(layout)
    assert (draft / names.RECEIVED / "1.dcm").exists(), "it may be that one who copies"
    taken.close()
    sweep_copies(layout)
    assert not draft.exists()
    assert sorted(os.listdir(layout.outgoing / job.id / names.RECEIVED)) == sorted(job.instances)
    claimed(layout, job.id).close()


def test_a_copy_of_a_series_that_a_router_gives_back_goes_unless_the_router_lives(
    layout: Layout, series: BuiltSeries
) -> None:
    job = make_job(layout, series, stage=Stage.ERROR)
    sealed = layout.sealed / kept_again_id(job.id)
    os.rename(layout.error / job.id, sealed)
    draft = cut_off_copy(layout, job.id, Stage.ERROR)
    with (sealed / names.LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sweep_copies(layout)
        assert draft.exists()
    sweep_copies(layout)
    assert not draft.exists()
    assert sealed.exists()


def test_a_copy_whose_original_is_not_there_stays_until_it_is_old(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = cut_off_copy(layout, "gone", Stage.SUCCESS)
    (layout.success / ".not a job.copy").mkdir()
    (layout.success / ".link.copy").symlink_to(layout.outgoing)
    (layout.outgoing / "job").mkdir()
    sweep_copies(layout)
    assert draft.exists()
    monkeypatch.setattr("mercure.spool.durable._ABANDONED_SECONDS", -1.0)
    sweep_copies(layout)
    assert sorted(os.listdir(layout.success)) == [".not a job.copy"]
    assert os.listdir(layout.outgoing) == ["job"], "no link is followed"
