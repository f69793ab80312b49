"""Real senders against our receiver: DCMTK and pynetdicom, plain and over TLS, as shipped and hurried."""

import ipaddress
import ssl
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, Verification  # type: ignore[attr-defined]
from tests import builders, peers
from tests.builders import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, JPEG_2000, RLE
from tests.peers import Finished
from tests.receiver import Receiver, receiver

from mercure.dicom import part10
from mercure.dicom.negotiation import AcceptancePolicy

Send = Callable[..., Finished]


def data_set_of(path: Path) -> bytes:
    return path.read_bytes()[part10.read_file_meta(str(path)).data_set_offset :]


def assert_stored(running: Receiver, series: builders.BuiltSeries) -> None:
    stored = {part10.read_file_meta(str(path)).sop_instance_uid: path for path in running.instances()}
    assert set(stored) == set(series.sop_instance_uids)
    for uid in series.sop_instance_uids:
        assert stored[uid].name == f"{series.series_instance_uid}#{uid}.dcm"
    assert running.drafts() == []
    assert running.broken() == []


@pytest.mark.parametrize("send", [peers.storescu, peers.dcmsend], ids=["storescu", "dcmsend"])
@pytest.mark.parametrize("tcp_nodelay", [True, False], ids=["nodelay", "as shipped"])
def test_series_of_dcmtk_arrive(tmp_path: Path, send: Send, tcp_nodelay: bool) -> None:
    series = builders.ct_series(tmp_path / "in", 12)
    with receiver(tmp_path / "data") as running:
        finished = send(running.port, tmp_path / "in", tcp_nodelay=tcp_nodelay)
        assert finished.returncode == 0, finished.output
        assert running.wait_for_ends() == ["released"]
        assert_stored(running, series)
        for path in running.instances():
            assert dcmread(path).PixelData


@pytest.mark.parametrize("transfer_syntax", [EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED, RLE, JPEG_2000])
def test_every_transfer_syntax_of_storescu_is_stored_as_sent(tmp_path: Path, transfer_syntax: str) -> None:
    series = builders.small_series(tmp_path / "in", 2, transfer_syntax=transfer_syntax)
    option = {
        EXPLICIT_LITTLE: "-xe",
        IMPLICIT_LITTLE: "-xi",
        EXPLICIT_BIG: "-xb",
        DEFLATED: "-xd",
        RLE: "-xr",
        JPEG_2000: "-xv",
    }[transfer_syntax]
    with receiver(tmp_path / "data", policy=AcceptancePolicy(accept_compressed=True)) as running:
        finished = peers.storescu(running.port, tmp_path / "in", extra_args=[option])
        assert finished.returncode == 0, finished.output
        assert_stored(running, series)
        for path in running.instances():
            meta = part10.read_file_meta(str(path))
            assert meta.transfer_syntax_uid == transfer_syntax
            sent = series.files[series.sop_instance_uids.index(meta.sop_instance_uid)]
            if transfer_syntax in (RLE, JPEG_2000):  # DCMTK passes these on without encoding anything anew
                assert dcmread(path).PixelData == dcmread(sent).PixelData
            else:
                assert dcmread(path).PatientID == dcmread(sent).PatientID


def test_nagles_algorithm_at_the_sender_does_not_stall(tmp_path: Path) -> None:
    """Each instance would cost a delayed acknowledgement of 40 ms: 20 instances 0.8 s more than without Nagle."""
    builders.ct_series(tmp_path / "in", 20)
    with receiver(tmp_path / "data", fsync=False) as running:
        hurried = min(peers.storescu(running.port, tmp_path / "in").seconds for _ in range(2))
        shipped = min(peers.storescu(running.port, tmp_path / "in", tcp_nodelay=False).seconds for _ in range(3))
    assert shipped - hurried < 0.5


def test_echoscu_is_answered(tmp_path: Path) -> None:
    with receiver(tmp_path / "data") as running:
        finished = peers.echoscu(running.port)
        assert finished.returncode == 0, finished.output
        assert running.wait_for_ends() == ["released"]


def test_a_wrong_called_title_is_refused_so_that_dcmtk_says_why(tmp_path: Path) -> None:
    policy = AcceptancePolicy(called_ae_titles=frozenset({"MERCURE"}))
    with receiver(tmp_path / "data", policy=policy) as running:
        refused = peers.echoscu(running.port, extra_args=["-aec", "OTHER"])
        assert refused.returncode != 0
        assert "Called AE Title Not Recognized" in refused.output
        assert peers.echoscu(running.port, extra_args=["-aec", "MERCURE"]).returncode == 0


