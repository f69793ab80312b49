import contextlib
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from tests.certificates import Authority
from tests.peers import DEADLINE_SECONDS

from mercure.dicom.tls_client import TlsFilesError
from mercure.dicom.tls_server import TlsHandshakeError, TlsServer, server_context
from mercure.dicom.worker_settings import TLSFiles


@pytest.fixture
def files(tmp_path: Path) -> TLSFiles:
    made = Authority(tmp_path).issue("receiver")
    return TLSFiles(str(made.key), str(made.certificate), str(made.authority), require_client_certificate=True)


def encrypt(key: str) -> None:
    loaded = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    pem = loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    Path(key).write_bytes(pem)


def test_good_files_make_a_context(files: TLSFiles) -> None:
    assert server_context(files).verify_mode.name == "CERT_REQUIRED"
    assert server_context(replace(files, require_client_certificate=False)).verify_mode.name == "CERT_OPTIONAL"
    assert server_context(replace(files, ca_cert="")).verify_mode.name == "CERT_NONE"


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_a_password(files: TLSFiles) -> None:
    encrypt(files.key)
    with pytest.raises(TlsFilesError, match=rf"key {files.key}: the private key is encrypted"):
        server_context(files)


@pytest.mark.parametrize(("name", "word"), [("key", "key"), ("cert", "certificate"), ("ca_cert", "authorities")])
@pytest.mark.parametrize("how", ["missing", "no PEM"])
def test_the_file_that_cannot_be_used_is_named(files: TLSFiles, name: str, word: str, how: str) -> None:
    path = Path(getattr(files, name))
    if how == "missing":
        path.unlink()
    else:
        path.write_text("no PEM")
    with pytest.raises(TlsFilesError, match=rf"^{word} {path}: "):
        server_context(files)


def test_the_key_of_another_certificate_is_named(files: TLSFiles, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other").issue("other")
    with pytest.raises(TlsFilesError, match=rf"^key {other.key}: .*mismatch"):
        server_context(replace(files, key=str(other.key)))


class Heard(list[tuple[str, bool]]):
    """What a server said of its files."""

    def note(self, trouble: str, is_usable: bool) -> None:
        self.append((trouble, is_usable))


def shown(server: TlsServer) -> bytes:
    """The certificate that a peer is shown, DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with peers() as (ours, theirs), ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(server.secure, ours, DEADLINE_SECONDS)
        with context.wrap_socket(theirs) as caller:
            certificate = caller.getpeercert(binary_form=True)
        accepted.result(DEADLINE_SECONDS).close()
    assert certificate
    return certificate


@contextlib.contextmanager
def peers() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname(), timeout=DEADLINE_SECONDS)
        ours, _ = listener.accept()
    with ours, theirs:
        yield ours, theirs


def certificate_of(files: TLSFiles) -> bytes:
    return ssl.PEM_cert_to_DER_cert(Path(files.cert).read_text())


def renew(files: TLSFiles, folder: Path) -> None:
    """Put another key and its certificate under the names of the old ones, and their times too."""
    other = Authority(folder).issue("renewed")
    for new, old in ((other.key, files.key), (other.certificate, files.cert)):
        times = os.stat(old)
        shutil.copyfile(new, old)
        os.utime(old, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_renewed_certificate_is_shown_to_the_next_peer(files: TLSFiles, tmp_path: Path) -> None:
    heard = Heard()
    server = TlsServer(heard.note)
    server.configure(replace(files, ca_cert=""))
    before = shown(server)
    assert before == certificate_of(files)
    renew(files, tmp_path / "renewed")
    after = shown(server)
    assert after == certificate_of(files) != before
    assert heard == []


def test_a_renewal_that_is_half_done_leaves_the_old_files_at_work(files: TLSFiles, tmp_path: Path) -> None:
    heard = Heard()
    server = TlsServer(heard.note)
    server.configure(replace(files, ca_cert=""))
    before = shown(server)
    other = Authority(tmp_path / "renewed").issue("renewed")
    shutil.copyfile(other.key, files.key)
    assert shown(server) == shown(server) == before
    ((trouble, is_usable),) = heard
    assert trouble.startswith(f"key {files.key}: ")
    assert is_usable
    shutil.copyfile(other.certificate, files.cert)
    assert shown(server) == certificate_of(files) != before
    assert heard[1:] == [("", True)]


def test_files_that_appear_late_are_taken_up(files: TLSFiles, tmp_path: Path) -> None:
    heard = Heard()
    server = TlsServer(heard.note)
    kept = shutil.move(files.key, tmp_path / "kept")
    server.configure(replace(files, ca_cert=""))
    reason = f"key {files.key}: No such file or directory"
    assert heard == [(reason, False)]
    with peers() as (ours, _theirs), pytest.raises(TlsFilesError, match=reason):
        server.secure(ours, DEADLINE_SECONDS)
    assert heard == [(reason, False)], "it is said once"
    shutil.move(kept, files.key)
    assert shown(server) == certificate_of(files)
    assert heard[1:] == [("", True)]


def test_without_files_there_is_no_tls(files: TLSFiles) -> None:
    server = TlsServer(Heard().note)
    server.configure(files)
    server.configure(None)
    with peers() as (ours, _theirs), pytest.raises(TlsFilesError, match="not configured"):
        server.secure(ours, DEADLINE_SECONDS)


def test_a_replaced_authority_decides_about_the_next_peer(files: TLSFiles, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "other")
    caller = other.issue("caller")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(caller.certificate, caller.key)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    server = TlsServer(Heard().note)
    server.configure(files)

    def call() -> ssl.SSLSocket:
        with peers() as (ours, theirs), ThreadPoolExecutor(1) as pool:
            accepted = pool.submit(server.secure, ours, DEADLINE_SECONDS)
            with contextlib.suppress(OSError), context.wrap_socket(theirs):
                pass
            return accepted.result(DEADLINE_SECONDS)

    with pytest.raises(TlsHandshakeError, match="certificate of the peer: unable to get local issuer certificate"):
        call()
    shutil.copyfile(other.path, files.ca_cert)
    call().close()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "length|bad|decode"),
        (b"no TLS at all", "wrong version number"),
        (b"GET / HTTP/1.0\r\n\r\n", "http request"),
        (b"", "the peer broke off"),
    ],
)
def test_why_a_handshake_failed_is_said_without_what_the_peer_sent(files: TLSFiles, said: bytes, reason: str) -> None:
    server = TlsServer(Heard().note)
    server.configure(files)
    with peers() as (ours, theirs):
        theirs.sendall(said)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(TlsHandshakeError, match=reason):
            server.secure(ours, DEADLINE_SECONDS)


def test_a_peer_that_is_silent_does_not_hold_a_handshake_for_ever(files: TLSFiles) -> None:
    server = TlsServer(Heard().note)
    server.configure(files)
    with peers() as (ours, _theirs), pytest.raises(TlsHandshakeError, match=r"not done in 0\.2 s"):
        server.secure(ours, 0.2)


def test_threads_that_meet_a_renewal_all_get_a_connection(files: TLSFiles, tmp_path: Path) -> None:
    server = TlsServer(Heard().note)
    server.configure(replace(files, ca_cert=""))
    old = shown(server)
    together = threading.Barrier(4)

    def call() -> bytes:
        together.wait(DEADLINE_SECONDS)
        return shown(server)

    renew(files, tmp_path / "renewed")
    with ThreadPoolExecutor(4) as pool:
        seen = {future.result(DEADLINE_SECONDS) for future in [pool.submit(call) for _ in range(4)]}
    assert seen == {certificate_of(files)} != {old}
