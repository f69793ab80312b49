"""What existing installations lose, double or leave lying: each finding, by its number, on a whole platform.

Findings of parts that are not here yet (modules, studies, cleaner, pages) are tested as far as something of them is.
More tests that carry a number stand beside what they test: `pytest -m requirement --collect-only`.
"""

import fcntl
import logging
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path

import pytest
from tests import peers
from tests.arrivals import Sender
from tests.builders import dataset, dicom_bytes, encode, small_series
from tests.certificates import Authority
from tests.peers import wait_until
from tests.scripted_peer import ReceiveUntilClosed, scripted_server
from tests.site_of_platform import Site, running, site
from tests.small_disk import fill, small_disk

from mercure.core.events import EventKind
from mercure.core.scheduling import OffPeak
from mercure.core.stages import Stage
from mercure.core.task import DeliveryState, FailStage
from mercure.dicom.peer import Peer
from mercure.dicom.services_scu import echo
from mercure.spool import controls, sealing, views
from mercure.spool.job_files import read_ledger


@pytest.mark.requirement("D1")
def test_d1_a_rule_whose_target_is_gone_keeps_the_series_until_the_mend(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 3)
    rules = ({"name": "good"}, {"name": "bad", "target": "gone"})
    with site(tmp_path, *rules) as place:
        place.send_series(series)
        (failed,) = place.wait_for(Stage.ERROR)
        place.wait_for(Stage.SUCCESS)
        assert "target 'gone' of rule 'bad' is not in the configuration" in failed.reason
        assert place.census().jobs[Stage.ERROR][failed.id] == sorted(series.sop_instance_uids)
        (place.target("gone")).mkdir()
        gone = {"target_type": "folder", "folder": str(place.target("gone"))}
        place.configure(*rules, targets={"gone": gone})
        wait_until(lambda: _loads(place) == 2, "the mended configuration is taken")
        place.retry(failed)
        place.wait_for(Stage.SUCCESS, 2)
        assert len(place.delivered("gone")) == len(place.delivered("archive")) == 3
        assert place.census().jobs[Stage.ERROR] == {}


def _loads(place: Site) -> int:
    return sum(event.kind is EventKind.CONFIG_LOADED for event in place.events())


@pytest.mark.requirement("D2")
@pytest.mark.parametrize("empty", [[], ""])
def test_d2_a_route_rule_without_a_target_keeps_the_series(tmp_path: Path, empty: object) -> None:
    series = small_series(tmp_path / "series", 2)
    with site(tmp_path, {"name": "empty", "target": empty}) as place:
        place.send_series(series)
        (failed,) = place.wait_for(Stage.ERROR)
        assert failed.fail_stage is FailStage.ROUTING
        assert "rule 'empty'" in failed.reason
        assert place.census().jobs[Stage.ERROR][failed.id] == sorted(series.sop_instance_uids)


