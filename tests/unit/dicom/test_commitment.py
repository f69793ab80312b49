import logging
import struct
import threading
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from tests import builders
from tests.builders import CT_STORAGE, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from tests.peers import free_port, wait_until
from tests.receiver import receiver
from tests.sender import called, commitment_action, commitment_rq, data_pdus, store

from mercure.dicom import commitment as module
from mercure.dicom import commitment_sender as sender_module
from mercure.dicom import dimse, part10, uids
from mercure.dicom.commitment import CLASS_CONFLICT, NO_SUCH_INSTANCE, PROCESSING_FAILURE, CommitmentService
from mercure.dicom.commitment_data import CommitmentDataError, Failure, Reference, encode_report, read_request
from mercure.dicom.commitment_sender import Report, ReportSender
from mercure.dicom.worker_settings import PeerPort
from mercure.spool.layout import Layout, Origin

SYNTAXES = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG)
ORIGIN = Origin("SENDER", "MERCURE", "127.0.0.1")
MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"


def encoded(dataset: Dataset, transfer_syntax: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = transfer_syntax == IMPLICIT_LITTLE
    buffer.is_little_endian = transfer_syntax != EXPLICIT_BIG
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def reference(uid: str, sop_class: str = CT_STORAGE) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = uid
    return item


def request(*items: Dataset, transaction: str | None = "1.2.840.1", undefined: bool = False) -> Dataset:
    dataset = Dataset()
    if transaction is not None:
        dataset.TransactionUID = transaction
    dataset.ReferencedSOPSequence = list(items)
    if undefined:
        dataset["ReferencedSOPSequence"].is_undefined_length = True
        for item in items:
            item.is_undefined_length_sequence_item = True
    return dataset


def confirmation(message_id: int) -> bytes:
    return data_pdus(
        3,
        1,
        dimse.encode(
            {
                dimse.COMMAND_FIELD: dimse.Command.N_EVENT_REPORT_RSP,
                dimse.MESSAGE_ID_RESPONDED_TO: message_id,
                dimse.DATA_SET_TYPE: dimse.NO_DATA_SET,
                dimse.STATUS: 0,
            }
        ),
    )


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
def test_a_request_is_read_in_every_encoding(transfer_syntax: str, undefined: bool) -> None:
    first, second = reference("1.2.3"), reference("1.2.4", MR_STORAGE)
    first.add_new(0x00091001, "SQ", [reference("9.9")])
    first[0x00091001].is_undefined_length = undefined
    first.add_new(0x00091002, "UT", "text")
    dataset = request(first, second, undefined=undefined)
    dataset.ReferencedStudySequence = [reference("1.2")]
    dataset["ReferencedStudySequence"].is_undefined_length = undefined
    dataset.RetrieveAETitle = "SOMEWHERE"
    assert read_request(encoded(dataset, transfer_syntax), transfer_syntax) == (
        "1.2.840.1",
        [Reference(CT_STORAGE, "1.2.3"), Reference(MR_STORAGE, "1.2.4")],
    )


@pytest.mark.parametrize(
    "dataset",
    [
        request(reference("1.2.3"), transaction=None),
        request(reference("1.2.3"), transaction=""),
        request(),
        request(reference("")),
        request(Dataset()),
    ],
    ids=["no transaction", "empty transaction", "no references", "empty UID", "empty item"],
)
def test_a_request_that_lacks_something_is_no_request(dataset: Dataset) -> None:
    with pytest.raises(CommitmentDataError):
        read_request(encoded(dataset, IMPLICIT_LITTLE), IMPLICIT_LITTLE)


def test_a_request_that_is_cut_off_anywhere_is_no_request() -> None:
    data = encoded(request(reference("1.2.3"), undefined=True), EXPLICIT_LITTLE)
    for size in range(len(data) - 8):  # without the last delimiter nothing is missing
        with pytest.raises(CommitmentDataError):
            read_request(data[:size], EXPLICIT_LITTLE)


def test_a_sequence_with_something_that_is_no_item_is_no_request() -> None:
    data = struct.pack("<HHI", 0x0008, 0x1199, 16) + struct.pack("<HHI", 0x0008, 0x1155, 8) + b"1.2.3.4\0"
    with pytest.raises(CommitmentDataError, match="no item"):
        read_request(data, IMPLICIT_LITTLE)


@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
def test_a_report_is_understood_by_pydicom(transfer_syntax: str) -> None:
    data = encode_report(
        transfer_syntax,
        "1.2.840.1",
        [Reference(CT_STORAGE, "1.2.3")],
        [Failure(Reference(MR_STORAGE, "1.2.40"), NO_SUCH_INSTANCE)],
    )
    head = part10.encode_file_meta(uids.STORAGE_COMMITMENT_PUSH_MODEL, "1.2", transfer_syntax)
    dataset = dcmread(DicomBytesIO(head + data))
    assert dataset.TransactionUID == "1.2.840.1"
    assert dataset.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3"
    failed = dataset.FailedSOPSequence[0]
    assert (failed.ReferencedSOPClassUID, failed.ReferencedSOPInstanceUID) == (MR_STORAGE, "1.2.40")
    assert failed.FailureReason == NO_SUCH_INSTANCE


@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
def test_what_is_in_the_data_folder_is_committed_on_the_same_association(
    tmp_path: Path, layout: Layout, transfer_syntax: str
) -> None:
    service = CommitmentService(layout, {})
    with (
        receiver(tmp_path / "data", commitment=service) as running,
        called(running.port, commitment_rq(transfer_syntax)) as caller,
    ):
        caller.send(store(builders.dicom_bytes(part10=False, SOPInstanceUID="1.2.3"), "1.2.3"))
        assert caller.status() == 0
        asked = request(reference("1.2.3"), reference("1.2.4"), reference("1.2.3", MR_STORAGE))
        caller.send(commitment_action(encoded(asked, transfer_syntax)))
        assert caller.status() == 0
        report = caller.response()
        assert report.command == dimse.Command.N_EVENT_REPORT_RQ
        assert report.number(dimse.EVENT_TYPE_ID) == 2
        data = encode_report(
            transfer_syntax,
            "1.2.840.1",
            [Reference(CT_STORAGE, "1.2.3")],
            [
                Failure(Reference(CT_STORAGE, "1.2.4"), NO_SUCH_INSTANCE),
                Failure(Reference(MR_STORAGE, "1.2.3"), CLASS_CONFLICT),
            ],
        )
        assert caller.data_set() == data
        caller.send(confirmation(report.message_id))
        caller.send(commitment_action(encoded(request(reference("1.2.3")), transfer_syntax), message_id=2))
        assert caller.status() == 0
        report = caller.response()
        assert report.number(dimse.EVENT_TYPE_ID) == 1
        caller.data_set()
        caller.send(confirmation(report.message_id))
        caller.release()


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (commitment_action(b"no data set"), dimse.INVALID_ARGUMENT),
        (commitment_action(encoded(request(), IMPLICIT_LITTLE)), dimse.INVALID_ARGUMENT),
        (commitment_action(encoded(request(reference("1.2")), IMPLICIT_LITTLE), action_type=2), dimse.NO_SUCH_ACTION),
    ],
)
def test_an_action_that_cannot_be_done_is_refused_and_not_reported(
    tmp_path: Path, layout: Layout, message: bytes, status: int
) -> None:
    with (
        receiver(tmp_path / "data", commitment=CommitmentService(layout, {})) as running,
        called(running.port, commitment_rq()) as caller,
    ):
        caller.send(message)
        assert caller.status() == status
        caller.release()


