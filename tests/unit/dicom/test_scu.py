"""The calling side against peers that do what well-behaved ones never do."""

import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from pynetdicom import AE, evt
from tests import builders, peers
from tests.scripted_peer import Close, Receive, ReceivePdu, ReceiveUntilClosed, Send, Step, WaitFor, scripted_server

from mercure.core.errors import TransientError
from mercure.dicom import dimse, pdu, uids
from mercure.dicom.association_scu import Association
from mercure.dicom.dimse import Command
from mercure.dicom.part10 import read_file_meta
from mercure.dicom.pdu import AssociateAC, AssociateRJ, ContextAnswer, PDUType, ProtocolError, Role
from mercure.dicom.peer import BrokenError, NoAnswerError, Peer, RejectedError, UnknownTitleError, UnreachableError
from mercure.dicom.scu import FALLBACK, Outgoing, StoreAssociation, propose, split_kinds
from mercure.dicom.send_buffer import encode_pdata
from mercure.dicom.services_scu import echo, send_event_report

CT = builders.CT_STORAGE
KIND = (CT, builders.EXPLICIT_LITTLE)
ABORT = pdu.encode_abort(2, 6)


def peer_at(port: int, seconds: float = 20.0) -> Peer:
    return Peer("127.0.0.1", port, "PEER", response_timeout_seconds=seconds, connect_timeout_seconds=10.0)


def accept(*answers: ContextAnswer, maximum_length: int = 16_384, roles: dict[str, Role] | None = None) -> Send:
    return Send(AssociateAC("PEER", "MERCURE", answers, maximum_length, roles=roles or {}).encode())


def accept_store(maximum_length: int = 1 << 18) -> list[Step]:
    """Take the request, accept the stored syntax."""
    answer = accept(ContextAnswer(1, 0, builders.EXPLICIT_LITTLE), maximum_length=maximum_length)
    return [ReceivePdu(PDUType.ASSOCIATE_RQ), answer]


def response(
    status: int = 0, message_id: int = 1, command: int = Command.C_STORE_RSP, context_id: int = 1, **more: bytes
) -> bytes:
    elements: dict[int, int | str | bytes] = {
        dimse.COMMAND_FIELD: command,
        dimse.MESSAGE_ID_RESPONDED_TO: message_id,
        dimse.DATA_SET_TYPE: 1 if more else dimse.NO_DATA_SET,
        dimse.STATUS: status,
    }
    pdus = encode_pdata(dimse.encode(elements), context_id, pdu.COMMAND, 16_384)
    for data_set in more.values():
        pdus += encode_pdata(data_set, context_id, 0, 16_384)
    return pdus


INSTANCE: list[Step] = [ReceivePdu(PDUType.DATA_TF), ReceivePdu(PDUType.DATA_TF)]
"""Command set and data set of a small instance, one PDU each."""

RELEASED: list[Step] = [ReceivePdu(PDUType.RELEASE_RQ), Send(pdu.RELEASE_RP), ReceiveUntilClosed()]


@pytest.fixture
def files(tmp_path: Path) -> Sequence[Path]:
    return builders.small_series(tmp_path / "series", 3).files


def outgoing(path: Path, context_id: int = 1) -> Outgoing:
    meta = read_file_meta(str(path))
    offset, size = meta.data_set_offset, meta.data_set_size
    return Outgoing(path.name, meta.sop_class_uid, meta.sop_instance_uid, context_id, str(path), offset, size)


def store(port: int, files: Sequence[Path], seconds: float = 20.0) -> list[tuple[str, int]]:
    """Send the files; return what was answered, also when it ends with an error (as `.answered` of the exception)."""
    association = StoreAssociation(peer_at(port, seconds), [KIND])
    answered: list[tuple[str, int]] = []
    try:
        association.open()
        association.store_all(map(outgoing, files), lambda sent, status: answered.append((sent.name, status)))
    except TransientError as error:
        error.answered = answered  # type: ignore[attr-defined]
        assert not association.association.is_open
        raise
    association.association.release()
    return answered


def serve_store(*steps: Step) -> list[Step]:
    return [*accept_store(), *INSTANCE, *steps]


