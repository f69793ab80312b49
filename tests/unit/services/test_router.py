"""The router with real folders and a clock of the test: when series are complete, and what becomes of them."""

import fcntl
import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.arrivals import ORIGIN, Sender, arrive, census, rule, settings, targets_of
from tests.builders import BuiltSeries, ct_series, dicom_bytes, mr_series, small_series
from tests.fake_clock import FakeClock, Recorded
from tests.peers import wait_until

from mercure.core.completion import CompletionPolicy
from mercure.core.events import EventKind
from mercure.core.stages import Stage
from mercure.core.tags import Tags
from mercure.core.task import FailStage, Priority
from mercure.services.clock import SystemClock
from mercure.services.router import Router, RouterSettings
from mercure.spool import controls, sealing
from mercure.spool import layout as names
from mercure.spool.job_files import read_task
from mercure.spool.jobs import job_ids
from mercure.spool.layout import Layout, Origin

ON_RELEASE = CompletionPolicy(10.0, on_release=True, grace_seconds=2.0)


class Desk:
    """A router, its clock, its journal, and how often it told the dispatcher of new jobs."""

    def __init__(self, layout: Layout, router_settings: RouterSettings) -> None:
        self.layout = layout
        self.clock = FakeClock()
        self.events = Recorded()
        self.told = 0
        self.router = Router(layout, router_settings, self.clock, self.events, on_jobs=self._tell)

    def _tell(self) -> None:
        self.told += 1

    def work(self, seconds_later: float = 0.0) -> None:
        """Let the router do all there is to do, after a while."""
        self.clock.advance(seconds_later)
        while self.router.step():
            pass

    def jobs(self, stage: Stage) -> list[str]:
        return sorted(job_ids(self.layout, stage))

    def only(self, stage: Stage) -> str:
        (job,) = self.jobs(stage)
        return job


@pytest.fixture
def series(tmp_path: Path) -> BuiltSeries:
    return small_series(tmp_path / "series", 3)


def late(desk: Desk, seconds: float) -> None:
    """Note in the reception that something came `seconds` after the clock's time."""
    (name,) = sealing.receptions(desk.layout)
    at = desk.clock.now().timestamp() + seconds
    os.utime(desk.layout.incoming / name, (at, at))


# -- completion --------------------------------------------------------------------------------------------------------


def test_a_series_is_routed_after_the_quiet_time_and_not_before(layout: Layout, series: BuiltSeries) -> None:
    desk = Desk(layout, settings(rule("all")))
    arrive(layout, series)
    desk.work()
    desk.work(9.0)
    assert desk.jobs(Stage.OUTGOING) == []
    desk.work(1.1)
    job = read_task(layout.outgoing / desk.only(Stage.OUTGOING))
    assert [delivery.target for delivery in job.deliveries] == ["archive"]
    assert sorted(map(names.sop_instance_uid_of, job.instances)) == sorted(series.sop_instance_uids)
    assert desk.told == 1


def test_what_a_series_lacks_is_empty_for_the_rules_as_it_always_was(layout: Layout, tmp_path: Path) -> None:
    """Existing rules count on it: whoever does not match is discarded."""
    series = small_series(tmp_path / "plain", 1, BodyPartExamined=None)
    rules = [
        rule("empty", "tags.SequenceName == ''"),
        rule("or", "'head' in tags.BodyPartExamined.lower() or tags.EchoTime == ''", targets=("research",)),
        rule("unknown", "tags.KVP == ''"),
    ]
    desk = Desk(layout, settings(*rules, additional_tags=("EchoTime", "NoSuchKeyword")))
    arrive(layout, series)
    desk.work(10.1)
    jobs = [read_task(layout.outgoing / job) for job in desk.jobs(Stage.OUTGOING)]
    assert [job.applied_rule for job in jobs] == ["empty", "or"]
    assert {trace["rule"]: list(trace["missing"]) for trace in jobs[0].trace} == {
        "empty": ["SequenceName"],
        "or": ["BodyPartExamined", "EchoTime"],
        "unknown": ["KVP"],
    }


