"""Kills the receiving side, and a dispatcher that sends over DICOM, before the n-th change they make on disk.

As `tests.kill_points` does for router, operator and folder targets: for n = 1, 1 + step, ... a copy of the template, a
fork, and a child that works on the copy until it asks the kernel for the n-th change; then it kills itself. Here a
peer is at the other end of a real connection while that happens, and notes what was acknowledged to it. A process of
its own (`python -m tests.torture.killer ORDER_FILE`) because forking wants one without threads. Ends with the first
child that finishes its work.
"""

import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.fake_clock import FakeClock, Recorded
from tests.kill_points import kill_at
from tests.sender import Caller, associate_rq, store

from mercure.core.retry import RetryPolicy
from mercure.core.stages import Stage
from mercure.dicom import dimse, pdu
from mercure.dicom.association_scp import AssociationSCP, Timeouts
from mercure.dicom.negotiation import AcceptancePolicy
from mercure.dicom.recovery import recover_drafts
from mercure.dicom.storage_scp import StorageHandler, StorageService
from mercure.dicom.wire import Wire
from mercure.services.dispatch_settings import DispatcherSettings, TargetSetup
from mercure.services.dispatcher import Dispatcher
from mercure.spool.intake import Intake
from mercure.spool.jobs import job_ids
from mercure.spool.layout import Layout
from mercure.targets.dicom import DicomNode, DicomTarget

_CHANGES = ("rename", "link", "mkdir", "fsync", "unlink", "rmdir", "open", "write", "writev", "utime", "replace")
_MOST = 2000
TARGET = "archive"


@dataclass
class Order:
    """What to do. `messages` are what the peer of a receiver stores; `port` is where a dispatcher sends to."""

    work: Literal["receive", "recover", "send"]
    template: Path
    copies: Path
    step: int
    messages: list[tuple[str, bytes]] = field(default_factory=list)
    port: int = 0
    hold_open: bool = False

    def layout(self, number: int) -> Layout:
        return Layout.under(self.copies / str(number))


@dataclass
class Outcome:
    """What happened to one copy: before which change it was killed (None: not at all), and what was acknowledged."""

    number: int
    is_killed: bool
    statuses: list[tuple[str, int]]


def kill_everywhere(order: Order) -> list[Outcome]:
    """Run it in a process of its own."""
    order_file, outcome_file = order.copies.with_suffix(".order"), order.copies.with_suffix(".outcomes")
    order_file.write_bytes(pickle.dumps(order))
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture.killer", str(order_file), str(outcome_file)],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(root), *sys.path))},
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    outcomes: list[Outcome] = pickle.loads(outcome_file.read_bytes())
    return outcomes


# -- what the children do ----------------------------------------------------------------------------------------------


def receive(layout: Layout, connection: socket.socket, *, hold_open: bool) -> None:
    """What a worker does: take up what dead ones left, serve an association, end in order."""
    intake = Intake(layout, fsync=True, hold_open=hold_open)
    recover_drafts(layout, intake)
    service = StorageService(intake, layout, 0, lambda *_report: None)
    handler = StorageHandler(service, "127.0.0.1")
    AssociationSCP(Wire(connection), handler, AcceptancePolicy(), Timeouts()).serve()
    intake.close()


def recover(layout: Layout) -> int:
    """What a worker does when it starts."""
    intake = Intake(layout, fsync=True)
    count = recover_drafts(layout, intake)
    intake.close()
    return count


def send(layout: Layout, port: int) -> None:
    """Deliver everything that waits to a DICOM node."""
    target = DicomTarget(DicomNode("127.0.0.1", port, "PYNETDICOM"))
    clock = FakeClock()
    settings = DispatcherSettings({TARGET: TargetSetup(target, RetryPolicy(0.01, 0.01))})
    dispatcher = Dispatcher(layout, settings, clock, Recorded())
    pause = threading.Event()
    while any(True for _ in job_ids(layout, Stage.OUTGOING)):
        dispatcher.step()
        clock.advance(0.02)
        pause.wait(0.001)
    target.close()


# -- the process that forks --------------------------------------------------------------------------------------------


def _fork(number: int, work: Callable[[], object]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        kill_at(number, _CHANGES)
        work()
    except BaseException as error:
        sys.stderr.write(f"change {number}: {error!r}\n")
        os._exit(1)
    os._exit(0)


def _store_all(caller: Caller, messages: list[tuple[str, bytes]]) -> list[tuple[str, int]]:
    """Store one after the other until the connection ends; return what was answered."""
    statuses: list[tuple[str, int]] = []
    try:
        caller.send(associate_rq())
        if caller.pdu()[0] != pdu.PDUType.ASSOCIATE_AC:
            return statuses
        for number, (uid, data_set) in enumerate(messages, start=1):
            caller.send(store(data_set, uid, message_id=number))
            kind, body = caller.pdu()
            if kind != pdu.PDUType.DATA_TF:
                return statuses
            statuses.append((uid, dimse.decode(body[6:]).status))
        caller.release()
    except OSError:  # the worker is dead
        pass
    return statuses


def _one(order: Order, number: int) -> tuple[int, list[tuple[str, int]]]:
    """Return the exit status of the child, and what its peer was told."""
    layout = order.layout(number)
    shutil.copytree(order.template, order.copies / str(number))
    statuses: list[tuple[str, int]] = []
    if order.work == "receive":
        listener = socket.create_server(("127.0.0.1", 0))
        caller = Caller(listener.getsockname()[1])
        connection, _ = listener.accept()

        def serve() -> None:
            caller.socket.close()
            receive(layout, connection, hold_open=order.hold_open)

        child = _fork(number, serve)
        connection.close()
        listener.close()
        statuses = _store_all(caller, order.messages)
        caller.socket.close()
    elif order.work == "recover":
        child = _fork(number, lambda: recover(layout))
    else:
        child = _fork(number, lambda: send(layout, order.port))
    return os.waitpid(child, 0)[1], statuses


def _main() -> None:
    order: Order = pickle.loads(Path(sys.argv[1]).read_bytes())
    outcomes = []
    for number in range(1, _MOST, order.step):
        status, statuses = _one(order, number)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            sys.exit(f"change {number}: the work failed")
        outcomes.append(Outcome(number, os.WIFSIGNALED(status), statuses))
        if os.WIFEXITED(status):
            Path(sys.argv[2]).write_bytes(pickle.dumps(outcomes))
            return
    sys.exit("it never ends")


if __name__ == "__main__":
    from tests.torture import killer

    killer._main()  # under its own name: the order was pickled by it
