"""The worker by itself: what it tells its receiver, what it keeps open, and what it does when its receiver is gone."""

import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tests import builders
from tests.builders import CT_STORAGE, EXPLICIT_LITTLE
from tests.certificates import Authority
from tests.peers import DEADLINE_SECONDS, wait_until
from tests.sender import Caller, associate_rq, store

from mercure.dicom import part10, pdu
from mercure.dicom import worker as module
from mercure.dicom.pdu import AssociateRQ, ProposedContext
from mercure.dicom.worker import Worker
from mercure.dicom.worker_settings import TLSFiles, WorkerSettings, layout_folders
from mercure.spool import layout as names
from mercure.spool.layout import Layout, Origin


class Control:
    """The receiver's side of a worker that runs in a thread of the test."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._control.settimeout(DEADLINE_SECONDS)
        self._number = 0

    def configure(self, settings: WorkerSettings) -> None:
        self.send_settings(settings)
        self.hear("configured")

    def send_settings(self, settings: WorkerSettings) -> None:
        self._control.send(json.dumps({"settings": asdict(settings)}).encode())

    def hear(self, key: str) -> dict[str, Any]:
        """The next message with this key; others are passed over."""
        while True:
            message: dict[str, Any] = json.loads(self._control.recv(1 << 18))
            if key in message:
                return message

    def connect(self, *, tls: bool = False, refuse: str = "") -> Caller:
        """A connection that the receiver has accepted and handed over."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            caller = Caller(listener.getsockname()[1])
            accepted, _ = listener.accept()
        self._number += 1
        message = {"connection": self._number, "peer": "127.0.0.1", "tls": tls, "refuse": refuse}
        with accepted:
            socket.send_fds(self._control, [json.dumps(message).encode()], [accepted.fileno()])
        return caller


@contextmanager
def running_worker() -> Iterator[Control]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    thread = threading.Thread(target=Worker(theirs).run)
    thread.start()
    try:
        yield Control(ours)
        ours.send(b'{"stop": 5}')
        thread.join(DEADLINE_SECONDS)
    finally:
        ours.close()
        thread.join(DEADLINE_SECONDS)
        theirs.close()


@pytest.fixture
def settings(layout: Layout) -> WorkerSettings:
    return WorkerSettings(folders=layout_folders(layout), min_free_bytes=0)


def intakes(layout: Layout) -> list[str]:
    return sorted(path.name for path in layout.drafts.iterdir())


def associated(caller: Caller, request: bytes | None = None) -> Caller:
    caller.send(request or associate_rq())
    assert caller.pdu()[0] == pdu.PDUType.ASSOCIATE_AC
    return caller


def test_how_an_association_ended_is_told_with_titles_as_the_peer_sent_them(settings: WorkerSettings) -> None:
    settings = replace(settings, called_ae_titles=("MERCURE",))
    with running_worker() as control:
        control.configure(settings)
        rejected = control.connect()
        rejected.send(associate_rq(calling="A\n\x1b[2JB", called="\xc9\\"))
        assert rejected.pdu()[0] == pdu.PDUType.ASSOCIATE_RJ
        rejected.socket.close()
        assert control.hear("ended") == {
            "ended": 1,
            "how": "rejected: the called AE title is not in receiver.called_ae_titles (result 1, source 1, reason 7)",
            "calling": "A\n\x1b[2JB",
            "called": "\xc9\\",
        }
        accepted = associated(control.connect(), associate_rq(calling="CT\r1"))
        accepted.release()
        accepted.socket.close()
        assert control.hear("association")["association"]["calling_ae_title"] == "CT\r1"
        assert control.hear("ended") == {"ended": 2, "how": "released", "calling": "CT\r1", "called": "MERCURE"}
        silent = control.connect()
        silent.socket.close()
        ended = control.hear("ended")
        assert ended["how"].startswith("connection lost")
        assert (ended["calling"], ended["called"]) == ("", "")


@pytest.mark.parametrize(
    ("changes", "refuse", "request_", "expected"),
    [
        ({"calling_ae_titles": ("X",)}, "", {}, "the calling AE title is not in receiver.calling_ae_titles (result 1,"),
        ({"called_ae_titles": ("X",)}, "", {}, "the called AE title is not in receiver.called_ae_titles (result 1,"),
        ({}, "network", {}, "its address is in none of receiver.networks (result 1, source 1, reason 3)"),
        ({}, "limit", {}, "receiver.maximum_associations is reached (result 2, source 3, reason 2)"),
        ({}, "limit of the address", {}, "receiver.maximum_associations_per_peer is reached (result 2, source 3,"),
        ({"min_free_bytes": 1 << 62}, "", {}, "less than receiver.min_free_space_gb is free, or"),
        ({}, "", {"protocol_version": 2}, "its version of the upper layer protocol is not supported (result 1, source"),
        ({}, "", {"application_context": "1.2"}, "its application context is not that of DICOM (result 1, source 1, "),
    ],
    ids=["calling", "called", "network", "limit", "limit of the address", "disk", "protocol", "application"],
)
def test_why_an_association_was_rejected_is_told_in_words_and_in_numbers(
    settings: WorkerSettings, changes: dict[str, Any], refuse: str, request_: dict[str, Any], expected: str
) -> None:
    contexts = (ProposedContext(1, CT_STORAGE, (EXPLICIT_LITTLE,)),)
    request = AssociateRQ("MERCURE", "SENDER", contexts, **request_)
    encoded = request.encode()
    version = request.protocol_version.to_bytes(2, "big")  # `encode` writes 1, the only one there is
    with running_worker() as control:
        control.configure(replace(settings, **changes))
        caller = control.connect(refuse=refuse)
        caller.send(encoded[:6] + version + encoded[8:])
        assert caller.pdu()[0] == pdu.PDUType.ASSOCIATE_RJ
        caller.socket.close()
        ended = control.hear("ended")
    assert ended["how"].startswith(f"rejected: {expected}")
    assert (ended["calling"], ended["called"]) == ("SENDER", "MERCURE")