@pytest.mark.requirement("D3")
@pytest.mark.parametrize("stage", ["outgoing", "discard"])
def test_d3_a_full_disk_while_routing_loses_nothing_and_goes_on_when_space_returns(
    tmp_path: Path, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    series = small_series(tmp_path / "series", 3)
    condition = "True" if stage == "outgoing" else "False"
    with small_disk(tmp_path / "disk", 4 << 20) as disk:
        own = {f"{stage}_folder": str(disk / stage)}
        with site(tmp_path, {"name": "r", "condition": condition}, mercure=own) as place:
            ballast = fill(disk)
            place.send_series(series)
            wait_until(lambda: "cannot be routed now" in caplog.text, "the router has tried")
            assert sorted(uid for uids in place.loose() for uid in uids) == sorted(series.sop_instance_uids)
            ballast.unlink()
            final = place.layout.success if stage == "outgoing" else disk / stage
            wait_until(lambda: len(list(final.glob("*/received/*.dcm"))) == 3, "it goes on")
            wait_until(lambda: place.loose() == [], "the sealed originals are removed when the copy is whole")


@pytest.mark.requirement("D3")
def test_d3_a_full_disk_while_dispatching_loses_nothing_and_goes_on_when_space_returns(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 3)
    slower = {"series_complete_trigger": 1.0}
    with (
        small_disk(tmp_path / "disk", 8 << 20) as disk,
        site(tmp_path, {"name": "r"}, data=disk / "data", mercure=slower) as place,
    ):
        place.send_series(series)
        place.target("archive").rename(tmp_path / "aside")
        (waiting,) = place.wait_for(Stage.OUTGOING)
        ballast = fill(disk)
        (tmp_path / "aside").rename(place.target("archive"))
        wait_until(lambda: place.census().jobs[Stage.OUTGOING], "the job is where it was")
        ballast.unlink()
        place.retry(waiting)
        place.wait_for(Stage.SUCCESS)
        assert len(place.delivered()) == 3


@pytest.mark.requirement("D4")
def test_d4_what_comes_while_and_after_a_series_is_routed_is_delivered_too(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 30)
    with site(tmp_path, {"name": "r"}, mercure={"series_complete_trigger": 0.05}) as place:
        for number, file in enumerate(series.files):
            assert peers.storescu(place.port, file).returncode == 0
            if number == 10:
                place.wait_for(Stage.SUCCESS)
        wait_until(lambda: len(place.delivered()) == 30, "everything is delivered")
        wait_until(lambda: not place.census().jobs[Stage.OUTGOING], "all jobs are done")
        delivered = [uid for uids in place.census().jobs[Stage.SUCCESS].values() for uid in uids]
        assert sorted(delivered) == sorted(series.sop_instance_uids)


@pytest.mark.requirement("D5")
@pytest.mark.requirement("D6")
@pytest.mark.requirement("D13")
def test_d5_d6_a_rule_for_whole_studies_keeps_every_series_in_error(tmp_path: Path) -> None:
    first, second = (small_series(tmp_path / name, 2, StudyInstanceUID="1.2.3.4") for name in ("a", "b"))
    rule = {"name": "study", "action_trigger": "study"}
    with site(tmp_path, rule) as place:
        place.send_series(first, second)
        failed = place.wait_for(Stage.ERROR, 2)
        assert all("whole studies" in job.reason for job in failed)
        kept = [uid for uids in place.census().jobs[Stage.ERROR].values() for uid in uids]
        assert sorted(kept) == sorted((*first.sop_instance_uids, *second.sop_instance_uids))


@pytest.mark.requirement("D7")
def test_d7_what_cannot_be_understood_is_never_acknowledged_and_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(dicom_bytes(SeriesInstanceUID=None))
    (folder / "2.dcm").write_bytes(dicom_bytes(StudyInstanceUID=None))
    evil = dataset()
    evil.add_new(0x0020000D, "LO", "../../x")
    (folder / "evil.dcm").write_bytes(encode(evil).replace(b"\x20\x00\x0d\x00LO", b"\x20\x00\x0d\x00UI"))
    with site(tmp_path, {"name": "r"}) as place:
        for file in sorted(folder.iterdir()):
            done = place.send(file)
            assert "0xc000" in done.output.lower() or done.returncode != 0, done.output
        failed = place.wait_for(Stage.ERROR, 3)
        assert {job.fail_stage for job in failed} == {FailStage.RECEIVING}
        assert all("UID" in job.reason for job in failed)
        listed = list(views.list_jobs(place.layout, (Stage.ERROR,), now=datetime.now(UTC)))
        assert {view.state for view in listed} == {"failed"}
        assert not list(tmp_path.glob("x*"))
        # The sender has its answer before the receiver knows that the association has ended.
        wait_until(lambda: _refused(place) >= 3, "the journal is told")
        assert _refused(place) == 3


def _refused(place: Site) -> int:
    return sum(event.count or 0 for event in place.events() if event.kind is EventKind.INSTANCES_REFUSED)


@pytest.mark.requirement("D8")
def test_d8_a_target_without_a_type_is_no_silent_dummy(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 2)
    targets = {"untyped": {"ip": "192.0.2.1", "port": 104, "aet_target": "PACS"}}
    with site(tmp_path, {"name": "r", "target": "untyped"}, targets=targets) as place:
        place.send_series(series)
        (failed,) = place.wait_for(Stage.ERROR)
        assert "untyped" in failed.reason
        assert place.census().jobs[Stage.SUCCESS] == {}


@pytest.mark.requirement("D10")
def test_d10_a_tls_target_confirms_each_instance(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 4)
    authority = Authority(tmp_path / "pki")
    theirs, ours = authority.issue("archive"), authority.issue("mercure")
    tls = ["+tls", str(theirs.key), str(theirs.certificate), "+cf", str(authority.path)]
    with peers.storescp(tmp_path / "scp", extra_args=tls) as peer:
        target = {
            "target_type": "dicomtls",
            "host": "127.0.0.1",
            "port": peer.port,
            "called_ae_title": "STORESCP",
            "tls_key": str(ours.key),
            "tls_cert": str(ours.certificate),
            "ca_cert": str(authority.path),
        }
        with site(tmp_path, {"name": "r", "target": "tls"}, targets={"tls": target}) as place:
            place.send_series(series)
            (job,) = place.wait_for(Stage.SUCCESS)
            ledger = read_ledger(place.layout.success / job.id)
            assert {name for _, name in ledger} == set(job.instances)
            assert len(peer.files()) == 4


@pytest.mark.requirement("D11")
def test_d11_an_instance_that_is_sent_again_is_there_once(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 3)
    with site(tmp_path, {"name": "r"}, mercure={"series_complete_trigger": 1.0}) as place:
        place.send_series(series, series)
        (job,) = place.wait_for(Stage.SUCCESS)
        assert len(job.instances) == 3
        assert len(place.delivered()) == 3


@pytest.mark.requirement("D14")
def test_d14_a_rule_that_cannot_be_evaluated_or_read_discards_nothing(tmp_path: Path) -> None:
    failing = small_series(tmp_path / "failing", 1, PatientWeight="12", SeriesDescription="heavy")
    rules = (
        {"name": "broken", "condition": "@Modality@ == ", "target": "archive"},
        {"name": "discard", "condition": "True", "action": "discard", "target": ""},
    )
    with site(tmp_path, *rules) as place:
        place.send_series(failing)
        (failed,) = place.wait_for(Stage.ERROR)
        assert "broken" in failed.reason
        assert place.census().jobs[Stage.DISCARD] == {}


@pytest.mark.requirement("S1")
def test_s1_a_platform_that_was_killed_goes_on_with_what_it_held(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 3)
    place = Site(tmp_path)
    place.configure({"name": "r", "target": "late"}, targets={"late": _folder(place.target("late"))})
    command = [
        sys.executable,
        "-c",
        f"""
from pathlib import Path
from mercure.app.platform import Platform
from mercure.config.store import ConfigStore
Platform(ConfigStore(Path({str(place.path)!r}))).run()
""",
    ]
    with subprocess.Popen(command) as process:
        wait_until(lambda: peers.listens(place.port), "it listens")
        place.send_series(series)
        place.wait_for(Stage.OUTGOING)
        wait_until(lambda: place.jobs(Stage.OUTGOING)[0].deliveries[0].attempts, "it has tried")
        process.kill()
    place.target("late").mkdir()
    with running(place):
        place.retry(place.jobs(Stage.OUTGOING)[0])
        place.wait_for(Stage.SUCCESS)
    assert len(place.delivered("late")) == 3


def _folder(path: Path) -> dict[str, str]:
    return {"target_type": "folder", "folder": str(path)}


@pytest.mark.requirement("S2")
def test_s2_series_that_vanish_while_they_are_looked_at_end_no_service(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 2)
    with site(tmp_path, {"name": "r"}) as place, Sender(place.layout) as sender:
        for number in range(20):
            gone = small_series(tmp_path / f"gone{number}", 1)
            reception = sender.publish(gone.files[0].read_bytes())
            shutil.rmtree(place.layout.incoming / reception)
        place.send_series(series)
        place.wait_for(Stage.SUCCESS)
        assert place.platform is not None
        assert place.platform.supervisor.failures == {}
        assert not [event for event in place.events() if event.kind is EventKind.SERVICE_STOPPED]


@pytest.mark.requirement("S3")
def test_s3_a_bad_configuration_stops_no_service(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    series = small_series(tmp_path / "series", 2)
    with site(tmp_path, {"name": "r"}) as place:
        place.path.write_text('{"mercure": {"no_such_key": 1}}')
        rejected = EventKind.CONFIG_REJECTED
        wait_until(lambda: any(event.kind is rejected for event in place.events()), "it is seen and told")
        place.send_series(series)
        place.wait_for(Stage.SUCCESS)
        assert "is NOT used, the last good one goes on" in caplog.text
        assert "no_such_key" in caplog.text


@pytest.mark.requirement("S5")
def test_s5_two_routers_share_the_work_and_double_nothing(tmp_path: Path) -> None:
    all_series = [small_series(tmp_path / str(number), 2) for number in range(10)]
    with site(tmp_path, {"name": "r"}, services=("receiver", "router", "dispatcher")) as place:
        with running(place, ("router",)):
            place.send_series(*all_series)
            place.wait_for(Stage.SUCCESS, 10)
        assert len(place.census().jobs[Stage.SUCCESS]) == 10
        assert len(place.delivered()) == 20


@pytest.mark.requirement("S6")
def test_s6_a_failed_dispatch_can_be_retried(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 2)
    place = Site(tmp_path)
    targets = {"late": _folder(place.target("late")) | {"retry_max": 1}}
    with site(tmp_path, {"name": "r", "target": "late"}, targets=targets) as place:
        place.send_series(series)
        (failed,) = place.wait_for(Stage.ERROR)
        assert failed.fail_stage is FailStage.DISPATCHING
        place.target("late").mkdir()
        place.retry(failed)
        place.wait_for(Stage.SUCCESS)
        assert len(place.delivered("late")) == 2


@pytest.mark.requirement("S7")
def test_s7_a_job_whose_target_was_deleted_is_seen_in_error(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 2)
    targets = {"late": _folder(tmp_path / "targets" / "late")}
    with site(tmp_path, {"name": "r", "target": "late"}, targets=targets) as place:
        place.send_series(series)
        place.wait_for(Stage.OUTGOING)
        place.configure({"name": "r"})
        (failed,) = place.wait_for(Stage.ERROR)
        assert failed.reason == "late: target 'late' is not in the configuration"


@pytest.mark.requirement("S8")
def test_s8_a_job_whose_rule_was_deleted_is_delivered_all_the_same(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 2)
    targets = {"late": _folder(tmp_path / "targets" / "late")}
    with site(tmp_path, {"name": "r", "target": "late"}, targets=targets) as place:
        place.send_series(series)
        (job,) = place.wait_for(Stage.OUTGOING)
        place.configure(targets=targets)
        wait_until(lambda: _loads(place) == 2, "the rule is gone")
        place.target("late").mkdir()
        place.retry(job)
        place.wait_for(Stage.SUCCESS)


@pytest.mark.requirement("S9")
def test_s9_a_hung_target_blocks_nothing_and_its_job_can_be_cancelled(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 2)
    with scripted_server([ReceiveUntilClosed()]) as hung:
        node = {"target_type": "dicom", "host": "127.0.0.1", "port": hung.port, "called_ae_title": "HUNG"}
        rules = ({"name": "hung", "target": "hung"}, {"name": "good"})
        with site(tmp_path, *rules, targets={"hung": node}, dispatcher={"max_parallel": 1}) as place:
            place.send_series(series)
            place.wait_for(Stage.SUCCESS)
            (stuck,) = place.jobs(Stage.OUTGOING)
            (view,) = views.list_jobs(place.layout, (Stage.OUTGOING,), now=datetime.now(UTC))
            assert view.state == "running"
            controls.cancel(place.layout, stuck.id, datetime.now(UTC))
            (cancelled,) = place.wait_for(Stage.ERROR)
            assert "cancelled by an operator" in cancelled.reason


@pytest.mark.requirement("S11")
def test_s11_a_process_rule_without_a_module_waits_in_error_once(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 2)
    with site(tmp_path, {"name": "r", "action": "process", "target": ""}) as place:
        place.send_series(series)
        place.wait_for(Stage.ERROR)
        place.send_series(small_series(tmp_path / "other", 1))
        failed = place.wait_for(Stage.ERROR, 2)
        assert all("r" in job.reason for job in failed)
        assert list(place.layout.processing.iterdir()) == []
        wait_until(lambda: place.census().loose == {}, "nothing is left behind")


@pytest.mark.requirement("S12")
def test_s12_a_series_that_is_being_added_to_is_told_once_when_it_is_complete(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 1)
    with site(tmp_path, {"name": "r"}) as place:
        with Sender(place.layout) as sender:
            sender.send(series)
        (name,) = sealing.receptions(place.layout)
        descriptor = os.open(place.layout.incoming / name / "reception.json", os.O_RDWR)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        other = small_series(tmp_path / "other", 1)
        place.send_series(other)
        place.wait_for(Stage.SUCCESS)
        os.close(descriptor)
        place.wait_for(Stage.SUCCESS, 2)
        complete = [event.series_uid for event in place.events() if event.kind is EventKind.SERIES_COMPLETE]
        assert sorted(complete, key=str) == sorted((series.series_instance_uid, other.series_instance_uid))


@pytest.mark.requirement("S13")
def test_s13_an_invalid_task_is_said_once_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    series = small_series(tmp_path / "series", 1)
    with site(tmp_path, {"name": "r"}) as place:
        folder = place.layout.outgoing / ".bad"
        folder.mkdir()
        (folder / "task.json").write_text("{")
        folder.rename(place.layout.outgoing / "bad")
        place.wait_for(Stage.ERROR)
        place.send_series(series)
        place.wait_for(Stage.SUCCESS)
        assert caplog.text.count("job bad is damaged") == 1


@pytest.mark.requirement("S18")
def test_s18_off_peak_hours_are_those_of_the_local_time(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 1)
    there = datetime.now(UTC) + timedelta(hours=14)  # the time of day in the zone of the installation
    begin, end = there - timedelta(minutes=30), there + timedelta(minutes=30)
    hours = {"offpeak_start": f"{begin:%H:%M}", "offpeak_end": f"{end:%H:%M}"}
    assert not OffPeak(time_of_day(begin.hour, begin.minute), time_of_day(end.hour, end.minute)).contains(
        datetime.now(UTC).time()
    )
    rule = {"name": "r", "priority": "offpeak"}
    with site(tmp_path, rule, mercure=hours) as place:
        place.send_series(series)
        (waiting,) = place.wait_for(Stage.OUTGOING)
        assert waiting.deliveries[0].state is DeliveryState.WAITING
        place.configure(rule, mercure=hours | {"local_time": "Pacific/Kiritimati"})
        place.wait_for(Stage.SUCCESS)


def test_a_platform_answers_while_it_works(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with site(tmp_path, {"name": "r"}) as place:
        assert echo(Peer("127.0.0.1", place.port, "MERCURE")) < 30


def test_a_discarded_series_goes_where_an_operator_sends_it_by_a_rule(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 3)
    with site(tmp_path, {"name": "never", "condition": "False", "disabled": True}) as place:
        place.send_series(series)
        (unwanted,) = place.wait_for(Stage.DISCARD)
        controls.route_by(place.layout, unwanted.id, "never", datetime.now(UTC))
        (delivered,) = place.wait_for(Stage.SUCCESS)
        assert len(place.delivered()) == 3
        assert (delivered.applied_rule or delivered.triggered_rules[0], delivered.forced_rule) == ("never", "")
        assert place.census().jobs[Stage.DISCARD] == {}
