"""Storage commitment reports that need an association of their own (PS3.4 J.3.3), sent by one thread.

What waits is bounded, in number and in bytes: peers that never listen cannot fill the memory. A peer that cannot be
reached delays its own reports only, but for the time of one attempt.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mercure.core.errors import MercureError
from mercure.dicom import services_scu
from mercure.dicom.peer import Peer
from mercure.dicom.worker_settings import PeerPort
from mercure.spool.layout import Origin

log = logging.getLogger(__name__)

_RETRY_SECONDS = (5.0, 30.0, 120.0)
_MAXIMUM_REPORTS = 1000
_MAXIMUM_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Report:
    """An N-EVENT-REPORT as it will be sent: to whom, about which transaction, and the data set in implicit VR."""

    origin: Origin
    transaction_uid: str
    event_type: int
    references: int
    data_set: bytes


@dataclass(slots=True)
class _Waiting:
    """The reports for one AE title, in their order; `due` in monotonic seconds."""

    reports: deque[Report] = field(default_factory=deque)
    failures: int = 0
    due: float = 0.0


class ReportSender:
    """Sends reports one by one. The thread is there while reports wait; they do not outlive the process."""

    def __init__(self, ports: Mapping[str, PeerPort]) -> None:
        """Take the host and port of each AE title that listens for reports."""
        self._ports = ports
        self._waiting: dict[str, _Waiting] = {}
        self._bytes = 0
        self._count = 0
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()

    def put(self, reports: Sequence[Report]) -> None:
        """Send these soon. One that has no port to go to, or no room here, is named in the log."""
        with self._changed:
            for report in reports:
                self._put(report)
            if self._waiting and self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            self._changed.notify()

    def _put(self, report: Report) -> None:
        title = report.origin.calling_ae_title
        if title not in self._ports:
            log.warning(
                "no port is configured for storage commitment reports to %r; transaction %s stays without one",
                title,
                report.transaction_uid,
            )
        elif self._count >= _MAXIMUM_REPORTS or self._bytes + len(report.data_set) > _MAXIMUM_BYTES:
            log.error("too many storage commitment reports wait; transaction %s stays without", report.transaction_uid)
        else:
            self._waiting.setdefault(title, _Waiting()).reports.append(report)
            self._count += 1
            self._bytes += len(report.data_set)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    return
                title, waiting = min(self._waiting.items(), key=lambda item: item[1].due)
                pause = waiting.due - time.monotonic()
                if pause > 0:
                    self._changed.wait(pause)
                    continue
                report = waiting.reports[0]
            sent = self._send(report)
            with self._changed:
                self._note(title, waiting, sent=sent)

    def _note(self, title: str, waiting: _Waiting, *, sent: bool) -> None:
        if sent:
            self._drop_first(waiting)
            waiting.failures = 0
        elif waiting.failures == len(_RETRY_SECONDS):
            log.error("%d storage commitment reports to %r are given up", len(waiting.reports), title)
            while waiting.reports:
                self._drop_first(waiting)
        else:
            waiting.due = time.monotonic() + _RETRY_SECONDS[waiting.failures]
            waiting.failures += 1
        if not waiting.reports:
            del self._waiting[title]

    def _drop_first(self, waiting: _Waiting) -> None:
        report = waiting.reports.popleft()
        self._count -= 1
        self._bytes -= len(report.data_set)

    def _send(self, report: Report) -> bool:
        origin = report.origin
        port = self._ports[origin.calling_ae_title]
        peer = Peer(port.host, port.port, origin.calling_ae_title, origin.called_ae_title)
        try:
            status = services_scu.send_event_report(peer, report.event_type, report.data_set)
        except MercureError as error:
            log.warning("report of transaction %s not sent: %s", report.transaction_uid, error)
            return False
        except Exception:
            log.exception("report of transaction %s not sent by an error of ours", report.transaction_uid)
            return False
        if status:
            log.warning("report of transaction %s was answered with status 0x%04X", report.transaction_uid, status)
        return True
