"""The dispatcher against real targets: folders, DICOM nodes of pynetdicom, and peers that hang."""

import itertools
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from typing import Any

import pytest
from tests import small_disk as disks
from tests.arrivals import make_job
from tests.builders import BuiltSeries, small_series
from tests.fake_clock import ActsAtFirst, FakeClock, Recorded
from tests.peers import free_port, pynetdicom_scp, wait_until
from tests.scripted_peer import Close, ReceiveUntilClosed, WaitFor, scripted_server
from tests.small_disk import fill, read_only, small_disk

from mercure.cli.queue_waits import Waits
from mercure.core.delivery import InstanceResult, Outcome
from mercure.core.errors import SpoolError
from mercure.core.events import EventKind
from mercure.core.processing_steps import StepPlan, process_section
from mercure.core.retry import RetryPolicy
from mercure.core.scheduling import OffPeak
from mercure.core.stages import Stage
from mercure.core.task import DeliveryState, FailStage, Job, Priority
from mercure.services.clock import SystemClock
from mercure.services.dispatch_settings import DispatcherSettings, TargetSetup
from mercure.services.dispatcher import Dispatcher
from mercure.spool import controls
from mercure.spool import layout as names
from mercure.spool.job_files import Ledger, read_ledger, read_task, write_task
from mercure.spool.jobs import claim, job_ids
from mercure.spool.layout import Layout
from mercure.spool.views import list_jobs
from mercure.targets.dicom import DicomNode, DicomTarget
from mercure.targets.folder import FolderTarget

PATIENT = RetryPolicy(30.0, 3600.0, jitter=0.2)
EAGER = RetryPolicy(0.05, 0.2)


@pytest.fixture
def series(tmp_path: Path) -> BuiltSeries:
    return small_series(tmp_path / "series", 3)


def folder(
    tmp_path: Path, name: str, retry: RetryPolicy = PATIENT, *, there: bool = True, parallel: int = 1
) -> TargetSetup:
    place = tmp_path / "targets" / name
    if there:
        place.mkdir(parents=True, exist_ok=True)
    return TargetSetup(FolderTarget(str(place)), retry, parallel)


def node(port: int, retry: RetryPolicy = PATIENT, *, parallel: int = 1, seconds: float = 60.0) -> TargetSetup:
    return TargetSetup(
        DicomTarget(
            DicomNode("127.0.0.1", port, "ARCHIVE", response_timeout_seconds=seconds, associations_idle_seconds=0)
        ),
        retry,
        parallel,
    )


