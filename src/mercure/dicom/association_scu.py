"""One association that we request: negotiation, messages, release and abort (PS3.8 sections 7 and 9)."""

import contextlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NoReturn

from mercure.core.errors import TransientError
from mercure.dicom import dimse, pdu
from mercure.dicom.connection import Connection
from mercure.dicom.dimse import CommandSet
from mercure.dicom.framing import ControlPDU, Fragment, Framer
from mercure.dicom.pdu import ProposedContext, ProtocolError, Role
from mercure.dicom.peer import BrokenError, NoAnswerError, Peer, RejectedError, UnknownTitleError
from mercure.dicom.send_buffer import encode_pdata, usable_pdu_bytes

_MAXIMUM_REPLY_BYTES = 1 << 20
_RELEASE_TIMEOUT_SECONDS = 5.0
_ABORT_TIMEOUT_SECONDS = 0.1
_NO_ROLES: Mapping[str, Role] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Reply:
    """A response of the peer, and the data set that came with it."""

    command: CommandSet
    data_set: bytes


class Association:
    """An association as its requestor, used by one thread; `close` may be called from any.

    After `open`, `accepted` maps ids of presentation contexts to transfer syntaxes, `roles` has what the peer answered
    to proposed roles, and `pdu_bytes` is the length of the P-DATA-TFs to send. Whatever any method raises, the
    connection is closed then.
    """

    def __init__(self, peer: Peer) -> None:
        """Prepare; nothing is connected yet, so that `close` works while it connects."""
        self.peer = peer
        self.pdu_bytes = 0
        self.accepted: Mapping[int, str] = {}
        self.roles: Mapping[str, Role] = _NO_ROLES
        self._connection = Connection(peer)
        self._framer = Framer(peer.maximum_pdu_bytes)
        self._events: deque[ControlPDU | Fragment] = deque()
        self._message_id = 0

    def open(self, contexts: Sequence[ProposedContext], roles: Mapping[str, Role] = _NO_ROLES) -> None:
        """Connect and negotiate. It may be that no context is accepted.

        Raises `UnreachableError`, `RejectedError`, `NoAnswerError`, `BrokenError` or `ProtocolError`.
        """
        try:
            self._connection.connect()
            self._negotiate(contexts, roles)
        except BaseException:
            self.abort()
            raise

    @property
    def is_open(self) -> bool:
        """Whether it was opened and this side has not ended it."""
        return self._connection.is_open

    @property
    def is_quiet(self) -> bool:
        """Whether it can be used again: the connection stands, and nothing unasked has come."""
        return not self._events and self._connection.is_quiet

    def next_message_id(self) -> int:
        """Return an id that no other message in flight has (PS3.7 9.1.1.1)."""
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def send(self, pdus: memoryview) -> None:
        """Send bytes that are whole PDUs. Raises `NoAnswerError` or `BrokenError`."""
        self._connection.send(pdus)

    def send_message(self, context_id: int, command: bytes, data_set: bytes = b"") -> None:
        """Send a command set and, if there is one, a small data set."""
        pdus = encode_pdata(command, context_id, pdu.COMMAND, self.pdu_bytes)
        if data_set:
            pdus += encode_pdata(data_set, context_id, 0, self.pdu_bytes)
        self._connection.send(memoryview(pdus))

    def expect_reply(self) -> None:
        """Say that a reply is on its way, before doing something else than waiting for it."""
        self._connection.acknowledge_at_once()

    def receive_reply(self, context_id: int, request: int, message_id: int) -> Reply:
        """Wait for the response to a message, which has a status. Raises `ProtocolError` when something else comes."""
        try:
            deadline = time.monotonic() + self.peer.response_timeout_seconds
            command_context, data = self._gather(pdu.COMMAND, dimse.MAXIMUM_COMMAND_BYTES, deadline)
            command = dimse.decode(data)
            _check_response(command, request, message_id)
            _check_context(command_context, context_id)
            data_set = self._data_set_of(context_id, deadline) if command.has_data_set else b""
        except ProtocolError as error:
            self.abort(2, error.reason)
            raise
        return Reply(command, data_set)

    def release(self) -> None:
        """End the association in an orderly way; a peer that does not play its part is left. Does not raise.

        A peer that wants to release it at the same time gets its answer (release collision, PS3.8 9.2).
        """
        with contextlib.suppress(TransientError):
            self._connection.limit(min(_RELEASE_TIMEOUT_SECONDS, self.peer.response_timeout_seconds))
            self._connection.send(memoryview(pdu.RELEASE_RQ))
            if self._receive_control().kind == pdu.PDUType.RELEASE_RQ:
                # Both at once: the requestor of the association answers first, and then waits for its answer.
                self._connection.send(memoryview(pdu.RELEASE_RP))
                self._receive_control()
        self._connection.drop()

    def abort(self, source: int = 0, reason: int = 0) -> None:
        """Send A-ABORT (PS3.8 9.3.8) if it can be sent, and close. Does not wait, does not raise."""
        if self._connection.is_open:
            with contextlib.suppress(TransientError):
                self._connection.limit(_ABORT_TIMEOUT_SECONDS)
                self._connection.send(memoryview(pdu.encode_abort(source, reason)))
        self._connection.drop()

    def close(self) -> None:
        """End the connection at once, from any thread. A call that blocks in another thread raises `BrokenError`."""
        self._connection.interrupt()

    def _negotiate(self, contexts: Sequence[ProposedContext], roles: Mapping[str, Role]) -> None:
        peer = self.peer
        request = pdu.AssociateRQ(
            peer.called_ae_title, peer.calling_ae_title, tuple(contexts), peer.maximum_pdu_bytes, roles=roles
        )
        self._connection.send(memoryview(request.encode()))
        try:
            accept = _accept_in(self._receive_control(), peer)
            self.pdu_bytes = usable_pdu_bytes(accept.maximum_length)
        except ProtocolError as error:
            self.abort(2, error.reason)
            raise
        self.accepted = _accepted(contexts, accept)
        self.roles = accept.roles

    def _data_set_of(self, context_id: int, deadline: float) -> bytes:
        data_context, data = self._gather(0, _MAXIMUM_REPLY_BYTES, deadline)
        _check_context(data_context, context_id)
        return data

    def _gather(self, kind: int, limit: int, deadline: float) -> tuple[int, bytes]:
        """Return context id and bytes of the next command set or data set."""
        data = b""
        while True:
            event = self._next_event(deadline)
            if isinstance(event, ControlPDU):
                self._ended_by(event)
            context_id, control, view, ends_pdv = event
            if control & pdu.COMMAND != kind:
                raise ProtocolError("command and data set are mixed up", pdu.UNEXPECTED_PDU)
            if len(data) + len(view) > limit:
                raise ProtocolError("message is too long", pdu.INVALID_PARAMETER)
            data += view
            if ends_pdv and control & pdu.LAST:
                return context_id, data

    def _receive_control(self) -> ControlPDU:
        event = self._next_event(time.monotonic() + self.peer.response_timeout_seconds)
        if not isinstance(event, ControlPDU):
            raise ProtocolError("data came where none is allowed", pdu.UNEXPECTED_PDU)
        if event.kind == pdu.PDUType.ABORT:
            self._ended_by(event)
        return event

    def _next_event(self, deadline: float) -> ControlPDU | Fragment:
        """Return the next event; each read has its time-out, and a peer that sends drop by drop meets the deadline."""
        while not self._events:
            if time.monotonic() > deadline:
                self.abort()
                raise NoAnswerError(f"{self.peer} does not complete its answer")
            try:
                self._events.extend(self._framer.feed(self._connection.receive()))
            except NoAnswerError:
                self.abort()
                raise
        return self._events.popleft()

    def _ended_by(self, event: ControlPDU) -> NoReturn:
        """Raise for a PDU that ends the association, or that has no place here."""
        if event.kind == pdu.PDUType.ABORT:
            self._connection.drop()
            source, reason = pdu.decode_abort(event.body)
            raise BrokenError(f"{self.peer} aborted the association (source {source}, reason {reason})")
        if event.kind == pdu.PDUType.RELEASE_RQ:
            self._connection.send(memoryview(pdu.RELEASE_RP))
            self._connection.drop()
            raise BrokenError(f"{self.peer} released the association")
        raise ProtocolError(f"PDU {event.kind} has no place here", pdu.UNEXPECTED_PDU)


