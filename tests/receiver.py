"""Our own receiver without its processes: associations served by threads of the test, into a spool of the test."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.peers import DEADLINE_SECONDS, wait_until

from mercure.dicom.association_scp import AssociationSCP, Timeouts
from mercure.dicom.commitment import CommitmentService
from mercure.dicom.negotiation import AcceptancePolicy
from mercure.dicom.pdu import AssociateRJ
from mercure.dicom.storage_scp import StorageHandler, StorageService, Tally
from mercure.dicom.wire import Wire
from mercure.spool.intake import Intake
from mercure.spool.layout import Layout, Origin


@dataclass
class Receiver:
    """A running receiver: how each association ended, and what each brought, in order of their ends."""

    port: int
    layout: Layout
    intake: Intake
    ends: list[str] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def wait_for_ends(self, count: int = 1) -> list[str]:
        """Wait until so many associations are over."""
        wait_until(lambda: len(self.ends) >= count, f"{count} associations are over")
        return self.ends

    def instances(self) -> list[Path]:
        """What is in receptions, gathering or sealed."""
        gathering = [path for path in self.layout.incoming.glob("*/*.dcm") if path.parent.name != ".new"]
        return sorted([*gathering, *self.layout.sealed.glob("*/received/*.dcm")])

    def drafts(self) -> list[Path]:
        """What this worker has not placed, after it had a moment to clear up behind its last answer.

        The empty draft that an open association holds ready for its next instance is not counted.
        """
        deadline = time.monotonic() + 10
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return left

    def _left(self) -> list[Path]:
        left = []
        for path in self.intake.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.name != ".lock" and (path.is_dir() or path.stat().st_size):
                    left.append(path)
        return left

    def broken(self) -> list[Path]:
        """The jobs in `error/`."""
        return sorted(self.layout.error.iterdir())


@contextmanager
def receiver(
    data_folder: Path,
    *,
    policy: AcceptancePolicy | None = None,
    timeouts: Timeouts | None = None,
    min_free_bytes: int = 0,
    fsync: bool = True,
    hold_open: bool = False,
    commitment: CommitmentService | None = None,
    tls: ssl.SSLContext | None = None,
    refusal: AssociateRJ | None = None,
) -> Iterator[Receiver]:
    """Receive on a free port. Leaves when all associations are over; an error in a thread of it fails the test."""
    layout = Layout.under(data_folder)
    layout.create()
    intake = Intake(layout, fsync=fsync, hold_open=hold_open)
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    running = Receiver(listener.getsockname()[1], layout, intake)

    def report(how: str, origin: Origin, tally: Tally) -> None:
        running.origins.append(origin)
        running.tallies.append(tally)
        running.ends.append(how)

    requested = commitment.requested if commitment else None
    service = StorageService(intake, layout, min_free_bytes, report, requested)

    def serve(connection: socket.socket, address: str) -> None:
        try:
            if tls:
                connection.settimeout(DEADLINE_SECONDS)
                connection = tls.wrap_socket(connection, server_side=True)
            wire = Wire(connection)
            wires.append(wire)
            handler = StorageHandler(service, address)
            association = AssociationSCP(wire, handler, policy or AcceptancePolicy(), timeouts or Timeouts())
            how = association.serve(refusal)
            if handler._session is None:  # never accepted, so never reported
                running.ends.append(how)
        except ssl.SSLError as error:
            connection.close()
            running.ends.append(f"TLS: {error.reason}")
        except BaseException as error:
            connection.close()
            running.errors.append(error)
            running.ends.append(f"failed: {error!r}")

    wires: list[Wire] = []
    threads: list[threading.Thread] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, address = listener.accept()
                threads.append(threading.Thread(target=serve, args=(connection, address[0])))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield running
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(DEADLINE_SECONDS)
        for wire in wires:
            wire.interrupt()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
        with suppress(FileNotFoundError):
            intake.close()
    if running.errors:
        raise running.errors[0]
