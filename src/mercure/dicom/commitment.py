"""Storage commitment, push model, as its provider (PS3.4 Annex J).

A peer asks, with N-ACTION, whether instances are in safe keeping. They are when they stand in the data folder: each was
made durable before its C-STORE was answered. The report goes out on the same association; when the peer ends that
before it has confirmed the report, on a new one, to the port that is configured for its AE title.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mercure.dicom import part10, uids
from mercure.dicom.commitment_data import (
    MAXIMUM_REFERENCES,
    Failure,
    Reference,
    TooManyReferencesError,
    encode_report,
    read_request,
)
from mercure.dicom.commitment_sender import Report, ReportSender
from mercure.dicom.part10 import NotDicomError
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


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """One N-ACTION: who wants to know what. `origin` is that of the association on which it came."""

    service: "CommitmentService"
    origin: Origin
    transaction_uid: str
    references: Sequence[Reference]

    def check(self, transfer_syntax: str) -> tuple[Report, bytes]:
        """Look into the data folder; return the report to keep, and its data set in another transfer syntax.

        The references may be forgotten then: the report as bytes takes a fraction of their memory (PS3.4 table J.3-2).
        """
        committed, failed = self.service.check(self.references)
        event_type = FAILURES_EXIST if failed else ALL_COMMITTED
        kept = encode_report(uids.IMPLICIT_VR_LITTLE_ENDIAN, self.transaction_uid, committed, failed)
        report = Report(self.origin, self.transaction_uid, event_type, len(self.references), kept)
        if transfer_syntax == uids.IMPLICIT_VR_LITTLE_ENDIAN:
            return report, kept
        return report, encode_report(transfer_syntax, self.transaction_uid, committed, failed)


class Unconfirmed:
    """The reports that went out on one association and that its peer has not confirmed, within limits."""

    _MAXIMUM_REPORTS = 100

    def __init__(self) -> None:
        """Begin without any."""
        self._reports: dict[int, Report] = {}
        self._message_id = 0
        self._service: CommitmentService | None = None

    def room(self) -> int:
        """Return to how many instances the next request may refer. Raises `TooManyReferencesError` for none at all."""
        if len(self._reports) >= self._MAXIMUM_REPORTS:
            raise TooManyReferencesError("too many reports are not confirmed")
        return MAXIMUM_REFERENCES - sum(report.references for report in self._reports.values())

    def add(self, request: CommitmentRequest, transfer_syntax: str) -> tuple[int, int, bytes]:
        """Check a request; return message id, event type and data set of the report to send."""
        report, data_set = request.check(transfer_syntax)
        self._service = request.service
        self._message_id = self._message_id % 0xFFFF + 1
        self._reports[self._message_id] = report
        return self._message_id, report.event_type, data_set

    def confirm(self, message_id: int) -> None:
        """The peer has the report."""
        self._reports.pop(message_id, None)

    def send_later(self) -> None:
        """The association is over: send what is left on an association of its own. Does not wait."""
        if self._service and self._reports:
            self._service.send_later(tuple(self._reports.values()))
        self._reports.clear()


class CommitmentService:
    """What a worker's associations share: the data folder, and where reports go that need a new association."""

    def __init__(self, layout: Layout, ports: Mapping[str, PeerPort]) -> None:
        """Take the host and port of each AE title that listens for reports."""
        self._layout = layout
        self._sender = ReportSender(ports)

    def requested(
        self, origin: Origin, data: bytes, transfer_syntax: str, maximum_references: int
    ) -> CommitmentRequest:
        """Read the data set of an N-ACTION. Nothing is looked up yet.

        Raises `CommitmentDataError`, and `TooManyReferencesError` when it refers to more than so many instances.
        """
        transaction_uid, references = read_request(data, transfer_syntax, maximum_references)
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

    def send_later(self, reports: Sequence[Report]) -> None:
        """Send reports that nobody confirmed on an association of their own. Does not wait."""
        self._sender.put(reports)