def test_answers_are_told_in_order_and_the_association_is_released(files: Sequence[Path]) -> None:
    script = serve_store(Send(response(0)), *INSTANCE, Send(response(0xB000, 2)), *RELEASED)
    with scripted_server(script) as server:
        answered = store(server.port, files[:2])

    assert answered == [(files[0].name, 0), (files[1].name, 0xB000)]


def test_the_request_has_what_the_standard_wants(files: Sequence[Path]) -> None:
    with scripted_server(serve_store(Send(response(0)), *RELEASED)) as server:
        store(server.port, files[:1])

    read = server.conversations[0].read
    request = pdu.decode_associate_rq(read[0][6:])
    command = dimse.decode(read[1][12:])
    assert (request.called_ae_title, request.calling_ae_title) == ("PEER", "MERCURE")
    assert [context.transfer_syntaxes for context in request.contexts] == [(builders.EXPLICIT_LITTLE,), FALLBACK]
    assert command.command == Command.C_STORE_RQ
    assert command.uid(dimse.AFFECTED_SOP_CLASS_UID) == CT
    assert read[1][10:12] == b"\x01\x03"
    assert read[2][10:12] == b"\x01\x02"
    assert read[2][12:] == files[0].read_bytes()[read_file_meta(str(files[0])).data_set_offset :]


@pytest.mark.parametrize("chunk_bytes", [1, 7])
def test_an_answer_in_pieces_is_an_answer(files: Sequence[Path], chunk_bytes: int) -> None:
    with scripted_server(serve_store(Send(response(0), chunk_bytes), *RELEASED)) as server:
        assert store(server.port, files[:1]) == [(files[0].name, 0)]


def test_a_data_set_that_comes_with_the_answer_is_taken_and_not_used(files: Sequence[Path]) -> None:
    with scripted_server(serve_store(Send(response(0, data_set=b"\x08\0\x05\0CS\0\0")), *RELEASED)) as server:
        assert store(server.port, files[:1]) == [(files[0].name, 0)]


def test_pdus_that_the_peer_limits_to_few_bytes_are_never_longer(files: Sequence[Path]) -> None:
    limit = 200
    size = files[0].stat().st_size
    script: list[Step] = [*accept_store(limit)]
    meta = read_file_meta(str(files[0]))
    command = len(dimse.store_request(1, meta.sop_class_uid, meta.sop_instance_uid))
    count = -(-command // (limit - 6)) + -(-meta.data_set_size // (limit - 6))
    script += [ReceivePdu(PDUType.DATA_TF)] * count
    with scripted_server([*script, Send(response(0)), *RELEASED]) as server:
        store(server.port, files[:1])

    data = server.conversations[0].read[1 : count + 1]
    assert max(len(each) for each in data) == limit + 6
    assert sum(len(each) for each in data) > size - meta.data_set_offset
    assert b"".join(each[12:] for each in data if not each[11] & 1) == files[0].read_bytes()[meta.data_set_offset :]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (response(0, message_id=9), 6),
        (response(0, command=Command.C_ECHO_RSP), 2),
        (response(0, context_id=3), 6),
        (encode_pdata(dimse.store_request(1, "1.2", "1.3"), 1, 1, 16_384), 2),
        (encode_pdata(b"not a command set", 1, 1, 16_384), 6),
        (encode_pdata(b"data without command", 1, 0, 16_384), 2),
        (AssociateRJ(1, 1, 1).encode(), 2),
        (b"\x77" + bytes(9), 1),
        (b"\x04\0\xff\xff\xff\xff", 6),
        (pdu.PDU_HEADER.pack(4, 6) + pdu.PDV_HEADER.pack(90, 1, 3), 6),
        (encode_pdata(bytes(1 << 17), 1, 1, 16_384), 6),
        (response(0, data_set=bytes(2 << 20)), 6),
    ],
    ids=[
        "message id",
        "other response",
        "other context",
        "request",
        "garbage",
        "no command",
        "reject",
        "unknown pdu",
        "endless pdu",
        "pdv longer than pdu",
        "endless command",
        "endless data set",
    ],
)
def test_a_wrong_answer_is_a_protocol_error_and_aborts(files: Sequence[Path], answer: bytes, reason: int) -> None:
    script = serve_store(Send(answer), ReceiveUntilClosed())
    with scripted_server(script) as server, pytest.raises(ProtocolError) as caught:
        store(server.port, files)

    assert caught.value.reason == reason
    assert caught.value.answered == []  # type: ignore[attr-defined]
    assert server.conversations[0].read[-1].endswith(pdu.encode_abort(2, reason))


