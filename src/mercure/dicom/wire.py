"""One TCP connection that speaks DICOM: socket options, reading with deadlines, writing, orderly ends."""

import contextlib
import socket
import ssl
import struct
import threading
import time

_TICK_SECONDS = 1.0
"""How often a blocked read looks at its deadline. Deadlines are tens of seconds; this costs one wake-up a second."""

_LINGER_SECONDS = 2.0
_WRITE_SECONDS = 30.0
"""A peer that takes none of our small answers for so long has a full receive buffer and no interest."""

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
_TIMED_OUT = (TimeoutError, BlockingIOError, ssl.SSLWantReadError)


class ConnectionEndedError(ConnectionError):
    """The peer closed or reset the connection."""


class Wire:
    """A connected socket, used by one thread; only `interrupt` may be called from others, at any time."""

    def __init__(self, connection: socket.socket) -> None:
        """Set the options that cure the 40 ms stall of Nagle's algorithm against delayed acknowledgements.

        `TCP_NODELAY` sends our small PDUs at once. `TCP_QUICKACK`, renewed before each read because the kernel forgets
        it, acknowledges at once, so that a sender with Nagle's algorithm goes on.
        """
        self._socket = connection
        self._lock = threading.Lock()
        self._interrupted = False
        self._is_plain = not isinstance(connection, ssl.SSLSocket)
        self._quickack = self._is_plain and _QUICKACK is not None
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._is_plain:
            # A time-out of the kernel needs no poll() before each read, as the one of the socket module does.
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(_TICK_SECONDS), 0))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(_WRITE_SECONDS), 0))
        else:
            connection.settimeout(_TICK_SECONDS)

    def read_into(self, buffer: memoryview, timeout_seconds: float) -> int:
        """Read what is there, at least one byte. Raises `TimeoutError`, `ConnectionEndedError` or `OSError`."""
        deadline = 0.0
        while True:
            if self._quickack:
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)  # type: ignore[arg-type]
            try:
                count = self._socket.recv_into(buffer)
            except _TIMED_OUT:
                now = time.monotonic()
                deadline = deadline or now + timeout_seconds - _TICK_SECONDS
                if now >= deadline:
                    raise TimeoutError(f"nothing received for {timeout_seconds:g} s") from None
                continue
            except (ConnectionResetError, ssl.SSLError) as error:
                raise ConnectionEndedError(str(error)) from error
            if self._interrupted:
                raise ConnectionEndedError("the connection was ended by us")
            if not count:
                raise ConnectionEndedError("the peer closed the connection")
            return count

    def write(self, data: bytes) -> None:
        """Send everything. Raises `ConnectionEndedError` when the peer is gone."""
        try:
            if self._is_plain:
                self._socket.sendall(data)
            else:
                self._socket.settimeout(_WRITE_SECONDS)
                self._socket.sendall(data)
                self._socket.settimeout(_TICK_SECONDS)
        except _TIMED_OUT:
            raise ConnectionEndedError("the peer does not take our answer") from None
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError) as error:
            raise ConnectionEndedError(str(error)) from error

    def finish(self) -> None:
        """Close so that the peer still gets what was written last: wait a moment for its end (ARTIM, PS3.8 9.1.5)."""
        with contextlib.suppress(OSError):
            # Not the methods of SSLSocket: what still comes is dropped as it is, encrypted or not.
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
            self._socket.settimeout(_LINGER_SECONDS)
            deadline = time.monotonic() + _LINGER_SECONDS
            while socket.socket.recv(self._socket, 1 << 16) and time.monotonic() < deadline:
                pass
        self.close()

    def interrupt(self) -> None:
        """End the connection from any thread: a read that blocks, and each further one, raises."""
        with self._lock, contextlib.suppress(OSError):
            self._interrupted = True
            # Not the method of SSLSocket: it forgets its TLS state, and the other thread would read what is encrypted.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection now. Only by the thread that uses it: the descriptor is free for others afterwards."""
        with self._lock, contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        with self._lock, contextlib.suppress(OSError):
            self._socket.close()