def test_an_abort_of_storescu_leaves_no_draft(tmp_path: Path) -> None:
    builders.ct_series(tmp_path / "in", 2)
    with receiver(tmp_path / "data") as running:
        peers.storescu(running.port, tmp_path / "in", extra_args=["--abort"])
        assert running.wait_for_ends() == ["aborted by the peer"]
        assert len(running.instances()) == 2
        assert running.drafts() == []


def test_four_senders_at_once_arrive(tmp_path: Path) -> None:
    series = [builders.small_series(tmp_path / f"in{number}", 25) for number in range(4)]
    with receiver(tmp_path / "data") as running:
        processes = [
            subprocess.Popen(
                [peers.dcmtk("storescu"), "+sd", "127.0.0.1", str(running.port), str(tmp_path / f"in{number}")],
                env=peers._dcmtk_environment(tcp_nodelay=True),
            )
            for number in range(4)
        ]
        assert [process.wait(60) for process in processes] == [0] * 4
        assert running.wait_for_ends(4) == ["released"] * 4
        names = {path.name for path in running.instances()}
    assert names == {f"{one.series_instance_uid}#{uid}.dcm" for one in series for uid in one.sop_instance_uids}


def test_two_senders_of_the_same_series_at_once_make_one_copy_each_per_title(tmp_path: Path) -> None:
    series = builders.small_series(tmp_path / "in", 40)
    with receiver(tmp_path / "data") as running:
        processes = [
            subprocess.Popen(
                [
                    peers.dcmtk("storescu"),
                    *("-aec", title, "+sd", "127.0.0.1", str(running.port), str(tmp_path / "in")),
                ],
                env=peers._dcmtk_environment(tcp_nodelay=True),
            )
            for title in ("ONE", "ONE", "TWO")
        ]
        assert [process.wait(60) for process in processes] == [0] * 3
        running.wait_for_ends(3)
        assert len(running.instances()) == 80
        assert len({path.parent for path in running.instances()}) == 2
        assert sum(tally.identical for tally in running.tallies) == 40
        assert {path.name.partition("#")[2] for path in running.instances()} == {
            f"{uid}.dcm" for uid in series.sop_instance_uids
        }


def test_pynetdicom_stores_and_verifies(tmp_path: Path) -> None:
    series = builders.small_series(tmp_path / "in", 5)
    entity = AE(ae_title="PYNETDICOM")
    entity.add_requested_context(CTImageStorage, EXPLICIT_LITTLE)
    entity.add_requested_context(Verification)
    with receiver(tmp_path / "data") as running:
        association = entity.associate("127.0.0.1", running.port, ae_title="MERCURE")
        assert association.is_established
        assert association.send_c_echo().Status == 0
        for file in series.files:
            assert association.send_c_store(file).Status == 0
        association.release()
        assert running.wait_for_ends() == ["released"]
        assert_stored(running, series)
        assert {data_set_of(path) for path in running.instances()} == {data_set_of(file) for file in series.files}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key and a certificate of its own for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mercure test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return folder / "key.pem", folder / "cert.pem"


def server_context(certificate: tuple[Path, Path], *, mutual: bool) -> ssl.SSLContext:
    key, cert = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if mutual:
        context.load_verify_locations(cert)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize("mutual", [False, True])
def test_storescu_stores_over_tls(tmp_path: Path, certificate: tuple[Path, Path], mutual: bool) -> None:
    series = builders.ct_series(tmp_path / "in", 5)
    key, cert = certificate
    with receiver(tmp_path / "data", tls=server_context(certificate, mutual=mutual)) as running:
        finished = peers.storescu(
            running.port, tmp_path / "in", extra_args=["+tls", str(key), str(cert), "+cf", str(cert)]
        )
        assert finished.returncode == 0, finished.output
        assert running.wait_for_ends() == ["released"]
        assert_stored(running, series)


def test_a_peer_without_certificate_ends_at_mutual_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    with receiver(tmp_path / "data", tls=server_context(certificate, mutual=True)) as running:
        finished = peers.echoscu(running.port, extra_args=["+tla", "+cf", str(certificate[1])])
        assert finished.returncode != 0
        assert running.wait_for_ends()[0].startswith("TLS")


def test_a_plain_peer_ends_at_the_tls_port(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    with receiver(tmp_path / "data", tls=server_context(certificate, mutual=False)) as running:
        assert peers.echoscu(running.port).returncode != 0
        assert running.wait_for_ends()[0].startswith("TLS")
