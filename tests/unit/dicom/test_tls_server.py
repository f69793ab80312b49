from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from tests.certificates import Authority

from mercure.dicom.tls_client import TlsFilesError
from mercure.dicom.tls_server import server_context
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
