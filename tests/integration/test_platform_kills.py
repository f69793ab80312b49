"""SIGKILL before every single change that a service makes to the data folder: nothing is lost, nothing is doubled."""

from collections import Counter
from pathlib import Path

import pytest
from tests.arrivals import arrive, census, make_job, targets_of
from tests.builders import BuiltSeries, small_series
from tests.kill_points import Order, cancel, dispatch, kill_everywhere, process, retry_and_route, route
from tests.small_disk import small_disk

from mercure.core.processing_steps import StepPlan, process_section
from mercure.core.stages import Stage
from mercure.core.task import FailStage
from mercure.spool.job_files import read_task
from mercure.spool.layout import MEMORY_FILE, Layout
from mercure.spool.trees import remove_tree


def template(tmp_path: Path, elsewhere: dict[str, str], work: str) -> Order:
    order = Order(work, str(tmp_path / "template"), str(tmp_path / "copies"), elsewhere)
    order.template_layout().create()
    return order


def check_plan_is_carried_out(layout: Layout, series: BuiltSeries, *wanted: str) -> None:
    """Every instance is in one job of each target, and nowhere else."""
    found = census(layout)
    assert found.loose == {}
    jobs = found.jobs[Stage.OUTGOING] | found.jobs[Stage.ERROR]
    assert all(uids == sorted(series.sop_instance_uids) for uids in jobs.values())
    targets = Counter(name for job in found.jobs[Stage.OUTGOING] for name in targets_of(layout, Stage.OUTGOING, job))
    assert targets == Counter(wanted)
    hidden = [path for stage in Stage for path in layout.stage(stage).iterdir() if path.name.startswith(".")]
    assert [path for path in hidden if not path.name.startswith(MEMORY_FILE)] == []
    assert list(layout.sealed.iterdir()) == []


@pytest.mark.requirement("S1")
@pytest.mark.parametrize("elsewhere", [(), ("outgoing",), ("error",)])
def test_a_router_killed_at_any_step_loses_and_doubles_nothing(tmp_path: Path, elsewhere: tuple[str, ...]) -> None:
    series = small_series(tmp_path / "series", 2)
    with small_disk(tmp_path / "other", 64 << 20) as other:
        order = template(tmp_path, dict.fromkeys(elsewhere, str(other)), "route")
        arrive(order.template_layout(), series)
        killed = kill_everywhere(order)
        assert killed > 20
        for number in range(1, killed + 2):
            layout = order.layout(number)
            route(layout)
            check_plan_is_carried_out(layout, series, "archive", "research")
            assert len(census(layout).jobs[Stage.ERROR]) == 1, f"killed at change {number}"


@pytest.mark.parametrize("elsewhere", [(), ("error",)])
def test_a_retry_killed_at_any_step_makes_each_job_once(tmp_path: Path, elsewhere: tuple[str, ...]) -> None:
    series = small_series(tmp_path / "series", 2)
    with small_disk(tmp_path / "other", 64 << 20) as other:
        order = template(tmp_path, dict.fromkeys(elsewhere, str(other)), "retry")
        arrive(order.template_layout(), series)
        route(order.template_layout())
        killed = kill_everywhere(order)
        assert killed > 10
        for number in range(1, killed + 2):
            layout = order.layout(number)
            retry_and_route(layout)
            check_plan_is_carried_out(layout, series, "archive", "research", "late")


