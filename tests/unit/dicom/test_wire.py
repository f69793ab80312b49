import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.certificates import Authority
from tests.peers import DEADLINE_SECONDS

from mercure.dicom import wire as wire_module
from mercure.dicom.wire import ConnectionEndedError, Wire


@pytest.fixture
def connection() -> Iterator[tuple[Wire, socket.socket]]:
    listener = socket.create_server(("127.0.0.1", 0))
    peer = socket.create_connection(listener.getsockname(), timeout=DEADLINE_SECONDS)
    accepted, _ = listener.accept()
    listener.close()
    wire = Wire(accepted)
    yield wire, peer
    peer.close()
    wire.close()


def read(wire: Wire, timeout_seconds: float = DEADLINE_SECONDS) -> bytes:
    buffer = bytearray(1000)
    return bytes(buffer[: wire.read_into(memoryview(buffer), timeout_seconds)])


def test_bytes_go_both_ways(connection: tuple[Wire, socket.socket]) -> None:
    wire, peer = connection
    peer.sendall(b"question")
    assert read(wire) == b"question"
    wire.write(b"answer")
    assert peer.recv(100) == b"answer"


def test_nagles_algorithm_is_off(connection: tuple[Wire, socket.socket]) -> None:
    wire, _ = connection
    assert wire._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_silent_peer_times_out(connection: tuple[Wire, socket.socket]) -> None:
    wire, _ = connection
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"1\.5 s"):
        read(wire, 1.5)
    assert 1.0 <= time.monotonic() - started < 10


def test_the_end_of_the_peer_is_told_from_silence(connection: tuple[Wire, socket.socket]) -> None:
    wire, peer = connection
    peer.close()
    with pytest.raises(ConnectionEndedError):
        read(wire)


def test_a_reset_is_an_end(connection: tuple[Wire, socket.socket]) -> None:
    wire, peer = connection
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    with pytest.raises(ConnectionEndedError):
        read(wire)
    with pytest.raises(ConnectionEndedError):
        wire.write(bytes(50 << 20))


def test_closing_ends_a_blocked_read_in_another_thread(connection: tuple[Wire, socket.socket]) -> None:
    wire, _ = connection
    errors: list[BaseException] = []
    reading = threading.Event()

    def blocked() -> None:
        reading.set()
        try:
            read(wire)
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=blocked)
    thread.start()
    reading.wait(DEADLINE_SECONDS)
    wire.interrupt()
    thread.join(DEADLINE_SECONDS)
    assert len(errors) == 1
    wire.close()
    wire.interrupt()


def test_a_tls_connection_that_is_ended_by_another_thread_never_gives_encrypted_bytes(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("receiver")
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(files.authority))
    server.load_cert_chain(files.certificate, files.key)
    listener = socket.create_server(("127.0.0.1", 0))

    def send() -> None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(listener.getsockname()) as plain,
            client.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            while True:
                secured.sendall(b"D" * 60_000)

    sender = threading.Thread(target=send)
    sender.start()
    wire = Wire(server.wrap_socket(listener.accept()[0], server_side=True))
    buffer = memoryview(bytearray(1 << 19))
    size = wire.read_into(buffer, DEADLINE_SECONDS)
    assert bytes(buffer[:size]) == b"D" * size
    ending = threading.Thread(target=wire.interrupt)
    ending.start()
    ending.join()
    with pytest.raises(ConnectionEndedError):
        wire.read_into(buffer, DEADLINE_SECONDS)
    wire.close()
    sender.join(DEADLINE_SECONDS)
    listener.close()


def test_a_peer_that_takes_nothing_does_not_hold_us_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "_WRITE_SECONDS", 1)
    listener = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(listener.getsockname()), listener:
        wire = Wire(listener.accept()[0])
        with pytest.raises(ConnectionEndedError, match="does not take"):
            wire.write(bytes(50 << 20))
        wire.close()


def test_what_was_written_last_arrives_although_the_peer_still_sends(connection: tuple[Wire, socket.socket]) -> None:
    wire, peer = connection
    peer.sendall(bytes(100_000))
    wire.write(b"last words")
    finisher = threading.Thread(target=wire.finish)
    finisher.start()
    assert peer.recv(100) == b"last words"
    peer.close()
    finisher.join(DEADLINE_SECONDS)
    assert not finisher.is_alive()