def test_command_and_data_set_of_an_answer_must_share_their_context(files: Sequence[Path]) -> None:
    answer = response(0, data_set=b"ab")
    mixed = answer[: -len(encode_pdata(b"ab", 1, 0, 16_384))] + encode_pdata(b"ab", 3, 0, 16_384)
    with (
        scripted_server(serve_store(Send(mixed), ReceiveUntilClosed())) as server,
        pytest.raises(ProtocolError, match="another presentation context"),
    ):
        store(server.port, files)


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        ([Send(ABORT)], "aborted the association \\(source 2, reason 6\\)"),
        ([Send(pdu.RELEASE_RQ), ReceivePdu(PDUType.RELEASE_RP)], "released"),
        ([Close()], "closed the connection"),
        ([Close(reset=True)], "broke"),
    ],
)
def test_a_peer_that_ends_the_association_leaves_what_it_confirmed(
    files: Sequence[Path], ending: list[Step], text: str
) -> None:
    script = serve_store(Send(response(0)), *INSTANCE, *ending)
    with scripted_server(script) as server, pytest.raises(BrokenError, match=text) as caught:
        store(server.port, files)

    assert caught.value.answered == [(files[0].name, 0)]  # type: ignore[attr-defined]


def test_a_peer_that_never_answers_is_left_after_the_time_out(files: Sequence[Path]) -> None:
    script = serve_store(ReceiveUntilClosed())
    with scripted_server(script) as server, pytest.raises(NoAnswerError, match="does not answer"):
        store(server.port, files, seconds=0.3)


def test_a_peer_that_answers_drop_by_drop_is_left_after_the_time_out(files: Sequence[Path]) -> None:
    drops: list[Step] = []
    for _ in range(200):
        drops += [Send(b"\x07"), WaitFor(_Pause())]
    script = serve_store(Send(b"\x07\0\0\0\xff\xff"), *drops)
    with scripted_server(script) as server:
        with pytest.raises(NoAnswerError, match="does not complete"):
            store(server.port, files, seconds=0.5)
        server.errors.clear()  # the script is cut off, as it should be


class _Pause(threading.Event):
    """An event that is set after a moment, whoever waits for it."""

    def wait(self, timeout: float | None = None) -> bool:
        super().wait(0.02)
        return True


def test_a_peer_that_takes_no_data_is_left_after_the_time_out(tmp_path: Path) -> None:
    big = builders.multiframe_file(tmp_path / "big.dcm", frames=32, rows=1024, columns=1024).files
    done = threading.Event()
    kind = (builders.MULTIFRAME_WORD_STORAGE, builders.EXPLICIT_LITTLE)
    with scripted_server([*accept_store(), WaitFor(done)]) as server:
        association = StoreAssociation(peer_at(server.port, 0.5), [kind])
        association.open()
        with pytest.raises(NoAnswerError, match="takes no data"):
            association.store_all(map(outgoing, big), lambda *_: None)
        done.set()


def test_a_peer_that_resets_while_data_flows_is_transient(tmp_path: Path) -> None:
    big = builders.multiframe_file(tmp_path / "big.dcm", frames=32, rows=1024, columns=1024).files
    kind = (builders.MULTIFRAME_WORD_STORAGE, builders.EXPLICIT_LITTLE)
    with scripted_server([*accept_store(), Receive(100_000), Close(reset=True)]) as server:
        association = StoreAssociation(peer_at(server.port), [kind])
        association.open()
        with pytest.raises(BrokenError, match="broke"):
            association.store_all(map(outgoing, big), lambda *_: None)


