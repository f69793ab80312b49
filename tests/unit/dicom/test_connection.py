import contextlib
import socket
import ssl
import threading
import time

import pytest
from tests.peers import DEADLINE_SECONDS

from mercure.dicom.connection import Connection
from mercure.dicom.peer import Peer, UnreachableError


def test_a_tls_peer_that_drips_is_left_at_the_end_of_the_time_to_connect() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    left = threading.Event()

    def drip() -> None:
        accepted, _ = listener.accept()
        with accepted, contextlib.suppress(OSError):
            for byte in b"\x16\x03\x03\x02\x00" + bytes(200):
                accepted.sendall(bytes([byte]))
                if left.wait(0.1):
                    return

    dripping = threading.Thread(target=drip)
    dripping.start()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    peer = Peer("127.0.0.1", listener.getsockname()[1], "PEER", tls=context, connect_timeout_seconds=0.6)
    started = time.monotonic()
    with pytest.raises(UnreachableError, match="timed out"):
        Connection(peer).connect()
    assert time.monotonic() - started < 10
    left.set()
    dripping.join(DEADLINE_SECONDS)
    listener.close()
