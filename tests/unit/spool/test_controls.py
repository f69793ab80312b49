"""What operators do: retry, cancel, hold and release, and the answers when it cannot be done."""

import os
import re
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.arrivals import make_job
from tests.builders import BuiltSeries, small_series
from tests.small_disk import fill, small_disk

from mercure.core.errors import SpoolError
from mercure.core.processing_steps import StepPlan, process_section
from mercure.core.stages import Stage
from mercure.core.task import Delivery, DeliveryState, FailStage, Processing
from mercure.spool import controls, sealing
from mercure.spool import layout as names
from mercure.spool.job_files import read_task, write_task
from mercure.spool.jobs import Claim, claim, is_held
from mercure.spool.layout import Layout

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ANONYMIZED = process_section([StepPlan("anonymize")])


@pytest.fixture
def series(tmp_path: Path) -> BuiltSeries:
    return small_series(tmp_path / "series", 2)


def claimed(layout: Layout, job_id: str, stage: Stage = Stage.OUTGOING) -> Claim:
    taken = claim(layout, stage, job_id)
    assert taken is not None
    return taken


def control_mark(layout: Layout) -> int:
    return layout.control.stat().st_mtime_ns if layout.control.exists() else 0


def test_a_deferred_job_becomes_due_with_its_attempts_counted_anew(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "a", "b", "c")
    job = job.with_delivery(Delivery("a", attempts=5, not_before=NOW + timedelta(hours=1), detail="no answer"))
    job = job.with_delivery(Delivery("b", DeliveryState.COMPLETE, updated_at=NOW))
    job = job.with_delivery(Delivery("c", DeliveryState.ERROR, detail="refused"))
    write_task(layout.outgoing / job.id, job)
    assert controls.retry(layout, job.id, NOW) == "is due now"
    a, b, c = read_task(layout.outgoing / job.id).deliveries
    assert (a.state, a.attempts, a.not_before, a.detail) == (DeliveryState.WAITING, 0, None, "")
    assert b.state is DeliveryState.COMPLETE
    assert c.state is DeliveryState.WAITING
    assert control_mark(layout)


def test_a_job_that_failed_at_dispatching_goes_back_to_what_it_lacks(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "a", "b", stage=Stage.ERROR, fail_stage=FailStage.DISPATCHING, reason="gone")
    job = job.with_delivery(Delivery("a", DeliveryState.COMPLETE)).with_delivery(Delivery("b", DeliveryState.ERROR))
    write_task(layout.error / job.id, job)
    assert "dispatched again" in controls.retry(layout, job.id, NOW)
    back = read_task(layout.outgoing / job.id)
    assert (back.fail_stage, back.reason, back.settled_at) == (None, "", None)
    assert [delivery.state for delivery in back.deliveries] == [DeliveryState.COMPLETE, DeliveryState.WAITING]


def test_a_job_that_failed_at_routing_becomes_a_sealed_series_again(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, stage=Stage.ERROR, fail_stage=FailStage.ROUTING, done=("route:archive",))
    assert "routed again" in controls.retry(layout, job.id, NOW)
    (sealed,) = sealing.open_sealed(layout)
    earlier, contents = sealed.earlier_job(), sealed.contents()
    assert earlier is not None
    assert earlier.done == ("route:archive",)
    assert contents is not None
    assert contents.instances == tuple(sorted(job.instances))
    assert list(layout.error.iterdir()) == []


def test_ids_do_not_grow_for_ever_with_retries(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, stage=Stage.ERROR, fail_stage=FailStage.ROUTING, job_id="x" * 90)
    controls.retry(layout, job.id, NOW)
    (folder,) = layout.sealed.iterdir()
    assert re.fullmatch(r"20260301T120000-[0-9a-f]{10}", folder.name)