class Desk:
    """A dispatcher whose steps the test makes, with a clock that the test moves."""

    def __init__(
        self,
        layout: Layout,
        targets: dict[str, TargetSetup],
        draw: Callable[[], float] = lambda: 0.5,
        events: Recorded | None = None,
        **more: Any,
    ) -> None:
        self.layout = layout
        self.clock = FakeClock()
        self.events = events or Recorded()
        settings = DispatcherSettings(targets, **more)
        self.dispatcher = Dispatcher(layout, settings, self.clock, self.events, draw=draw)

    def settle(self, seconds_later: float = 0.0) -> None:
        """Let the dispatcher work, after a while, until nothing is being sent."""
        self.clock.advance(seconds_later)
        self.dispatcher.step()

        def quiet() -> bool:
            self.dispatcher.step()
            return self.dispatcher.is_idle

        wait_until(quiet, "the dispatcher has nothing to do")

    def until(self, condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
        """Let the dispatcher work until the condition holds."""

        def stepped() -> object:
            self.dispatcher.step()
            return condition()

        wait_until(stepped, what, seconds=seconds)

    def jobs(self, stage: Stage) -> list[str]:
        return sorted(job_ids(self.layout, stage))

    def read(self, stage: Stage, job: Job) -> Job:
        return read_task(self.layout.stage(stage) / job.id)

    def stop(self) -> None:
        """End what hangs."""
        self.dispatcher._end_running()


@contextmanager
def running(layout: Layout, targets: dict[str, TargetSetup], **more: Any) -> Iterator[Dispatcher]:
    """A dispatcher on a thread of its own, with the clock of the machine."""
    events = Recorded()
    settings = DispatcherSettings(targets, **more)
    dispatcher = Dispatcher(layout, settings, SystemClock(), events)
    stop = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            dispatcher.run(stop)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield dispatcher
    finally:
        stop.set()
        dispatcher.wake()
        thread.join(30)
    assert not thread.is_alive()
    assert failed == []


def hung() -> Any:
    """A peer that takes connections and never answers."""
    return scripted_server([ReceiveUntilClosed()])


def delivered(tmp_path: Path, name: str) -> list[str]:
    return sorted(path.name for path in (tmp_path / "targets" / name).glob("*/*.dcm"))


# -- the good way ------------------------------------------------------------------------------------------------------


def test_a_job_is_delivered_to_all_its_targets_and_kept_in_success(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    desk = Desk(layout, {"a": folder(tmp_path, "a"), "b": folder(tmp_path, "b")})
    job = make_job(layout, series, "a", "b")
    desk.settle()
    done = desk.read(Stage.SUCCESS, job)
    assert {delivery.state for delivery in done.deliveries} == {DeliveryState.COMPLETE}
    assert done.settled_at == desk.clock.now()
    assert delivered(tmp_path, "a") == delivered(tmp_path, "b") == sorted(job.instances)
    assert sorted(event.target or "" for event in desk.events.of(EventKind.DELIVERY_COMPLETE)) == ["a", "b"]
    assert desk.events.count(EventKind.DELIVERY_STARTED) == 2
    (settled,) = desk.events.of(EventKind.JOB_SETTLED)
    assert (settled.detail, settled.count, settled.series_uid) == ("success", 3, series.series_instance_uid)
    assert claim(layout, Stage.SUCCESS, job.id) is not None


def test_a_dicom_node_gets_every_instance(layout: Layout, series: BuiltSeries) -> None:
    with pynetdicom_scp(ae_title="ARCHIVE") as peer:
        desk = Desk(layout, {"pacs": node(peer.port)})
        job = make_job(layout, series, "pacs")
        desk.settle()
        assert sorted(peer.received) == sorted(series.sop_instance_uids)
    assert desk.jobs(Stage.SUCCESS) == [job.id]


def test_a_warning_status_counts_as_delivered(layout: Layout, series: BuiltSeries) -> None:
    with pynetdicom_scp(status_of=lambda _uid: 0xB000) as peer:
        desk = Desk(layout, {"pacs": node(peer.port)})
        job = make_job(layout, series, "pacs")
        desk.settle()
        assert len(peer.received) == 3
    assert desk.jobs(Stage.SUCCESS) == [job.id]
    results = read_ledger(layout.success / job.id).values()
    assert {result.outcome for result in results} == {Outcome.WARNING}


# -- trouble with a target ---------------------------------------------------------------------------------------------


def test_an_unreachable_target_defers_with_back_off_and_jitter(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    desk = Desk(layout, {"pacs": node(free_port()), "a": folder(tmp_path, "a")}, draw=lambda: 1.0)
    job = make_job(layout, series, "pacs", "a")
    pauses = []
    for _ in range(3):
        desk.settle()
        waiting = desk.read(Stage.OUTGOING, job).deliveries[0]
        assert waiting.not_before is not None
        pauses.append(waiting.not_before - desk.clock.now())
        desk.settle(pauses[-1].total_seconds() - 1.0)
        assert desk.read(Stage.OUTGOING, job).deliveries[0].attempts == len(pauses), "not before its time"
        desk.clock.advance(1.1)
    assert pauses == [timedelta(seconds=36), timedelta(seconds=72), timedelta(seconds=144)]
    assert delivered(tmp_path, "a") == sorted(job.instances)
    assert desk.events.count(EventKind.DELIVERY_DEFERRED) == 3


@pytest.mark.requirement("S17")
def test_a_dispatcher_gives_up_after_the_last_attempt_and_a_retry_begins_anew(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    setup = folder(tmp_path, "late", RetryPolicy(10.0, 10.0, maximum_attempts=3), there=False)
    desk = Desk(layout, {"late": setup})
    job = make_job(layout, series, "late")
    for _ in range(3):
        desk.settle(13.0)
    failed = desk.read(Stage.ERROR, job)
    assert failed.fail_stage is FailStage.DISPATCHING
    assert failed.reason.startswith("late: gave up after 3 attempts: folder target ")
    assert failed.deliveries[0].attempts == 3
    (tmp_path / "targets" / "late").mkdir(parents=True)
    controls.retry(layout, job.id, desk.clock.now())
    desk.settle(13.0)
    assert desk.jobs(Stage.SUCCESS) == [job.id]


def test_a_dead_target_with_many_jobs_is_probed_once_per_delay(layout: Layout, tmp_path: Path) -> None:
    desk = Desk(layout, {"pacs": node(free_port(), RetryPolicy(30.0, 30.0))}, max_parallel=8)
    for number in range(50):
        make_job(layout, small_series(tmp_path / f"s{number}", 1), "pacs")
    counts = []
    for _ in range(4):
        desk.settle(31.0)
        counts.append(desk.events.count(EventKind.DELIVERY_STARTED))
    assert counts == [1, 2, 3, 4]
    assert len(desk.jobs(Stage.OUTGOING)) == 50


def test_a_target_that_comes_back_gets_everything_that_waited(layout: Layout, tmp_path: Path) -> None:
    desk = Desk(layout, {"late": folder(tmp_path, "late", RetryPolicy(30.0, 30.0), there=False)})
    for number in range(10):
        make_job(layout, small_series(tmp_path / f"s{number}", 1), "late")
    desk.settle()
    (tmp_path / "targets" / "late").mkdir(parents=True)
    desk.settle(31.0)
    assert len(desk.jobs(Stage.SUCCESS)) == 10


@pytest.mark.parametrize("max_parallel", [4, 1])
def test_a_hung_target_delays_no_other(layout: Layout, tmp_path: Path, max_parallel: int) -> None:
    first, second = small_series(tmp_path / "s1", 1), small_series(tmp_path / "s2", 1)
    with hung() as peer:
        targets = {"hung": node(peer.port), "good": folder(tmp_path, "good")}
        make_job(layout, first, "hung", at=datetime(2026, 1, 1, tzinfo=UTC))
        make_job(layout, second, "good")
        with running(layout, targets, max_parallel=max_parallel):
            started = time.monotonic()
            wait_until(lambda: list(job_ids(layout, Stage.SUCCESS)), "the good target has its job")
            assert time.monotonic() - started < (5.0 if max_parallel == 1 else 3.0)
            assert len(peer.conversations) == 1
            assert len(list(job_ids(layout, Stage.OUTGOING))) == 1


def test_one_hung_target_of_a_job_delays_not_even_its_other_targets(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    with hung() as peer:
        desk = Desk(layout, {"hung": node(peer.port), "good": folder(tmp_path, "good")})
        job = make_job(layout, series, "hung", "good")
        desk.until(lambda: delivered(tmp_path, "good") == sorted(job.instances), "the good one has it")
        desk.until(
            lambda: desk.read(Stage.OUTGOING, job).deliveries[1].state is DeliveryState.COMPLETE, "and it is noted"
        )
        desk.stop()


@pytest.mark.requirement("D10")
def test_a_target_that_dies_half_way_gets_only_what_it_has_not_confirmed(layout: Layout, tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 6)
    refused = set(sorted(series.sop_instance_uids)[3:])
    with pynetdicom_scp(status_of=lambda uid: 0xA700 if uid in refused else 0x0000) as peer:
        desk = Desk(layout, {"pacs": node(peer.port, RetryPolicy(10.0, 10.0))})
        job = make_job(layout, series, "pacs")
        desk.settle()
        waiting = desk.read(Stage.OUTGOING, job).deliveries[0]
        assert waiting.detail.startswith("3 of 6 instances not taken now: ")
        peer.received.clear()
        again, refused = set(refused), set()
        desk.settle(11.0)
        assert set(peer.received) == again
    assert desk.jobs(Stage.SUCCESS) == [job.id]


def test_a_single_refused_instance_is_named_and_the_others_are_delivered(layout: Layout, series: BuiltSeries) -> None:
    bad = series.sop_instance_uids[1]
    with pynetdicom_scp(status_of=lambda uid: 0xC001 if uid == bad else 0x0000) as peer:
        desk = Desk(layout, {"pacs": node(peer.port)})
        job = make_job(layout, series, "pacs")
        desk.settle()
        assert sorted(peer.received) == sorted(series.sop_instance_uids)
        failed = desk.read(Stage.ERROR, job)
        assert failed.reason.startswith(f"pacs: 1 of 3 instances refused: {bad} (")
        assert bad in (layout.error / job.id / names.ERROR_LOG).read_text()
        peer.received.clear()
        bad = ""
        controls.retry(layout, job.id, desk.clock.now())
        desk.settle(3.0)
        assert len(peer.received) == 1
    assert desk.jobs(Stage.SUCCESS) == [job.id]


def test_of_many_refused_instances_some_are_named_and_the_ledger_has_all(layout: Layout, tmp_path: Path) -> None:
    series = small_series(tmp_path / "many", 12)
    with pynetdicom_scp(status_of=lambda _uid: 0xA900) as peer:
        desk = Desk(layout, {"pacs": node(peer.port)})
        job = make_job(layout, series, "pacs")
        desk.settle()
    assert desk.read(Stage.ERROR, job).reason.endswith("and 2 more (see ledger.jsonl)")
    assert len(read_ledger(layout.error / job.id)) == 12


def test_a_failed_target_does_not_keep_the_other_from_its_retries(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    with pynetdicom_scp(status_of=lambda _uid: 0xC000) as peer:
        setups = {"bad": node(peer.port), "late": folder(tmp_path, "late", RetryPolicy(10.0, 10.0), there=False)}
        desk = Desk(layout, setups)
        job = make_job(layout, series, "bad", "late")
        desk.settle()
        bad, late = desk.read(Stage.OUTGOING, job).deliveries
        assert (bad.state, late.state) == (DeliveryState.ERROR, DeliveryState.WAITING)
        (tmp_path / "targets" / "late").mkdir(parents=True)
        desk.settle(11.0)
    failed = desk.read(Stage.ERROR, job)
    assert failed.reason.startswith("bad: 3 of 3 instances refused")
    assert failed.deliveries[1].state is DeliveryState.COMPLETE


def test_a_deferred_target_keeps_its_time_when_another_of_the_job_is_tried(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    setups = {
        "slow": folder(tmp_path, "slow", RetryPolicy(1000.0, 1000.0, jitter=0.0), there=False),
        "fast": folder(tmp_path, "fast", RetryPolicy(10.0, 10.0, jitter=0.0), there=False),
    }
    desk = Desk(layout, setups)
    job = make_job(layout, series, "slow", "fast")
    for _ in range(5):
        desk.settle(11.0)
    slow, fast = desk.read(Stage.OUTGOING, job).deliveries
    assert (slow.attempts, fast.attempts) == (1, 5)


# -- jobs that no target waits for -------------------------------------------------------------------------------------


@pytest.mark.requirement("S7")
def test_a_job_without_a_target_goes_to_error_with_the_reason(layout: Layout, series: BuiltSeries) -> None:
    desk = Desk(layout, {})
    job = make_job(layout, series)
    desk.settle()
    assert desk.read(Stage.ERROR, job).reason == "the job names no target"


@pytest.mark.requirement("D1")
@pytest.mark.parametrize("unusable", [{}, {"gone": "cannot be used: no host"}])
def test_an_unknown_target_is_an_error_with_its_reason_until_it_is_there(
    layout: Layout, tmp_path: Path, series: BuiltSeries, unusable: dict[str, str]
) -> None:
    desk = Desk(layout, {"good": folder(tmp_path, "good")}, unusable=unusable)
    job = make_job(layout, series, "gone", "good")
    desk.settle()
    failed = desk.read(Stage.ERROR, job)
    why = unusable.get("gone", "is not in the configuration")
    assert failed.reason == f"gone: target 'gone' {why}"
    assert delivered(tmp_path, "good") == sorted(job.instances), "the good target has it all the same"
    desk.dispatcher.configure(DispatcherSettings({"good": folder(tmp_path, "good"), "gone": folder(tmp_path, "gone")}))
    controls.retry(layout, job.id, desk.clock.now())
    desk.settle(3.0)
    assert desk.jobs(Stage.SUCCESS) == [job.id]
    assert delivered(tmp_path, "gone") == sorted(job.instances)


@pytest.mark.requirement("S13")
def test_a_damaged_job_is_seen_once_and_stops_nothing(
    layout: Layout, tmp_path: Path, series: BuiltSeries, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(layout, {"a": folder(tmp_path, "a")})
    bad = make_job(layout, series, "a", job_id="bad")
    (layout.outgoing / "bad" / names.TASK_FILE).write_text("{")
    good = make_job(layout, series, "a", job_id="good")
    for _ in range(5):
        desk.settle(70.0)
    assert desk.jobs(Stage.SUCCESS) == [good.id]
    assert desk.jobs(Stage.ERROR) == [bad.id]
    assert caplog.text.count("is damaged") == 1


def test_a_job_that_a_dead_dispatcher_had_finished_is_moved(layout: Layout, series: BuiltSeries) -> None:
    desk = Desk(layout, {})
    job = make_job(layout, series, "a")
    finished = job.with_delivery(replace(job.deliveries[0], state=DeliveryState.COMPLETE))
    write_task(layout.outgoing / job.id, finished)
    desk.settle()
    assert desk.jobs(Stage.SUCCESS) == [job.id]


def test_a_cancel_that_a_crash_cut_off_is_finished(layout: Layout, tmp_path: Path, series: BuiltSeries) -> None:
    desk = Desk(layout, {"a": folder(tmp_path, "a")})
    job = make_job(layout, series, "a", fail_stage=FailStage.DISPATCHING, reason="cancelled by an operator")
    desk.settle()
    assert desk.read(Stage.ERROR, job).reason == "cancelled by an operator"
    assert delivered(tmp_path, "a") == []


def test_what_stands_in_the_way_in_success_stops_that_job_only(
    layout: Layout, tmp_path: Path, series: BuiltSeries, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(layout, {"a": folder(tmp_path, "a")})
    job = make_job(layout, series, "a", job_id="first")
    (layout.success / "first").mkdir()
    other = make_job(layout, series, "a", job_id="second")
    for _ in range(4):
        desk.settle(6.0)
    assert (layout.success / other.id / names.TASK_FILE).exists()
    assert caplog.text.count("there is a job first in success already") == 1
    (layout.success / "first").rmdir()
    desk.settle(6.0)
    assert [delivery.state for delivery in desk.read(Stage.SUCCESS, job).deliveries] == [DeliveryState.COMPLETE]


def test_a_job_that_vanishes_or_has_an_odd_name_stops_nothing(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    desk = Desk(layout, {"a": folder(tmp_path, "a")})
    desk.dispatcher._queue.odd.append("vanished")
    (layout.outgoing / "my folder").mkdir()
    job = make_job(layout, series, "a")
    desk.settle()
    desk.settle(3.0)
    assert desk.jobs(Stage.SUCCESS) == [job.id]


# -- operators ---------------------------------------------------------------------------------------------------------


def test_a_cancelled_job_whose_target_hangs_stops_at_once(layout: Layout, tmp_path: Path, series: BuiltSeries) -> None:
    with hung() as peer:
        job = make_job(layout, series, "hung", "late")
        targets = {"hung": node(peer.port), "late": folder(tmp_path, "late", there=False)}
        with running(layout, targets):
            wait_until(lambda: peer.conversations, "it is being sent")
            wait_until(lambda: read_task(layout.outgoing / job.id).deliveries[1].attempts, "the other is deferred")
            started = time.monotonic()
            assert controls.cancel(layout, job.id, datetime.now(UTC)) == "is being stopped"
            wait_until((layout.error / job.id).exists, "the job is cancelled")
            assert time.monotonic() - started < 10.0
        failed = read_task(layout.error / job.id)
        assert "cancelled by an operator" in failed.reason
        assert failed.fail_stage is FailStage.DISPATCHING


def test_a_retry_while_a_target_hangs_serves_the_others_and_tries_it_again_when_it_fails(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    let_go = threading.Event()
    with scripted_server([WaitFor(let_go), Close(reset=True)], [ReceiveUntilClosed()]) as peer:
        desk = Desk(layout, {"hung": node(peer.port), "late": folder(tmp_path, "late", there=False)})
        job = make_job(layout, series, "hung", "late")
        desk.until(lambda: peer.conversations, "it is being sent")
        desk.until(lambda: desk.read(Stage.OUTGOING, job).deliveries[1].attempts, "the other is deferred")
        (tmp_path / "targets" / "late").mkdir(parents=True)
        answer = controls.retry(layout, job.id, desk.clock.now())
        assert answer == "is being sent right now; what fails of it is tried again at once"
        desk.clock.advance(0.5)
        desk.until(lambda: len(delivered(tmp_path, "late")) == 3, "the other target has everything")
        assert len(peer.conversations) == 1
        let_go.set()
        desk.until(lambda: len(peer.conversations) == 2, "the attempt that failed is made again, with no delay")
        desk.stop()


def test_a_target_that_hangs_delays_no_attempt_at_another_target_of_its_job(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    with hung() as peer:
        desk = Desk(layout, {"hung": node(peer.port), "late": folder(tmp_path, "late", there=False)})
        job = make_job(layout, series, "hung", "late")
        desk.until(lambda: peer.conversations, "it is being sent")
        desk.until(lambda: desk.read(Stage.OUTGOING, job).deliveries[1].attempts, "the other is deferred")
        (tmp_path / "targets" / "late").mkdir(parents=True)
        desk.clock.advance(3600.0)
        desk.until(lambda: len(delivered(tmp_path, "late")) == 3, "the other target has everything")
        assert len(peer.conversations) == 1
        desk.stop()


def test_a_job_that_is_being_stopped_cannot_be_retried_yet(layout: Layout, series: BuiltSeries) -> None:
    with hung() as peer:
        desk = Desk(layout, {"hung": node(peer.port)})
        job = make_job(layout, series, "hung")
        desk.until(lambda: peer.conversations, "it is being sent")
        controls.cancel(layout, job.id, desk.clock.now())
        with pytest.raises(SpoolError, match="is being stopped"):
            controls.retry(layout, job.id, desk.clock.now())
        desk.clock.advance(0.5)
        desk.until(lambda: desk.jobs(Stage.ERROR), "it is stopped")
        assert "dispatched again" in controls.retry(layout, job.id, desk.clock.now())
        desk.stop()


def test_held_jobs_and_stages_start_nothing_until_they_are_released(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    desk = Desk(layout, {"a": folder(tmp_path, "a")})
    held, free = make_job(layout, series, "a", job_id="held"), make_job(layout, series, "a", job_id="free")
    controls.hold(layout, Stage.OUTGOING)
    desk.settle(3.0)
    assert desk.jobs(Stage.SUCCESS) == []
    controls.hold(layout, Stage.OUTGOING, held.id)
    controls.release(layout, Stage.OUTGOING)
    desk.settle(3.0)
    assert desk.jobs(Stage.SUCCESS) == [free.id]
    controls.release(layout, Stage.OUTGOING, held.id)
    desk.settle(3.0)
    assert desk.jobs(Stage.SUCCESS) == [free.id, held.id]


def test_a_retry_makes_a_deferred_job_due_at_once(layout: Layout, tmp_path: Path, series: BuiltSeries) -> None:
    setups = {"pacs": folder(tmp_path, "late", RetryPolicy(1000.0, 1000.0), there=False), "a": folder(tmp_path, "a")}
    desk = Desk(layout, setups)
    job = make_job(layout, series, "pacs", "a")
    desk.settle()
    assert desk.read(Stage.OUTGOING, job).deliveries[0].attempts == 1
    (tmp_path / "targets" / "late").mkdir(parents=True)
    desk.settle(400.0)
    assert desk.jobs(Stage.OUTGOING) == [job.id]
    controls.retry(layout, job.id, desk.clock.now())
    desk.settle(0.1)
    assert desk.jobs(Stage.SUCCESS) == [job.id], "an operator who asks for it asks the target, too"


def attempt_is_made_when_announced(desk: Desk, job: Job) -> None:
    """Have the next attempt at the only target made, at the time that the job says, and not before."""
    waiting = desk.read(Stage.OUTGOING, job).deliveries[0]
    assert waiting.not_before is not None
    desk.settle((waiting.not_before - desk.clock.now()).total_seconds() - 0.5)
    assert desk.read(Stage.OUTGOING, job).deliveries[0].attempts == waiting.attempts, "not before its time"
    desk.settle(0.6)
    assert desk.read(Stage.OUTGOING, job).deliveries[0].attempts == waiting.attempts + 1, "at its time"


@pytest.mark.parametrize("draws", [(0.0, 1.0), (1.0, 0.0)])
def test_the_next_attempt_is_made_when_it_is_announced(
    layout: Layout, tmp_path: Path, series: BuiltSeries, draws: tuple[float, float]
) -> None:
    random = itertools.cycle(draws)
    setup = folder(tmp_path, "late", RetryPolicy(1000.0, 9000.0, jitter=0.2), there=False)
    desk = Desk(layout, {"late": setup}, draw=lambda: next(random))
    job = make_job(layout, series, "late")
    desk.settle()
    for _ in range(3):
        attempt_is_made_when_announced(desk, job)


def test_a_retry_asks_a_target_that_was_given_up_for_long_and_announces_the_time_after_that(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    desk = Desk(layout, {"late": folder(tmp_path, "late", RetryPolicy(30.0, 9000.0), there=False)})
    job = make_job(layout, series, "late")
    for _ in range(6):
        desk.settle(1900.0)
    controls.retry(layout, job.id, desk.clock.now())
    started = desk.events.count(EventKind.DELIVERY_STARTED)
    desk.settle(0.1)
    assert desk.events.count(EventKind.DELIVERY_STARTED) == started + 1, "asked at once"
    attempt_is_made_when_announced(desk, job)


def test_a_retry_asks_the_target_at_once_when_the_attempt_that_was_under_way_has_failed(
    layout: Layout, tmp_path: Path
) -> None:
    fails, let_go = [Close(reset=True)], threading.Event()
    with scripted_server(fails, fails, [WaitFor(let_go), Close(reset=True)], [ReceiveUntilClosed()]) as peer:
        desk = Desk(layout, {"pacs": node(peer.port, parallel=2)})
        now = desk.clock.now()
        jobs = {
            name: make_job(layout, small_series(tmp_path / name, 1), "pacs", job_id=name, at=now)
            for name in ("one", "two")
        }
        desk.settle()
        desk.clock.advance(100.0)
        desk.until(lambda: len(peer.conversations) == 3, "one of them is tried")
        first = jobs.pop(str(started_order(desk)[-1]))
        (second,) = jobs.values()
        controls.retry(layout, second.id, desk.clock.now())
        desk.clock.advance(1.0)
        desk.until(lambda: desk.read(Stage.OUTGOING, second).deliveries[0].attempts == 0, "the retry is noticed")
        desk.dispatcher.step()
        assert len(peer.conversations) == 3, "one at a time, as long as the target is not known to work"
        let_go.set()
        desk.until(lambda: desk.read(Stage.OUTGOING, first).deliveries[0].attempts == 2, "the attempt has failed")
        desk.until(lambda: len(peer.conversations) == 4, "the target is asked for the operator")
        desk.stop()


def test_a_job_for_a_target_that_is_new_waits_for_the_settings_that_have_it(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    def add() -> None:
        """While a step settles the first job, a target is added, and a router that knows of it makes a job for it."""
        desk.dispatcher.configure(DispatcherSettings({name: folder(tmp_path, name) for name in ("a", "b")}))
        make_job(layout, series, "b", job_id="second")

    desk = Desk(layout, {"a": folder(tmp_path, "a")}, events=ActsAtFirst(kind=EventKind.JOB_SETTLED, act=add))
    make_job(layout, series, "a", job_id="first")
    desk.until(lambda: len(desk.jobs(Stage.SUCCESS) + desk.jobs(Stage.ERROR)) == 2, "both have ended")
    assert desk.jobs(Stage.SUCCESS) == ["first", "second"]


# -- which goes first --------------------------------------------------------------------------------------------------


def started_order(desk: Desk) -> list[str | None]:
    return [event.job_id for event in desk.events.of(EventKind.DELIVERY_STARTED)]


def test_urgent_jobs_go_first_and_others_do_not_starve(layout: Layout, tmp_path: Path, series: BuiltSeries) -> None:
    desk = Desk(layout, {"a": folder(tmp_path, "a")})
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(3):
        make_job(layout, series, "a", job_id=f"normal{number}", at=at + timedelta(seconds=number))
    for number in range(6):
        job_id, later = f"urgent{number}", at + timedelta(hours=1, seconds=number)
        make_job(layout, series, "a", job_id=job_id, priority=Priority.URGENT, at=later)
    desk.settle()
    order = started_order(desk)
    assert order[:2] == ["urgent0", "urgent1"]
    assert order[2] == "normal0"
    assert [job for job in order if job and job.startswith("urgent")] == [f"urgent{n}" for n in range(6)]
    assert order[5] == "normal1", "every third place is that of the others"


@pytest.mark.requirement("S10")
def test_off_peak_jobs_wait_for_their_hours(layout: Layout, tmp_path: Path, series: BuiltSeries) -> None:
    hour = datetime.now(UTC) + timedelta(hours=3)
    window = OffPeak(time_of_day(hour.hour), time_of_day(hour.hour, 59, 59))
    desk = Desk(layout, {"a": folder(tmp_path, "a")}, off_peak=window)
    quiet = make_job(layout, series, "a", job_id="quiet", priority=Priority.OFFPEAK)
    normal = make_job(layout, series, "a", job_id="normal")
    desk.settle()
    assert desk.jobs(Stage.SUCCESS) == [normal.id]
    start = hour.replace(minute=30, second=0)
    desk.settle((start - desk.clock.now()).total_seconds())
    assert desk.jobs(Stage.SUCCESS) == [normal.id, quiet.id]


def test_no_more_run_in_parallel_than_allowed(layout: Layout, tmp_path: Path) -> None:
    with hung() as peer:
        for number in range(6):
            make_job(layout, small_series(tmp_path / f"s{number}", 1), "hung")
        desk = Desk(layout, {"hung": node(peer.port, parallel=4)}, max_parallel=3)
        for _ in range(20):
            desk.dispatcher.step()
        assert desk.events.count(EventKind.DELIVERY_STARTED) == 3
        desk.clock.advance(1.1)  # they make no progress and yield their places, but not those at their target
        for _ in range(20):
            desk.dispatcher.step()
        assert desk.events.count(EventKind.DELIVERY_STARTED) == 4
        desk.stop()


# -- stopping, starting, two at once -----------------------------------------------------------------------------------


def test_a_stop_ends_what_runs_and_counts_no_attempt(layout: Layout, series: BuiltSeries) -> None:
    with hung() as peer:
        job = make_job(layout, series, "hung")
        with running(layout, {"hung": node(peer.port)}):
            wait_until(lambda: peer.conversations, "it is being sent")
            started = time.monotonic()
        assert time.monotonic() - started < 5.0
    delivery = read_task(layout.outgoing / job.id).deliveries[0]
    assert (delivery.state, delivery.attempts, delivery.not_before) == (DeliveryState.WAITING, 0, None)
    taken = claim(layout, Stage.OUTGOING, job.id)
    assert taken is not None
    taken.close()


class Stubborn:
    """A target that ends when the test lets it, and not when it is told to."""

    def __init__(self) -> None:
        self.sending = threading.Event()
        self.go_on = threading.Event()

    def send(self, parcel: Any, progress: Any) -> None:
        self.sending.set()
        self.go_on.wait(30)
        for name in parcel.names:
            progress.record(InstanceResult(name, Outcome.DELIVERED))

    def test(self) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is kept."""


def test_a_delivery_that_does_not_end_keeps_its_claim_and_is_settled_later(
    layout: Layout, series: BuiltSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mercure.services.dispatcher._STOP_SECONDS", 0.2)
    target = Stubborn()
    desk = Desk(layout, {"a": TargetSetup(target, PATIENT)})
    job = make_job(layout, series, "a")
    desk.dispatcher.step()
    assert target.sending.wait(10)
    desk.stop()
    assert claim(layout, Stage.OUTGOING, job.id) is None, "nobody may send the same beside it"
    target.go_on.set()
    desk.until(lambda: desk.jobs(Stage.SUCCESS), "it is settled when it ends")


class Broken(Stubborn):
    """A target with an error of ours."""

    def send(self, parcel: Any, progress: Any) -> None:
        raise ZeroDivisionError


def test_an_error_of_ours_in_a_target_defers_the_job_and_is_logged(
    layout: Layout, tmp_path: Path, series: BuiltSeries, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(layout, {"broken": TargetSetup(Broken(), PATIENT), "good": folder(tmp_path, "good")})
    job = make_job(layout, series, "broken", "good")
    desk.settle()
    broken, good = desk.read(Stage.OUTGOING, job).deliveries
    assert broken.detail == "internal error (ZeroDivisionError), see the log"
    assert good.state is DeliveryState.COMPLETE
    assert "error of ours" in caplog.text


class Silent(Stubborn):
    """A target that returns without a result for each instance."""

    def send(self, parcel: Any, progress: Any) -> None:
        progress.record(InstanceResult(parcel.names[0], Outcome.DELIVERED))


@pytest.mark.requirement("D10")
def test_a_target_that_says_nothing_of_an_instance_has_not_got_it(layout: Layout, series: BuiltSeries) -> None:
    desk = Desk(layout, {"silent": TargetSetup(Silent(), PATIENT)})
    job = make_job(layout, series, "silent")
    desk.settle()
    assert desk.read(Stage.OUTGOING, job).deliveries[0].detail == "2 of 3 instances have no result"


def test_what_the_ledger_has_is_not_sent_again(layout: Layout, series: BuiltSeries) -> None:
    with pynetdicom_scp() as peer:
        desk = Desk(layout, {"pacs": node(peer.port)})
        job = make_job(layout, series, "pacs")
        ledger = Ledger(layout.outgoing / job.id)
        ledger.record("pacs", InstanceResult(job.instances[0], Outcome.DELIVERED))
        ledger.record("other", InstanceResult(job.instances[1], Outcome.DELIVERED))
        ledger.close()
        desk.settle()
        assert sorted(peer.received) == sorted(series.sop_instance_uids[1:])


def test_a_job_that_another_process_has_claimed_is_left_to_it(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    desk = Desk(layout, {"a": folder(tmp_path, "a")})
    job = make_job(layout, series, "a")
    taken = claim(layout, Stage.OUTGOING, job.id)
    assert taken is not None
    desk.settle()
    assert desk.jobs(Stage.OUTGOING) == [job.id]
    taken.close()
    desk.settle(2.1)
    assert desk.jobs(Stage.SUCCESS) == [job.id]


def test_a_job_that_another_process_deferred_keeps_its_time(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    desk = Desk(layout, {"a": folder(tmp_path, "a")})
    job = make_job(layout, series, "a")
    desk.dispatcher._queue.scan()
    later = replace(job.deliveries[0], not_before=desk.clock.now() + timedelta(seconds=50), attempts=1)
    write_task(layout.outgoing / job.id, job.with_delivery(later))
    desk.settle()
    assert desk.jobs(Stage.OUTGOING) == [job.id]
    desk.settle(51.0)
    assert desk.jobs(Stage.SUCCESS) == [job.id]


def test_two_dispatchers_at_once_send_each_job_once(layout: Layout, tmp_path: Path) -> None:
    with pynetdicom_scp() as peer:
        every = [small_series(tmp_path / f"s{number}", 2) for number in range(15)]
        for each in every:
            make_job(layout, each, "pacs")
        with (
            running(layout, {"pacs": node(peer.port, EAGER, parallel=2)}),
            running(layout, {"pacs": node(peer.port, EAGER, parallel=2)}),
        ):
            wait_until(lambda: len(list(job_ids(layout, Stage.SUCCESS))) == 15, "all jobs are done")
        assert sorted(peer.received) == sorted(uid for each in every for uid in each.sop_instance_uids)


# -- settings and folders ----------------------------------------------------------------------------------------------


def test_new_settings_close_what_changed_and_let_waiting_jobs_go_on(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    desk = Desk(layout, {"a": folder(tmp_path, "a", RetryPolicy(1000.0, 1000.0), there=False)})
    job = make_job(layout, series, "a")
    desk.settle()
    assert desk.jobs(Stage.OUTGOING) == [job.id]
    desk.dispatcher.configure(DispatcherSettings({"a": folder(tmp_path, "a")}))
    desk.settle()
    assert desk.jobs(Stage.OUTGOING) == [job.id], "the job keeps its time"
    controls.retry(layout, job.id, desk.clock.now())
    desk.settle(1.0)
    assert desk.jobs(Stage.SUCCESS) == [job.id], "the target counts as well again"


def test_a_running_dispatcher_is_woken_by_a_new_job(layout: Layout, tmp_path: Path, series: BuiltSeries) -> None:
    with running(layout, {"a": folder(tmp_path, "a")}, scan_interval_seconds=600.0):
        wait_until(lambda: any(t.name == "folder-bell" for t in threading.enumerate()), "it watches")
        job = make_job(layout, series, "a")
        wait_until((layout.success / job.id).exists, "it is delivered", seconds=20)


def test_a_vanished_folder_of_jobs_ends_the_service_which_comes_back_with_it(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    desk = Desk(layout, {"a": folder(tmp_path, "a")})
    os.rename(layout.outgoing, tmp_path / "aside")
    with pytest.raises(FileNotFoundError):
        desk.dispatcher.step()
    os.rename(tmp_path / "aside", layout.outgoing)
    job = make_job(layout, series, "a")
    desk.settle()
    assert desk.jobs(Stage.SUCCESS) == [job.id]


@pytest.mark.requirement("D3")
def test_a_full_disk_puts_jobs_off_and_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk", 2 << 20) as disk:
        layout = Layout.under(disk)
        layout.create()
        series = small_series(disk / "series", 3)
        job = make_job(layout, series, "a")
        desk = Desk(layout, {"a": folder(tmp_path, "a")})
        ballast = fill(disk)
        for _ in range(4):
            desk.settle(6.0)
        assert desk.jobs(Stage.OUTGOING) == [job.id]
        assert desk.jobs(Stage.ERROR) == []
        assert len([line for line in caplog.text.splitlines() if "No space left" in line]) <= 2, "not once each time"
        ballast.unlink()
        desk.settle(6.0)
        desk.settle(60.0)
        assert desk.jobs(Stage.SUCCESS) == [job.id]
        assert delivered(tmp_path, "a") == sorted(job.instances)


def test_a_read_only_disk_puts_jobs_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk", 2 << 20) as disk:
        layout = Layout.under(disk)
        layout.create()
        jobs = [make_job(layout, small_series(disk / name, 1), "a", job_id=name) for name in ("one", "two")]
        desk = Desk(layout, {"a": folder(tmp_path, "a")})
        with read_only(disk):
            for _ in range(4):
                desk.settle(6.0)
            assert desk.jobs(Stage.OUTGOING) == [job.id for job in jobs]
            assert caplog.text.count("Read-only file system") == 2, "once for each job"
        desk.settle(6.0)
        assert desk.jobs(Stage.SUCCESS) == [job.id for job in jobs]


def test_no_log_line_and_no_event_names_a_patient(
    layout: Layout, tmp_path: Path, series: BuiltSeries, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    desk = Desk(layout, {"a": folder(tmp_path, "a")})
    job = make_job(layout, series, "a", "nowhere")
    secret = replace(job.series, patient_name="DOE^JANE", patient_id="PID-77", accession_number="ACC-88")
    write_task(layout.outgoing / job.id, replace(job, series=secret))
    desk.settle()
    told = caplog.text + json.dumps([event.to_json() for event in desk.events.events])
    assert not any(word in told for word in ("DOE", "PID-77", "ACC-88"))


def test_a_job_of_an_existing_installation_is_delivered(layout: Layout, series: BuiltSeries, tmp_path: Path) -> None:
    old = layout.outgoing / "4f1c-old"
    old.mkdir()
    for path in series.files:
        (old / path.name).write_bytes(path.read_bytes())
    status = {"archive": {"state": "waiting", "time": None}}
    info = {"action": "route", "uid": "1.2", "uid_type": "series", "triggered_rules": {"r": True}}
    task = {"id": "4f1c-old", "info": info, "dispatch": {"target_name": ["archive"], "status": status}}
    (old / "task.json").write_text(json.dumps(task))
    desk = Desk(layout, {"archive": folder(tmp_path, "archive")})
    desk.until((layout.success / "4f1c-old").is_dir, "the job has ended")
    assert len(list((tmp_path / "targets/archive/4f1c-old").glob("*.dcm"))) == len(series.files)


def test_a_job_without_instances_is_no_success(layout: Layout, series: BuiltSeries, tmp_path: Path) -> None:
    job = make_job(layout, series, "archive")
    for path in (layout.outgoing / job.id / names.RECEIVED).glob("*.dcm"):
        path.unlink()
    write_task(layout.outgoing / job.id, replace(job, instances=()))
    desk = Desk(layout, {"archive": folder(tmp_path, "archive")})
    desk.until((layout.error / job.id).is_dir, "the job has ended")
    assert "holds no instance" in (layout.error / job.id / names.ERROR_LOG).read_text()


def test_a_target_that_is_away_is_said_in_the_log(
    layout: Layout, series: BuiltSeries, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job(layout, series, "archive")
    desk = Desk(layout, {"archive": folder(tmp_path, "archive", there=False)})
    desk.settle()
    assert f"job {job.id} waits for target archive until " in caplog.text


def test_a_job_that_is_let_go_of_a_moment_after_it_came_is_sent_soon(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    desk = Desk(layout, {"a": folder(tmp_path, "a")})
    job = make_job(layout, series, "a")
    taken = claim(layout, Stage.OUTGOING, job.id)
    assert taken is not None
    desk.dispatcher.step()
    taken.close()
    desk.clock.advance(0.06)
    desk.until(lambda: desk.jobs(Stage.SUCCESS), "it is sent")


# -- trouble with one job concerns that job only -----------------------------------------------------------------------


@contextmanager
def read_only_names(folder: Path) -> Iterator[None]:
    """Make a small disk read-only for whoever goes by a path, as an emergency does; what is open stays open."""
    disks._mount("mount", "--bind", str(folder), str(folder))
    try:
        disks._mount("mount", "-o", "remount,bind,ro", str(folder))
        yield
    finally:
        disks._mount("umount", "--lazy", str(folder))


@contextmanager
def no_new_threads() -> Iterator[None]:
    """Have the kernel refuse new threads: there is no room for such a stack."""
    before = threading.stack_size(1 << 46)
    try:
        with pytest.raises(RuntimeError):
            threading.Thread(target=print).start()
        yield
    finally:
        threading.stack_size(before)


def outgoing_is_free(layout: Layout, job: Job) -> bool:
    """Whether nobody has claimed the job."""
    taken = claim(layout, Stage.OUTGOING, job.id)
    if taken:
        taken.close()
    return taken is not None


@pytest.mark.requirement("D3")
def test_deliveries_that_end_on_a_read_only_disk_are_all_settled_when_it_can_be_written(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2 << 20) as disk:
        layout = Layout.under(disk)
        layout.create()
        targets = {name: Stubborn() for name in ("a", "b", "c")}
        desk = Desk(layout, {name: TargetSetup(target, PATIENT) for name, target in targets.items()})
        for name in targets:
            make_job(layout, small_series(disk / name, 1), name, job_id=name)
        desk.dispatcher.step()
        assert all(target.sending.wait(30) for target in targets.values())
        with read_only_names(disk):
            for target in targets.values():
                target.sending.clear()
                target.go_on.set()
            desk.until(lambda: desk.dispatcher.is_idle, "they have ended")
            assert desk.jobs(Stage.OUTGOING) == ["a", "b", "c"]
        desk.settle(6.0)
        desk.settle(6.0)
        assert desk.jobs(Stage.SUCCESS) == ["a", "b", "c"]
        assert not any(target.sending.is_set() for target in targets.values()), "what the ledger has is not sent again"


def test_a_wish_to_retry_on_a_read_only_disk_is_followed_when_it_can_be_written(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2 << 20) as disk:
        layout = Layout.under(disk)
        layout.create()
        target = Stubborn()
        late = folder(tmp_path, "late", there=False)
        desk = Desk(layout, {"hung": TargetSetup(target, PATIENT), "late": late})
        job = make_job(layout, small_series(disk / "series", 1), "hung", "late")
        desk.until(lambda: desk.read(Stage.OUTGOING, job).deliveries[1].attempts, "one is deferred")
        assert target.sending.wait(30)
        controls.retry(layout, job.id, desk.clock.now())
        (tmp_path / "targets" / "late").mkdir(parents=True)
        with read_only_names(disk):
            for _ in range(3):
                desk.clock.advance(1.0)
                desk.dispatcher.step()
            assert (layout.outgoing / job.id / names.RETRY_FILE).exists()
        desk.clock.advance(1.0)
        desk.until(lambda: len(delivered(tmp_path, "late")) == 1, "the wish was followed")
        target.go_on.set()
        desk.until(lambda: desk.jobs(Stage.SUCCESS), "the job has ended")


def test_an_error_of_ours_about_one_delivery_loses_no_other(
    layout: Layout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drawn: list[float] = []

    def draw() -> float:
        drawn.append(0.5)
        if len(drawn) == 1:
            raise ZeroDivisionError
        return 0.5

    targets = {name: Stubborn() for name in ("a", "b", "c")}
    desk = Desk(layout, {name: TargetSetup(target, PATIENT) for name, target in targets.items()}, draw)
    for name in targets:
        make_job(layout, small_series(tmp_path / name, 1), name, job_id=name)
    desk.dispatcher.step()
    for target in targets.values():
        assert target.sending.wait(30)
        target.go_on.set()
    wait_until(lambda: len(desk.dispatcher._ended) == 3, "all have ended")
    desk.dispatcher.step()
    assert desk.dispatcher.is_idle
    assert len(desk.jobs(Stage.SUCCESS)) == 2
    assert "error of ours" in caplog.text
    desk.settle(61.0)
    assert desk.jobs(Stage.SUCCESS) == ["a", "b", "c"], "the job was let go of, and read again"


def test_a_job_for_which_there_is_no_thread_is_put_off(
    layout: Layout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(layout, {"late": folder(tmp_path, "late", RetryPolicy(10.0, 10.0, jitter=0.0), there=False)})
    jobs = [make_job(layout, small_series(tmp_path / name, 1), "late", job_id=name) for name in ("one", "two")]
    desk.settle()
    (tmp_path / "targets" / "late").mkdir(parents=True)
    desk.clock.advance(11.0)
    with no_new_threads():
        desk.dispatcher.step()
        desk.dispatcher.step()
        assert desk.dispatcher.is_idle
    assert all(outgoing_is_free(layout, job) for job in jobs)
    assert "cannot be sent now: the machine has no thread for it" in caplog.text
    desk.settle(6.0)
    assert desk.jobs(Stage.SUCCESS) == ["one", "two"], "the probe of the target was not used up"


def test_a_lack_of_threads_goes_not_through_all_that_waits(
    layout: Layout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(layout, {"a": folder(tmp_path, "a")})
    for number in range(20):
        make_job(layout, small_series(tmp_path / f"s{number}", 1), "a")
    with no_new_threads():
        desk.dispatcher.step()
    assert caplog.text.count("no thread") == 1
    desk.settle(6.0)
    assert len(desk.jobs(Stage.SUCCESS)) == 20


class Quitting(Stubborn):
    """A target that ends the thread it is called on."""

    def send(self, parcel: Any, progress: Any) -> None:
        raise SystemExit(3)


def test_a_delivery_whose_thread_is_ended_defers_the_job(layout: Layout, series: BuiltSeries) -> None:
    desk = Desk(layout, {"quits": TargetSetup(Quitting(), PATIENT)})
    job = make_job(layout, series, "quits")
    desk.settle()
    delivery = desk.read(Stage.OUTGOING, job).deliveries[0]
    assert (delivery.state, delivery.attempts) == (DeliveryState.WAITING, 1)
    assert outgoing_is_free(layout, job)


class Unclosable(Stubborn):
    """A target that raises when it is to be closed, and waits for that."""

    def send(self, parcel: Any, progress: Any) -> None:
        progress.attach(self.close)
        super().send(parcel, progress)
        progress.check()

    def close(self) -> None:
        self.go_on.set()
        raise ZeroDivisionError


def test_a_delivery_that_cannot_be_broken_off_keeps_no_other_from_it(layout: Layout, series: BuiltSeries) -> None:
    targets = {name: Unclosable() for name in ("a", "b")}
    desk = Desk(layout, {name: TargetSetup(target, PATIENT) for name, target in targets.items()})
    job = make_job(layout, series, "a", "b")
    desk.dispatcher.step()
    assert all(target.sending.wait(30) for target in targets.values())
    desk.stop()
    assert desk.dispatcher.is_idle
    assert outgoing_is_free(layout, job) or desk.jobs(Stage.SUCCESS)


def test_a_target_that_cannot_be_closed_keeps_no_other_from_it(layout: Layout) -> None:
    targets = {name: Unclosable() for name in ("a", "b")}
    desk = Desk(layout, {name: TargetSetup(target, PATIENT) for name, target in targets.items()})
    desk.dispatcher.configure(DispatcherSettings())
    desk.dispatcher.step()
    assert all(target.go_on.is_set() for target in targets.values())


def test_a_time_that_no_calendar_has_stops_nothing(layout: Layout, tmp_path: Path, series: BuiltSeries) -> None:
    desk = Desk(layout, {"a": folder(tmp_path, "a")})
    odd = make_job(layout, series, "a", job_id="odd")
    task = layout.outgoing / odd.id / names.TASK_FILE
    content = json.loads(task.read_text())
    content["dispatch"]["status"]["a"]["not_before"] = "9999-12-31T23:59:59-14:00"
    task.write_text(json.dumps(content))
    good = make_job(layout, series, "a", job_id="good")
    desk.settle()
    desk.settle(70.0)
    assert desk.jobs(Stage.SUCCESS) == [good.id]
    controls.retry(layout, odd.id, desk.clock.now())
    desk.settle(1.0)
    assert desk.jobs(Stage.SUCCESS) == [good.id, odd.id]


class Ticking(FakeClock):
    """A clock on which time goes by while it is read, as it does for everybody else."""

    def now(self) -> datetime:
        self.advance(0.001)
        return super().now()


def test_trouble_with_a_job_of_many_targets_does_not_multiply(layout: Layout, tmp_path: Path) -> None:
    targets = {name: folder(tmp_path, name) for name in "abcd"}
    desk = Desk(layout, targets)
    desk.clock = desk.dispatcher._clock = Ticking()
    job = make_job(layout, small_series(tmp_path / "series", 1), *targets)
    (layout.outgoing / job.id / names.LEDGER_FILE).mkdir()
    for _ in range(100):
        desk.clock.advance(desk.dispatcher._seconds_to_wait())
        desk.dispatcher.step()
        assert len(desk.dispatcher._queue._later) <= len(targets)
    (layout.outgoing / job.id / names.LEDGER_FILE).rmdir()
    desk.settle(6.0)
    assert desk.jobs(Stage.SUCCESS) == [job.id]


def test_a_job_that_its_worker_finished_but_did_not_move_is_moved(layout: Layout, series: BuiltSeries) -> None:
    target = Stubborn()
    desk = Desk(layout, {"a": TargetSetup(target, PATIENT)})
    job = make_job(layout, series, "a")
    desk.dispatcher._queue.scan()
    taken = claim(layout, Stage.OUTGOING, job.id)
    assert taken is not None
    taken.save(job.with_delivery(replace(job.deliveries[0], state=DeliveryState.COMPLETE)))
    desk.settle()
    desk.settle(3.0)
    taken.close()
    desk.settle(3.0)
    desk.settle(3.0)
    assert desk.jobs(Stage.SUCCESS) == [job.id]
    assert not target.sending.is_set()


def test_a_job_that_was_cancelled_while_it_waited_is_not_sent_even_if_the_move_is_missing(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    desk = Desk(layout, {"a": folder(tmp_path, "a")})
    job = make_job(layout, series, "a")
    desk.dispatcher._queue.scan()
    write_task(layout.outgoing / job.id, replace(job, fail_stage=FailStage.DISPATCHING, reason="cancelled by somebody"))
    desk.settle()
    desk.settle(1.0)
    assert desk.read(Stage.ERROR, job).reason == "cancelled by somebody"
    assert delivered(tmp_path, "a") == []


@pytest.mark.requirement("D3")
def test_a_ledger_that_cannot_be_written_is_said_as_such(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk", 2 << 20) as disk:
        layout = Layout.under(disk)
        layout.create()
        target = Stubborn()
        desk = Desk(layout, {"a": TargetSetup(target, PATIENT)})
        job = make_job(layout, small_series(disk / "series", 1), "a")
        desk.dispatcher.step()
        assert target.sending.wait(30)
        ballast = fill(disk)
        target.go_on.set()
        desk.until(lambda: desk.dispatcher.is_idle, "the attempt is over")
        assert "the ledger of the job cannot be written now: No space left on device" in caplog.text
        assert "error of ours" not in caplog.text
        ballast.unlink()
        desk.settle(60.0)
        assert desk.jobs(Stage.SUCCESS) == [job.id]


def test_a_job_that_cannot_be_read_while_one_target_hangs_goes_on_at_the_others_later(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2 << 20) as disk:
        layout = Layout.under(disk)
        layout.create()
        hanging, other = Stubborn(), Stubborn()
        desk = Desk(layout, {"hung": TargetSetup(hanging, PATIENT), "other": TargetSetup(other, PATIENT)})
        job = make_job(layout, small_series(disk / "series", 1), "hung", "other")
        desk.dispatcher.step()
        assert hanging.sending.wait(30)
        assert other.sending.wait(30)
        with read_only_names(disk):
            other.go_on.set()
            desk.until(lambda: len(desk.dispatcher._jobs.runs()) == 1, "one has ended and cannot be written down")
        task = layout.outgoing / job.id / names.TASK_FILE
        content = task.read_bytes()
        task.write_bytes(b"{")
        desk.clock.advance(5.1)
        desk.dispatcher.step()
        task.write_bytes(content)
        for _ in range(3):
            desk.clock.advance(5.1)
            desk.dispatcher.step()
        assert desk.read(Stage.OUTGOING, job).deliveries[1].state is DeliveryState.COMPLETE
        hanging.go_on.set()
        desk.until(lambda: desk.jobs(Stage.SUCCESS), "the job has ended")


_AS_ORDINARY_USER = """
import os, sys
from pathlib import Path
from tests.unit.services.test_dispatcher import Desk, Layout, Stage, folder, make_job, small_series
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
place = Path(sys.argv[1])
layout = Layout.under(place / "data")
layout.create()
job = make_job(layout, small_series(place / "series", 3), "archive")
for instance in (layout.outgoing / job.id / "received").glob("*.dcm"):
    os.chmod(instance, 0)
desk = Desk(layout, {"archive": folder(place, "archive")})
desk.settle()
print(desk.jobs(Stage.SUCCESS) == [job.id], len(list((place / "targets").rglob("*.dcm"))))
"""


def test_instances_that_a_module_made_unreadable_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)  # that user may not write there
    with tempfile.TemporaryDirectory() as place:  # the folders of pytest are closed to others
        os.chmod(place, 0o777)
        command = [sys.executable, "-W", "error", "-c", _AS_ORDINARY_USER, place]
        root = Path(__file__).parents[3]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, timeout=120)
        assert (done.stdout, done.returncode) == ("True 3\n", 0), done.stderr[-2000:]


def test_a_job_with_modules_that_made_nothing_yet_is_never_sent_as_it_came(
    layout: Layout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    steps = process_section([StepPlan("anonymize")])
    desk = Desk(layout, {"archive": folder(tmp_path, "archive")})
    job = make_job(layout, small_series(tmp_path / "series", 2), "archive", process=steps)
    desk.settle()
    assert desk.jobs(Stage.ERROR) == [job.id]
    failed = desk.read(Stage.ERROR, job)
    assert (failed.fail_stage, failed.results) == (FailStage.PROCESSING, None)
    assert failed.reason == "the job has modules and no results of theirs; it is not sent as it came"
    assert [delivery.state for delivery in failed.deliveries] == [DeliveryState.WAITING]
    assert list((tmp_path / "targets").rglob("*.dcm")) == []
    assert job.id in caplog.text


def test_a_job_that_lost_its_results_while_it_waited_is_not_sent_as_it_came(layout: Layout, tmp_path: Path) -> None:
    steps = process_section([StepPlan("anonymize")])
    desk = Desk(layout, {"archive": folder(tmp_path, "archive")})
    job = make_job(layout, small_series(tmp_path / "series", 1), "archive", process=steps, results=("new.dcm",))
    controls.hold(layout, Stage.OUTGOING)
    desk.dispatcher.step()  # it waits for its target by now
    write_task(layout.outgoing / job.id, replace(job, results=None))
    controls.release(layout, Stage.OUTGOING)
    desk.settle()
    assert desk.read(Stage.ERROR, job).fail_stage is FailStage.PROCESSING
    assert list((tmp_path / "targets").rglob("*.dcm")) == []


def test_a_dispatcher_that_starts_removes_copies_that_were_cut_off(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    job = make_job(layout, series, "away")
    draft = layout.success / f".{job.id}.copy"
    (draft / names.RECEIVED).mkdir(parents=True)
    with running(layout, {"away": folder(tmp_path, "away", there=False)}):
        wait_until(lambda: not draft.exists(), "the copy is removed")
    assert (layout.outgoing / job.id).is_dir()


def test_a_full_disk_of_delivered_jobs_gets_back_what_did_not_fit(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        layout = Layout(**Layout.under(tmp_path / "data").folders() | {"success": disk / "success"})
        layout.create()
        job = make_job(layout, small_series(tmp_path / "series", 4, size_bytes=100_000), "a")
        desk = Desk(layout, {"a": folder(tmp_path, "a")})
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(700_000))
        for _ in range(3):
            desk.settle(6.0)
            assert list(layout.success.iterdir()) == []
        (waiting,) = list_jobs(layout, now=desk.clock.now())
        said = Waits(None).reason(waiting, desk.clock.now())
        assert said == "it is done, and is yet to be moved to success/; if that lasts, the log says why"
        ballast.unlink()
        desk.settle(6.0)
        assert desk.jobs(Stage.SUCCESS) == [job.id]
        assert len(delivered(tmp_path, "a")) == 4
