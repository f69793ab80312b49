"""A receiver worker that is killed while instances stream in: what was acknowledged is there, once."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

from tests import builders, peers
from tests.sender import Caller, associate_rq, store

from mercure.dicom import dimse, pdu
from mercure.dicom.recovery import recover_drafts
from mercure.dicom.worker_settings import WorkerSettings
from mercure.spool.intake import Intake
from mercure.spool.layout import Layout

ROUNDS = 40 if os.environ.get("MERCURE_TORTURE") == "full" else 20
SERIES, STUDY = "1.2.9", "1.2"


class WorkerProcess:
    """A real worker process and the control socket of its receiver."""

    def __init__(self, layout: Layout) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(peers.DEADLINE_SECONDS)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mercure.dicom.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={"PYTHONPATH": "src"},
        )
        theirs.close()
        folders = {name: str(path) for name, path in layout.folders().items()}
        settings = WorkerSettings(folders=folders, min_free_bytes=0)
        self.control.send(json.dumps({"settings": asdict(settings)}).encode())
        while "configured" not in json.loads(self.control.recv(1 << 16)):
            pass

    def connect(self, number: int) -> Caller:
        """Hand over one end of a TCP connection and return the other."""
        listener = socket.create_server(("127.0.0.1", 0))
        caller = Caller(listener.getsockname()[1])
        accepted, _ = listener.accept()
        message = {"connection": number, "peer": "127.0.0.1", "tls": False, "refuse": ""}
        socket.send_fds(self.control, [json.dumps(message).encode()], [accepted.fileno()])
        accepted.close()
        listener.close()
        return caller

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.control.close()


def stream(caller: Caller, uids: list[str], acknowledged: list[str], template: bytes) -> None:
    """Send until the connection ends; note what was acknowledged."""
    try:
        caller.send(associate_rq())
        assert caller.pdu()[0] == pdu.PDUType.ASSOCIATE_AC
        for number, uid in enumerate(uids, start=1):
            caller.send(store(template.replace(b"1.2.3.100000", uid.encode()), uid, message_id=number))
            kind, body = caller.pdu()
            if kind == 0:
                return
            assert dimse.decode(body[6:]).status == 0
            acknowledged.append(uid)
    except OSError:  # the worker is dead: what comes now was never acknowledged
        pass
    finally:
        caller.socket.close()


def test_what_a_killed_worker_acknowledged_is_in_a_reception_exactly_once(tmp_path: Path) -> None:
    layout = Layout.under(tmp_path / "data")
    layout.create()
    template = builders.dicom_bytes(
        part10=False, SOPInstanceUID="1.2.3.100000", SeriesInstanceUID=SERIES, StudyInstanceUID=STUDY
    )
    chance = random.Random(20240517)
    sent = (f"1.2.3.{number}" for number in range(100_001, 999_999))
    acknowledged: list[str] = []
    rounds_with_answers = 0
    for _ in range(ROUNDS):
        worker = WorkerProcess(layout)
        before = len(acknowledged)
        senders = [
            threading.Thread(
                target=stream, args=(worker.connect(n), [next(sent) for _ in range(2000)], acknowledged, template)
            )
            for n in (1, 2)
        ]
        for sender in senders:
            sender.start()
        enough = before + chance.randrange(1, 60)
        peers.wait_until(lambda wanted=enough: len(acknowledged) >= wanted, "instances are acknowledged", interval=0)  # type: ignore[misc]
        until = time.perf_counter() + chance.random() * 0.004
        while time.perf_counter() < until:
            pass
        worker.kill()
        for sender in senders:
            sender.join(peers.DEADLINE_SECONDS)
            assert not sender.is_alive()
        rounds_with_answers += len(acknowledged) > before
    assert rounds_with_answers == ROUNDS
    intake = Intake(layout)
    recover_drafts(layout, intake)
    intake.close()
    (reception,) = (path for path in layout.incoming.iterdir() if not path.name.startswith("."))
    stored = {path.name for path in reception.glob("*.dcm")}
    assert {f"{SERIES}#{uid}.dcm" for uid in acknowledged} <= stored
    assert all(name.count("#") == 1 for name in stored)
    for name in stored:
        data_set = template.replace(b"1.2.3.100000", name.partition("#")[2].removesuffix(".dcm").encode())
        assert (reception / name).read_bytes().endswith(data_set)
    assert list(layout.drafts.iterdir()) == []
    assert list(layout.error.iterdir()) == []
