"""A TCP or TLS connection that we make: socket options, time-outs, and errors that say what to do.

Nagle's algorithm is off, and delayed acknowledgement is switched off around each read: either one would cost 40 ms
per instance with peers that have Nagle's algorithm on.
"""

import contextlib
import select
import socket
import ssl
import threading
from typing import Any

from mercure.dicom.peer import BrokenError, NoAnswerError, Peer, UnreachableError

_RECEIVE_BYTES = 1 << 16


class Connection:
    """A connection to a peer. Used by one thread; only `interrupt` may be called from others, at any time."""

    def __init__(self, peer: Peer) -> None:
        """Prepare; nothing is connected yet, so that `interrupt` works while it connects."""
        self._peer = peer
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._interrupted = False
        self._buffer = bytearray(_RECEIVE_BYTES)

    @property
    def is_open(self) -> bool:
        """Whether it was made and this side has not ended it."""
        return self._socket is not None and not self._interrupted

    @property
    def is_quiet(self) -> bool:
        """Whether it is open, the peer has not ended it, and nothing has come that was not read."""
        if self._socket is None or self._interrupted:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def connect(self) -> None:
        """Connect to the first address of the peer that answers. Raises `UnreachableError`."""
        peer = self._peer
        try:
            addresses = socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise UnreachableError(f"host name of {peer} cannot be resolved ({error})") from None
        failure = "no address"
        for family, kind, protocol, _, address in addresses:
            try:
                self._connect_to(socket.socket(family, kind, protocol), address)
            except OSError as error:
                failure = _reason(error)
                self.drop()
            else:
                return
        raise UnreachableError(f"no connection to {peer}: {failure}")

    def _connect_to(self, connection: socket.socket, address: tuple[Any, ...]) -> None:
        peer = self._peer
        self._take(connection)
        connection.settimeout(peer.connect_timeout_seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.connect(address)
        if peer.tls is not None:
            secured = peer.tls.wrap_socket(connection, server_hostname=peer.host, do_handshake_on_connect=False)
            self._take(secured)
            secured.do_handshake()  # the time-out is one for the whole handshake
        self._require().settimeout(peer.response_timeout_seconds)

    def _take(self, connection: socket.socket) -> None:
        with self._lock:
            self._socket = connection
        self._require()

    def _require(self) -> socket.socket:
        if self._socket is None or self._interrupted:
            self.drop()
            raise BrokenError(f"association with {self._peer} was closed")
        return self._socket

    def send(self, data: memoryview) -> None:
        """Send all bytes. Raises `NoAnswerError` when the peer takes nothing for its time-out, or `BrokenError`."""
        connection = self._require()
        try:
            while data:
                data = data[connection.send(data) :]
        except TimeoutError:
            self.drop()
            raise NoAnswerError(f"{self._peer} takes no data") from None
        except OSError as error:
            self.drop()
            raise BrokenError(f"connection to {self._peer} broke: {_reason(error)}") from None

    def receive(self) -> memoryview:
        """Return the next bytes, valid until the next call. Raises `NoAnswerError` or `BrokenError`."""
        connection = self._require()
        try:
            count = connection.recv_into(self._buffer)
        except TimeoutError:
            raise NoAnswerError(f"{self._peer} does not answer") from None
        except OSError as error:
            self.drop()
            raise BrokenError(f"connection to {self._peer} broke: {_reason(error)}") from None
        if not count:
            self.drop()
            raise BrokenError(f"{self._peer} closed the connection")
        self.acknowledge_at_once()
        return memoryview(self._buffer)[:count]

    def acknowledge_at_once(self) -> None:
        """Have the kernel acknowledge at once what arrives. It forgets this after a while: tell it again and again."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def limit(self, seconds: float) -> None:
        """Change the time-out of each further call, for an orderly end that must not take long."""
        if self._socket is not None:
            self._socket.settimeout(seconds)

    def interrupt(self) -> None:
        """End the connection from any thread: a call that blocks, and each further one, raises `BrokenError`."""
        with self._lock:
            self._interrupted = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    # not the method of SSLSocket: that would forget its TLS state under the other thread
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def drop(self) -> None:
        """Close the socket. Only by the thread that uses it."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'verify_message', '') or error.reason or error}"
    return error.strerror or str(error)
