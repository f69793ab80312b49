"""TLS as the calling side (PS3.15 Annex B): our certificate, and the authorities that we trust."""

import os
import ssl
import threading
from dataclasses import dataclass, field

from mercure.core.errors import TransientError


class TlsFilesError(TransientError):
    """Key, certificate or authorities cannot be used. Transient, because the files can be mended in place."""

    code = "tls_files"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files: our private key, our certificate, and the authorities that sign the peer's.

    Nodes are mostly called by address and their certificates name no host, so `check_host_name` is off by default: the
    peer must have a certificate of these authorities, and of no others.
    """

    key: str
    certificate: str
    authorities: str
    check_host_name: bool = False


@dataclass(slots=True)
class TlsClient:
    """Makes the context of TLS connections, and makes it anew when a file was replaced."""

    files: TlsFiles
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stamp: tuple[int, ...] = ()
    _context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context for now. Raises `TlsFilesError`."""
        with self._lock:
            try:
                stamp = _stamp_of(self.files)
                if self._context is None or stamp != self._stamp:
                    self._context, self._stamp = _load(self.files), stamp
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                raise TlsFilesError(f"TLS files cannot be used: {error}") from None
            return self._context


def _stamp_of(files: TlsFiles) -> tuple[int, ...]:
    return tuple(os.stat(path).st_mtime_ns for path in (files.key, files.certificate, files.authorities))


def _load(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = files.check_host_name
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cafile=files.authorities)
    context.load_cert_chain(files.certificate, files.key, password=_no_password)
    return context


def _no_password() -> str:
    """Without this, OpenSSL would ask at the terminal for the password of an encrypted key."""
    raise ValueError("the private key is encrypted")