@pytest.mark.parametrize("step", ["connect", "answer", "response"])
def test_close_from_another_thread_breaks_a_call_that_blocks(files: Sequence[Path], step: str) -> None:
    hang: list[Step] = [ReceiveUntilClosed()]
    script = {"connect": hang, "answer": [ReceivePdu(), *hang], "response": serve_store(*hang)}[step]
    with scripted_server(script) as server:
        association = StoreAssociation(peer_at(server.port, 60.0), [KIND])
        failures: list[Exception] = []

        def run() -> None:
            try:
                association.open()
                association.store_all(map(outgoing, files), lambda *_: None)
            except TransientError as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        wanted = {"connect": 0, "answer": 1, "response": 3}[step]
        peers.wait_until(
            lambda: server.conversations and len(server.conversations[0].read) >= wanted, "the call blocks"
        )
        association.association.close()
        thread.join(20)

    assert not thread.is_alive()
    assert isinstance(failures[0], BrokenError)


def test_an_association_that_was_closed_before_it_was_opened_does_not_connect() -> None:
    with scripted_server([ReceiveUntilClosed()]) as server:
        association = Association(peer_at(server.port))
        association.close()

        with pytest.raises(BrokenError, match="was closed"):
            association.open([])


@pytest.mark.parametrize(
    ("rejection", "kind", "text"),
    [
        (AssociateRJ(1, 1, 7), UnknownTitleError, "called AE title not recognised \\(permanently"),
        (AssociateRJ(1, 1, 3), UnknownTitleError, "calling AE title not recognised"),
        (AssociateRJ(2, 3, 1), RejectedError, "temporary congestion \\(for now"),
        (AssociateRJ(1, 1, 1), UnknownTitleError, "no reason given"),
    ],
)
def test_a_rejection_is_said_in_words(rejection: AssociateRJ, kind: type[RejectedError], text: str) -> None:
    with (
        scripted_server([ReceivePdu(), Send(rejection.encode()), ReceiveUntilClosed()]) as server,
        pytest.raises(RejectedError, match=text) as raised,
    ):
        Association(peer_at(server.port)).open([])
    assert raised.type is kind


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        pdu.RELEASE_RP,
        response(),
        AssociateAC("P", "M", (), maximum_length=10).encode(),
        b"\x02\0\0\0\0\x04\0\x01\0\0",
        b"\x03\0\0\0\0\0",
    ],
    ids=["http", "release", "data", "tiny pdus", "cut accept", "cut reject"],
)
def test_what_is_no_answer_to_the_request_is_a_protocol_error(answer: bytes) -> None:
    with (
        scripted_server([ReceivePdu(), Send(answer), ReceiveUntilClosed()]) as server,
        pytest.raises(ProtocolError),
    ):
        Association(peer_at(server.port)).open([])


def test_an_abort_in_place_of_the_answer_is_transient() -> None:
    with (
        scripted_server([ReceivePdu(), Send(ABORT), ReceiveUntilClosed()]) as server,
        pytest.raises(BrokenError, match="aborted"),
    ):
        Association(peer_at(server.port)).open([])


def test_contexts_that_were_not_proposed_like_this_are_not_accepted() -> None:
    answers = (
        ContextAnswer(1, 0, builders.IMPLICIT_LITTLE),  # another syntax than the proposed one
        ContextAnswer(3, 3, builders.EXPLICIT_LITTLE),  # refused
        ContextAnswer(77, 0, builders.EXPLICIT_LITTLE),  # nobody asked
    )
    with scripted_server([ReceivePdu(), accept(*answers), *RELEASED]) as server:
        association = StoreAssociation(peer_at(server.port), [KIND])
        association.open()

        assert association.context_for(*KIND) is None
        assert association.accepted_for(CT) == ()
        association.association.release()


def test_a_name_that_cannot_be_resolved_is_unreachable() -> None:
    with pytest.raises(UnreachableError, match="cannot be resolved"):
        Association(Peer("no.such.host.invalid", 104, "X")).open([])
    with pytest.raises(UnreachableError, match="cannot be resolved"):
        Association(Peer("x" * 300, 104, "X")).open([])


def test_a_released_association_cannot_be_used_and_release_never_raises() -> None:
    with scripted_server([*accept_store(), ReceivePdu(PDUType.RELEASE_RQ), Close()]) as server:
        association = StoreAssociation(peer_at(server.port), [KIND])
        association.open()
        association.association.release()
        association.association.release()

    assert not association.association.is_quiet
    with pytest.raises(BrokenError, match="was closed"):
        association.association.send_message(1, b"")


