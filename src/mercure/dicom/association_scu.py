"""One association that we request: connection, negotiation, messages, release and abort (PS3.8 section 7 and 9).

Blocking sockets, one thread at a time; only `close` may be called from another thread, to break a call that blocks.
Nagle's algorithm is off, and delayed acknowledgement is switched off around each read: either one would cost 40 ms
per instance with peers that have Nagle's algorithm on.
"""

import contextlib
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

from mercure.core.errors import TransientError
from mercure.dicom import dimse, pdu
from mercure.dicom.dimse import CommandSet
from mercure.dicom.framing import ControlPDU, Fragment, Framer
from mercure.dicom.pdu import ProposedContext, ProtocolError, Role
from mercure.dicom.send_buffer import encode_pdata, usable_pdu_bytes

_RECEIVE_BYTES = 1 << 16
_MAXIMUM_REPLY_BYTES = 1 << 20
_RELEASE_TIMEOUT_SECONDS = 5.0
_NO_ROLES: Mapping[str, Role] = MappingProxyType({})


class UnreachableError(TransientError):
    """No connection could be made."""

    code = "unreachable"


class RejectedError(TransientError):
    """The peer rejected the association. Transient, because a wrong AE title is mended at the other end."""

    code = "association_rejected"


class BrokenError(TransientError):
    """The association ended before its work was done: aborted, closed, reset or released by the peer."""

    code = "association_broken"


