"""`mercure run` as a process, and `mercure queue` beside it."""

import json
import os
import shutil
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests import peers
from tests.builders import small_series
from tests.event_page import ALWAYS, documented
from tests.small_disk import read_only, small_disk
from tests.unit.cli.site import Site

from mercure.cli.exits import Exit


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An installation that sends everything to a node which is not there yet."""
    return Site(
        tmp_path,
        receiver={"port": peers.free_port(), "min_free_space_gb": 0},
        dispatcher={"retry_delay": 3600, "retry_max_delay": 3600, "associations_idle_seconds": 0},
        targets={"pacs": {"target_type": "dicom", "host": "127.0.0.1", "port": PORT, "called_ae_title": "PACS"}},
        rules=[{"name": "all", "condition": "True", "target": "pacs"}],
    )


PORT = peers.free_port()


def quick(site: Site) -> None:
    site.configuration["mercure"]["series_complete_trigger"] = 0.3
    site.write()


def send(site: Site, folder: Path) -> None:
    port = site.configuration["receiver"]["port"]
    assert site("send", folder, "--to", f"127.0.0.1:{port}", "--called", "MERCURE").status == Exit.OK


def jobs(site: Site, *places: str) -> list[dict[str, Any]]:
    stages = [word for place in places for word in ("--stage", place)]
    found: list[dict[str, Any]] = site("queue", "list", "--json", *stages).json["jobs"]
    return found


def wait_for_job(site: Site, state: str, *places: str) -> dict[str, Any]:
    peers.wait_until(lambda: [one["state"] for one in jobs(site, *places)] == [state], f"one job is {state}")
    return jobs(site, *places)[0]


def timeline(site: Site, job: dict[str, Any]) -> list[str]:
    """What the journal and the job say of its way, in order."""
    return [one["what"] for one in site("queue", "show", job["job"], "--json").json["timeline"]]


def test_it_says_where_it_listens_and_stops_in_order(site: Site) -> None:
    with site.running() as running:
        assert f"ready: receiving DICOM on port {site.configuration['receiver']['port']}" in running.log
        assert str(site.config_file) in running.log
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0
        assert "mercure has stopped" in running.log


def test_a_deferred_job_is_seen_retried_and_delivered(site: Site) -> None:
    quick(site)
    series = small_series(site.folder / "images", 4)
    with site.running() as running:
        send(site, site.folder / "images")
        job = wait_for_job(site, "deferred", "outgoing")
        assert "Connection refused" in job["reason"]
        assert job["next_attempt"] is not None
        with peers.storescp(site.folder / "scp", ae_title="PACS", port=PORT) as node:
            answer = site("queue", "retry", job["job"])
            assert answer.status == Exit.OK
            assert "is due now" in answer.out
            done = wait_for_job(site, "done", "success")
            assert done["job"] == job["job"]
            assert len(node.files()) == len(series.files)
        # The folder is moved first and the journal is told then.
        peers.wait_until(lambda: timeline(site, job)[-1] == "moved to success/", "the move is in the journal")
        what = timeline(site, job)
        assert what[0] == "first instance received"
        assert any(one.startswith("pacs: attempt failed") for one in what)
        assert any(one.startswith("retried: by an operator") for one in what)
        assert "Traceback" not in running.log
        assert "SYNTHETIC" not in running.log
    kinds = documented()
    seen = site.events()
    assert {"series_complete", "job_created", "delivery_deferred", "delivery_complete"} <= {one.kind for one in seen}
    for event in seen:
        assert event.to_json().keys() - ALWAYS <= kinds[event.kind.value][1], event


def test_a_held_stage_sends_nothing_until_it_is_released(site: Site) -> None:
    quick(site)
    small_series(site.folder / "images", 2)
    with site.running(), peers.storescp(site.folder / "scp", ae_title="PACS", port=PORT) as node:
        site("queue", "hold", "--stage", "outgoing")
        send(site, site.folder / "images")
        wait_for_job(site, "held", "outgoing")
        assert not node.files()
        site("queue", "release", "--stage", "outgoing")
        wait_for_job(site, "done", "success")


def test_a_hung_delivery_is_cancelled(site: Site) -> None:
    quick(site)
    small_series(site.folder / "images", 2)
    with site.running(), socket.create_server(("127.0.0.1", PORT)):
        send(site, site.folder / "images")
        job = wait_for_job(site, "running", "outgoing")
        answer = site("queue", "cancel", job["job"])
        assert "is being stopped" in answer.out
        failed = wait_for_job(site, "failed", "error")
        assert "cancelled by an operator" in failed["reason"]


def test_a_series_is_seen_while_it_gathers(site: Site) -> None:
    series = small_series(site.folder / "images", 3)
    with site.running("receiver"):
        send(site, site.folder / "images")
        (found,) = site("queue", "list", "--json").json["series"]
        assert found["series_uid"] == series.series_instance_uid
        assert (found["state"], found["instances"]) == ("gathering", 3)
        assert series.series_instance_uid in site("queue", "list").out


def test_services_run_alone(site: Site) -> None:
    quick(site)
    small_series(site.folder / "images", 1)
    with site.running("receiver"):
        send(site, site.folder / "images")
    with site.running("router", until="router"):
        wait_for_job(site, "waiting", "outgoing")


def test_a_missing_configuration_is_said(site: Site) -> None:
    site.config_file.unlink()
    answer = site.process("run")
    assert answer.status == Exit.CONFIGURATION
    assert f"there is no configuration {site.config_file}" in answer.err
    assert "Traceback" not in answer.err


def test_a_configuration_that_cannot_be_used_is_said(site: Site) -> None:
    site.config_file.write_text('{"mercure": {"data_foldr": 1}}')
    answer = site.process("run")
    assert answer.status == Exit.CONFIGURATION
    assert "did you mean data_folder" in answer.err
    assert "mercure config check" in answer.err


def test_an_unknown_service_is_said(site: Site) -> None:
    answer = site.process("run", "recever")
    assert answer.status == Exit.USAGE
    assert "receiver, router, processor, dispatcher" in answer.err


def test_a_port_that_is_taken_is_said_with_who_has_it(site: Site) -> None:
    with socket.create_server(("127.0.0.1", site.configuration["receiver"]["port"])):
        answer = site.process("run")
    assert answer.status == Exit.PORT
    assert f"is taken by {os.path.basename(os.readlink('/proc/self/exe'))[:6]}" in answer.err
    assert f"(process {os.getpid()})" in answer.err


def test_a_second_platform_on_the_same_port_is_told_that_the_first_runs(site: Site) -> None:
    with site.running() as running:
        answer = site.process("run")
        assert answer.status == Exit.PORT
        assert f"taken by mercure (process {running.process.pid})" in answer.err
        assert "runs already" in answer.err


def test_a_data_folder_that_cannot_be_made_is_said(site: Site) -> None:
    site.configuration["mercure"]["data_folder"] = "/proc/nowhere/data"
    site.write()
    answer = site.process("run")
    assert answer.status == Exit.DATA_FOLDER
    assert "/proc/nowhere/data" in answer.err
    assert "Traceback" not in answer.err


def test_a_read_only_data_folder_is_said_at_the_start(site: Site) -> None:
    with small_disk(site.folder / "disk") as disk:
        site.configuration["mercure"]["data_folder"] = str(disk / "data")
        site.write()
        with site.running():
            pass
        with read_only(disk):
            answer = site.process("run")
    assert answer.status == Exit.DATA_FOLDER
    assert "is read-only" in answer.err
    assert "Traceback" not in answer.err


def test_a_folder_that_becomes_read_only_is_said_while_it_runs(site: Site) -> None:
    with small_disk(site.folder / "disk") as disk:
        site.configuration["mercure"]["success_folder"] = str(disk)
        site.write()
        with site.running() as running:
            with read_only(disk):
                running.wait_for(f"{disk} is read-only")
            running.wait_for(f"{disk} can be used again")


def test_a_disk_that_is_unmounted_is_said_while_it_runs(site: Site) -> None:
    disk = site.folder / "disk"
    site.configuration["mercure"]["success_folder"] = str(disk)
    site.write()
    with ExitStack() as services:
        with small_disk(disk):
            running = services.enter_context(site.running())
            running.wait_for("ready")
        running.wait_for(f"{disk} is another file system than at the start")


def test_a_data_folder_that_vanishes_is_said_while_it_runs(site: Site) -> None:
    with site.running() as running:
        shutil.rmtree(site.layout.success)
        running.wait_for(f"{site.layout.success} has vanished")
        site.remove_data()
        running.wait_for(": each has vanished")
        assert "Traceback" not in running.log


def test_a_configuration_that_can_deliver_nothing_points_to_the_doctor(site: Site) -> None:
    site.configuration["rules"][0]["target"] = "nowhere"
    site.write()
    with site.running() as running:
        assert "nothing will be delivered; see `mercure doctor`" in running.log


def test_the_level_of_the_log_can_be_chosen(site: Site) -> None:
    with site.running(until="port", MERCURE_DEBUG="true") as running:
        assert " INFO mercure.services.receiver: listening" in running.log
    with site.running(until="is none of", MERCURE_LOG_LEVEL="loud"):
        pass


def test_a_quiet_log_says_nothing_while_nothing_is_wrong(site: Site) -> None:
    with site.running(until="", MERCURE_LOG_LEVEL="ERROR") as running:
        peers.wait_until(lambda: peers.listens(site.configuration["receiver"]["port"]), "the receiver listens")
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(30) == Exit.OK
        assert running.log == ""


def test_a_changed_configuration_is_taken_up(site: Site) -> None:
    with site.running() as running:
        document = json.loads(site.config_file.read_text())
        document["receiver"]["port"] = peers.free_port()
        site.config_file.write_text(json.dumps(document))
        running.wait_for(f"listening on port {document['receiver']['port']}")
        site.config_file.write_text("{")
        running.wait_for("NOT used")
