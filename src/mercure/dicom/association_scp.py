"""One association that a peer opened: negotiation, messages, release and abort (PS3.8 section 7, PS3.7 section 8).

The thread that calls `serve` reads, decodes and answers; what a command means is the business of the `MessageHandler`.
A data set is never gathered here: its bytes go to the handler's sink as they come.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mercure.dicom import dimse, pdu
from mercure.dicom.dimse import CommandSet
from mercure.dicom.framing import ControlPDU, Fragment, Framer
from mercure.dicom.negotiation import AcceptancePolicy, AcceptedContext, accepted_contexts, negotiate
from mercure.dicom.pdu import AssociateAC, AssociateRJ, AssociateRQ, PDUType, ProtocolError
from mercure.dicom.send_buffer import encode_pdata, usable_pdu_bytes
from mercure.dicom.wire import ConnectionEndedError, Wire

_BUFFER_BYTES = 512 << 10

Answer = Callable[[int, bytes, bytes], None]
"""Sends a message on a presentation context: context id, command set, data set (may be empty)."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: for the association request, within a message, and between messages."""

    acse: float = 30.0
    dimse: float = 60.0
    idle: float = 600.0


class DataSetSink(Protocol):
    """Takes the data set of one message."""

    def write(self, chunks: Sequence[memoryview]) -> None:
        """Take some bytes. The views are valid during the call only. Does not raise for what a disk can do."""

    def finish(self) -> None:
        """The data set is complete: act and answer."""

    def abandon(self) -> None:
        """The data set will never be complete, or `finish` failed; what that has done stays done."""


class MessageHandler(Protocol):
    """What an association offers to its peer."""

    def admit(self, request: AssociateRQ) -> AssociateRJ | None:
        """Refuse an association that the policy would accept (limits, disk), or None."""

    def begin(self, request: AssociateRQ, answer: Answer) -> None:
        """The association is accepted."""

    def message(self, context_id: int, context: AcceptedContext, command: CommandSet) -> DataSetSink | None:
        """Act on a command, or return the sink for the data set that follows it (None only when none follows)."""

    def end(self, reason: str) -> None:
        """The association is over; called once, if `begin` was."""