class NoAnswerError(TransientError):
    """The peer took the connection or the message, and did not answer in time."""

    code = "no_answer"


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom to call, and as whom. `host` is a name or an IPv4 or IPv6 address."""

    host: str
    port: int
    called_ae_title: str
    calling_ae_title: str = "MERCURE"
    tls: ssl.SSLContext | None = None
    connect_timeout_seconds: float = 10.0
    response_timeout_seconds: float = 60.0
    maximum_pdu_bytes: int = 1 << 17

    def __str__(self) -> str:
        """Name the peer in messages."""
        return f"{self.called_ae_title} at {self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Reply:
    """A message that the peer sent."""

    context_id: int
    command: CommandSet
    data_set: bytes


class Association:
    """An association as its requestor. Not opened by construction, so that `close` works while it connects."""

    def __init__(self, peer: Peer) -> None:
        """Remember whom to call."""
        self.peer = peer
        self.pdu_bytes = 0
        self.accepted: Mapping[int, str] = {}
        self._socket: socket.socket | None = None
        self._closing = threading.Lock()
        self._closed = False
        self._framer = Framer(peer.maximum_pdu_bytes)
        self._buffer = bytearray(_RECEIVE_BYTES)
        self._events: deque[ControlPDU | Fragment] = deque()
        self._message_id = 0

    def open(self, contexts: Sequence[ProposedContext], roles: Mapping[str, Role] = _NO_ROLES) -> None:
        """Connect and negotiate. `accepted` then maps context ids to transfer syntaxes; it may be empty.

        Raises `UnreachableError`, `RejectedError`, `NoAnswerError`, `BrokenError` or `ProtocolError`; whatever it
        raises, the connection is closed.
        """
        try:
            self._connect()
            self._negotiate(contexts, roles)
        except BaseException:
            self.close()
            self._drop()
            raise

    @property
    def is_open(self) -> bool:
        """Whether it has been opened and not been closed by this side."""
        return self._socket is not None and not self._closed

    @property
    def is_quiet(self) -> bool:
        """Whether the connection stands and nothing unasked has come: a peer that ended it cannot be used again."""
        if self._socket is None or self._closed:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def next_message_id(self) -> int:
        """Return an id that no other message in flight has (PS3.7 9.1.1.1)."""
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def send_message(self, context_id: int, command: bytes, data_set: bytes = b"") -> None:
        """Send a command set and, if there is one, a small data set."""
        pdus = encode_pdata(command, context_id, pdu.COMMAND, self.pdu_bytes)
        if data_set:
            pdus += encode_pdata(data_set, context_id, 0, self.pdu_bytes)
        self.send(memoryview(pdus))

    def send(self, data: memoryview) -> None:
        """Send bytes of PDUs. Raises `NoAnswerError` when the peer takes nothing for as long as its time-out."""
        connection = self._connection()
        try:
            while data:
                data = data[connection.send(data) :]
        except TimeoutError:
            self._drop()
            raise NoAnswerError(f"{self.peer} takes no data") from None
        except OSError as error:
            self._drop()
            raise BrokenError(f"connection to {self.peer} broke: {_reason(error)}") from None

    def acknowledge_at_once(self) -> None:
        """Have the kernel acknowledge at once what arrives. It forgets this after a while: tell it again and again."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def receive_reply(self, context_id: int, request: int, message_id: int) -> Reply:
        """Wait for the response to a message. Raises `ProtocolError` (after A-ABORT) when something else comes."""
        try:
            reply = self._receive_message()
            _check_response(reply, context_id, request, message_id)
        except ProtocolError as error:
            self.abort(2, error.reason)
            raise
        return reply

    def release(self) -> None:
        """End the association in an orderly way; a peer that does not play its part is left. Does not raise."""
        try:
            self._connection().settimeout(min(_RELEASE_TIMEOUT_SECONDS, self.peer.response_timeout_seconds))
            self.send(memoryview(pdu.RELEASE_RQ))
            self._receive_control()
        except (TransientError, OSError):
            pass
        finally:
            self._drop()

    def abort(self, source: int = 0, reason: int = 0) -> None:
        """Send A-ABORT (PS3.8 9.3.8) and close. Does not wait, does not raise."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.settimeout(0.1)
                self._socket.send(pdu.encode_abort(source, reason))
        self._drop()

    def close(self) -> None:
        """End the connection at once, from any thread. A call that blocks in another thread raises `BrokenError`."""
        with self._closing:
            self._closed = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _drop(self) -> None:
        with self._closing:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _connection(self) -> socket.socket:
        if self._socket is None or self._closed:
            raise BrokenError(f"association with {self.peer} is closed")
        return self._socket

    def _connect(self) -> None:
        peer = self.peer
        try:
            addresses = socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise UnreachableError(f"host name of {peer} cannot be resolved: {error}") from None
        failure = "no address"
        for family, kind, protocol, _, address in addresses:
            try:
                self._connect_to(socket.socket(family, kind, protocol), address)
            except OSError as error:
                failure = _reason(error)
                self._drop()
            else:
                return
        raise UnreachableError(f"no connection to {peer}: {failure}")

    def _connect_to(self, connection: socket.socket, address: tuple[Any, ...]) -> None:
        with self._closing:
            self._socket = connection
        self._connection().settimeout(self.peer.connect_timeout_seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.connect(address)
        if self.peer.tls is not None:
            wrapped = self.peer.tls.wrap_socket(
                connection, server_hostname=self.peer.host, do_handshake_on_connect=False
            )
            with self._closing:
                self._socket = wrapped
            wrapped.do_handshake()
        self._connection().settimeout(self.peer.response_timeout_seconds)

    def _negotiate(self, contexts: Sequence[ProposedContext], roles: Mapping[str, Role]) -> None:
        peer = self.peer
        request = pdu.AssociateRQ(
            peer.called_ae_title, peer.calling_ae_title, tuple(contexts), peer.maximum_pdu_bytes, roles=roles
        )
        self.send(memoryview(request.encode()))
        try:
            accept = _accept_in(self._receive_control(), peer)
            self.pdu_bytes = usable_pdu_bytes(accept.maximum_length)
            self.accepted = _accepted(contexts, accept)
        except ProtocolError as error:
            self.abort(2, error.reason)
            raise

    def _receive_message(self) -> Reply:
        context_id, data = self._gather(pdu.COMMAND, dimse.MAXIMUM_COMMAND_BYTES)
        command = dimse.decode(data)
        data_set = b""
        if command.has_data_set:
            data_context, data_set = self._gather(0, _MAXIMUM_REPLY_BYTES)
            if data_context != context_id:
                raise ProtocolError("command and data set have different contexts", pdu.INVALID_PARAMETER)
        return Reply(context_id, command, data_set)

    def _gather(self, kind: int, limit: int) -> tuple[int, bytes]:
        """Return context id and bytes of the next command set or data set."""
        deadline = time.monotonic() + self.peer.response_timeout_seconds
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
        deadline = time.monotonic() + self.peer.response_timeout_seconds
        event = self._next_event(deadline)
        if not isinstance(event, ControlPDU):
            raise ProtocolError("data came where none is allowed", pdu.UNEXPECTED_PDU)
        if event.kind == pdu.PDUType.ABORT:
            self._ended_by(event)
        return event

    def _next_event(self, deadline: float) -> ControlPDU | Fragment:
        while not self._events:
            if time.monotonic() > deadline:
                self._drop()
                raise NoAnswerError(f"{self.peer} does not complete its answer")
            self._events.extend(self._framer.feed(self._receive()))
        return self._events.popleft()

    def _receive(self) -> memoryview:
        connection = self._connection()
        try:
            count = connection.recv_into(self._buffer)
        except TimeoutError:
            self.abort()
            raise NoAnswerError(f"{self.peer} does not answer") from None
        except OSError as error:
            self._drop()
            raise BrokenError(f"connection to {self.peer} broke: {_reason(error)}") from None
        if not count:
            self._drop()
            raise BrokenError(f"{self.peer} closed the connection")
        self.acknowledge_at_once()
        return memoryview(self._buffer)[:count]

    def _ended_by(self, event: ControlPDU) -> NoReturn:
        """Raise for a PDU that ends the association, or that has no place here."""
        if event.kind == pdu.PDUType.ABORT:
            self._drop()
            source, reason = (event.body[2], event.body[3]) if len(event.body) >= 4 else (0, 0)
            raise BrokenError(f"{self.peer} aborted the association (source {source}, reason {reason})")
        if event.kind == pdu.PDUType.RELEASE_RQ:
            self.send(memoryview(pdu.RELEASE_RP))
            self._drop()
            raise BrokenError(f"{self.peer} released the association")
        raise ProtocolError(f"PDU {event.kind} has no place here", pdu.UNEXPECTED_PDU)


def _check_response(reply: Reply, context_id: int, request: int, message_id: int) -> None:
    """Raise `ProtocolError` unless this is the response to that message, with a status."""
    if reply.context_id != context_id or reply.command.command != request | dimse.RESPONSE:
        raise ProtocolError("the peer sent another message than the response", pdu.UNEXPECTED_PDU)
    if reply.command.number(dimse.MESSAGE_ID_RESPONDED_TO) != message_id:
        raise ProtocolError("the response belongs to another message", pdu.INVALID_PARAMETER)
    reply.command.number(dimse.STATUS)


def _accept_in(answer: ControlPDU, peer: Peer) -> pdu.AssociateAC:
    if answer.kind == pdu.PDUType.ASSOCIATE_RJ:
        rejection = pdu.decode_associate_rj(answer.body)
        raise RejectedError(f"{peer} rejected the association: {_rejection(rejection)}")
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


def _rejection(rejection: pdu.AssociateRJ) -> str:
    """Say it in words (PS3.8 table 9-21)."""
    reason = _REJECTIONS.get((rejection.source, rejection.reason), "no reason given")
    kind = "for now" if rejection.is_transient else "permanently"
    return f"{reason} ({kind}; source {rejection.source}, reason {rejection.reason})"


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'verify_message', '') or error.reason or error}"
    return error.strerror or str(error)
