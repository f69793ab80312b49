"""A TCP peer that plays a script byte by byte: for everything that well-behaved DICOM software never does.

As a server, it plays one script per connection that comes in; as a client, `play` runs a script against a server. Each
script is a list of steps; all bytes that were read are kept, so that a test can look at them afterwards.
"""

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.peers import DEADLINE_SECONDS, PeerError, free_port


@dataclass(frozen=True)
class Send:
    """Send these bytes; `chunk_bytes` sends them in pieces, each in a segment of its own."""

    data: bytes
    chunk_bytes: int | None = None


@dataclass(frozen=True)
class Receive:
    """Read exactly this many bytes."""

    size_bytes: int


@dataclass(frozen=True)
class ReceivePdu:
    """Read one upper layer PDU (PS3.8 9.3.1); when `pdu_type` is given, it must be of this type."""

    pdu_type: int | None = None


@dataclass(frozen=True)
class ReceiveUntilClosed:
    """Read until the other side closes or resets the connection."""


@dataclass(frozen=True)
class WaitFor:
    """Do nothing until the test sets the event."""

    event: threading.Event


@dataclass(frozen=True)
class Close:
    """End the connection here; `reset` sends a TCP reset in place of an orderly end."""

    reset: bool = False


Step = Send | Receive | ReceivePdu | ReceiveUntilClosed | WaitFor | Close


@dataclass
class Conversation:
    """What one connection read: one entry per receiving step."""

    read: list[bytes] = field(default_factory=list)


@dataclass
class ScriptedPeer:
    """A scripted server while it runs. `conversations` has one entry per connection, in order of arrival."""

    port: int
    conversations: list[Conversation] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)


@contextmanager
def scripted_server(*scripts: Sequence[Step], port: int | None = None) -> Iterator[ScriptedPeer]:
    """Serve connections, the n-th with the n-th script and all further ones with the last.

    A script that meets something else than it expects fails the test: its error is raised when the block ends.
    """
    listener = socket.create_server(("127.0.0.1", port or free_port()), reuse_port=False)
    peer = ScriptedPeer(port=listener.getsockname()[1])
    closing = threading.Event()
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket, script: Sequence[Step], conversation: Conversation) -> None:
        try:
            with connection:
                _play(connection, script, conversation)
        except (OSError, PeerError) as error:
            if not closing.is_set():
                peer.errors.append(error)

    def accept() -> None:
        while not closing.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            conversation = Conversation()
            script = scripts[min(len(peer.conversations), len(scripts) - 1)]
            peer.conversations.append(conversation)
            connections.append(connection)
            threads.append(threading.Thread(target=serve, args=(connection, script, conversation)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield peer
    finally:
        closing.set()
        _shut(listener)
        listener.close()
        acceptor.join(DEADLINE_SECONDS)
        for connection in connections:
            _shut(connection)
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
    if peer.errors:
        raise peer.errors[0]


def play(port: int, script: Sequence[Step]) -> Conversation:
    """Connect to a server on this machine, play the script, close."""
    conversation = Conversation()
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS) as connection:
        _play(connection, script, conversation)
    return conversation


def _play(connection: socket.socket, script: Sequence[Step], conversation: Conversation) -> None:
    connection.settimeout(DEADLINE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for step in script:
        match step:
            case Send(data, chunk_bytes):
                size = chunk_bytes or max(1, len(data))
                for start in range(0, len(data), size):
                    connection.sendall(data[start : start + size])
            case Receive(size_bytes):
                conversation.read.append(_exactly(connection, size_bytes))
            case ReceivePdu(pdu_type):
                conversation.read.append(_pdu(connection, pdu_type))
            case ReceiveUntilClosed():
                conversation.read.append(_until_closed(connection))
            case WaitFor(event):
                if not event.wait(DEADLINE_SECONDS):
                    message = "the test never set the event that the script waits for"
                    raise PeerError(message)
            case Close(reset):
                if reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return


def _exactly(connection: socket.socket, size_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < size_bytes:
        piece = connection.recv(size_bytes - len(data))
        if not piece:
            message = f"the other side closed after {len(data)} of {size_bytes} bytes"
            raise PeerError(message)
        data += piece
    return bytes(data)


def _pdu(connection: socket.socket, pdu_type: int | None) -> bytes:
    header = _exactly(connection, 6)
    if pdu_type is not None and header[0] != pdu_type:
        message = f"expected a PDU of type {pdu_type:#04x}, got {header[0]:#04x}"
        raise PeerError(message)
    return header + _exactly(connection, struct.unpack(">I", header[2:])[0])


def _until_closed(connection: socket.socket) -> bytes:
    data = bytearray()
    while True:
        try:
            piece = connection.recv(65_536)
        except ConnectionResetError:
            return bytes(data)
        if not piece:
            return bytes(data)
        data += piece


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # already closed by either side
        connection.shutdown(socket.SHUT_RDWR)