def test_an_intake_that_is_not_wanted_any_more_is_closed_with_its_last_association(
    layout: Layout, settings: WorkerSettings
) -> None:
    with running_worker() as control:
        control.configure(settings)
        (first,) = intakes(layout)
        caller = associated(control.connect())
        control.configure(replace(settings, hold_open=True))
        assert len(intakes(layout)) == 2
        assert first in intakes(layout)
        caller.send(store(builders.dicom_bytes(part10=False, SOPInstanceUID="1.2.3"), "1.2.3"))
        assert caller.status() == 0
        caller.release()
        caller.socket.close()
        control.hear("ended")
        wait_until(lambda: first not in intakes(layout), "the old folder of drafts is gone")
        control.configure(replace(settings, fsync=False))
        wait_until(lambda: len(intakes(layout)) == 1, "one that nobody uses is closed at once")
    assert intakes(layout) == []


def test_what_a_worker_leaves_that_dies_is_recovered_while_this_one_lives(
    layout: Layout, settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RECOVERY_SECONDS", 0.05)
    with running_worker() as control:
        control.configure(settings)
        data_set = builders.dicom_bytes(part10=False, SOPInstanceUID="1.2.3")
        content = part10.encode_file_meta(CT_STORAGE, "1.2.3", EXPLICIT_LITTLE, "SENDER") + data_set
        hidden = layout.drafts.parent / "4711-deadbeef"
        hidden.mkdir()
        (hidden / names.LOCK_FILE).touch()
        (hidden / names.draft_name(1, len(content), Origin("SENDER", "MERCURE", "10.0.0.1"))).write_bytes(content)
        hidden.rename(layout.drafts / hidden.name)
        assert control.hear("recovered") == {"recovered": 1}
    assert len(list(layout.incoming.glob("*#*/*.dcm"))) == 1


def test_tls_files_that_cannot_be_used_are_named_and_the_ones_before_go_on(
    settings: WorkerSettings, tmp_path: Path
) -> None:
    files = Authority(tmp_path / "tls").issue("receiver")
    good = TLSFiles(str(files.key), str(files.certificate))
    with running_worker() as control:
        control.configure(replace(settings, tls=good))
        control.send_settings(replace(settings, tls=replace(good, cert=str(tmp_path / "none"))))
        said = control.hear("tls_files")["tls_files"]
        assert said == {"trouble": f"certificate {tmp_path / 'none'}: No such file or directory", "is_usable": True}
        caller = control.connect(tls=True)
        caller.send(b"no TLS at all")
        caller.socket.close()
        assert control.hear("ended")["how"] == "TLS handshake failed: wrong version number"


def test_without_tls_files_a_connection_is_ended_with_the_reason(settings: WorkerSettings, tmp_path: Path) -> None:
    with running_worker() as control:
        control.send_settings(replace(settings, tls=TLSFiles("none", str(tmp_path / "none"))))
        reason = f"certificate {tmp_path / 'none'}: No such file or directory"
        assert control.hear("tls_files")["tls_files"] == {"trouble": reason, "is_usable": False}
        caller = control.connect(tls=True)
        assert caller.pdu() == (0, b""), "it is closed"
        assert control.hear("ended")["how"] == f"TLS handshake failed: {reason}"
        caller.socket.close()


def test_a_worker_may_open_as_many_files_as_the_system_allows(settings: WorkerSettings) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = f'ulimit -Sn 200; exec "{sys.executable}" -m mercure.dicom.worker {theirs.fileno()}'
    environment = {**os.environ, "PYTHONPATH": "src"}
    with subprocess.Popen(["bash", "-c", command], pass_fds=[theirs.fileno()], env=environment) as process, ours:
        theirs.close()
        control = Control(ours)
        control.configure(settings)
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        assert soft == hard > 200


def test_a_receiver_that_dies_before_it_has_read_everything_ends_its_worker_without_noise(tmp_path: Path) -> None:
    layout = Layout.under(tmp_path / "data")
    layout.create()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-m", "mercure.dicom.worker", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": "src"},
    )
    with process, ours:
        theirs.close()
        settings = WorkerSettings(folders=layout_folders(layout))
        ours.send(json.dumps({"settings": asdict(settings)}).encode())
        wait_until(lambda: list(layout.drafts.iterdir()), "it has taken its settings")
        assert ours.recv(1 << 16, socket.MSG_PEEK)  # its answer stays unread: the kernel tells it so by a reset
        ours.close()
        _, said = process.communicate(timeout=30)
        assert (process.returncode, said) == (0, b"")
