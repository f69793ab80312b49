"""What waits in `processing/`, and above all what an earlier processor had begun."""

from pathlib import Path

import pytest
from tests.arrivals import make_job
from tests.builders import BuiltSeries, small_series

from mercure.core.processing_steps import StepPlan, process_section, steps_from
from mercure.core.stages import Stage
from mercure.core.task import Job, Priority
from mercure.services.processing_order import Chain, Line, Patience, Round
from mercure.services.processing_queue import ProcessingQueue
from mercure.spool.layout import Layout


@pytest.fixture
def series(tmp_path: Path) -> BuiltSeries:
    return small_series(tmp_path / "series", 1)


def chain_of(job: Job) -> Chain:
    return tuple(step.module for step in steps_from(job.process))


def put(layout: Layout, series: BuiltSeries, job_id: str, *, begun: bool = False, **values: object) -> Path:
    values.setdefault("process", process_section([StepPlan("module")]))
    make_job(layout, series, stage=Stage.PROCESSING, job_id=job_id, **values)  # type: ignore[arg-type]
    if begun:
        (layout.processing / job_id / ".step").write_text('{"done": [], "gpus": []}')
    return layout.processing / job_id


def test_a_job_that_was_begun_stays_so_until_it_is_taken_up(layout: Layout, series: BuiltSeries) -> None:
    put(layout, series, "begun", begun=True)
    queue = ProcessingQueue(layout, chain_of)
    queue.scan(())
    assert queue.begun.pop() == "begun"
    queue.read_later("begun", 5.0)
    queue.due(5.0)
    assert queue.begun == ["begun"]
    queue.forget_all()
    queue.scan(())
    assert queue.begun.pop() == "begun"
    queue.taken_up("begun")
    queue.read("begun")
    assert queue.begun == []
    assert queue.lines() == {Line(("module",), False)}


def test_after_a_new_start_what_this_processor_began_is_begun_too(layout: Layout, series: BuiltSeries) -> None:
    queue = ProcessingQueue(layout, chain_of)
    queue.scan(())
    put(layout, series, "job", begun=True)
    queue.scan(())
    assert queue.begun == []
    queue.start_anew()
    queue.scan(())
    assert queue.begun == ["job"]


def test_a_begun_job_that_left_and_came_back_is_like_any_other(layout: Layout, series: BuiltSeries) -> None:
    folder = put(layout, series, "begun", begun=True)
    queue = ProcessingQueue(layout, chain_of)
    queue.scan(())
    queue.begun.clear()
    folder.rename(layout.error / "begun")
    queue.scan(())
    (layout.error / "begun").rename(folder)
    queue.scan(())
    assert queue.begun == []


def test_a_turn_is_counted_for_a_job_that_starts_and_for_no_other(layout: Layout, series: BuiltSeries) -> None:
    put(layout, series, "normal")
    put(layout, series, "urgent", priority=Priority.URGENT)
    queue = ProcessingQueue(layout, chain_of)
    queue.scan(())

    def first() -> str:
        found = queue.next(Round(Patience(), 0.0), off_peak_now=False)
        assert found is not None
        return found[0]

    assert [first() for _ in range(4)] == 4 * ["urgent"]
    queue.taken_up("a")
    queue.taken_up("b")
    assert first() == "normal"


def test_a_job_that_cannot_be_understood_is_odd_whatever_the_reason(layout: Layout, series: BuiltSeries) -> None:
    def refuse(job: Job) -> Chain:
        raise KeyError(job.id)

    put(layout, series, "job")
    queue = ProcessingQueue(layout, refuse)
    queue.scan(())
    assert queue.odd == ["job"]
