import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests import builders
from tests.builders import CT_STORAGE, EXPLICIT_LITTLE
from tests.receiver import receiver
from tests.scripted_peer import Close, ReceivePdu, ReceiveUntilClosed, Send, Step, play
from tests.sender import VERIFICATION_CONTEXT, Caller, associate_rq, called, data_pdus, store

from mercure.dicom import dimse, pdu
from mercure.dicom.association_scp import Timeouts
from mercure.dicom.negotiation import AcceptancePolicy
from mercure.dicom.pdu import PDUType

AC, RJ, ABORT, RELEASE_RP = PDUType.ASSOCIATE_AC, PDUType.ASSOCIATE_RJ, PDUType.ABORT, PDUType.RELEASE_RP
ABORT_UNRECOGNIZED = pdu.encode_abort(2, 1)
ABORT_UNEXPECTED = pdu.encode_abort(2, 2)
ABORT_PARAMETER = pdu.encode_abort(2, 6)


def conversation(tmp_path: Path, script: Sequence[Step], **options: object) -> tuple[list[bytes], str]:
    with receiver(tmp_path / "data", **options) as running:  # type: ignore[arg-type]
        read = play(running.port, script).read
        ended = running.wait_for_ends()[0]
        assert running.drafts() == []
        assert running.instances() == []
    return read, ended


@pytest.mark.parametrize(
    ("policy", "called_ae", "calling_ae", "rejection"),
    [
        (AcceptancePolicy(called_ae_titles=frozenset({"MERCURE"})), "WRONG", "SENDER", (1, 1, 7)),
        (AcceptancePolicy(calling_ae_titles=frozenset({"SENDER"})), "MERCURE", "WRONG", (1, 1, 3)),
        (AcceptancePolicy(called_ae_titles=frozenset({"MERCURE"})), "mercure", "SENDER", (1, 1, 7)),
    ],
)
def test_wrong_ae_titles_are_rejected(
    tmp_path: Path, policy: AcceptancePolicy, called_ae: str, calling_ae: str, rejection: tuple[int, int, int]
) -> None:
    script: list[Step] = [
        Send(associate_rq(called=called_ae, calling=calling_ae)),
        ReceivePdu(RJ),
        ReceiveUntilClosed(),
    ]
    read, ended = conversation(tmp_path, script, policy=policy)
    assert tuple(read[0][7:10]) == rejection
    assert ended.startswith("rejected")


def test_a_refusal_that_was_decided_before_is_sent_after_the_request(tmp_path: Path) -> None:
    script: list[Step] = [Send(associate_rq()), ReceivePdu(RJ), ReceiveUntilClosed()]
    read, _ = conversation(tmp_path, script, refusal=pdu.REJECT_LOCAL_LIMIT)
    assert tuple(read[0][7:10]) == (2, 3, 2)


def test_below_the_reserve_of_free_space_associations_are_rejected_as_congestion(tmp_path: Path) -> None:
    script: list[Step] = [Send(associate_rq()), ReceivePdu(RJ), ReceiveUntilClosed()]
    read, _ = conversation(tmp_path, script, min_free_bytes=1 << 62)
    assert tuple(read[0][7:10]) == (2, 3, 1)


def test_an_association_is_released(tmp_path: Path) -> None:
    script: list[Step] = [
        Send(associate_rq()),
        ReceivePdu(AC),
        Send(pdu.RELEASE_RQ),
        ReceivePdu(RELEASE_RP),
        ReceiveUntilClosed(),
    ]
    assert conversation(tmp_path, script)[1] == "released"


def test_everything_works_in_segments_of_one_byte(tmp_path: Path) -> None:
    with receiver(tmp_path / "data") as running:
        uid = builders.new_uid()
        data_set = builders.dicom_bytes(part10=False, SOPInstanceUID=uid)
        script: list[Step] = [
            Send(associate_rq(), 1),
            ReceivePdu(AC),
            Send(store(data_set, uid, size=500), 1),
            ReceivePdu(PDUType.DATA_TF),
            Send(pdu.RELEASE_RQ, 1),
            ReceivePdu(RELEASE_RP),
        ]
        play(running.port, script)
        assert running.wait_for_ends() == ["released"]
        (stored,) = running.instances()
        assert stored.read_bytes().endswith(data_set)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_very_small_pdus_are_put_together(tmp_path: Path, size: int) -> None:
    with receiver(tmp_path / "data") as running, called(running.port) as caller:
        uid = builders.new_uid()
        data_set = builders.dicom_bytes(part10=False, SOPInstanceUID=uid)
        caller.send(store(data_set, uid, size=size))
        assert caller.status() == 0
        (stored,) = running.instances()
        assert stored.read_bytes().endswith(data_set)


