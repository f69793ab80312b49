"""`mercure send` and `mercure echo` against real nodes."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from tests import peers
from tests.builders import CT_STORAGE, JPEG_2000, MR_STORAGE, dicom_bytes, small_series
from tests.unit.cli.site import COMMAND, Site

from mercure.cli.exits import Exit

FOUR = ("--associations", "4")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_folder_is_sent_on_several_associations(site: Site, storescp: peers.Server) -> None:
    series = small_series(site.folder / "images", 25)
    (site.folder / "images" / "notes.txt").write_text("hello")
    answer = site("send", site.folder / "images", "--to", f"127.0.0.1:{storescp.port}", "--called", "STORESCP", *FOUR)
    assert answer.status == Exit.OK, answer
    assert answer.out.startswith(f"25 of 25 instances delivered to STORESCP at 127.0.0.1:{storescp.port} in ")
    assert "1 file left out:" in answer.err
    assert "notes.txt: no DICOM file" in answer.err
    received = {path.name.split(".", 1)[1] for path in storescp.files()}
    assert received == set(series.sop_instance_uids)


def test_the_result_is_also_json(site: Site, storescp: peers.Server) -> None:
    small_series(site.folder / "images", 3)
    answer = site(
        "send", site.folder / "images", "--to", f"127.0.0.1:{storescp.port}", "--called", "STORESCP", "--json"
    )
    report = answer.json
    assert (report["instances"], report["delivered"], report["statuses"]) == (3, 3, {"success": 3})
    assert report["bytes"] == sum(path.stat().st_size for path in (site.folder / "images").iterdir())


def test_each_status_is_counted_and_each_failure_named(site: Site) -> None:
    series = small_series(site.folder / "images", 4)
    refused, warned = series.sop_instance_uids[:2]
    statuses = {refused: 0xA900, warned: 0xB000}
    with peers.pynetdicom_scp(status_of=lambda uid: statuses.get(uid, 0)) as node:
        answer = site("send", site.folder / "images", "--to", f"127.0.0.1:{node.port}", "--called", "PYNETDICOM")
    assert answer.status == Exit.FAILED
    assert "3 of 4 instances delivered" in answer.out
    assert "2 success" in answer.out
    assert "1 status 0xA900, data set does not match SOP class" in answer.out
    assert "1 status 0xB000, coercion of data elements" in answer.out
    assert f"not delivered: {series.files[0]}: status 0xA900" in answer.err


def test_what_the_node_does_not_take_compressed_is_sent_uncompressed(site: Site) -> None:
    path = site.folder / "compressed.dcm"
    path.write_bytes(dicom_bytes(transfer_syntax=JPEG_2000))
    with peers.pynetdicom_scp(transfer_syntaxes=["1.2.840.10008.1.2"]) as node:
        answer = site("send", path, "--to", f"127.0.0.1:{node.port}", "--called", "PYNETDICOM")
    assert answer.status == Exit.OK, answer
    assert len(node.received) == 1


def test_a_class_that_the_node_does_not_take_is_refused_and_the_rest_goes(site: Site) -> None:
    (site.folder / "ct.dcm").write_bytes(dicom_bytes(SOPClassUID=CT_STORAGE))
    (site.folder / "mr.dcm").write_bytes(dicom_bytes(SOPClassUID=MR_STORAGE))
    with peers.pynetdicom_scp(sop_classes=[MR_STORAGE]) as node:
        paths = (site.folder / "ct.dcm", site.folder / "mr.dcm")
        answer = site("send", *paths, "--to", f"127.0.0.1:{node.port}", "--called", "PYNETDICOM")
    assert answer.status == Exit.FAILED
    assert len(node.received) == 1
    assert "ct.dcm" in answer.err
    assert "mr.dcm" not in answer.err


def test_a_node_that_is_not_there_is_one_line(site: Site) -> None:
    small_series(site.folder / "images", 30)
    answer = site.process(
        "send", site.folder / "images", "--to", f"127.0.0.1:{peers.free_port()}", "--called", "NOBODY", *FOUR
    )
    assert answer.status == Exit.FAILED
    assert "0 of 30 instances delivered" in answer.out
    assert "30 not sent" in answer.out
    assert answer.err.count("\n") == 1
    assert "Connection refused" in answer.err


def test_a_named_file_that_is_no_dicom_is_a_failure(site: Site, storescp: peers.Server) -> None:
    (site.folder / "notes.txt").write_text("hello")
    small_series(site.folder / "images", 1)
    to = ("--to", f"127.0.0.1:{storescp.port}", "--called", "STORESCP")
    answer = site("send", site.folder / "images", site.folder / "notes.txt", *to)
    assert answer.status == Exit.FAILED
    assert "1 of 1 instance delivered" in answer.out
    alone = site("send", site.folder / "notes.txt", *to)
    assert alone.status == Exit.FAILED
    assert "there is no DICOM file to send" in alone.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["/nowhere", "--to", "127.0.0.1:104", "--called", "A"],
        ["/tmp", "--to", "127.0.0.1", "--called", "A"],
        ["/tmp", "--to", "127.0.0.1:99999", "--called", "A"],
        ["/tmp", "--to", "127.0.0.1:104", "--called", "MUCH TOO LONG A TITLE"],
        ["/tmp", "--to", "127.0.0.1:104", "--called", "A", "--calling", "back\\slash"],
        ["/tmp", "--to", "127.0.0.1:104", "--called", "A", "--associations", "0"],
        ["/tmp", "--to", "127.0.0.1:104"],
        ["--to", "127.0.0.1:104", "--called", "A"],
    ],
)
def test_a_wrong_call_is_a_usage_error(site: Site, arguments: list[str]) -> None:
    answer = site("send", *arguments)
    assert answer.status == Exit.USAGE
    assert answer.out == ""


def test_the_progress_is_shown_on_a_terminal_with_its_rate(site: Site, storescp: peers.Server) -> None:
    small_series(site.folder / "images", 40)
    ours, theirs = pty.openpty()
    command = [*COMMAND, "send", str(site.folder / "images"), "--to", f"127.0.0.1:{storescp.port}"]
    process = subprocess.Popen([*command, "--called", "STORESCP"], stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # the other side of a terminal has gone
        pass
    finally:
        os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == Exit.OK
    assert b"40/40" in shown
    assert b"/s" in shown
    assert b"40 of 40 instances delivered" in out


def test_ctrl_c_says_how_far_it_came(site: Site) -> None:
    small_series(site.folder / "images", 200)
    started: list[str] = []

    def slowly(uid: str) -> int:
        started.append(uid)
        peers.wait_until(lambda: interrupted, "the interruption")
        return 0

    interrupted: list[bool] = []
    with peers.pynetdicom_scp(status_of=slowly) as node:
        command = [*COMMAND, "send", str(site.folder / "images"), "--to", f"127.0.0.1:{node.port}"]
        process = subprocess.Popen(
            [*command, "--called", "PYNETDICOM"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        peers.wait_until(lambda: started, "the first instance")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        interrupted.append(True)
    assert process.returncode == Exit.INTERRUPTED
    assert "Interrupted: 0 of 200 instances were delivered" in err
    assert "Traceback" not in err
    assert out == ""


def test_a_node_answers_an_echo(site: Site, storescp: peers.Server) -> None:
    answer = site("echo", f"127.0.0.1:{storescp.port}", "--called", "STORESCP")
    assert answer.status == Exit.OK
    assert "answered C-ECHO in" in answer.out
    as_json = site("echo", f"127.0.0.1:{storescp.port}", "--called", "STORESCP", "--json").json
    assert as_json["reachable"] is True
    assert 0 < as_json["seconds"] < 30


def test_an_orthanc_answers_an_echo(site: Site, orthanc: peers.Orthanc) -> None:
    assert site("echo", f"127.0.0.1:{orthanc.port}", "--called", "ORTHANC").status == Exit.OK


def test_a_target_of_the_configuration_answers_an_echo(site: Site, storescp: peers.Server) -> None:
    (site.folder / "out").mkdir()
    site.configuration["targets"] = {
        "pacs": {"target_type": "dicom", "host": "127.0.0.1", "port": storescp.port, "called_ae_title": "STORESCP"},
        "store": {"target_type": "folder", "folder": str(site.folder / "out")},
        "later": {"target_type": "sftp", "host": "h", "user": "u", "folder": "f"},
    }
    site.write()
    assert site("echo", "pacs").status == Exit.OK
    assert "can be written to" in site("echo", "store").out
    (site.folder / "out").rmdir()
    gone = site("echo", "store")
    assert gone.status == Exit.FAILED
    assert "Create or mount it" in gone.err
    unknown = site("echo", "pasc")
    assert unknown.status == Exit.USAGE
    assert "Did you mean pacs?" in unknown.err
    unusable = site("echo", "later")
    assert unusable.status == Exit.CONFIGURATION
    assert "sftp" in unusable.err


def test_a_node_that_does_not_answer_is_a_failure_with_a_remedy(site: Site) -> None:
    port = peers.free_port()
    answer = site("echo", f"127.0.0.1:{port}", "--called", "NOBODY")
    assert answer.status == Exit.FAILED
    assert "Connection refused" in answer.err
    assert "Check host, port" in answer.err
    as_json = site("echo", f"127.0.0.1:{port}", "--called", "NOBODY", "--json")
    assert as_json.status == Exit.FAILED
    assert json.loads(as_json.out)["reachable"] is False


@pytest.mark.parametrize("is_configured", [True, False])
def test_a_node_that_takes_the_connection_and_then_hangs_is_given_up(site: Site, is_configured: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        node = {"target_type": "dicom", "host": "127.0.0.1", "port": port, "called_ae_title": "HUNG", "timeout": 3600}
        site.configuration["targets"] = {"hung": node}
        site.write()
        words = ["hung"] if is_configured else [f"127.0.0.1:{port}", "--called", "HUNG"]
        answer = site.process("echo", *words, "--timeout", "0.5", wrapper=("timeout", "60"))
    assert answer.status == Exit.FAILED
    assert re.search(f"mercure: {words[0]}: .*does not answer \\(after [0-9.]+ m?s\\)", answer.err)
    assert "Something listens there" in answer.err


def test_a_target_over_tls_names_the_file_that_is_missing(site: Site) -> None:
    node = {"target_type": "dicomtls", "host": "127.0.0.1", "port": 9, "called_ae_title": "TLS"}
    files = {key: str(site.folder / f"{key}.pem") for key in ("tls_key", "tls_cert", "ca_cert")}
    site.configuration["targets"] = {"remote": node | files}
    site.write()
    (site.folder / "tls_key.pem").touch()
    answer = site("echo", "remote")
    assert answer.status == Exit.FAILED
    assert f"{files['tls_cert']} does not exist; {files['ca_cert']} does not exist" in answer.err
    assert "Errno" not in answer.err


def test_a_target_without_an_ae_title_of_its_own_is_not_tested(site: Site) -> None:
    node = {"target_type": "dicom", "host": "127.0.0.1", "port": 9, "called_ae_title": ""}
    site.configuration["targets"] = {"pacs": node | {"forward_called_ae_title": True}}
    site.write()
    answer = site("echo", "pacs")
    assert answer.status == Exit.OK
    assert "not tested" in answer.out


@pytest.mark.parametrize("arguments", [["127.0.0.1:104"], ["pacs", "--called", "A"], ["a:b:c", "--called", "A"], []])
def test_a_wrong_echo_is_a_usage_error(site: Site, arguments: list[str]) -> None:
    assert site("echo", *arguments).status == Exit.USAGE