@pytest.mark.parametrize(
    ("elsewhere", "is_lost"),
    [
        ((), False),
        (("error",), False),
        (("processing",), False),
        (("processing",), True),  # it is a memory, which a restart of the machine empties
        (("processing", "error"), True),
    ],
)
def test_a_retry_of_modules_killed_at_any_step_has_them_work_before_anything_is_sent(
    tmp_path: Path, elsewhere: tuple[str, ...], *, is_lost: bool
) -> None:
    with small_disk(tmp_path / "other", 64 << 20) as other:
        series = small_series((other if "error" in elsewhere else tmp_path) / "series", 2)
        order = template(tmp_path, dict.fromkeys(elsewhere, str(other)), "retry")
        steps, failed = process_section([StepPlan("copy")]), FailStage.PROCESSING
        there = order.template_layout()
        job = make_job(there, series, "archive", stage=Stage.ERROR, process=steps, fail_stage=failed, reason="exit 7")
        killed = kill_everywhere(order)
        assert killed > 10
        for number in range(1, killed + 2):
            layout = order.layout(number)
            if is_lost:
                for path in layout.processing.iterdir():
                    remove_tree(path)
            retry_and_route(layout)
            where = f"killed at change {number}"
            found = census(layout).jobs
            assert found.pop(Stage.PROCESSING) == {job.id: sorted(series.sop_instance_uids)}, where
            assert not any(found.values()), where
            process(layout)
            route(layout)
            check_plan_is_carried_out(layout, series, "archive")
            assert read_task(layout.outgoing / job.id).results == tuple(sorted(job.instances)), where


@pytest.mark.parametrize("elsewhere", [(), ("error",)])
def test_a_cancel_killed_at_any_step_can_be_repeated(tmp_path: Path, elsewhere: tuple[str, ...]) -> None:
    series = small_series(tmp_path / "series", 2)
    with small_disk(tmp_path / "other", 64 << 20) as other:
        order = template(tmp_path, dict.fromkeys(elsewhere, str(other)), "cancel")
        arrive(order.template_layout(), series)
        route(order.template_layout())
        killed = kill_everywhere(order)
        assert killed > 10
        for number in range(1, killed + 2):
            layout = order.layout(number)
            cancel(layout)
            found = census(layout)
            assert found.jobs[Stage.OUTGOING] == {}, f"killed at change {number}"
            assert list(found.jobs[Stage.ERROR].values()) == [sorted(series.sop_instance_uids)] * 3


@pytest.mark.parametrize("elsewhere", [(), ("success",)])
def test_a_dispatcher_killed_at_any_step_delivers_everything(tmp_path: Path, elsewhere: tuple[str, ...]) -> None:
    series = small_series(tmp_path / "series", 2)
    with small_disk(tmp_path / "other", 64 << 20) as other:
        order = template(tmp_path, dict.fromkeys(elsewhere, str(other)), "dispatch")
        arrive(order.template_layout(), series)
        route(order.template_layout())
        killed = kill_everywhere(order)
        assert killed > 20
        for number in range(1, killed + 2):
            layout = order.layout(number)
            dispatch(layout)
            found = census(layout)
            assert found.jobs[Stage.OUTGOING] == {}
            assert list(found.jobs[Stage.SUCCESS].values()) == [sorted(series.sop_instance_uids)] * 2
            assert len(found.jobs[Stage.ERROR]) == 1
            for name in ("archive", "research"):
                folder = layout.incoming.parent / f"target-{name}"
                assert len(list(folder.glob("*/*.dcm"))) == 2, f"killed at change {number}"
                assert len(list(folder.glob("*/.complete"))) == 1


def test_a_processor_killed_at_any_step_processes_each_job_to_its_end_once(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 2)
    order = template(tmp_path, {}, "process")
    steps = process_section([StepPlan("copy")])
    job = make_job(order.template_layout(), series, "archive", stage=Stage.PROCESSING, process=steps)
    killed = kill_everywhere(order)
    assert killed > 30
    for number in range(1, killed + 2):
        layout = order.layout(number)
        process(layout)
        found = census(layout).jobs
        assert found.pop(Stage.OUTGOING) == {job.id: sorted(series.sop_instance_uids)}, f"killed at change {number}"
        assert not any(found.values())
        done = read_task(layout.outgoing / job.id)
        results = layout.outgoing / job.id / "results"
        assert done.results == tuple(sorted(path.name for path in results.iterdir())) == tuple(sorted(job.instances))
        assert {path.stat().st_size for path in results.iterdir()} == {file.stat().st_size for file in series.files}
        hidden = [path.name for path in (layout.outgoing / job.id).iterdir() if path.name.startswith(".")]
        assert hidden == [".lock"]