class AssociationSCP:
    """Serves one association from its request to its end."""

    def __init__(self, wire: Wire, handler: MessageHandler, policy: AcceptancePolicy, timeouts: Timeouts) -> None:
        """Prepare; nothing is read yet."""
        self._wire = wire
        self._handler = handler
        self._policy = policy
        self._timeouts = timeouts
        self._framer = Framer(policy.maximum_pdu_bytes)
        self._contexts: dict[int, AcceptedContext] = {}
        self._pdu_bytes = 0
        self._accepted = False
        self._command = bytearray()
        self._command_context = 0
        self._sink: DataSetSink | None = None
        self._sink_context = 0
        self._over = ""
        self._said_goodbye = False
        self.ae_titles = ("", "")
        """Calling and called AE title as the peer has sent them, also when it is rejected; they may hold anything."""

    def serve(self, refusal: AssociateRJ | None = None) -> str:
        """Run the association and return how it ended, in a few words. Never raises for what a peer can do.

        With `refusal` the request is read and rejected.
        """
        try:
            self._over = self._run(refusal)
        except ProtocolError as error:
            self._over = f"aborted: {error}"
            self._abort(error.reason)
        except TimeoutError as error:
            self._over = f"timed out: {error}"
            self._abort(0)
        except (ConnectionEndedError, OSError) as error:
            self._over = f"connection lost: {error}"
        finally:
            self._end()
        return self._over

    def _end(self) -> None:
        """Tell the handler at once; then give the peer the time to read our last PDU."""
        try:
            if self._sink:
                self._sink.abandon()
            if self._accepted:
                self._handler.end(self._over or "failed")
        finally:
            if self._said_goodbye:
                self._wire.finish()
            else:
                self._wire.close()

    def _run(self, refusal: AssociateRJ | None) -> str:
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        timeouts = self._timeouts
        requested_by = time.monotonic() + timeouts.acse  # one deadline for the whole request, however slowly it drips
        while True:
            if not self._accepted:
                timeout = requested_by - time.monotonic()
                if timeout <= 0:
                    raise TimeoutError("no association request in time")
            elif self._sink or self._command or self._framer.in_message:
                timeout = timeouts.dimse
            else:
                timeout = timeouts.idle
            count = self._wire.read_into(buffer, timeout)
            ended = self._take(self._framer.feed(buffer[:count]), refusal)
            if ended:
                return ended

    def _take(self, events: Sequence[ControlPDU | Fragment], refusal: AssociateRJ | None) -> str:
        """Act on what was read; return how the association ended, or ""."""
        chunks: list[memoryview] = []
        for event in events:
            if isinstance(event, ControlPDU):
                ended = self._control(event, refusal)
                if ended:
                    return ended
                continue
            context_id, control, view, ends = event
            if control & pdu.COMMAND:
                self._take_command(context_id, view, last=ends and bool(control & pdu.LAST))
                continue
            sink = self._sink
            if sink is None or context_id != self._sink_context:
                raise ProtocolError("data set without a command", pdu.UNEXPECTED_PDU)
            chunks.append(view)
            if ends and control & pdu.LAST:
                sink.write(chunks)
                chunks = []
                sink.finish()
                self._sink = None  # not before: what fails to finish is abandoned
        if chunks and self._sink:
            self._sink.write(chunks)
        return ""

    def _take_command(self, context_id: int, view: memoryview, *, last: bool) -> None:
        if not self._accepted or self._sink is not None:
            raise ProtocolError("command in the middle of a data set", pdu.UNEXPECTED_PDU)
        context = self._contexts.get(context_id)
        if context is None or (self._command and context_id != self._command_context):
            raise ProtocolError("presentation context was not accepted", pdu.INVALID_PARAMETER)
        if len(self._command) + len(view) > dimse.MAXIMUM_COMMAND_BYTES:
            raise ProtocolError("command set is too long", pdu.INVALID_PARAMETER)
        self._command_context = context_id
        self._command += view
        if not last:
            return
        command = dimse.decode(self._command)
        self._command = bytearray()
        self._sink = self._handler.message(context_id, context, command)
        self._sink_context = context_id

    def _control(self, event: ControlPDU, refusal: AssociateRJ | None) -> str:
        if event.kind == PDUType.ASSOCIATE_RQ and not self._accepted:
            return self._associate(pdu.decode_associate_rq(event.body), refusal)
        if event.kind == PDUType.ABORT:
            return "aborted by the peer"
        if event.kind == PDUType.RELEASE_RQ and self._accepted:
            self._say_goodbye(pdu.RELEASE_RP)
            return "released"
        raise ProtocolError(f"unexpected PDU of type {event.kind}", pdu.UNEXPECTED_PDU)

    def _associate(self, request: AssociateRQ, refusal: AssociateRJ | None) -> str:
        self.ae_titles = (request.calling_ae_title, request.called_ae_title)
        answer = refusal or negotiate(request, self._policy)
        if isinstance(answer, AssociateAC):
            answer = self._handler.admit(request) or answer
        if isinstance(answer, AssociateRJ):
            self._say_goodbye(answer.encode())
            return f"rejected: result {answer.result}, source {answer.source}, reason {answer.reason}"
        self._pdu_bytes = usable_pdu_bytes(request.maximum_length)
        self._contexts = accepted_contexts(request, answer)
        self._accepted = True
        self._handler.begin(request, self._send)
        self._wire.write(answer.encode())
        return ""

    def _send(self, context_id: int, command: bytes, data_set: bytes) -> None:
        pdus = encode_pdata(command, context_id, pdu.COMMAND, self._pdu_bytes)
        if data_set:
            pdus += encode_pdata(data_set, context_id, 0, self._pdu_bytes)
        self._wire.write(pdus)

    def _abort(self, reason: int) -> None:
        with contextlib.suppress(OSError):
            self._say_goodbye(pdu.encode_abort(2, reason))

    def _say_goodbye(self, last: bytes) -> None:
        self._wire.write(last)
        self._said_goodbye = True