def test_a_data_set_may_begin_late_and_with_empty_fragments(tmp_path: Path) -> None:
    with receiver(tmp_path / "data") as running, called(running.port) as caller:
        uid = builders.new_uid()
        data_set = builders.dicom_bytes(part10=False, SOPInstanceUID=uid)
        empty = struct.pack(">BxIIBB", 4, 6, 2, 1, 0)
        caller.send(data_pdus(1, 1, dimse.store_request(1, CT_STORAGE, uid)))
        caller.send(empty + empty)
        caller.send(data_pdus(1, 0, data_set))
        assert caller.status() == 0
        (stored,) = running.instances()
        assert stored.read_bytes().endswith(data_set)


def test_several_messages_in_one_segment_are_answered_in_order(tmp_path: Path) -> None:
    with receiver(tmp_path / "data") as running, called(running.port) as caller:
        messages = b""
        for number in range(1, 6):
            uid = builders.new_uid()
            messages += store(builders.dicom_bytes(part10=False, SOPInstanceUID=uid), uid, message_id=number)
        caller.send(messages)
        answers = [caller.response() for _ in range(5)]
        assert [one.number(dimse.MESSAGE_ID_RESPONDED_TO) for one in answers] == [1, 2, 3, 4, 5]
        assert {one.status for one in answers} == {0}
        assert len(running.instances()) == 5


UID = "1.2.3.4"
COMMAND = dimse.store_request(1, CT_STORAGE, UID)


@pytest.mark.parametrize(
    ("bad", "abort"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", ABORT_UNRECOGNIZED),
        (b"\x08\0\0\0\0\x04\0\0\0\0", ABORT_UNRECOGNIZED),
        (associate_rq(), ABORT_UNEXPECTED),
        (data_pdus(1, 0, b"data without command"), ABORT_UNEXPECTED),
        (data_pdus(1, 1, COMMAND) * 2, ABORT_UNEXPECTED),
        (data_pdus(1, 1, COMMAND) + data_pdus(3, 0, b"other context"), ABORT_UNEXPECTED),
        (data_pdus(9, 1, COMMAND), ABORT_PARAMETER),
        (data_pdus(1, 1, b"\xff" * 20), ABORT_PARAMETER),
        (data_pdus(1, 1, COMMAND * 700), ABORT_PARAMETER),
        (data_pdus(1, 1, dimse.encode({dimse.COMMAND_FIELD: 1})[:-1] + b"\0\0"), ABORT_PARAMETER),
        (data_pdus(1, 1, dimse.encode({dimse.MESSAGE_ID: 1})), ABORT_PARAMETER),
    ],
    ids=[
        "http",
        "unknown pdu",
        "second request",
        "no command",
        "command in a data set",
        "context changes",
        "context not accepted",
        "command malformed",
        "command too long",
        "command cut off",
        "no command field",
    ],
)
def test_a_peer_that_breaks_the_protocol_is_aborted_with_the_reason(tmp_path: Path, bad: bytes, abort: bytes) -> None:
    script: list[Step] = [Send(associate_rq()), ReceivePdu(AC), Send(bad), ReceiveUntilClosed()]
    read, ended = conversation(tmp_path, script)
    assert read[1] == abort
    assert ended.startswith("aborted: ")