def test_a_peer_that_confirms_nothing_is_stopped_at_a_limit(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mercure.dicom.commitment.Unconfirmed._MAXIMUM_REPORTS", 2)
    data = encoded(request(reference("1.2.3")), IMPLICIT_LITTLE)
    with (
        receiver(tmp_path / "data", commitment=CommitmentService(layout, {})) as running,
        called(running.port, commitment_rq()) as caller,
    ):
        for number in (1, 2):
            caller.send(commitment_action(data, message_id=number))
            assert caller.status() == 0
            caller.response()
            caller.data_set()
        caller.send(commitment_action(data, message_id=3))
        assert caller.status() == module.RESOURCE_LIMITATION


def test_a_report_without_a_port_to_send_it_to_is_named_in_the_log(
    tmp_path: Path, layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        receiver(tmp_path / "data", commitment=CommitmentService(layout, {})) as running,
        called(running.port, commitment_rq()) as caller,
    ):
        caller.send(commitment_action(encoded(request(reference("1.2.3")), IMPLICIT_LITTLE)))
        assert caller.status() == 0
        caller.response()
        caller.data_set()
        caller.release()
        wait_until(lambda: "stays without" in caplog.text, "the missing port is in the log")
    assert "1.2.840.1" in caplog.text


def test_what_one_association_leaves_unconfirmed_refers_to_a_limited_number_of_instances(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mercure.dicom.commitment.MAXIMUM_REFERENCES", 5)
    three = encoded(request(*(reference(f"1.2.{number}") for number in range(3))), IMPLICIT_LITTLE)
    two = encoded(request(reference("1.3.1"), reference("1.3.2")), IMPLICIT_LITTLE)
    with (
        receiver(tmp_path / "data", commitment=CommitmentService(layout, {})) as running,
        called(running.port, commitment_rq()) as caller,
    ):
        caller.send(commitment_action(three, message_id=1))
        assert caller.status() == 0
        first = caller.response().message_id
        caller.data_set()
        caller.send(commitment_action(three, message_id=2))
        assert caller.status() == module.RESOURCE_LIMITATION
        caller.send(commitment_action(two, message_id=3))
        assert caller.status() == 0
        caller.response()
        caller.data_set()
        caller.send(confirmation(first))
        caller.send(commitment_action(three, message_id=4))
        assert caller.status() == 0


def report_of(transaction: str, title: str = "SENDER", data_set: bytes = b"") -> Report:
    return Report(Origin(title, "MERCURE", "127.0.0.1"), transaction, 1, 1, data_set)


def test_a_report_is_tried_again_when_the_peer_is_not_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sender_module, "_RETRY_SECONDS", (0.0, 0.0))
    ReportSender({"SENDER": PeerPort("127.0.0.1", free_port())}).put([report_of("1.2.1"), report_of("1.2.2")])
    wait_until(lambda: "given up" in caplog.text, "the peer was given up")
    assert caplog.text.count("transaction 1.2.1 not sent") == 3
    assert "2 storage commitment reports" in caplog.text


def test_what_waits_for_an_association_is_bounded_and_has_one_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sender_module, "_RETRY_SECONDS", (60.0,))
    monkeypatch.setattr(sender_module, "_MAXIMUM_REPORTS", 3)
    monkeypatch.setattr(sender_module, "_MAXIMUM_BYTES", 100)
    before = threading.active_count()
    sender = ReportSender({"A": PeerPort("127.0.0.1", free_port()), "B": PeerPort("127.0.0.1", free_port())})
    sender.put([report_of("1.1", "A", bytes(60)), report_of("1.2", "B", bytes(60))])
    assert "transaction 1.2 stays without" in caplog.text
    sender.put([report_of("1.3", "B"), report_of("1.4", "B"), report_of("1.5", "B")])
    assert "transaction 1.5 stays without" in caplog.text
    assert threading.active_count() == before + 1
    wait_until(lambda: "1.1 not sent" in caplog.text and "1.3 not sent" in caplog.text, "both peers were tried")


