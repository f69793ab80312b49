"""A receiver worker: a process that serves associations which the receiver accepted, one thread for each.

Run as `python -m mercure.dicom.worker FD`, where FD is one end of a sequenced-packet socket. The receiver sends
settings, connections (with the socket itself) and the wish to stop; the worker says when an association is over. When
the receiver dies the socket ends, and so does the worker: what was not acknowledged is sent again by its sender, and
what was written is found by recovery. Nothing heavy is imported here: this process is there once per core.
"""

import contextlib
import ipaddress
import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict
from typing import Any

from mercure.core.errors import MercureError, SpoolError
from mercure.dicom import pdu
from mercure.dicom.association_scp import AssociationSCP
from mercure.dicom.commitment import CommitmentService
from mercure.dicom.recovery import recover_drafts
from mercure.dicom.storage_scp import StorageHandler, StorageService, Tally
from mercure.dicom.tls_client import TlsFilesError
from mercure.dicom.tls_server import TlsHandshakeError, TlsServer
from mercure.dicom.wire import Wire
from mercure.dicom.worker_settings import WorkerSettings
from mercure.spool.intake import Intake
from mercure.spool.layout import Origin
from mercure.spool.sealing import make_folders

log = logging.getLogger(__name__)

REFUSALS = {
    "limit": pdu.REJECT_LOCAL_LIMIT,
    "limit of the address": pdu.REJECT_LOCAL_LIMIT,
    "network": pdu.REJECT_CALLING_AE_TITLE,
}
"""Why the receiver hands over a connection only to have it rejected."""

_REFUSED_BECAUSE = {
    "limit": "receiver.maximum_associations is reached",
    "limit of the address": "receiver.maximum_associations_per_peer is reached",
    "network": "its address is in none of receiver.networks",
}
_REJECTED_BECAUSE = {
    pdu.REJECT_APPLICATION_CONTEXT: "its application context is not that of DICOM",
    pdu.REJECT_CALLING_AE_TITLE: "the calling AE title is not in receiver.calling_ae_titles",
    pdu.REJECT_CALLED_AE_TITLE: "the called AE title is not in receiver.called_ae_titles",
    pdu.REJECT_PROTOCOL_VERSION: "its version of the upper layer protocol is not supported",
    pdu.REJECT_CONGESTION: "less than receiver.min_free_space_gb is free, or too few inodes, or the "
    "folder incoming cannot be used",
}
"""For a person. The peer gets numbers only, and the same ones for different causes (PS3.8 9.3.4)."""

_MESSAGE_BYTES = 1 << 18
_TLS_HANDSHAKE_SECONDS = 15.0
_RECOVERY_SECONDS = 240.0
"""Drafts are left behind by workers that die, too, while this one lives."""