def test_a_job_that_is_being_routed_again_is_not_taken_twice(
    layout: Layout, series: BuiltSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(layout, series, stage=Stage.ERROR, fail_stage=FailStage.ROUTING)
    (layout.sealed / f"{job.id}-r").mkdir()
    monkeypatch.setattr(controls, "_NAME_FREE_SECONDS", 0.05)
    with pytest.raises(SpoolError, match="already"):
        controls.retry(layout, job.id, NOW)
    assert (layout.error / job.id).is_dir()


@pytest.mark.parametrize(
    ("fail_stage", "targets", "reason"),
    [
        (FailStage.RECEIVING, (), "could not be read"),
        (FailStage.DISPATCHING, (), "cannot be retried from here"),
    ],
)
def test_what_cannot_be_retried_stays_and_says_why(
    layout: Layout, series: BuiltSeries, fail_stage: FailStage, targets: tuple[str, ...], reason: str
) -> None:
    job = make_job(layout, series, *targets, stage=Stage.ERROR, fail_stage=fail_stage)
    with pytest.raises(SpoolError, match=reason):
        controls.retry(layout, job.id, NOW)
    assert read_task(layout.error / job.id) == job
    claimed(layout, job.id, Stage.ERROR).close()


def test_a_job_that_failed_in_its_modules_is_processed_anew(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "a", stage=Stage.ERROR, fail_stage=FailStage.PROCESSING, results=("x.dcm",))
    (layout.error / job.id / "results").mkdir()
    assert controls.retry(layout, job.id, NOW) == "is processed again with the settings of now"
    again = read_task(layout.processing / job.id)
    assert (again.results, again.fail_stage, again.processing) == (None, None, Processing(uses_today=True))
    assert not (layout.processing / job.id / "results").exists()


def test_a_job_can_be_processed_anew_with_the_settings_it_was_made_with(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, stage=Stage.ERROR, fail_stage=FailStage.PROCESSING)
    assert controls.retry(layout, job.id, NOW, as_then=True) == "is processed again with the settings of then"
    assert not read_task(layout.processing / job.id).processing.uses_today


def test_a_job_that_waits_for_its_module_is_due_at_once(layout: Layout, series: BuiltSeries) -> None:
    waiting = Processing(3, NOW + timedelta(hours=1), "the engine is away")
    job = make_job(layout, series, stage=Stage.PROCESSING, processing=waiting)
    assert controls.retry(layout, job.id, NOW) == "is due now"
    assert read_task(layout.processing / job.id).processing.not_before is None
    taken = claimed(layout, job.id, Stage.PROCESSING)
    with pytest.raises(SpoolError, match="is being processed"):
        controls.retry(layout, job.id, NOW)
    taken.close()


@pytest.mark.parametrize("stage", [Stage.ERROR, Stage.DISCARD])
def test_a_series_is_routed_again_by_a_rule_that_an_operator_chose(
    layout: Layout, series: BuiltSeries, stage: Stage
) -> None:
    failed = FailStage.ROUTING if stage is Stage.ERROR else None
    job = make_job(layout, series, stage=stage, fail_stage=failed, done=("route:a",))
    assert controls.route_by(layout, job.id, "chosen", NOW) == "is routed again by rule 'chosen'"
    (sealed,) = sealing.open_sealed(layout)
    earlier = sealed.earlier_job()
    sealed.close()
    assert earlier is not None
    assert (earlier.forced_rule, earlier.done) == ("chosen", ())


def test_a_job_that_failed_later_is_not_routed_again(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "a", stage=Stage.ERROR, fail_stage=FailStage.DISPATCHING)
    with pytest.raises(SpoolError, match="failed at routing"):
        controls.route_by(layout, job.id, "chosen", NOW)


def test_a_job_that_is_not_there_or_is_settled_right_now_cannot_be_retried(layout: Layout, series: BuiltSeries) -> None:
    with pytest.raises(SpoolError, match="no job x in error, outgoing or processing"):
        controls.retry(layout, "x", NOW)
    with pytest.raises(SpoolError, match="not a job id"):
        controls.retry(layout, "../x", NOW)
    job = make_job(layout, series, "a", stage=Stage.ERROR, fail_stage=FailStage.DISPATCHING)
    taken = claimed(layout, job.id, Stage.ERROR)
    with pytest.raises(SpoolError, match="worked on"):
        controls.retry(layout, job.id, NOW)
    taken.close()


@pytest.mark.parametrize(("stage", "failed"), [(Stage.OUTGOING, "DISPATCHING"), (Stage.PROCESSING, "PROCESSING")])
def test_a_waiting_job_is_cancelled_at_once(layout: Layout, series: BuiltSeries, stage: Stage, failed: str) -> None:
    job = make_job(layout, series, "a", stage=stage)
    assert controls.cancel(layout, job.id, NOW) == "is cancelled"
    cancelled = read_task(layout.error / job.id)
    assert (cancelled.fail_stage, cancelled.reason) == (FailStage(failed), "cancelled by an operator")


def test_a_cancelled_job_can_be_retried(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "a")
    controls.cancel(layout, job.id, NOW)
    controls.retry(layout, job.id, NOW)
    assert read_task(layout.outgoing / job.id).deliveries == (Delivery("a", updated_at=NOW),)


def test_a_running_job_gets_a_mark_that_its_worker_sees(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "a")
    taken = claimed(layout, job.id)
    assert not taken.is_cancelled()
    assert controls.cancel(layout, job.id, NOW) == "is being stopped"
    assert taken.is_cancelled()
    assert control_mark(layout)
    taken.close()


def test_a_worker_that_lets_go_before_it_sees_the_mark_does_not_keep_the_job_alive(
    layout: Layout, series: BuiltSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(layout, series, "a")
    taken = claimed(layout, job.id)
    mark = controls._mark

    def deferred_meanwhile(path: Path, gone: str = "") -> None:
        taken.defer(job)
        mark(path, gone)

    monkeypatch.setattr(controls, "_mark", deferred_meanwhile)
    assert controls.cancel(layout, job.id, NOW) == "is cancelled"
    assert not (layout.error / job.id / names.CANCEL_FILE).exists()


def test_a_job_that_ends_while_it_is_cancelled_or_held_is_said_to_have_left(
    layout: Layout, series: BuiltSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(layout, series, "a")
    taken = claimed(layout, job.id)
    mark = controls._mark

    def finished_meanwhile(path: Path, gone: str = "") -> None:
        if path.parent.exists():
            taken.commit(job, Stage.SUCCESS)
        mark(path, gone)

    monkeypatch.setattr(controls, "_mark", finished_meanwhile)
    with pytest.raises(SpoolError, match="just left outgoing"):
        controls.cancel(layout, job.id, NOW)
    assert read_task(layout.success / job.id).id == job.id


def test_only_waiting_and_running_jobs_can_be_cancelled(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "a", stage=Stage.SUCCESS)
    with pytest.raises(SpoolError, match="no waiting or running job"):
        controls.cancel(layout, job.id, NOW)


def test_holds_begin_and_end(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "a")
    controls.hold(layout, Stage.OUTGOING)
    controls.hold(layout, Stage.OUTGOING, job.id)
    assert is_held(layout, Stage.OUTGOING)
    assert is_held(layout, Stage.OUTGOING, job.id)
    for _ in range(2):
        controls.release(layout, Stage.OUTGOING)
        controls.release(layout, Stage.OUTGOING, job.id)
    assert not is_held(layout, Stage.OUTGOING)
    assert not is_held(layout, Stage.OUTGOING, job.id)
    assert control_mark(layout)


def test_nothing_can_be_held_where_nothing_runs(layout: Layout) -> None:
    with pytest.raises(SpoolError, match="nothing runs in success"):
        controls.hold(layout, Stage.SUCCESS)
    with pytest.raises(SpoolError, match="no job x in outgoing"):
        controls.hold(layout, Stage.OUTGOING, "x")
    with pytest.raises(SpoolError, match="not a job id"):
        controls.release(layout, Stage.OUTGOING, "../../x")


def test_a_hold_outlives_a_retry(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "a")
    controls.hold(layout, Stage.OUTGOING, job.id)
    controls.cancel(layout, job.id, NOW)
    controls.retry(layout, job.id, NOW)
    assert is_held(layout, Stage.OUTGOING, job.id)
    assert replace(read_task(layout.outgoing / job.id)).fail_stage is None


def test_a_retry_waits_a_moment_for_the_router_to_remove_what_it_kept(
    layout: Layout, series: BuiltSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(layout, series, stage=Stage.ERROR, fail_stage=FailStage.ROUTING)
    (layout.sealed / f"{job.id}-r").mkdir()
    monkeypatch.setattr(controls, "_NAME_FREE_SECONDS", 60.0)
    router = threading.Timer(0.2, (layout.sealed / f"{job.id}-r").rmdir)
    router.start()
    assert "routed again" in controls.retry(layout, job.id, NOW)
    router.join()
    assert (layout.sealed / f"{job.id}-r" / "received").is_dir()


def failed_at_processing(layout: Layout, series: BuiltSeries, *targets: str) -> str:
    failed = FailStage.PROCESSING
    job = make_job(layout, series, *targets, stage=Stage.ERROR, fail_stage=failed, reason="exit 7", process=ANONYMIZED)
    return job.id


@pytest.mark.parametrize("targets", [("a",), ()])
def test_a_retry_that_cannot_move_the_job_leaves_it_as_it_was_and_the_next_one_processes_it(
    layout: Layout, series: BuiltSeries, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    job_id = failed_at_processing(layout, series, *targets)
    before = read_task(layout.error / job_id)
    layout.processing.rename(tmp_path / "away")
    with pytest.raises(OSError, match="No such file"):
        controls.retry(layout, job_id, NOW)
    assert read_task(layout.error / job_id) == before
    (tmp_path / "away").rename(layout.processing)
    assert "is processed again" in controls.retry(layout, job_id, NOW)
    assert read_task(layout.processing / job_id).process == ANONYMIZED
    assert not (layout.outgoing / job_id).exists()


def test_a_retry_onto_a_full_disk_leaves_the_job_as_it_was_and_the_next_one_processes_it(
    layout: Layout, series: BuiltSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = failed_at_processing(layout, series, "a")
    before = read_task(layout.error / job_id)
    monkeypatch.setattr(controls, "is_in_memory", lambda _layout: False)  # the small disk stands for a real one
    with small_disk(layout.processing, 1 << 20) as disk:
        ballast = fill(disk)
        with pytest.raises(OSError, match="No space"):
            controls.retry(layout, job_id, NOW)
        assert read_task(layout.error / job_id) == before
        ballast.unlink()
        assert "is processed again" in controls.retry(layout, job_id, NOW)
        assert read_task(layout.processing / job_id).fail_stage is None
        assert not (layout.error / job_id).exists()
    assert not (layout.outgoing / job_id).exists()


@pytest.mark.parametrize("targets", [("a",), ()])
def test_a_job_whose_retry_was_killed_before_it_moved_is_processed_by_the_next_one(
    layout: Layout, series: BuiltSeries, targets: tuple[str, ...]
) -> None:
    job = make_job(layout, series, *targets, stage=Stage.ERROR, process=ANONYMIZED)  # written down, not yet moved
    assert "is processed again" in controls.retry(layout, job.id, NOW)
    assert (layout.processing / job.id).is_dir()


@pytest.mark.parametrize("stage", [Stage.ERROR, Stage.OUTGOING])
def test_a_job_that_was_to_be_sent_without_its_modules_is_processed(
    layout: Layout, series: BuiltSeries, stage: Stage
) -> None:
    failed = FailStage.DISPATCHING if stage is Stage.ERROR else None
    job = make_job(layout, series, "a", stage=stage, fail_stage=failed, process=ANONYMIZED)
    assert "is processed again" in controls.retry(layout, job.id, NOW)
    assert read_task(layout.processing / job.id).fail_stage is None


def test_a_job_that_was_to_be_sent_without_its_modules_is_cancelled_as_one_to_process(
    layout: Layout, series: BuiltSeries
) -> None:
    job = make_job(layout, series, "a", process=ANONYMIZED)
    controls.cancel(layout, job.id, NOW)
    assert read_task(layout.error / job.id).fail_stage is FailStage.PROCESSING


def test_results_that_failed_at_their_target_are_dispatched_again_and_not_processed(
    layout: Layout, series: BuiltSeries
) -> None:
    failed = FailStage.DISPATCHING
    job = make_job(layout, series, "a", stage=Stage.ERROR, fail_stage=failed, process=ANONYMIZED, results=("new.dcm",))
    assert "dispatched again" in controls.retry(layout, job.id, NOW)
    assert read_task(layout.outgoing / job.id).results == ("new.dcm",)


def test_a_job_that_was_being_cancelled_when_its_worker_died_goes_on(layout: Layout, series: BuiltSeries) -> None:
    waiting = make_job(layout, series, "a", fail_stage=FailStage.DISPATCHING, reason="cancelled", job_id="one")
    unready = make_job(layout, series, stage=Stage.PROCESSING, fail_stage=FailStage.PROCESSING, job_id="two")
    for job, stage in ((waiting, Stage.OUTGOING), (unready, Stage.PROCESSING)):
        assert controls.retry(layout, job.id, NOW) == "is due now"
        due = read_task(layout.stage(stage) / job.id)
        assert (due.fail_stage, due.reason) == (None, "")


@pytest.mark.parametrize("fail_stage", [FailStage.ROUTING, FailStage.PROCESSING])
def test_a_job_that_lacks_an_instance_is_not_begun_again(
    layout: Layout, series: BuiltSeries, fail_stage: FailStage
) -> None:
    job = make_job(layout, series, stage=Stage.ERROR, fail_stage=fail_stage)
    missing, other = (layout.error / job.id / "received" / name for name in job.instances)
    missing.unlink()
    with pytest.raises(SpoolError, match="1 of 2 instances are not in received/ any more"):
        controls.retry(layout, job.id, NOW)
    missing.symlink_to(other)
    with pytest.raises(SpoolError, match="1 of 2 instances"):
        controls.retry(layout, job.id, NOW)
    (layout.error / job.id / "received").rename(layout.error / job.id / "elsewhere")
    with pytest.raises(SpoolError, match="2 of 2 instances"):
        controls.retry(layout, job.id, NOW)
    assert read_task(layout.error / job.id) == job


def test_a_rule_that_could_not_be_followed_is_forgotten(layout: Layout, series: BuiltSeries, tmp_path: Path) -> None:
    job = make_job(layout, series, stage=Stage.DISCARD, done=("route:a",))
    os.rename(layout.sealed, tmp_path / "away")
    with pytest.raises(OSError, match="No such file"):
        controls.route_by(layout, job.id, "chosen", NOW)
    assert read_task(layout.discard / job.id) == job