def test_a_peer_that_releases_at_the_same_time_gets_its_answer() -> None:
    script = [
        *accept_store(),
        ReceivePdu(PDUType.RELEASE_RQ),
        Send(pdu.RELEASE_RQ),
        ReceivePdu(PDUType.RELEASE_RP),
        Send(pdu.RELEASE_RP),
        ReceiveUntilClosed(),
    ]
    with scripted_server(script) as server:
        association = StoreAssociation(peer_at(server.port), [KIND])
        association.open()
        association.association.release()
        peers.wait_until(lambda: len(server.conversations[0].read) == 4, "the whole script was played")
    assert not association.association.is_open


def test_an_association_is_quiet_until_the_peer_says_something() -> None:
    speak = threading.Event()
    with scripted_server([*accept_store(), WaitFor(speak), Send(ABORT), ReceiveUntilClosed()]) as server:
        association = StoreAssociation(peer_at(server.port), [KIND])
        association.open()
        assert association.association.is_quiet

        speak.set()
        peers.wait_until(lambda: not association.association.is_quiet, "the abort arrives")
        association.association.abort()


def test_a_file_that_vanishes_does_not_take_the_answer_of_the_one_before(files: Sequence[Path]) -> None:
    items = [outgoing(file) for file in files]
    files[1].unlink()
    answered: list[str] = []
    with scripted_server(serve_store(Send(response(0)), ReceiveUntilClosed())) as server:
        association = StoreAssociation(peer_at(server.port), [KIND])
        association.open()
        with pytest.raises(FileNotFoundError):
            association.store_all(items, lambda sent, _: answered.append(sent.name))

    assert answered == [files[0].name]


def test_a_file_that_became_shorter_is_transient(files: Sequence[Path]) -> None:
    item = outgoing(files[0])
    files[0].write_bytes(files[0].read_bytes()[:1000])
    with scripted_server([*accept_store(), ReceiveUntilClosed()]) as server:
        association = StoreAssociation(peer_at(server.port), [KIND])
        association.open()
        with pytest.raises(TransientError, match="shorter"):
            association.store_all([item], lambda *_: None)


def test_what_stops_the_transfer_before_an_instance_leaves_it_unsent(files: Sequence[Path]) -> None:
    checks = iter([None, RuntimeError("stop")])
    answered: list[str] = []

    def before() -> None:
        failure = next(checks)
        if failure is not None:
            raise failure

    with scripted_server(serve_store(Send(response(0)), ReceiveUntilClosed())) as server:
        association = StoreAssociation(peer_at(server.port), [KIND])
        association.open()
        with pytest.raises(RuntimeError, match="stop"):
            association.store_all(map(outgoing, files), lambda sent, _: answered.append(sent.name), before=before)

    assert answered == [files[0].name]
    assert server.conversations[0].read[-1] == pdu.encode_abort(0, 0)


def test_message_ids_start_again_after_the_last_one() -> None:
    association = Association(peer_at(1))
    association._message_id = 0xFFFE

    assert [association.next_message_id() for _ in range(3)] == [0xFFFF, 1, 2]


def test_each_stored_syntax_is_proposed_alone_and_uncompressed_ones_beside_it() -> None:
    contexts = propose([(CT, builders.RLE), (CT, builders.JPEG_2000), (CT, builders.RLE), ("1.2.3", builders.RLE)])

    assert [(context.abstract_syntax, context.transfer_syntaxes) for context in contexts] == [
        ("1.2.3", (builders.RLE,)),
        ("1.2.3", FALLBACK),
        (CT, (builders.JPEG_2000,)),
        (CT, (builders.RLE,)),
        (CT, FALLBACK),
    ]
    assert [context.context_id for context in contexts] == [1, 3, 5, 7, 9]


@pytest.mark.parametrize("classes", [1, 64, 65, 200])
@pytest.mark.parametrize("syntaxes", [1, 3, 126, 127, 300])
def test_kinds_are_split_so_that_each_group_fits_and_none_is_lost(classes: int, syntaxes: int) -> None:
    kinds = {(f"1.2.{number}", f"1.3.{syntax}") for number in range(classes) for syntax in range(syntaxes)}

    groups = split_kinds(kinds)

    assert set().union(*groups) == kinds
    assert sum(map(len, groups)) == len(kinds)
    assert all(len(propose(group)) <= 128 for group in groups)


def test_no_kinds_need_no_association() -> None:
    assert split_kinds([]) == []