class Worker:
    """The state of a worker process."""

    def __init__(self, control: socket.socket) -> None:
        """Wait for settings."""
        self._control = control
        self._settings: WorkerSettings | None = None
        self._service: StorageService | None = None
        self._tls = TlsServer(self._tell_tls)
        self._open: dict[int, Wire] = {}
        self._serving: set[int] = set()
        self._ended = threading.Condition()
        self._lock = threading.Lock()
        self._users: Counter[Intake] = Counter()  # associations and recoveries that are at work with an intake
        self._stopping = threading.Event()

    def run(self) -> None:
        """Serve until the receiver says stop or is gone."""
        self._start_thread(self._recover_again)
        try:
            self._listen()
        finally:
            self._stopping.set()

    def _listen(self) -> None:
        while True:
            try:
                data, descriptors, _flags, _address = socket.recv_fds(self._control, _MESSAGE_BYTES, 4)
            except ConnectionResetError:  # the receiver died before it had read all that we told it
                return
            if not data:
                return
            message = json.loads(data)
            if "settings" in message:
                self._configure(WorkerSettings.decode(message["settings"]))
            elif "connection" in message:
                self._start(message, socket.socket(fileno=descriptors[0]))
            elif "stop" in message:
                self._stop(float(message["stop"]))
                return

    def _configure(self, settings: WorkerSettings) -> None:
        """Take new settings for the associations to come; those that are open go on with the old ones."""
        with self._lock:
            old, self._settings = self._settings, settings
            kept = self._service.intake if self._service and old and _same_intake(old, settings) else None
            self._set_up(settings, kept)
        self._tls.configure(settings.tls)
        self._send({"configured": True})

    def _set_up(self, settings: WorkerSettings, intake: Intake | None) -> None:
        """Build what associations share; without an intake, one is made. Called with the lock held."""
        layout = settings.layout
        old = self._service.intake if self._service else None
        if intake is None:
            try:
                make_folders(layout)
                intake = Intake(layout, fsync=settings.fsync, hold_open=settings.hold_open)
            except (SpoolError, OSError) as error:
                reason = str(error) if isinstance(error, SpoolError) else error.strerror
                log.error("nothing can be received: the data folder cannot be used: %s", reason)  # noqa: TRY400
                return
            self._users[intake] += 1
            self._start_thread(self._recover, intake)
        commitment = CommitmentService(layout, settings.commitment_ports or {})
        self._service = StorageService(
            intake,
            layout,
            settings.min_free_bytes,
            self._report,
            commitment.requested if settings.storage_commitment else None,
        )
        if old and old is not intake and not self._users[old]:
            old.close()

    def _leave(self, intake: Intake) -> None:
        """Be done with an intake. The last one who is closes it, when the settings have another one by now."""
        with self._lock:
            self._users[intake] -= 1
            if not self._users[intake]:
                del self._users[intake]
                if self._service and self._service.intake is not intake:
                    intake.close()

    def _ready(self) -> tuple[StorageService, WorkerSettings] | None:
        """Return what an association needs; its user says `_leave` to the intake at the end.

        A data folder that vanished is taken up again once it is back.
        """
        with self._lock:
            settings = self._settings
            if settings and not (self._service and os.path.isdir(self._service.intake.folder)):
                self._set_up(settings, None)
            if not self._service or not settings:
                return None
            self._users[self._service.intake] += 1
            return self._service, settings

    def _recover_again(self) -> None:
        while not self._stopping.wait(_RECOVERY_SECONDS):
            ready = self._ready()
            if ready:
                self._recover(ready[0].intake)

    def _recover(self, intake: Intake) -> None:
        try:
            count = recover_drafts(intake.layout, intake)
        except (MercureError, OSError):
            log.exception("drafts of a dead worker could not be recovered; they stay where they are")
            return
        finally:
            self._leave(intake)
        if count:
            self._send({"recovered": count})

    def _start(self, message: dict[str, Any], connection: socket.socket) -> None:
        number = int(message["connection"])
        self._serving.add(number)
        self._start_thread(self._serve, number, connection, str(message["peer"]), message)

    def _serve(self, number: int, connection: socket.socket, peer: str, message: dict[str, Any]) -> None:
        """One association, in a thread of its own."""
        how = "failed"
        ready: tuple[StorageService, WorkerSettings] | None = None
        association: AssociationSCP | None = None
        try:
            if message["tls"]:
                connection = self._tls.secure(connection, _TLS_HANDSHAKE_SECONDS)
            wire = Wire(connection)
            self._open[number] = wire
            ready = self._ready()
            if ready is None:
                how = "failed: the data folder cannot be used"
                wire.close()
                return
            service, settings = ready
            association = AssociationSCP(wire, StorageHandler(service, peer), settings.policy, settings.timeouts)
            how = association.serve(REFUSALS.get(message.get("refuse") or ""))
        except (TlsFilesError, TlsHandshakeError) as error:
            how = f"TLS handshake failed: {error}"
            connection.close()
        except OSError as error:
            how = f"connection failed: {error.strerror or type(error).__name__}"
            connection.close()
        except Exception:
            log.exception("association failed by an error of ours")
            connection.close()
        finally:
            self._open.pop(number, None)
            self._serving.discard(number)
            if ready:
                self._leave(ready[0].intake)
            calling, called = association.ae_titles if association else ("", "")
            how = _with_cause(how, message.get("refuse") or "")
            self._send({"ended": number, "how": how, "calling": calling, "called": called})
            with self._ended:
                self._ended.notify_all()

    def _stop(self, grace_seconds: float) -> None:
        """Let open associations end by themselves for a while, then end them."""
        deadline = time.monotonic() + grace_seconds
        with self._ended:
            while self._serving and time.monotonic() < deadline:
                self._ended.wait(max(0.0, deadline - time.monotonic()))
        for wire in list(self._open.values()):
            wire.interrupt()
        deadline = time.monotonic() + 2.0
        with self._ended:
            while self._serving and time.monotonic() < deadline:
                self._ended.wait(max(0.0, deadline - time.monotonic()))
        if self._service:
            self._service.intake.close()

    def _report(self, how: str, origin: Origin, tally: Tally) -> None:
        """Tell the receiver what an association brought. AE titles are as the peer sent them: who prints, escapes."""
        self._send({"association": {"how": how, **asdict(origin), **asdict(tally)}})

    def _tell_tls(self, trouble: str, is_usable: bool) -> None:  # noqa: FBT001
        self._send({"tls_files": {"trouble": trouble, "is_usable": is_usable}})

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the receiver is gone: `run` sees that too
            self._control.send(json.dumps(message).encode())

    @staticmethod
    def _start_thread(target: Any, *arguments: Any) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()


def _same_intake(old: WorkerSettings, new: WorkerSettings) -> bool:
    return (old.folders, old.fsync, old.hold_open) == (new.folders, new.fsync, new.hold_open)


def _with_cause(how: str, refusal: str) -> str:
    """Say in words why an association was rejected; anything else is returned as it is."""
    prefix, numbers = how.partition(": ")[::2]
    if prefix != "rejected":
        return how
    causes = {
        f"result {answer.result}, source {answer.source}, reason {answer.reason}": cause
        for answer, cause in _REJECTED_BECAUSE.items()
    }
    cause = _REFUSED_BECAUSE.get(refusal) or causes.get(numbers)
    return f"rejected: {cause} ({numbers})" if cause else how


def plain_address(address: str) -> str:
    """Return an IP address in its usual form: an IPv4 address that came over an IPv6 socket as IPv4, no zone."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


def raise_descriptor_limit() -> None:
    """Allow this process as many open files as the system does: each association takes several."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """Run the worker on the descriptor that the first argument names."""
    # Ctrl-C goes to the whole group of processes; the receiver decides when its workers stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    level = os.environ.get("MERCURE_LOG_LEVEL", "info").upper()
    logging.basicConfig(
        stream=sys.stderr,
        level=level if level in ("DEBUG", "INFO", "WARNING", "ERROR") else "INFO",
        format="%(asctime)s %(levelname)s receiver: %(message)s",
    )
    raise_descriptor_limit()
    control = socket.socket(fileno=int(sys.argv[1]))
    Worker(control).run()


if __name__ == "__main__":
    main()
