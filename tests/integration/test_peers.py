import socket
import threading
from pathlib import Path

import pydicom
import pytest
from tests import builders, peers
from tests.scripted_peer import (
    Close,
    Receive,
    ReceivePdu,
    ReceiveUntilClosed,
    Send,
    Step,
    WaitFor,
    play,
    scripted_server,
)

RELEASE_REQUEST = bytes.fromhex("05000000000400000000")


def test_storescp_is_ready_at_once_and_stores_what_storescu_sends(tmp_path: Path, storescp: peers.Server) -> None:
    series = builders.small_series(tmp_path / "series", 3)
    sent = peers.storescu(storescp.port, *series.files)
    assert sent.returncode == 0, sent.output
    assert _uids(storescp.files()) == set(series.sop_instance_uids)
    assert sent.seconds < 30


def test_dcmsend_sends_a_folder_and_echoscu_verifies(tmp_path: Path, storescp: peers.Server) -> None:
    series = builders.small_series(tmp_path / "series", 4)
    assert peers.echoscu(storescp.port).returncode == 0
    assert peers.dcmsend(storescp.port, tmp_path / "series").returncode == 0
    assert _uids(storescp.files()) == set(series.sop_instance_uids)


def test_nagle_stalls_dcmtk_unless_it_is_switched_off(tmp_path: Path) -> None:
    series = builders.ct_series(tmp_path / "series", 20)
    with peers.storescp(tmp_path / "stock", tcp_nodelay=False) as stock:
        stalled = peers.dcmsend(stock.port, *series.files, tcp_nodelay=False)
    with peers.storescp(tmp_path / "quick") as quick:
        swift = peers.dcmsend(quick.port, *series.files)
    assert stalled.returncode == 0 == swift.returncode
    assert stalled.seconds > 20 * 0.030 > swift.seconds


def test_a_client_that_fails_says_so(free_port: int) -> None:
    failed = peers.echoscu(free_port)
    assert failed.returncode != 0
    assert "refused" in failed.output.lower()


def test_a_server_is_gone_afterwards_with_all_its_children(tmp_path: Path) -> None:
    with peers.storescp(tmp_path / "in", extra_args=("--fork",)) as server:
        connection = socket.create_connection(("127.0.0.1", server.port))
        group = server.process.pid
        peers.wait_until(lambda: len(_processes_of(group)) == 2, "storescp has forked")
    connection.close()
    peers.wait_until(lambda: not _processes_of(group), "the children are gone")
    assert not peers.listens(server.port)


def test_a_server_that_cannot_start_fails_with_its_own_words(tmp_path: Path) -> None:
    with (
        pytest.raises(peers.PeerError, match="Unknown option"),
        peers.storescp(tmp_path / "in", extra_args=("--no-such-option",)),
    ):
        pass


def test_a_missing_peer_says_what_to_install() -> None:
    with pytest.raises(peers.PeerMissingError, match="apt-get install dcmtk"):
        peers.dcmtk("no-such-program-of-dcmtk")


def test_waiting_ends_at_the_deadline() -> None:
    with pytest.raises(peers.PeerError, match=r"not within 0\.05 s: the impossible"):
        peers.wait_until(lambda: False, "the impossible", seconds=0.05)


def test_orthanc_stores_and_gives_back(tmp_path: Path, orthanc: peers.Orthanc) -> None:
    series = builders.small_series(tmp_path / "series", 3)
    assert peers.dcmsend(orthanc.port, *series.files).returncode == 0
    assert orthanc.count() == 3
    assert orthanc.sop_instance_uids() == set(series.sop_instance_uids)
    assert series.sop_instance_uids[0].encode() in orthanc.file(series.sop_instance_uids[0])


def test_orthanc_starts_every_test_empty(orthanc: peers.Orthanc) -> None:
    assert orthanc.count() == 0


def test_pynetdicom_answers_with_the_status_that_the_test_chose(tmp_path: Path) -> None:
    series = builders.small_series(tmp_path / "series", 3)
    refused = series.sop_instance_uids[1]
    with peers.pynetdicom_scp(status_of=lambda uid: 0xA700 if uid == refused else 0) as server:
        sent = peers.storescu(server.port, *series.files, extra_args=("-v", "--no-halt"))
    assert server.received == list(series.sop_instance_uids)
    assert sent.output.count("Refused: OutOfResources") == 1


def test_a_scripted_server_plays_one_script_per_connection() -> None:
    held = threading.Event()
    scripts: list[list[Step]] = [
        [ReceivePdu(0x05), Send(b"first", chunk_bytes=2), Close()],
        [Receive(3), WaitFor(held), Send(b"later"), ReceiveUntilClosed()],
    ]
    with scripted_server(*scripts) as server:
        first = play(server.port, [Send(RELEASE_REQUEST), ReceiveUntilClosed()])
        held.set()
        later = [play(server.port, [Send(b"abc"), Receive(5)]) for _ in range(2)]
        peers.wait_until(lambda: len(server.conversations[2].read) == 2, "the last connection has ended")
    assert first.read == [b"first"]
    assert [one.read for one in later] == [[b"later"], [b"later"]]
    assert [one.read for one in server.conversations] == [[RELEASE_REQUEST], [b"abc", b""], [b"abc", b""]]


def test_a_scripted_server_can_reset_a_connection() -> None:
    with (
        scripted_server([Receive(1), Close(reset=True)]) as server,
        socket.create_connection(("127.0.0.1", server.port)) as connection,
    ):
        connection.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_a_scripted_server_whose_expectation_fails_fails_the_test() -> None:
    with pytest.raises(peers.PeerError, match="expected a PDU of type 0x01, got 0x05"):  # noqa: PT012, SIM117
        with scripted_server([ReceivePdu(0x01)]) as server:
            assert play(server.port, [Send(RELEASE_REQUEST), ReceiveUntilClosed()]).read == [b""]
            peers.wait_until(lambda: server.errors, "the script has failed")


def test_a_scripted_peer_does_not_wait_for_a_connection_that_stays(tmp_path: Path) -> None:
    with scripted_server([ReceiveUntilClosed()]) as server:
        connection = socket.create_connection(("127.0.0.1", server.port))
        peers.wait_until(lambda: server.conversations, "connected")
    connection.close()


def _uids(files: list[Path]) -> set[str]:
    return {str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in files}


def _processes_of(group: int) -> list[int]:
    """The living processes of a process group, from /proc/<pid>/stat: pid (comm) state ppid pgrp ..."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, pgrp = entry.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(pgrp) == group and state != "Z":
            found.append(int(entry.parent.name))
    return found