def test_too_many_kinds_for_one_association_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        propose((f"1.2.{number}", builders.RLE) for number in range(65))


def test_echo_that_is_not_accepted_or_not_successful_is_rejected() -> None:
    refused: list[Step] = [ReceivePdu(), accept(ContextAnswer(1, 3, "")), *RELEASED]
    failing: list[Step] = [
        ReceivePdu(),
        accept(ContextAnswer(1, 0, uids.IMPLICIT_VR_LITTLE_ENDIAN)),
        ReceivePdu(),
        Send(response(0x0122, command=Command.C_ECHO_RSP)),
        *RELEASED,
    ]
    with scripted_server(refused, failing) as server:
        with pytest.raises(RejectedError, match="does not accept SOP class"):
            echo(peer_at(server.port))
        with pytest.raises(RejectedError, match="0x0122"):
            echo(peer_at(server.port))


def test_echo_of_a_peer_that_dies_is_transient_and_needs_no_release() -> None:
    script: list[Step] = [
        ReceivePdu(),
        accept(ContextAnswer(1, 0, uids.IMPLICIT_VR_LITTLE_ENDIAN)),
        ReceivePdu(),
        Close(),
    ]
    with scripted_server(script) as server, pytest.raises(BrokenError):
        echo(peer_at(server.port))


@contextmanager
def commitment_requester(received: list[tuple[int | None, int]]) -> Iterator[int]:
    """A storage commitment SCU that waits for reports on new associations: pynetdicom, at a port."""

    def on_report(event: evt.Event) -> tuple[int, None]:
        received.append((event.event_type, len(event.event_information.ReferencedSOPSequence)))
        return 0x0000, None

    entity = AE(ae_title="REQUESTER")
    entity.add_supported_context(uids.STORAGE_COMMITMENT_PUSH_MODEL, scu_role=False, scp_role=True)
    with peers.pynetdicom_server(entity, [(evt.EVT_N_EVENT_REPORT, on_report)]) as port:
        yield port


def report_data_set() -> bytes:
    uid = b"1.2\0"
    item = struct.pack("<HHI", 8, 0x1150, 4) + uid + struct.pack("<HHI", 8, 0x1155, 4) + uid
    sequence = struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
    return struct.pack("<HHI", 8, 0x1195, 4) + uid + struct.pack("<HHI", 8, 0x1199, len(sequence)) + sequence


def test_a_storage_commitment_result_is_reported_in_the_role_of_the_scp() -> None:
    received: list[tuple[int | None, int]] = []
    with commitment_requester(received) as port:
        status = send_event_report(Peer("127.0.0.1", port, "REQUESTER"), 1, report_data_set())

    assert status == 0
    assert received == [(1, 1)]


def test_a_requester_that_refuses_the_role_gets_no_report() -> None:
    roles = {uids.STORAGE_COMMITMENT_PUSH_MODEL: Role(scu=True, scp=False)}
    script: list[Step] = [
        ReceivePdu(),
        accept(ContextAnswer(1, 0, uids.IMPLICIT_VR_LITTLE_ENDIAN), roles=roles),
        *RELEASED,
    ]
    with scripted_server(script) as server, pytest.raises(RejectedError, match="role refused"):
        send_event_report(peer_at(server.port), 1, report_data_set())


def test_a_requester_that_says_nothing_of_roles_gets_the_report() -> None:
    script: list[Step] = [
        ReceivePdu(),
        accept(ContextAnswer(1, 0, uids.IMPLICIT_VR_LITTLE_ENDIAN)),
        ReceivePdu(),
        ReceivePdu(),
        Send(response(0x0110, command=Command.N_EVENT_REPORT_RSP)),
        *RELEASED,
    ]
    with scripted_server(script) as server:
        assert send_event_report(peer_at(server.port), 2, report_data_set()) == 0x0110

    request = pdu.decode_associate_rq(server.conversations[0].read[0][6:])
    assert request.roles == {uids.STORAGE_COMMITMENT_PUSH_MODEL: Role(scu=False, scp=True)}
    command = dimse.decode(server.conversations[0].read[1][12:])
    assert command.number(dimse.EVENT_TYPE_ID) == 2
    assert server.conversations[0].read[2][12:] == report_data_set()