def test_each_arrival_moves_the_deadline(layout: Layout, series: BuiltSeries) -> None:
    desk = Desk(layout, settings(rule("all")))
    arrive(layout, series)
    desk.work()
    for _ in range(3):
        desk.clock.advance(8.0)
        late(desk, 0.0)
        desk.work()
    assert desk.jobs(Stage.OUTGOING) == []
    desk.work(10.1)
    assert len(desk.jobs(Stage.OUTGOING)) == 1


def test_a_shorter_trigger_holds_for_what_gathers_already(layout: Layout, series: BuiltSeries) -> None:
    desk = Desk(layout, settings(rule("all"), trigger=3600.0))
    arrive(layout, series)
    desk.work(60.0)
    desk.router.configure(settings(rule("all"), trigger=5.0))
    desk.work()
    assert len(desk.jobs(Stage.OUTGOING)) == 1


def test_a_release_of_all_associations_completes_a_series_sooner(layout: Layout, series: BuiltSeries) -> None:
    desk = Desk(layout, settings(rule("all"), completion=ON_RELEASE))
    with Sender(layout, hold_open=True) as first, Sender(layout, hold_open=True) as second:
        first.send(series, slice(0, 1))
        second.send(series, slice(1, 3))
        first.release()
        desk.work(3.0)
        assert desk.jobs(Stage.OUTGOING) == [], "the second association is still open"
        second.release()
        desk.clock.advance(-3.0)
        desk.work()
        assert desk.jobs(Stage.OUTGOING) == [], "the grace is not over"
        desk.work(2.5)
    assert len(read_task(layout.outgoing / desk.only(Stage.OUTGOING)).instances) == 3
    assert list(layout.released.iterdir()) == []


def test_a_new_association_takes_the_release_back(layout: Layout, series: BuiltSeries) -> None:
    desk = Desk(layout, settings(rule("all"), completion=ON_RELEASE))
    with Sender(layout, hold_open=True) as first, Sender(layout, hold_open=True) as second:
        first.send(series, slice(0, 1))
        first.release()
        desk.work(1.0)
        second.send(series, slice(1, 2))
        desk.work(3.0)
        assert desk.jobs(Stage.OUTGOING) == []
        desk.work(10.0)
        assert len(desk.jobs(Stage.OUTGOING)) == 1, "the quiet time holds in any case"


def test_hints_for_what_is_not_there_are_forgotten(layout: Layout) -> None:
    desk = Desk(layout, settings(rule("all"), completion=ON_RELEASE))
    (layout.released / "1.2.3#abc").touch()
    desk.work(100.0)
    assert list(layout.released.iterdir()) == []


@pytest.mark.requirement("D4")
def test_a_late_instance_becomes_a_second_reception_and_a_second_job(layout: Layout, series: BuiltSeries) -> None:
    desk = Desk(layout, settings(rule("all")))
    with Sender(layout) as sender:
        sender.send(series, slice(0, 2))
        desk.work(11.0)
        sender.send(series, slice(2, 3))
        desk.work(11.0)
    found = census(layout).jobs[Stage.OUTGOING]
    assert sorted(len(uids) for uids in found.values()) == [1, 2]
    assert sorted(uid for uids in found.values() for uid in uids) == sorted(series.sop_instance_uids)


