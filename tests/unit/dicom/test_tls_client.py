"""TLS files: loaded once, loaded again when they change, and clear errors when they cannot be used."""

import os
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from tests.certificates import Authority, Certificate

from mercure.dicom.tls_client import TlsClient, TlsFiles, TlsFilesError


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Authority(tmp_path).issue("client")


def files_of(certificate: Certificate) -> TlsFiles:
    return TlsFiles(str(certificate.key), str(certificate.certificate), str(certificate.authority))


def test_the_server_must_have_a_certificate_and_tls_is_not_old(certificate: Certificate) -> None:
    context = TlsClient(files_of(certificate)).context()

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert len(context.get_ca_certs()) == 1


def test_files_are_read_again_when_they_were_replaced(certificate: Certificate) -> None:
    client = TlsClient(files_of(certificate))
    first = client.context()
    assert client.context() is first

    os.utime(certificate.certificate, ns=(1, 1))

    assert client.context() is not first


def test_a_missing_file_is_a_clear_error_that_can_be_mended(certificate: Certificate) -> None:
    client = TlsClient(files_of(certificate))
    certificate.key.rename(certificate.key.with_suffix(".away"))
    with pytest.raises(TlsFilesError, match="No such file"):
        client.context()

    certificate.key.with_suffix(".away").rename(certificate.key)

    assert client.context()


def test_a_file_that_is_no_pem_is_a_clear_error(certificate: Certificate) -> None:
    certificate.authority.write_text("no certificate")

    with pytest.raises(TlsFilesError, match="cannot be used"):
        TlsClient(files_of(certificate)).context()


def test_an_encrypted_key_is_an_error_and_nobody_is_asked_for_its_password(certificate: Certificate) -> None:
    key = serialization.load_pem_private_key(certificate.key.read_bytes(), None)
    certificate.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )

    with pytest.raises(TlsFilesError, match="encrypted"):
        TlsClient(files_of(certificate)).context()
