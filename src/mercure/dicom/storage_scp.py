"""What the receiver offers on an association: C-STORE into the spool, C-ECHO, storage commitment (PS3.4 B, A, J).

An instance is acknowledged with 0x0000 when it is durable and has its name in a reception, never before. What cannot
be understood is kept in `error/` with its reason, and the sender gets a failure status.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mercure.core.errors import MercureError, SpoolError
from mercure.core.tags import is_valid_uid
from mercure.dicom import dimse, part10, pdu, uids
from mercure.dicom.association_scp import Answer, DataSetSink
from mercure.dicom.commitment import RESOURCE_LIMITATION, CommitmentRequest, Unconfirmed
from mercure.dicom.commitment_data import CommitmentDataError, TooManyReferencesError, event_report_request
from mercure.dicom.dimse import Command, CommandSet
from mercure.dicom.header import Incomplete, Placing, read_placing, read_placing_of
from mercure.dicom.negotiation import AcceptedContext
from mercure.dicom.pdu import AssociateRJ, AssociateRQ
from mercure.dicom.sinks import Gathered, Ignored
from mercure.dicom.storage_trouble import Trouble
from mercure.spool.drafts import Draft
from mercure.spool.intake import Intake, Session, shortage
from mercure.spool.layout import Layout, Origin
from mercure.spool.quarantine import quarantine

log = logging.getLogger(__name__)

_HEADER_BYTES = 16 << 10
"""Kept of each data set while it passes; nearly every header up to the series UID fits."""

_NO_PLACE = frozenset(
    (
        *(errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
        *(errno.ENOENT, errno.ESTALE, errno.EROFS, errno.EACCES, errno.EPERM),
    )
)
"""The disk is full, gone, read-only or closed to us, or too much is open: a good instance, which may come again."""

_TAKES_NO_INSTANCES = (uids.VERIFICATION, uids.STORAGE_COMMITMENT_PUSH_MODEL)


@dataclass(slots=True)
class Tally:
    """What one association brought, for the journal."""

    stored: int = 0
    identical: int = 0
    different: int = 0
    refused: int = 0
    stored_bytes: int = 0
    last_refusal: str = ""
    """Why the latest instance was refused, for a person; no value of the instance in it."""
    last_refused_job: str = ""
    """The job in `error/` that keeps the latest one of those that could not be understood."""

    def note_refusal(self, reason: str) -> None:
        """Count one."""
        self.refused += 1
        self.last_refusal = reason


@dataclass(frozen=True, slots=True)
class StorageService:
    """What the handlers of all associations of a worker share."""

    intake: Intake
    layout: Layout
    min_free_bytes: int
    report: Callable[[str, Origin, Tally], None]
    """Called once for each association that stored or refused something: how it ended, who it was, what it brought."""
    commitment: Callable[[Origin, bytes, str, int], CommitmentRequest] | None = None
    """Reads the data set of an N-ACTION; see `CommitmentService.requested`. None: no storage commitment."""
    trouble: Trouble = field(default_factory=Trouble)

    def has_space(self) -> bool:
        """Whether the reserve is untouched. An unreadable folder counts as full: nothing could be stored there."""
        try:
            reason = shortage(self.layout.incoming, self.min_free_bytes)
        except OSError as error:
            reason = f"the folder incoming cannot be used: {error.strerror}"
        if reason:
            self.trouble.begin(reason)
        return not reason


class StorageHandler:
    """The message handler of one association."""

    def __init__(self, service: StorageService, peer_address: str) -> None:
        """Prepare; the AE titles come with the request."""
        self._service = service
        self._peer_address = peer_address
        self._origin = Origin("", "", peer_address)
        self._session: Session | None = None
        self._answer: Answer | None = None
        self._unconfirmed = Unconfirmed()
        self._next_draft: Draft | None = None
        self.tally = Tally()

    def admit(self, request: AssociateRQ) -> AssociateRJ | None:
        """Refuse everything while the disk is below its reserve: temporary congestion (PS3.8 9.3.4)."""
        del request
        return None if self._service.has_space() else pdu.REJECT_CONGESTION

    def begin(self, request: AssociateRQ, answer: Answer) -> None:
        """Fix the origin of everything that comes on this association."""
        self._origin = Origin(request.calling_ae_title, request.called_ae_title, self._peer_address)
        self._session = self._service.intake.session(self._origin)
        self._answer = answer

    def message(self, context_id: int, context: AcceptedContext, command: CommandSet) -> DataSetSink | None:
        """Act on a command."""
        kind = command.command
        if kind == Command.C_STORE_RQ and command.has_data_set:
            if context.abstract_syntax in _TAKES_NO_INSTANCES:
                return Ignored(lambda: self._refuse_store(context_id, command))
            return StoreSink(self, context_id, context, command)
        if kind == Command.N_EVENT_REPORT_RSP and command.status == dimse.SUCCESS:
            self._unconfirmed.confirm(command.number(dimse.MESSAGE_ID_RESPONDED_TO))
        if kind & dimse.RESPONSE or kind == Command.C_CANCEL_RQ:
            return Ignored() if command.has_data_set else None
        if kind == Command.N_ACTION_RQ and command.has_data_set and self._service.commitment:
            return Gathered(lambda data: self._commit(context_id, context, command, data))
        status = dimse.SUCCESS if kind == Command.C_ECHO_RQ else dimse.UNRECOGNIZED_OPERATION
        if command.has_data_set:
            return Gathered(lambda _data: self.answer(context_id, dimse.response_to(command, status)))
        self.answer(context_id, dimse.response_to(command, status))
        return None

    def end(self, reason: str) -> None:
        """Close the session and report. Commitment reports that the peer has not confirmed go another way."""
        if self._session:
            self._session.close()
        if self._next_draft:
            self._next_draft.discard()
        self._unconfirmed.send_later()
        self._service.report(reason, self._origin, self.tally)

    def answer(self, context_id: int, command: bytes) -> None:
        """Send a response without a data set."""
        if self._answer:
            self._answer(context_id, command, b"")

    def open_draft(self) -> Draft | None:
        """Return a new draft; None when the disk does not allow it."""
        if not self._service.has_space():
            return None
        draft, self._next_draft = self._next_draft, None
        try:
            return draft or self._service.intake.draft()
        except OSError as error:
            self._service.trouble.begin(f"the folder of drafts cannot be written: {error.strerror}")
            return None

    def after_answer(self, published: Draft | None) -> None:
        """Do what the sender need not wait for, while it prepares its next instance.

        An instance that is published has two names; recovery removes the draft's when we die before that.
        """
        with contextlib.suppress(OSError):
            if published is None:  # perhaps there is no room: take nothing of what is left
                return
            published.remove()
            if not self._next_draft:
                self._next_draft = self._service.intake.draft()

    def file_meta(self, context: AcceptedContext, command: CommandSet) -> bytes:
        """Return what stands before the data set in the file (PS3.10 7.1)."""
        return part10.encode_file_meta(
            command.uid(dimse.AFFECTED_SOP_CLASS_UID),
            command.uid(dimse.AFFECTED_SOP_INSTANCE_UID),
            context.transfer_syntax,
            self._origin.calling_ae_title,
        )

    def place(self, draft: Draft, placing: Placing) -> None:
        """Publish a draft. Raises `SpoolError` or `OSError`."""
        if not self._session:
            raise SpoolError("the association is over")
        published = self._session.publish(
            draft,
            placing.study_instance_uid,
            placing.series_instance_uid,
            placing.sop_instance_uid,
            placing.signature,
            remove_draft=False,
        )
        self._service.trouble.end()
        tally = self.tally
        tally.stored += 1
        tally.stored_bytes += draft.size
        if published.kind == "identical":
            tally.identical += 1
        elif published.kind == "different":
            tally.different += 1
            log.warning("instance %s came again with other content; both are kept", placing.sop_instance_uid)

    def note_failure(self, reason: str) -> None:
        """Say in the log that the disk did not take an instance; once while it is so."""
        self._service.trouble.begin(reason)

    def keep_broken(self, draft: Draft, reason: str) -> None:
        """Keep what cannot be placed in `error/`. Raises `OSError` when even that is impossible."""
        layout, fsync = self._service.layout, self._service.intake.fsync
        self.tally.last_refused_job = quarantine(layout, draft.path, self._origin, reason, fsync=fsync)
        draft.discard()

    def _refuse_store(self, context_id: int, command: CommandSet) -> None:
        """Answer a C-STORE on a presentation context of another service."""
        self.tally.note_refusal("C-STORE on a presentation context that is not for storage")
        self.answer(context_id, dimse.response_to(command, dimse.SOP_CLASS_NOT_SUPPORTED))

    def _commit(self, context_id: int, context: AcceptedContext, command: CommandSet, data: bytes) -> None:
        """Answer an N-ACTION, then report on the same association."""
        request = None
        status = dimse.NO_SUCH_ACTION
        if command.number(dimse.ACTION_TYPE_ID, 0) == 1:
            try:
                request = self._requested(data, context.transfer_syntax)
                status = dimse.SUCCESS
            except TooManyReferencesError as error:
                log.warning("storage commitment refused for now: %s", error)
                status = RESOURCE_LIMITATION
            except CommitmentDataError as error:
                log.warning("storage commitment refused: %s", error)
                status = dimse.INVALID_ARGUMENT
        self.answer(context_id, dimse.response_to(command, status))
        if request and self._answer:
            message_id, event_type, data_set = self._unconfirmed.add(request, context.transfer_syntax)
            self._answer(context_id, event_report_request(message_id, event_type), data_set)

    def _requested(self, data: bytes, transfer_syntax: str) -> CommitmentRequest | None:
        if not self._service.commitment:
            return None
        return self._service.commitment(self._origin, data, transfer_syntax, self._unconfirmed.room())


class StoreSink:
    """Takes one instance: bytes to the draft, the first of them also to the header, then the place and the status."""

    __slots__ = (
        "_command",
        "_context",
        "_context_id",
        "_draft",
        "_early",
        "_handler",
        "_head",
        "_meta",
        "_offset",
        "_placing",
        "_reason",
        "_status",
    )

    def __init__(self, handler: StorageHandler, context_id: int, context: AcceptedContext, command: CommandSet) -> None:
        """Open the draft. Without one, the bytes are read and dropped and the status says why."""
        self._handler = handler
        self._context_id = context_id
        self._context = context
        self._command = command
        self._head = b""
        self._early = True
        self._placing: Placing | None = None
        self._status = dimse.SUCCESS
        self._reason = ""
        self._draft = handler.open_draft()
        self._meta = b""
        self._offset = 0
        if self._draft:
            self._meta = handler.file_meta(context, command)
            self._offset = len(self._meta)
        else:
            self._status = dimse.OUT_OF_RESOURCES
            self._reason = "too little space, too few inodes, or the folder of drafts cannot be written"

    def write(self, chunks: Sequence[memoryview]) -> None:
        """Write to the draft; a full disk ends the draft, not the association."""
        draft = self._draft
        if draft is None:
            return
        if len(self._head) < _HEADER_BYTES:
            for chunk in chunks:
                self._head += chunk[: _HEADER_BYTES - len(self._head)]
        try:
            draft.write([self._meta, *chunks] if self._meta else chunks)
            self._meta = b""
        except OSError as error:
            self._refuse(error)
            return
        if self._early and len(self._head) >= _HEADER_BYTES:
            # Now, while the rest arrives, and not when the sender waits for its answer. Once: it may be in vain.
            self._early = False
            with contextlib.suppress(MercureError, Incomplete):
                self._placing = read_placing(self._head, self._context.transfer_syntax)

    def finish(self) -> None:
        """Place the instance and answer."""
        published = None
        if self._draft:
            self._draft.write_out()
            try:
                published = self._place(self._draft)
            except OSError as error:
                self._refuse(error)
        if self._status != dimse.SUCCESS:
            self._handler.tally.note_refusal(self._reason)
        try:
            self._handler.answer(self._context_id, dimse.response_to(self._command, self._status))
        finally:  # also when the sender is gone: what is published must not keep its draft
            self._handler.after_answer(published)

    def abandon(self) -> None:
        """Remove the draft: it was never acknowledged."""
        if self._draft:
            self._draft.discard()

    def _place(self, draft: Draft) -> Draft | None:
        """Return the draft when it was published, None when it is kept in `error/` instead."""
        try:
            placing = self._placing or self._read_placing(draft)
            sop_class_uid = self._command.uid(dimse.AFFECTED_SOP_CLASS_UID)
            if not is_valid_uid(sop_class_uid):
                raise SpoolError("Affected SOP Class UID of the C-STORE request is missing or no UID")
            if placing.sop_class_uid not in ("", sop_class_uid):
                self._status = dimse.DATA_SET_MISMATCH
                raise SpoolError("SOPClassUID of the data set is not that of the C-STORE request")
            if placing.sop_instance_uid not in ("", self._command.uid(dimse.AFFECTED_SOP_INSTANCE_UID)):
                self._status = dimse.DATA_SET_MISMATCH
                raise SpoolError("SOPInstanceUID of the data set is not that of the C-STORE request")
            self._handler.place(draft, placing)
        except MercureError as error:
            self._status = self._status or dimse.CANNOT_UNDERSTAND
            self._reason = str(error)
            self._handler.keep_broken(draft, self._reason)
            self._draft = None
            return None
        self._draft = None
        return draft

    def _read_placing(self, draft: Draft) -> Placing:
        start = self._offset
        available = draft.size - start
        return read_placing_of(
            lambda size: draft.read(size, start), available, self._context.transfer_syntax, self._head
        )

    def _refuse(self, error: OSError) -> None:
        no_place = error.errno in _NO_PLACE
        self._reason = os.strerror(error.errno or 0)
        self._handler.note_failure(self._reason)
        self._status = dimse.OUT_OF_RESOURCES if no_place else dimse.PROCESSING_FAILURE
        if self._draft:
            self._draft.discard()
            self._draft = None
