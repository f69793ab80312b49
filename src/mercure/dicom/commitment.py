"""Storage commitment, push model, as its provider (PS3.4 Annex J).

A peer asks, with N-ACTION, whether instances are in safe keeping. They are when they stand in the data folder: each was
made durable before its C-STORE was answered. The report goes out on the same association; when the peer ends that
before it has confirmed the report, on a new one, to the port that is configured for its AE title.
"""

import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from mercure.core.errors import MercureError
from mercure.dicom import part10, services_scu, uids
from mercure.dicom.commitment_data import Failure, Reference, encode_report, read_request
from mercure.dicom.part10 import NotDicomError
from mercure.dicom.peer import Peer
from mercure.dicom.worker_settings import PeerPort
from mercure.spool.inventory import find_instances
from mercure.spool.layout import Layout, Origin

log = logging.getLogger(__name__)

ALL_COMMITTED = 1
FAILURES_EXIST = 2
"""Event types (PS3.4 J.3.3.1)."""

NO_SUCH_INSTANCE = 0x0112
CLASS_CONFLICT = 0x0119
PROCESSING_FAILURE = 0x0110
"""Failure reasons (PS3.3 C.14)."""

RESOURCE_LIMITATION = 0x0213
"""Status of an N-ACTION when too many reports wait for their confirmation (PS3.7 C.5.20)."""

_RETRY_SECONDS = (5.0, 30.0, 120.0)


@dataclass(slots=True)
class CommitmentRequest:
    """One N-ACTION: who wants to know what. `origin` is that of the association on which it came."""

    service: "CommitmentService"
    origin: Origin
    transaction_uid: str
    references: Sequence[Reference]
    _outcome: tuple[Sequence[Reference], Sequence[Failure]] | None = field(default=None, init=False)

    @property
    def event_type(self) -> int:
        """What the report says: `ALL_COMMITTED` or `FAILURES_EXIST`. Looks into the data folder when asked first."""
        return FAILURES_EXIST if self._checked()[1] else ALL_COMMITTED

    def report(self, transfer_syntax: str) -> bytes:
        """Return the data set of the report (PS3.4 table J.3-2)."""
        committed, failed = self._checked()
        return encode_report(transfer_syntax, self.transaction_uid, committed, failed)

    def _checked(self) -> tuple[Sequence[Reference], Sequence[Failure]]:
        if self._outcome is None:
            self._outcome = self.service.check(self.references)
        return self._outcome


class CommitmentService:
    """What a worker's associations share: the data folder, and where reports go that need a new association."""

    def __init__(self, layout: Layout, ports: Mapping[str, PeerPort]) -> None:
        """Take the host and port of each AE title that listens for reports."""
        self._layout = layout
        self._ports = ports

    def requested(self, origin: Origin, data: bytes, transfer_syntax: str) -> CommitmentRequest:
        """Read the data set of an N-ACTION. Raises `CommitmentDataError`. Nothing is looked up yet."""
        transaction_uid, references = read_request(data, transfer_syntax)
        return CommitmentRequest(self, origin, transaction_uid, references)

    def check(self, references: Sequence[Reference]) -> tuple[Sequence[Reference], Sequence[Failure]]:
        """Return the references that are in safe keeping, and those that are not with the reason."""
        try:
            reasons = self._reasons(references)
        except OSError as error:
            log.error("storage commitment cannot look into the data folder: %s", error.strerror)  # noqa: TRY400
            return (), [Failure(reference, PROCESSING_FAILURE) for reference in references]
        committed = [reference for reference in references if not reasons[reference]]
        return committed, [Failure(reference, reasons[reference]) for reference in references if reasons[reference]]

    def _reasons(self, references: Sequence[Reference]) -> dict[Reference, int]:
        """Return why a reference is not committed, 0 when it is."""
        paths = find_instances(self._layout, {reference.sop_instance_uid for reference in references})
        reasons, moved = {}, []
        for reference in references:
            path = paths.get(reference.sop_instance_uid)
            if path is None:
                moved.append(reference)
                continue
            try:
                kept_class = part10.read_file_meta(path).sop_class_uid
                reasons[reference] = 0 if kept_class == reference.sop_class_uid else CLASS_CONFLICT
            except FileNotFoundError:
                moved.append(reference)
            except NotDicomError:
                reasons[reference] = PROCESSING_FAILURE
        if moved:  # not there, or just on the way from one stage to another
            paths = find_instances(self._layout, {reference.sop_instance_uid for reference in moved})
            for reference in moved:
                reasons[reference] = 0 if reference.sop_instance_uid in paths else NO_SUCH_INSTANCE
        return reasons

    def send_later(self, requests: Sequence[CommitmentRequest]) -> None:
        """Send reports on a new association, from a thread of their own."""
        threading.Thread(target=self._send_all, args=(tuple(requests),), daemon=True).start()

    def _send_all(self, requests: Sequence[CommitmentRequest]) -> None:
        for request in requests:
            origin = request.origin
            port = self._ports.get(origin.calling_ae_title)
            if port is None:
                log.warning(
                    "no port is configured for storage commitment reports to %r; transaction %s stays without one",
                    origin.calling_ae_title,
                    request.transaction_uid,
                )
                continue
            peer = Peer(port.host, port.port, origin.calling_ae_title, origin.called_ae_title)
            for pause in (*_RETRY_SECONDS, None):
                if self._send(peer, request) or pause is None:
                    break
                time.sleep(pause)

    @staticmethod
    def _send(peer: Peer, request: CommitmentRequest) -> bool:
        data_set = request.report(uids.IMPLICIT_VR_LITTLE_ENDIAN)
        try:
            status = services_scu.send_event_report(peer, request.event_type, data_set)
        except MercureError as error:
            log.warning("report of transaction %s not sent: %s", request.transaction_uid, error)
            return False
        if status:
            log.warning("report of transaction %s was answered with status 0x%04X", request.transaction_uid, status)
        return True


def send_unconfirmed(requests: Collection[CommitmentRequest]) -> None:
    """Send the reports of one association, which is over, that its peer did not confirm on it."""
    waiting = tuple(requests)
    if waiting:
        waiting[0].service.send_later(waiting)