def test_an_instance_that_moves_meanwhile_counts_as_there(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    reception = layout.incoming / "1.9#abc"
    reception.mkdir()
    (reception / "1.9#1.2.3.dcm").write_bytes(b"")
    real = module.part10.read_file_meta  # type: ignore[attr-defined]

    def moved_first(path: str) -> object:
        (layout.sealed / "seal").mkdir()
        reception.rename(layout.sealed / "seal" / "received")
        return real(path)

    monkeypatch.setattr(part10, "read_file_meta", moved_first)
    asked = Reference(CT_STORAGE, "1.2.3")
    assert CommitmentService(layout, {}).check([asked]) == ([asked], [])


def test_a_file_that_is_damaged_or_a_folder_that_is_gone_is_a_failure(
    layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    (layout.incoming / "1.9#abc").mkdir()
    (layout.incoming / "1.9#abc" / "1.9#1.2.3.dcm").write_bytes(b"damaged")
    asked = Reference(CT_STORAGE, "1.2.3")
    service = CommitmentService(layout, {})
    assert service.check([asked]) == ([], [Failure(asked, PROCESSING_FAILURE)])
    layout.incoming.rename(layout.incoming.parent / "away")
    assert service.check([asked]) == ((), [Failure(asked, PROCESSING_FAILURE)])
    assert "cannot look" in caplog.text