@pytest.mark.parametrize("bad", [b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", b"\0" * 64, pdu.RELEASE_RQ])
def test_what_is_no_association_request_is_aborted(tmp_path: Path, bad: bytes) -> None:
    read, ended = conversation(tmp_path, [Send(bad), ReceiveUntilClosed()])
    assert read[0][0] == ABORT
    assert ended.startswith("aborted: ")


def test_an_association_request_without_contexts_is_aborted(tmp_path: Path) -> None:
    read, _ = conversation(tmp_path, [Send(associate_rq([])), ReceiveUntilClosed()])
    assert read[0] == ABORT_PARAMETER


def begun_message() -> bytes:
    data_set = builders.dicom_bytes(part10=False)
    return data_pdus(1, 1, COMMAND) + data_pdus(1, 0, data_set)[: len(data_set) // 2]


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ([Close()], "connection lost"),
        ([Close(reset=True)], "connection lost"),
    ],
)
def test_a_message_that_is_cut_off_leaves_nothing(tmp_path: Path, last: list[Step], reason: str) -> None:
    script: list[Step] = [Send(associate_rq()), ReceivePdu(AC), Send(begun_message()), *last]
    assert conversation(tmp_path, script)[1].startswith(reason)


@pytest.mark.parametrize(
    ("end", "reason"), [(pdu.encode_abort(0, 0), "aborted by the peer"), (pdu.RELEASE_RQ, "released")]
)
def test_an_end_between_two_pdus_of_a_data_set_leaves_nothing(tmp_path: Path, end: bytes, reason: str) -> None:
    part = struct.pack(">BxIIBB", 4, 106, 102, 1, 0) + bytes(100)
    script: list[Step] = [
        Send(associate_rq()),
        ReceivePdu(AC),
        Send(data_pdus(1, 1, COMMAND) + part * 5 + end),
        ReceiveUntilClosed(),
    ]
    assert conversation(tmp_path, script)[1] == reason


@pytest.mark.parametrize(
    ("sent", "timeouts"),
    [
        ([], Timeouts(acse=1)),
        ([Send(associate_rq()[:50])], Timeouts(acse=1)),
        ([Send(associate_rq()), ReceivePdu(AC)], Timeouts(idle=1)),
        ([Send(associate_rq()), ReceivePdu(AC), Send(begun_message())], Timeouts(dimse=1)),
        ([Send(associate_rq()), ReceivePdu(AC), Send(data_pdus(1, 1, COMMAND)[:30])], Timeouts(dimse=1)),
    ],
    ids=["no request", "half a request", "idle", "half a data set", "half a command"],
)
def test_a_silent_peer_is_aborted_after_its_time(tmp_path: Path, sent: list[Step], timeouts: Timeouts) -> None:
    read, ended = conversation(tmp_path, (*sent, ReceiveUntilClosed()), timeouts=timeouts)
    assert read[-1] == pdu.encode_abort(2, 0)
    assert ended.startswith("timed out")


def test_a_request_that_drips_does_not_extend_its_time(tmp_path: Path) -> None:
    with receiver(tmp_path / "data", timeouts=Timeouts(acse=1.5)) as running:
        caller = Caller(running.port)
        caller.socket.settimeout(0.2)
        answer = b""
        for byte in associate_rq()[:-1]:
            caller.send(bytes([byte]))
            try:
                answer = caller.socket.recv(100)
            except TimeoutError:
                continue
            break
        caller.socket.close()
        assert answer == pdu.encode_abort(2, 0)
        assert running.wait_for_ends()[0].startswith("timed out")


def test_responses_fit_into_the_pdus_that_the_peer_takes(tmp_path: Path) -> None:
    with (
        receiver(tmp_path / "data") as running,
        called(running.port, associate_rq([VERIFICATION_CONTEXT], maximum_length=0)) as caller,
    ):
        caller.send(data_pdus(1, 1, dimse.echo_request(77)))
        response = caller.response()
        assert response.status == 0
        assert response.number(dimse.MESSAGE_ID_RESPONDED_TO) == 77


@pytest.mark.parametrize("maximum", [128, 131])
def test_a_peer_that_takes_small_or_odd_pdus_gets_no_longer_ones(tmp_path: Path, maximum: int) -> None:
    uid = "1.2.840.10008.5.1.4.1.1.2." + "1" * 38
    with receiver(tmp_path / "data") as running, called(running.port, associate_rq(maximum_length=maximum)) as caller:
        caller.send(store(builders.dicom_bytes(part10=False, SOPInstanceUID=uid), uid))
        command, control = b"", 0
        while not control & pdu.LAST:
            kind, body = caller.pdu()
            assert kind == PDUType.DATA_TF
            assert len(body) <= maximum
            assert len(body) % 2 == 0
            command, control = command + body[6:], body[5]
        assert dimse.decode(command).status == 0
        assert dimse.decode(command).uid(dimse.AFFECTED_SOP_INSTANCE_UID) == uid


def test_a_peer_that_takes_next_to_nothing_is_aborted(tmp_path: Path) -> None:
    read, _ = conversation(tmp_path, [Send(associate_rq(maximum_length=20)), ReceiveUntilClosed()])
    assert read[0] == ABORT_PARAMETER


def test_a_command_in_many_fragments_is_read(tmp_path: Path) -> None:
    with receiver(tmp_path / "data") as running, called(running.port, associate_rq([VERIFICATION_CONTEXT])) as caller:
        caller.send(data_pdus(1, 1, dimse.echo_request(1), size=3))
        assert caller.status() == 0


def test_a_peer_that_is_gone_when_the_answer_is_ready_ends_the_association(tmp_path: Path) -> None:
    with receiver(tmp_path / "data") as running:
        caller = Caller(running.port)
        caller.send(associate_rq([(CT_STORAGE, (EXPLICIT_LITTLE,))]))
        caller.pdu()
        caller.reset()
        assert running.wait_for_ends()[0].startswith("connection lost")
