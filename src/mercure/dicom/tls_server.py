"""TLS as the called side (PS3.15 B.9, B.10, BCP 195): our certificate, and the authorities of the peers."""

import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable

from mercure.core.errors import TransientError
from mercure.dicom.tls_client import TlsFilesError
from mercure.dicom.worker_settings import TLSFiles

log = logging.getLogger(__name__)

_Stamp = tuple[int, ...] | None


class TlsHandshakeError(TransientError):
    """A peer and we did not come to an agreement. The text is OpenSSL's; nothing of the peer's certificate is in it."""

    code = "tls_handshake"


class TlsServer:
    """Makes TLS connections of accepted ones. Files that were replaced, or appear late, hold from the next one on.

    Files that cannot be used change nothing: the ones before go on, if there were any. Used by many threads.
    """

    def __init__(self, on_trouble: Callable[[str, bool], None]) -> None:
        """Begin without files.

        `on_trouble` is told, once for each change, why the files cannot be used ("" when they can again), and whether
        earlier ones go on.
        """
        self._on_trouble = on_trouble
        self._lock = threading.Lock()
        self._files: TLSFiles | None = None
        self._stamps: tuple[_Stamp, ...] = ()
        self._context: ssl.SSLContext | None = None
        self._trouble = ""

    def configure(self, files: TLSFiles | None) -> None:
        """Take other files, or none: then no connection can be secured."""
        with self._lock:
            if files != self._files:
                self._files, self._stamps = files, ()
            if files:
                self._look(files)
            else:
                self._context, self._trouble = None, ""

    def secure(self, connection: socket.socket, timeout_seconds: float) -> ssl.SSLSocket:
        """Return the connection with TLS, after a handshake that may take so long in all.

        Raises `TlsFilesError` when there is no certificate to show and `TlsHandshakeError` for what the peer does; the
        connection is the caller's to close.
        """
        context = self._current()
        try:
            connection.settimeout(timeout_seconds)  # for the whole handshake, not for each of its reads
            return context.wrap_socket(connection, server_side=True)
        except TimeoutError:
            raise TlsHandshakeError(f"not done in {timeout_seconds:g} s") from None
        except OSError as error:  # ssl.SSLError is one
            raise TlsHandshakeError(_handshake_reason(error)) from None

    def _current(self) -> ssl.SSLContext:
        with self._lock:
            if self._files:
                self._look(self._files)
            if not self._context:
                raise TlsFilesError(self._trouble or "TLS is not configured")
            return self._context

    def _look(self, files: TLSFiles) -> None:
        """Load the files when they are not those of before, and as long as they cannot be used."""
        stamps = tuple(_stamp(path) for path in (files.key, files.cert, files.ca_cert) if path)
        if stamps == self._stamps and not self._trouble:
            return
        trouble = ""
        try:
            context = server_context(files)
        except TlsFilesError as error:
            trouble = str(error)
        else:
            if self._context:
                log.info("the TLS files have changed; the new ones hold for new associations")
            self._context = context
        self._stamps = stamps
        if trouble != self._trouble:
            self._trouble = trouble
            self._on_trouble(trouble, self._context is not None)


def _stamp(path: str) -> _Stamp:
    """Return what changes when a file is replaced or written to; None for a file that is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _handshake_reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate of the peer: {error.verify_message}"
    if isinstance(error, (ssl.SSLEOFError, ConnectionResetError)):
        return "the peer broke off"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no reason given").replace("_", " ").lower()
    return error.strerror or type(error).__name__


def server_context(files: TLSFiles) -> ssl.SSLContext:
    """Return the context of the acceptor: TLS 1.2 or later. Raises `TlsFilesError`, which names the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _check_readable("certificate", files.cert)
    _check_readable("key", files.key)
    _check_certificate("certificate", files.cert)
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except (OSError, ValueError) as error:  # the certificate was found good, so it is the key, or it is another's
        raise TlsFilesError(f"key {files.key}: {_reason(error)}") from None
    if files.ca_cert:
        _check_readable("authorities", files.ca_cert)
        _check_certificate("authorities", files.ca_cert, context)
        context.verify_mode = ssl.CERT_REQUIRED if files.require_client_certificate else ssl.CERT_OPTIONAL
    return context


def _check_readable(what: str, path: str) -> None:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise TlsFilesError(f"{what} {path}: {error.strerror}") from None


def _check_certificate(what: str, path: str, context: ssl.SSLContext | None = None) -> None:
    """Load a file of certificates, into a context that is thrown away if none is given."""
    try:
        (context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)).load_verify_locations(path)
    except (OSError, ValueError) as error:
        raise TlsFilesError(f"{what} {path}: {_reason(error)}") from None


def _reason(error: OSError | ValueError) -> str:
    """Say it without a number of OpenSSL's source."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no certificate or key in it").replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def _no_password() -> str:
    """Without this, OpenSSL would ask at the terminal for the password of an encrypted key."""
    raise ValueError("the private key is encrypted")
