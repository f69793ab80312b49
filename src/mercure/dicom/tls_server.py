"""TLS as the called side (PS3.15 B.9, B.10, BCP 195): our certificate, and the authorities of the peers."""

import ssl

from mercure.dicom.tls_client import TlsFilesError
from mercure.dicom.worker_settings import TLSFiles


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