def _check_response(command: CommandSet, request: int, message_id: int) -> None:
    """Raise `ProtocolError` unless this is the response to that message, with a status."""
    if command.command != request | dimse.RESPONSE:
        raise ProtocolError("the peer sent another message than the response", pdu.UNEXPECTED_PDU)
    if command.number(dimse.MESSAGE_ID_RESPONDED_TO) != message_id:
        raise ProtocolError("the response belongs to another message", pdu.INVALID_PARAMETER)
    command.number(dimse.STATUS)


def _check_context(found: int, expected: int) -> None:
    if found != expected:
        raise ProtocolError("the response has another presentation context", pdu.INVALID_PARAMETER)


def _accept_in(answer: ControlPDU, peer: Peer) -> pdu.AssociateAC:
    if answer.kind == pdu.PDUType.ASSOCIATE_RJ:
        rejection = pdu.decode_associate_rj(answer.body)
        kind = UnknownTitleError if (rejection.source, rejection.reason) in _UNKNOWN_TITLES else RejectedError
        raise kind(f"{peer} rejected the association: {_rejection(rejection)}")
    if answer.kind != pdu.PDUType.ASSOCIATE_AC:
        raise ProtocolError(f"PDU {answer.kind} came instead of A-ASSOCIATE-AC", pdu.UNEXPECTED_PDU)
    return pdu.decode_associate_ac(answer.body)


def _accepted(contexts: Sequence[ProposedContext], accept: pdu.AssociateAC) -> dict[int, str]:
    """Context id -> transfer syntax of what was accepted. An answer that was not asked for is no answer."""
    proposed = {context.context_id: context.transfer_syntaxes for context in contexts}
    return {
        answer.context_id: answer.transfer_syntax
        for answer in accept.contexts
        if answer.result == pdu.ContextResult.ACCEPTED and answer.transfer_syntax in proposed.get(answer.context_id, ())
    }


_REJECTIONS = {
    (1, 2): "application context not supported",
    (1, 3): "calling AE title not recognised",
    (1, 7): "called AE title not recognised",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}
_UNKNOWN_TITLES = ((1, 1), (1, 3), (1, 7))


def _rejection(rejection: pdu.AssociateRJ) -> str:
    """Say it in words (PS3.8 table 9-21)."""
    reason = _REJECTIONS.get((rejection.source, rejection.reason), "no reason given")
    kind = "for now" if rejection.is_transient else "permanently"
    return f"{reason} ({kind}; source {rejection.source}, reason {rejection.reason})"
