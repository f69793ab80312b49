"""What people are shown: the right state for each place and each mark, and no lock disturbed."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.arrivals import arrive, make_job
from tests.builders import BuiltSeries, small_series

from mercure.core.errors import SpoolError
from mercure.core.stages import Stage
from mercure.core.task import Delivery, DeliveryState, Processing
from mercure.spool import controls, sealing, views
from mercure.spool import layout as names
from mercure.spool.job_files import write_task
from mercure.spool.jobs import claim
from mercure.spool.layout import Layout

NOW = datetime.now(UTC)


@pytest.fixture
def series(tmp_path: Path) -> BuiltSeries:
    return small_series(tmp_path / "series", 2)


def state(layout: Layout, job_id: str) -> str:
    view = views.find_job(layout, job_id, now=NOW)
    assert view is not None
    return view.state


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (Stage.OUTGOING, "waiting"),
        (Stage.PROCESSING, "waiting"),
        (Stage.SUCCESS, "done"),
        (Stage.ERROR, "failed"),
        (Stage.DISCARD, "discarded"),
    ],
)
def test_the_state_follows_from_the_stage(layout: Layout, series: BuiltSeries, stage: Stage, expected: str) -> None:
    job = make_job(layout, series, "archive", stage=stage)
    view = views.find_job(layout, job.id, now=NOW)
    assert view is not None
    assert (view.id, view.stage, view.state, view.job, view.problem) == (job.id, stage, expected, job, "")
    assert view.folder == layout.stage(stage) / job.id


def test_a_claimed_job_is_running_and_looking_at_it_disturbs_nothing(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "archive")
    taken = claim(layout, Stage.OUTGOING, job.id)
    assert taken is not None
    assert state(layout, job.id) == "running"
    assert claim(layout, Stage.OUTGOING, job.id) is None
    taken.close()
    assert state(layout, job.id) == "waiting"
    again = claim(layout, Stage.OUTGOING, job.id)
    assert again is not None
    again.close()


def test_held_jobs_and_jobs_of_a_held_stage_are_shown_so(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "archive")
    controls.hold(layout, Stage.OUTGOING, job.id)
    assert state(layout, job.id) == "held"
    controls.release(layout, Stage.OUTGOING, job.id)
    assert state(layout, job.id) == "waiting"
    controls.hold(layout, Stage.OUTGOING)
    assert state(layout, job.id) == "held"


def test_a_job_is_deferred_when_all_that_waits_has_a_later_time(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "a", "b", "c")
    later = Delivery("a", not_before=NOW + timedelta(minutes=1))
    job = job.with_delivery(later).with_delivery(Delivery("b", DeliveryState.COMPLETE))
    write_task(layout.outgoing / job.id, job)
    assert state(layout, job.id) == "waiting"
    job = job.with_delivery(replace(later, target="c"))
    write_task(layout.outgoing / job.id, job)
    assert state(layout, job.id) == "deferred"


def test_a_job_is_deferred_while_its_modules_have_a_later_time_whatever_its_targets_have(
    layout: Layout, series: BuiltSeries
) -> None:
    job = make_job(layout, series, "a", stage=Stage.PROCESSING)
    folder = layout.processing / job.id
    later, past = NOW + timedelta(minutes=1), NOW - timedelta(minutes=1)
    for not_before, expected in ((later, "deferred"), (past, "waiting"), (None, "waiting")):
        write_task(folder, replace(job, processing=Processing(attempts=1, not_before=not_before)))
        assert state(layout, job.id) == expected
    put_off = replace(job, deliveries=(Delivery("a", not_before=later),))
    write_task(folder, put_off)
    assert state(layout, job.id) == "waiting"
    write_task(folder, replace(job, processing=Processing(not_before=later)))
    controls.hold(layout, Stage.PROCESSING, job.id)
    assert state(layout, job.id) == "held"


def test_damaged_jobs_are_listed_with_their_problem(layout: Layout, series: BuiltSeries) -> None:
    job = make_job(layout, series, "archive")
    path = layout.outgoing / job.id / names.TASK_FILE
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"id": "another"}))
    view = views.find_job(layout, job.id, now=NOW)
    assert view is not None
    assert (view.state, view.job, view.problem) == ("damaged", None, "task.json belongs to another job")
    path.write_text("{")
    (view,) = views.list_jobs(layout, now=NOW)
    assert view.state == "damaged"
    assert "no JSON" in view.problem


def test_jobs_are_listed_by_stage_and_age(layout: Layout, series: BuiltSeries) -> None:
    make_job(layout, series, "archive", job_id="20260302-b")
    make_job(layout, series, "archive", job_id="20260301-a")
    make_job(layout, series, "archive", job_id="20260101-c", stage=Stage.SUCCESS)
    assert [view.id for view in views.list_jobs(layout, now=NOW)] == ["20260301-a", "20260302-b", "20260101-c"]
    assert [view.id for view in views.list_jobs(layout, (Stage.SUCCESS,), now=NOW)] == ["20260101-c"]


def test_a_job_that_is_not_there_is_none_and_a_bad_id_an_error(layout: Layout) -> None:
    assert views.find_job(layout, "nothing", now=NOW) is None
    with pytest.raises(SpoolError, match="not a job id"):
        views.find_job(layout, "../../etc", now=NOW)


def test_what_gathers_and_what_is_being_routed_is_listed(layout: Layout, tmp_path: Path) -> None:
    first, second = small_series(tmp_path / "a", 2), small_series(tmp_path / "b", 1)
    arrive(layout, first, second)
    (reception,) = [name for name in sealing.receptions(layout) if name.startswith(second.series_instance_uid)]
    sealed = sealing.seal(layout, reception, NOW)
    assert isinstance(sealed, sealing.Sealed)
    (layout.incoming / "file#1").touch()
    gathering, routing = views.list_gathering(layout)
    assert (gathering.state, gathering.series_uid, gathering.instances) == ("gathering", first.series_instance_uid, 2)
    assert (routing.state, routing.series_uid, routing.instances) == ("routing", second.series_instance_uid, 1)
    assert routing.name == sealed.id
    assert abs((gathering.last_arrival - datetime.now(UTC)).total_seconds()) < 300


def test_an_empty_reception_says_its_series_by_its_name(layout: Layout) -> None:
    (layout.incoming / "1.2.3#abc").mkdir()
    (view,) = views.list_gathering(layout)
    assert (view.series_uid, view.instances) == ("1.2.3", 0)


def test_a_system_without_a_list_of_locks_shows_nothing_as_running(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_args: object, **_values: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("builtins.open", missing)
    assert views.locked_inodes() == frozenset()
