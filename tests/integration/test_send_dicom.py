"""The DICOM target against real peers: DCMTK, Orthanc, pynetdicom, with and without TLS."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pynetdicom import AllStoragePresentationContexts
from tests import builders, peers
from tests.builders import BuiltSeries
from tests.certificates import Authority, Certificate
from tests.ledger import Ledger

from mercure.core.delivery import Outcome, Parcel
from mercure.core.errors import CancelledError, PermanentError, TransientError
from mercure.dicom.association_scu import Association
from mercure.dicom.part10 import read_file_meta
from mercure.dicom.peer import BrokenError, Peer, RejectedError, UnreachableError
from mercure.dicom.services_scu import echo
from mercure.dicom.tls_client import TlsFiles
from mercure.targets.dicom import DicomNode, DicomTarget


def parcel_of(series: BuiltSeries, **fields: Any) -> Parcel:
    folder = series.files[0].parent
    return Parcel("job", str(folder), [file.name for file in series.files], **fields)


def node(port: int, called: str, **fields: Any) -> DicomNode:
    settings = {"response_timeout_seconds": 20.0, **fields}
    return DicomNode("127.0.0.1", port, called, **settings)


@pytest.fixture
def targets() -> Iterator[list[DicomTarget]]:
    """Targets put into this list are closed at the end."""
    opened: list[DicomTarget] = []
    yield opened
    for target in opened:
        target.close()


def data_set_of(path: Path) -> bytes:
    return path.read_bytes()[read_file_meta(str(path)).data_set_offset :]


def test_a_series_arrives_at_storescp_byte_for_byte(
    tmp_path: Path, storescp: peers.Server, targets: list[DicomTarget]
) -> None:
    series = builders.ct_series(tmp_path / "ct", 12)
    ledger = Ledger()
    targets.append(DicomTarget(node(storescp.port, "STORESCP")))

    targets[0].send(parcel_of(series), ledger)

    assert ledger.names(Outcome.DELIVERED) == [file.name for file in series.files]
    arrived = {read_file_meta(str(file)).sop_instance_uid: data_set_of(file) for file in storescp.files()}
    sent = {uid: data_set_of(file) for uid, file in zip(series.sop_instance_uids, series.files, strict=True)}
    assert arrived == sent


def test_an_instance_larger_than_all_buffers_arrives_whole(
    tmp_path: Path, storescp: peers.Server, targets: list[DicomTarget]
) -> None:
    big = builders.multiframe_file(tmp_path / "big" / "big.dcm", frames=7, rows=900, columns=911)
    ledger = Ledger()
    targets.append(DicomTarget(node(storescp.port, "STORESCP")))

    targets[0].send(parcel_of(big), ledger)

    assert ledger.names(Outcome.DELIVERED) == ["big.dcm"]
    assert data_set_of(storescp.files()[0]) == data_set_of(big.files[0])


@pytest.mark.parametrize("pdu_bytes", [4096, 131_072])
def test_the_peer_decides_how_long_a_pdu_may_be(tmp_path: Path, pdu_bytes: int, targets: list[DicomTarget]) -> None:
    series = builders.ct_series(tmp_path / "ct", 2)
    with peers.storescp(tmp_path / "in", extra_args=("+xa", "+B", "-pdu", str(pdu_bytes))) as server:
        targets.append(DicomTarget(node(server.port, "STORESCP")))
        targets[0].send(parcel_of(series), Ledger())

        assert sorted(map(data_set_of, server.files())) == sorted(map(data_set_of, series.files))


def test_orthanc_gets_every_instance(tmp_path: Path, orthanc: peers.Orthanc, targets: list[DicomTarget]) -> None:
    series = builders.mr_series(tmp_path / "mr", 20)
    ledger = Ledger()
    targets.append(DicomTarget(node(orthanc.port, orthanc.ae_title)))

    targets[0].send(parcel_of(series), ledger)

    assert len(ledger.names(Outcome.DELIVERED)) == 20
    assert orthanc.sop_instance_uids() == set(series.sop_instance_uids)


def test_a_kept_association_carries_the_next_job(tmp_path: Path, targets: list[DicomTarget]) -> None:
    first = builders.small_series(tmp_path / "one", 3)
    second = builders.small_series(tmp_path / "two", 3)
    with peers.storescp(tmp_path / "in", extra_args=("+xa", "-v")) as server:
        targets.append(DicomTarget(node(server.port, "STORESCP", associations_idle_seconds=30.0)))
        targets[0].send(parcel_of(first), Ledger())
        targets[0].send(parcel_of(second), Ledger())
        targets[0].close()

        peers.wait_until(lambda: "Association Release" in server.log.read_text(), "the association was released")
        assert server.log.read_text().count("Association Received") == 1
        assert len(server.files()) == 6


def test_a_kept_association_that_died_is_replaced_and_that_is_no_failure(
    tmp_path: Path, targets: list[DicomTarget]
) -> None:
    series = builders.small_series(tmp_path / "one", 3)
    port = peers.free_port()
    targets.append(DicomTarget(node(port, "STORESCP", associations_idle_seconds=30.0)))
    with peers.storescp(tmp_path / "first", port=port, extra_args=("+xa",)):
        targets[0].send(parcel_of(series), Ledger())
    ledger = Ledger()
    with peers.storescp(tmp_path / "second", port=port, extra_args=("+xa",)) as server:
        targets[0].send(parcel_of(series), ledger)

        assert len(server.files()) == 3
    assert len(ledger.names(Outcome.DELIVERED)) == 3


def test_kept_associations_are_released_when_their_time_is_over(tmp_path: Path, targets: list[DicomTarget]) -> None:
    series = builders.small_series(tmp_path / "one", 1)
    with peers.storescp(tmp_path / "in", extra_args=("+xa", "-v")) as server:
        targets.append(DicomTarget(node(server.port, "STORESCP", associations_idle_seconds=0.1)))
        targets[0].send(parcel_of(series), Ledger())

        peers.wait_until(lambda: "Association Release" in server.log.read_text(), "the association was released")


def test_many_jobs_at_once_share_a_target(tmp_path: Path, targets: list[DicomTarget]) -> None:
    ledgers = [Ledger() for _ in range(6)]
    parcels = [parcel_of(builders.small_series(tmp_path / str(index), 10)) for index in range(6)]
    with peers.storescp(tmp_path / "in", extra_args=("+xa", "--fork")) as server:
        targets.append(DicomTarget(node(server.port, "STORESCP")))
        threads = [threading.Thread(target=targets[0].send, args=pair) for pair in zip(parcels, ledgers, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert len(server.files()) == 60
    assert all(len(ledger.names(Outcome.DELIVERED)) == 10 for ledger in ledgers)


@pytest.mark.parametrize("syntax", [builders.RLE, builders.JPEG_2000, builders.EXPLICIT_BIG, builders.DEFLATED])
def test_an_instance_is_converted_when_the_peer_takes_only_implicit_vr(
    tmp_path: Path, syntax: str, targets: list[DicomTarget]
) -> None:
    folder = tmp_path / "in"
    series = builders.small_series(tmp_path / "one", 2, transfer_syntax=syntax)
    ledger = Ledger()
    with peers.storescp(folder, extra_args=("+xi",)) as server:
        targets.append(DicomTarget(node(server.port, "STORESCP")))
        targets[0].send(parcel_of(series), ledger)

        assert len(ledger.names(Outcome.DELIVERED)) == 2
        for file in server.files():
            arrived = pydicom.dcmread(file)
            assert arrived.file_meta.TransferSyntaxUID == builders.IMPLICIT_LITTLE
            original = pydicom.dcmread(series.files[series.sop_instance_uids.index(arrived.SOPInstanceUID)])
            assert np.array_equal(arrived.pixel_array, original.pixel_array)


def test_an_instance_goes_as_it_is_to_a_peer_that_takes_its_syntax(
    tmp_path: Path, storescp: peers.Server, targets: list[DicomTarget]
) -> None:
    series = builders.small_series(tmp_path / "one", 2, transfer_syntax=builders.JPEG_2000)
    targets.append(DicomTarget(node(storescp.port, "STORESCP")))

    targets[0].send(parcel_of(series), Ledger())

    assert {data_set_of(file) for file in storescp.files()} == {data_set_of(file) for file in series.files}


def test_what_the_peer_takes_in_no_form_is_refused_and_the_rest_delivered(
    tmp_path: Path, targets: list[DicomTarget]
) -> None:
    series = builders.small_series(tmp_path / "mixed", 2)
    other = builders.small_series(tmp_path / "mixed", 1, modality="MR")
    names = [file.name for file in (*series.files, *other.files)]
    ledger = Ledger()
    with peers.pynetdicom_scp(sop_classes=[builders.CT_STORAGE]) as server:
        targets.append(DicomTarget(node(server.port, server.ae_title)))
        targets[0].send(Parcel("job", str(tmp_path / "mixed"), names), ledger)

    assert ledger.names(Outcome.DELIVERED) == [file.name for file in series.files]
    refused = ledger.names(Outcome.REFUSED)
    assert refused == [other.files[0].name]
    assert f"uncompressed for SOP class {builders.MR_STORAGE}" in ledger.detail(refused[0])


def test_each_status_decides_about_its_instance_alone(tmp_path: Path, targets: list[DicomTarget]) -> None:
    series = builders.small_series(tmp_path / "one", 7)
    statuses = dict(
        zip(series.sop_instance_uids, (0x0000, 0xA700, 0xB000, 0xB007, 0x0122, 0xC001, 0xA900), strict=True)
    )
    ledger = Ledger()
    with peers.pynetdicom_scp(status_of=statuses.__getitem__) as server:
        targets.append(DicomTarget(node(server.port, server.ae_title)))
        targets[0].send(parcel_of(series), ledger)

    assert [result.outcome for result in ledger.results] == [
        Outcome.DELIVERED,
        Outcome.DEFERRED,
        Outcome.WARNING,
        Outcome.WARNING,
        Outcome.REFUSED,
        Outcome.REFUSED,
        Outcome.REFUSED,
    ]
    assert "0xA700, out of resources" in ledger.results[1].detail


def test_files_that_are_no_dicom_or_not_there_are_refused_one_by_one(
    tmp_path: Path, storescp: peers.Server, targets: list[DicomTarget]
) -> None:
    series = builders.small_series(tmp_path / "one", 1)
    (tmp_path / "one" / "text.dcm").write_text("no DICOM" * 100)
    ledger = Ledger()
    targets.append(DicomTarget(node(storescp.port, "STORESCP")))
    names = ["text.dcm", series.files[0].name, "missing.dcm"]

    targets[0].send(Parcel("job", str(tmp_path / "one"), names), ledger)

    assert ledger.outcomes == dict(zip(names, (Outcome.REFUSED, Outcome.DELIVERED, Outcome.REFUSED), strict=True))


def test_more_kinds_than_contexts_go_over_several_associations(tmp_path: Path, targets: list[DicomTarget]) -> None:
    classes = [str(context.abstract_syntax) for context in AllStoragePresentationContexts[:130]]
    for number, sop_class in enumerate(classes):
        (tmp_path / f"{number}.dcm").write_bytes(builders.dicom_bytes(rows=8, columns=8, SOPClassUID=sop_class))
    names = [f"{number}.dcm" for number in range(len(classes))]
    ledger = Ledger()
    with peers.pynetdicom_scp() as server:
        targets.append(DicomTarget(node(server.port, server.ae_title)))
        targets[0].send(Parcel("job", str(tmp_path), names), ledger)

        assert len(server.received) == 130
    assert sorted(ledger.names(Outcome.DELIVERED)) == sorted(names)


def test_a_peer_that_aborts_half_way_keeps_what_it_confirmed(tmp_path: Path, targets: list[DicomTarget]) -> None:
    series = builders.small_series(tmp_path / "one", 3)
    ledger = Ledger()
    with peers.storescp(tmp_path / "in", extra_args=("+xa", "--abort-during")) as server:
        targets.append(DicomTarget(node(server.port, "STORESCP")))
        with pytest.raises(TransientError):
            targets[0].send(parcel_of(series), ledger)

    assert ledger.results == []


def test_a_cancelled_job_stops_between_two_instances_and_keeps_what_is_there(
    tmp_path: Path, targets: list[DicomTarget]
) -> None:
    series = builders.small_series(tmp_path / "one", 20)
    ledger = Ledger(cancel_after=5)
    with peers.pynetdicom_scp() as server:
        targets.append(DicomTarget(node(server.port, server.ae_title)))
        with pytest.raises(CancelledError):
            targets[0].send(parcel_of(series), ledger)

    assert 5 <= len(ledger.names(Outcome.DELIVERED)) < 20
    assert len(ledger.names(Outcome.DELIVERED)) == len(server.received)


def test_nobody_listening_is_transient(tmp_path: Path, free_port: int) -> None:
    series = builders.small_series(tmp_path / "one", 1)

    with pytest.raises(UnreachableError, match="refused"):
        DicomTarget(node(free_port, "NOBODY")).send(parcel_of(series), Ledger())


def test_a_rejected_association_says_why_and_is_transient(tmp_path: Path) -> None:
    series = builders.small_series(tmp_path / "one", 1)
    with (
        peers.storescp(tmp_path / "in", extra_args=("--refuse",)) as server,
        pytest.raises(RejectedError, match=r"rejected the association: .*reason"),
    ):
        DicomTarget(node(server.port, "STORESCP")).send(parcel_of(series), Ledger())


def test_an_instance_that_storescp_cannot_read_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    """It aborts the association on a data set that is cut off."""
    series = builders.small_series(tmp_path / "one", 6)
    os.truncate(series.files[2], series.files[2].stat().st_size - 500)
    ledger = Ledger()
    with (
        peers.storescp(tmp_path / "in", extra_args=("--fork",)) as server,
        pytest.raises(BrokenError, match=rf"on instance {read_file_meta(str(series.files[2])).sop_instance_uid}$"),
    ):
        DicomTarget(node(server.port, "STORESCP")).send(parcel_of(series), ledger)

    assert sorted(ledger.names(Outcome.DELIVERED)) == sorted(
        file.name for file in series.files if file != series.files[2]
    )


@pytest.mark.parametrize(
    ("forwarded", "calling", "called"),
    [
        ({}, "MERCURE", "PYNETDICOM"),
        ({"forward_calling_ae_title": True}, "SCANNER", "PYNETDICOM"),
        ({"forward_called_ae_title": True}, "MERCURE", "ROUTER"),
    ],
)
def test_ae_titles_of_the_reception_are_passed_on_when_asked(
    tmp_path: Path, forwarded: dict[str, bool], calling: str, called: str, targets: list[DicomTarget]
) -> None:
    series = builders.small_series(tmp_path / "one", 1)
    with peers.storescp(tmp_path / "in", extra_args=("+xa", "-d")) as server:
        targets.append(DicomTarget(node(server.port, "PYNETDICOM", **forwarded)))
        targets[0].send(parcel_of(series, calling_ae_title="SCANNER", called_ae_title="ROUTER"), Ledger())

        log = server.log.read_text()
    assert f"Calling Application Name:    {calling}" in log
    assert f"Called Application Name:     {called}" in log


def test_the_sender_is_called_back_at_its_own_address(
    tmp_path: Path, storescp: peers.Server, targets: list[DicomTarget]
) -> None:
    series = builders.small_series(tmp_path / "one", 1)
    targets.append(DicomTarget(DicomNode("sender", storescp.port, "STORESCP")))

    targets[0].send(parcel_of(series, peer_address="127.0.0.1"), Ledger())

    assert len(storescp.files()) == 1
    with pytest.raises(PermanentError, match="address is not known"):
        targets[0].send(parcel_of(series), Ledger())
    assert "not tested" in targets[0].test().detail


def test_urgent_jobs_ask_for_high_priority(tmp_path: Path, targets: list[DicomTarget]) -> None:
    series = builders.small_series(tmp_path / "one", 1)
    parcel = Parcel("job", str(tmp_path / "one"), [series.files[0].name], urgent=True)
    with peers.storescp(tmp_path / "in", extra_args=("+xa", "-d")) as server:
        targets.append(DicomTarget(node(server.port, "STORESCP")))
        targets[0].send(parcel, Ledger())

        assert "Priority                      : high" in server.log.read_text()


def test_echo_measures_a_real_answer(storescp: peers.Server) -> None:
    assert 0 < echo(Peer("127.0.0.1", storescp.port, "STORESCP")) < 20


def test_the_connection_test_tells_what_was_found_and_what_to_do(
    tmp_path: Path, storescp: peers.Server, free_port: int
) -> None:
    good = DicomTarget(node(storescp.port, "STORESCP")).test()
    nobody = DicomTarget(node(free_port, "NOBODY")).test()
    with peers.storescp(tmp_path / "in", extra_args=("--refuse",)) as server:
        rejected = DicomTarget(node(server.port, "STORESCP")).test()

    assert good.reachable
    assert "answered C-ECHO in" in good.detail
    assert not nobody.reachable
    assert "firewall" in nobody.remedy
    assert not rejected.reachable
    assert "AE titles" in rejected.remedy


def test_ipv6_addresses_are_called(tmp_path: Path) -> None:
    association = Association(Peer("::1", peers.free_port(), "X", connect_timeout_seconds=5))

    with pytest.raises(UnreachableError, match="X at ::1"):
        association.open([])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


def tls_files(certificate: Certificate, *, check_host_name: bool = False) -> TlsFiles:
    return TlsFiles(str(certificate.key), str(certificate.certificate), str(certificate.authority), check_host_name)


def tls_arguments(server: Certificate) -> tuple[str, ...]:
    return ("+tls", str(server.key), str(server.certificate), "+cf", str(server.authority), "+xa", "+B")


@pytest.mark.requirement("D10")
@pytest.mark.parametrize("check_host_name", [False, True])
def test_over_tls_every_instance_has_its_result(
    tmp_path: Path, authority: Authority, targets: list[DicomTarget], *, check_host_name: bool
) -> None:
    series = builders.ct_series(tmp_path / "ct", 5)
    ledger = Ledger()
    files = tls_files(authority.issue("client"), check_host_name=check_host_name)
    with peers.storescp(tmp_path / "in", extra_args=tls_arguments(authority.issue("server"))) as server:
        targets.append(DicomTarget(node(server.port, "STORESCP", tls=files, associations_idle_seconds=0.0)))
        targets[0].send(parcel_of(series), ledger)

        assert sorted(map(data_set_of, server.files())) == sorted(map(data_set_of, series.files))
        assert targets[0].test().reachable
    assert len(ledger.names(Outcome.DELIVERED)) == 5


def test_a_server_of_another_authority_is_not_talked_to(tmp_path: Path, authority: Authority) -> None:
    series = builders.small_series(tmp_path / "one", 1)
    stranger = Authority(tmp_path / "strangers", "stranger").issue("server")
    files = tls_files(authority.issue("client"))
    with peers.storescp(tmp_path / "in", extra_args=tls_arguments(stranger)) as server:
        with pytest.raises(UnreachableError, match=r"TLS: .*certificate"):
            DicomTarget(node(server.port, "STORESCP", tls=files)).send(parcel_of(series), Ledger())

        assert server.files() == []


def test_a_server_that_wants_another_certificate_of_us_is_transient(tmp_path: Path, authority: Authority) -> None:
    series = builders.small_series(tmp_path / "one", 1)
    stranger = Authority(tmp_path / "strangers", "stranger").issue("client")
    files = TlsFiles(str(stranger.key), str(stranger.certificate), str(authority.path))
    with (
        peers.storescp(tmp_path / "in", extra_args=tls_arguments(authority.issue("server"))) as server,
        pytest.raises(TransientError),
    ):
        DicomTarget(node(server.port, "STORESCP", tls=files)).send(parcel_of(series), Ledger())


def test_a_plain_server_under_a_tls_target_is_a_clear_finding(storescp: peers.Server, authority: Authority) -> None:
    target = DicomTarget(
        node(storescp.port, "STORESCP", tls=tls_files(authority.issue("client")), connect_timeout_seconds=5.0)
    )

    found = target.test()

    assert not found.reachable
    assert "TLS" in found.remedy