def test_a_reception_to_which_an_instance_is_being_added_is_sealed_when_that_is_done(
    layout: Layout, series: BuiltSeries
) -> None:
    desk = Desk(layout, settings(rule("all")))
    arrive(layout, series)
    (name,) = sealing.receptions(layout)
    descriptor = os.open(layout.incoming / name / names.RECEPTION_FILE, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    desk.work(11.0)
    assert desk.jobs(Stage.OUTGOING) == []
    os.close(descriptor)
    desk.work(0.1)
    assert len(desk.jobs(Stage.OUTGOING)) == 1


def test_a_reception_that_vanishes_stops_nothing(layout: Layout, tmp_path: Path, series: BuiltSeries) -> None:
    desk = Desk(layout, settings(rule("all")))
    other = small_series(tmp_path / "other", 1)
    arrive(layout, series, other)
    desk.work()
    shutil.rmtree(next(layout.incoming.glob(f"{other.series_instance_uid}#*")))
    desk.work(11.0)
    assert len(desk.jobs(Stage.OUTGOING)) == 1


def test_two_senders_and_two_called_ae_titles_are_receptions_of_their_own(layout: Layout, series: BuiltSeries) -> None:
    desk = Desk(layout, settings(rule("ours", "@ReceiverAET@ == 'OURS'")))
    arrive(layout, series)
    arrive(layout, series, origin=replace(ORIGIN, called_ae_title="OURS"))
    desk.work(11.0)
    assert len(desk.jobs(Stage.OUTGOING)) == 1
    assert len(desk.jobs(Stage.DISCARD)) == 1


# -- what comes of it --------------------------------------------------------------------------------------------------


def test_the_plan_is_stored_before_the_first_job(
    layout: Layout, series: BuiltSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(layout, settings(rule("all")))
    arrive(layout, series)
    seen: list[bool] = []
    real = os.mkdir

    def mkdir(path: Path, mode: int = 0o777) -> None:
        if Path(path).parent == layout.outgoing:
            seen.append(any(layout.sealed.glob(f"*/{names.PLAN_FILE}")))
        real(path, mode)

    monkeypatch.setattr(os, "mkdir", mkdir)
    desk.work(11.0)
    assert seen == [True]


def test_several_rules_make_several_jobs_that_share_the_bytes(layout: Layout, series: BuiltSeries) -> None:
    rules = (rule("one"), rule("two", targets=("research",), priority=Priority.URGENT), rule("three"))
    desk = Desk(layout, settings(*rules))
    arrive(layout, series)
    desk.work(11.0)
    jobs = {
        job.deliveries[0].target: job for job in (read_task(layout.outgoing / j) for j in desk.jobs(Stage.OUTGOING))
    }
    assert jobs.keys() == {"archive", "research"}
    assert jobs["archive"].triggered_rules == ("one", "three")
    assert jobs["research"].priority is Priority.URGENT
    name = jobs["archive"].instances[0]
    inodes = {os.stat(layout.outgoing / job.id / names.RECEIVED / name).st_ino for job in jobs.values()}
    assert len(inodes) == 1


def test_a_rule_with_several_targets_reaches_each(layout: Layout, series: BuiltSeries) -> None:
    desk = Desk(layout, settings(rule("all", targets=("archive", "research"))))
    arrive(layout, series)
    desk.work(11.0)
    targets = [name for job in desk.jobs(Stage.OUTGOING) for name in targets_of(layout, Stage.OUTGOING, job)]
    assert sorted(targets) == ["archive", "research"]


def test_a_series_that_no_rule_wants_is_kept_in_discard(layout: Layout, series: BuiltSeries) -> None:
    desk = Desk(layout, settings(rule("none", "@Modality@ == 'XX'")))
    arrive(layout, series)
    desk.work(11.0)
    job = read_task(layout.discard / desk.only(Stage.DISCARD))
    assert job.reason == "no rule matched"
    assert census(layout).jobs[Stage.DISCARD][job.id] == sorted(series.sop_instance_uids)


def test_rules_see_the_origin_and_the_additional_tags(layout: Layout, series: BuiltSeries) -> None:
    condition = "@SenderAET@ == 'SCANNER' and @SenderAddress@ == '192.0.2.7' and @PatientID@ == 'SYNTH-CT'"
    desk = Desk(layout, settings(rule("all", condition), additional_tags=("SliceLocation",)))
    arrive(layout, series)
    desk.work(11.0)
    job = read_task(layout.outgoing / desk.only(Stage.OUTGOING))
    info = job.series
    assert (info.series_uid, info.study_uid) == (series.series_instance_uid, series.study_instance_uid)
    assert Origin(info.calling_ae_title, info.called_ae_title, info.peer_address) == ORIGIN
    assert (info.patient_id, info.patient_name) == ("SYNTH-CT", "TEST^SYNTHETIC")


@pytest.mark.requirement("D1")
def test_an_unknown_target_waits_in_error_and_goes_on_after_the_mend(layout: Layout, series: BuiltSeries) -> None:
    rules = (rule("good"), rule("bad", targets=("nowhere",)))
    desk = Desk(layout, settings(*rules))
    arrive(layout, series)
    desk.work(11.0)
    assert targets_of(layout, Stage.OUTGOING, desk.only(Stage.OUTGOING)) == ["archive"]
    failed = read_task(layout.error / desk.only(Stage.ERROR))
    assert failed.fail_stage is FailStage.ROUTING
    assert failed.reason == "target 'nowhere' of rule 'bad' is not in the configuration"
    desk.router.configure(settings(*rules, targets=("archive", "nowhere")))
    controls.retry(layout, failed.id, desk.clock.now())
    desk.work(1.1)
    targets = [name for job in desk.jobs(Stage.OUTGOING) for name in targets_of(layout, Stage.OUTGOING, job)]
    assert sorted(targets) == ["archive", "nowhere"], "the archive does not get it again"
    assert desk.jobs(Stage.ERROR) == []
    assert list(layout.sealed.iterdir()) == []


def test_a_series_without_a_readable_header_waits_in_error(layout: Layout, series: BuiltSeries) -> None:
    desk = Desk(layout, settings(rule("all")))
    arrive(layout, series)
    for path in layout.incoming.glob("*/*.dcm"):
        path.write_bytes(b"no DICOM at all")
    desk.work(11.0)
    failed = read_task(layout.error / desk.only(Stage.ERROR))
    assert failed.reason.startswith("the header of no instance can be read: ")
    assert failed.series.series_uid == series.series_instance_uid
    assert len(failed.instances) == 3


def test_one_unreadable_instance_among_good_ones_costs_nothing(layout: Layout, series: BuiltSeries) -> None:
    desk = Desk(layout, settings(rule("all")))
    arrive(layout, series)
    min(layout.incoming.glob("*/*.dcm")).write_bytes(b"no DICOM at all")
    desk.work(11.0)
    assert len(read_task(layout.outgoing / desk.only(Stage.OUTGOING)).instances) == 3


@pytest.mark.requirement("D12")
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_in_a_mixed_series_the_kind_with_most_instances_decides(layout: Layout, modality: str) -> None:
    desk = Desk(layout, settings(rule("ct", "@Modality@ == 'CT'"), rule("mr", "@Modality@ == 'MR'")))
    common: dict[str, Any] = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.4"}
    with Sender(layout) as sender:
        for number in range(1, 6):
            majority = number not in (1, 3)
            kind = modality if majority else {"CT": "MR", "MR": "CT"}[modality]
            uid = f"1.2.5.{number if majority else number + 10}0"
            sender.publish(
                dicom_bytes(modality="CT", Modality=kind, SOPInstanceUID=uid, InstanceNumber=number, **common)
            )
    desk.work(11.0)
    assert read_task(layout.outgoing / desk.only(Stage.OUTGOING)).triggered_rules == (modality.lower(),)


def test_the_journal_says_what_was_complete_and_what_was_made(layout: Layout, series: BuiltSeries) -> None:
    desk = Desk(layout, settings(rule("one"), rule("two", targets=("research",))))
    arrive(layout, series)
    desk.work(11.0)
    (complete,) = desk.events.of(EventKind.SERIES_COMPLETE)
    assert (complete.series_uid, complete.count) == (series.series_instance_uid, 3)
    made = desk.events.of(EventKind.JOB_CREATED)
    assert sorted(event.job_id or "" for event in made) == desk.jobs(Stage.OUTGOING)
    assert [json.loads(event.detail or "")["rules"] for event in made] == [["one"], ["two"]]


def test_sizes_and_kinds_of_real_series_do_not_matter(layout: Layout, tmp_path: Path) -> None:
    desk = Desk(
        layout, settings(rule("ct", "@Modality@ == 'CT'"), rule("mr", "@Modality@ == 'MR'", targets=("research",)))
    )
    arrive(layout, ct_series(tmp_path / "ct", 2), mr_series(tmp_path / "mr", 2))
    desk.work(11.0)
    targets = [name for job in desk.jobs(Stage.OUTGOING) for name in targets_of(layout, Stage.OUTGOING, job)]
    assert sorted(targets) == ["archive", "research"]


# -- trouble -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plan", ["{", '{"made": []}', '{"made": [{"stage": "nowhere", "task": {}}]}', "[]", '{"made": [5]}']
)
def test_a_plan_that_somebody_damaged_is_seen_once_and_stops_nothing(
    layout: Layout, series: BuiltSeries, plan: str
) -> None:
    desk = Desk(layout, settings(rule("all")))
    arrive(layout, series)
    (name,) = sealing.receptions(layout)
    sealed = sealing.seal(layout, name, desk.clock.now())
    assert isinstance(sealed, sealing.Sealed)
    (sealed.folder / names.PLAN_FILE).write_text(plan)
    sealed.close()
    desk.work(2.0)
    failed = read_task(layout.error / desk.only(Stage.ERROR))
    assert failed.reason.startswith("plan.json")
    assert len(failed.instances) == 3
    controls.retry(layout, failed.id, desk.clock.now())
    desk.work(2.0)
    assert len(desk.jobs(Stage.OUTGOING)) == 1


def test_an_error_of_ours_in_one_series_does_not_stop_the_others(
    layout: Layout, tmp_path: Path, series: BuiltSeries, caplog: pytest.LogCaptureFixture
) -> None:
    class Poisoned:
        """A rule whose expression fails in a way that it never should."""

        def evaluate(self, tags: Tags) -> object:
            if tags.get("SeriesInstanceUID") == series.series_instance_uid:
                raise ZeroDivisionError
            fine = rule("fine").expression
            assert fine is not None
            return fine.evaluate(tags)

    poisoned = replace(rule("odd"), expression=Poisoned())  # type: ignore[arg-type]
    desk = Desk(layout, settings(poisoned))
    other = small_series(tmp_path / "other", 1)
    arrive(layout, series)
    desk.work(11.0)
    arrive(layout, other)
    desk.work(11.0)
    desk.work(2.0)
    assert "error of ours" in caplog.text
    assert list(census(layout).jobs[Stage.OUTGOING].values()) in ([sorted(other.sop_instance_uids)], [])
    assert sorted(series.sop_instance_uids) in census(layout).loose.values()
    desk.router.configure(settings(rule("mended")))
    desk.work(61.0)
    assert census(layout).loose == {}


@pytest.mark.requirement("D3")
def test_a_stage_that_takes_nothing_keeps_the_series_sealed_until_it_does(
    layout: Layout, series: BuiltSeries, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(layout, settings(rule("all")))
    arrive(layout, series)
    layout.outgoing.rmdir()
    desk.work(11.0)
    desk.work(1.0)
    assert "cannot be routed now" in caplog.text
    assert list(census_without(layout, Stage.OUTGOING).values()) == [sorted(series.sop_instance_uids)]
    layout.outgoing.mkdir()
    desk.work(5.1)
    assert census(layout).jobs[Stage.OUTGOING] == {desk.only(Stage.OUTGOING): sorted(series.sop_instance_uids)}


def census_without(layout: Layout, stage: Stage) -> dict[str, list[str]]:
    layout.stage(stage).mkdir()
    found = census(layout).loose
    layout.stage(stage).rmdir()
    return found


def test_two_routers_side_by_side_make_each_job_once(layout: Layout, tmp_path: Path) -> None:
    all_series = [small_series(tmp_path / str(number), 1) for number in range(20)]
    arrive(layout, *all_series)
    desks = [Desk(layout, settings(rule("one"), rule("two", targets=("research",)))) for _ in range(2)]
    for desk in desks:
        desk.clock.advance(11.0)
    start = threading.Barrier(2)
    failed: list[BaseException] = []

    def work(desk: Desk) -> None:
        start.wait()
        try:
            for _ in range(200):
                desk.work(0.1)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(desk,)) for desk in desks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    found = census(layout)
    assert found.loose == {}
    assert len(found.jobs[Stage.OUTGOING]) == 40
    for each in all_series:
        assert len(found.jobs_of(each.sop_instance_uids[0])) == 2


def test_a_running_router_is_woken_by_a_new_series_and_stops_when_told(layout: Layout, series: BuiltSeries) -> None:
    events = Recorded()
    slow_to_look = replace(settings(rule("all"), trigger=0.05), scan_interval_seconds=60.0)
    router = Router(layout, slow_to_look, SystemClock(), events)
    stop = threading.Event()
    thread = threading.Thread(target=router.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: any(t.name == "folder-bell" for t in threading.enumerate()), "the router watches")
        arrive(layout, series)
        wait_until(lambda: list(job_ids(layout, Stage.OUTGOING)), "the series is routed", seconds=20)
    finally:
        stop.set()
        router.wake()
        thread.join(10)
    assert not thread.is_alive()


def test_a_listing_that_is_put_off_is_made_up_for_soon(layout: Layout, series: BuiltSeries) -> None:
    slow_to_look = replace(settings(rule("all")), scan_interval_seconds=60.0)
    desk = Desk(layout, slow_to_look)
    desk.work()
    desk.router._scan_again_at = desk.clock.monotonic() + 5.0
    arrive(layout, series)
    desk.work(1.0)
    assert desk.router._seconds_to_wait() == pytest.approx(4.0)
    desk.work(4.0)
    assert desk.router._seconds_to_wait() < 10.0


def stray(layout: Layout, name: str = "1.2.3#stray") -> Path:
    """A name in `incoming/` that leads in a circle: whatever asks for it gets an error of the file system."""
    path = layout.incoming / name
    path.symlink_to(name)
    return path


def test_a_reception_that_cannot_be_had_stops_no_other(
    layout: Layout, series: BuiltSeries, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(layout, settings(rule("all")))
    path = stray(layout)
    arrive(layout, series)
    for _ in range(5):
        desk.work(11.0)
    assert len(desk.jobs(Stage.OUTGOING)) == 1
    assert caplog.text.count("cannot be had now: Too many levels of symbolic links") == 1, "not each time"
    path.unlink()
    desk.work(61.0)
    assert path.name not in desk.router._known


def test_a_reception_that_cannot_be_had_any_more_stops_no_other(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    desk = Desk(layout, settings(rule("all")))
    arrive(layout, series)
    desk.work()
    (name,) = sealing.receptions(layout)
    os.rename(layout.incoming / name, tmp_path / "aside")
    path = stray(layout, name)
    other = small_series(tmp_path / "other", 1)
    arrive(layout, other)
    desk.work(11.0)
    desk.work(11.0)
    assert len(desk.jobs(Stage.OUTGOING)) == 1
    path.unlink()
    os.rename(tmp_path / "aside", path)
    desk.work(11.0)
    assert len(desk.jobs(Stage.OUTGOING)) == 2, "it is taken up when it can be had"


@pytest.mark.parametrize("what", ["folder", "mark in a circle"])
def test_a_hint_that_cannot_be_followed_stops_no_other(
    layout: Layout, tmp_path: Path, series: BuiltSeries, what: str
) -> None:
    desk = Desk(layout, settings(rule("all"), completion=ON_RELEASE))
    if what == "folder":
        (layout.released / "0.odd#hint").mkdir()
    else:
        arrive(layout, small_series(tmp_path / "odd", 1))
        (name,) = sealing.receptions(layout)
        (layout.incoming / name / names.OPEN_FILE).symlink_to(names.OPEN_FILE)
        (layout.released / name).touch()
    with Sender(layout, hold_open=True) as sender:
        sender.send(series)
    desk.work()
    for _ in range(3):
        desk.work(1.0)
    assert len(desk.jobs(Stage.OUTGOING)) == 1, "it is complete on release, not after the quiet time"
    assert len(desk.router._due) <= 2


def test_an_error_of_ours_about_one_reception_loses_no_other(
    layout: Layout, tmp_path: Path, series: BuiltSeries, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(layout, settings(rule("all")))
    arrive(layout, series)
    desk.work()
    (name,) = sealing.receptions(layout)
    desk.router._seen[name] = ()  # type: ignore[assignment]  # what an error of ours may have left
    other = small_series(tmp_path / "other", 1)
    arrive(layout, other)
    desk.work(11.0)
    desk.work(11.0)
    assert len(desk.jobs(Stage.OUTGOING)) == 1
    assert "error of ours" in caplog.text
    del desk.router._seen[name]
    desk.work(61.0)
    desk.work(11.0)
    assert len(desk.jobs(Stage.OUTGOING)) == 2
