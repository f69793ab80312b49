"""The stream of an association, cut into PDUs and PDVs."""

import pytest

from mercure.dicom import pdu
from mercure.dicom.framing import ControlPDU, Fragment, Framer
from mercure.dicom.pdu import ProtocolError


def fed(framer: Framer, data: bytes) -> list[ControlPDU | tuple[int, int, bytes, bool]]:
    return [plain(event) for event in framer.feed(memoryview(data))]


def plain(event: ControlPDU | Fragment) -> ControlPDU | tuple[int, int, bytes, bool]:
    return event if isinstance(event, ControlPDU) else (event[0], event[1], bytes(event[2]), event[3])


def pdv(data: bytes, context_id: int = 1, control: int = 0) -> bytes:
    return pdu.PDV_HEADER.pack(len(data) + 2, context_id, control) + data


def data_tf(*pdvs: bytes) -> bytes:
    body = b"".join(pdvs)
    return pdu.PDU_HEADER.pack(pdu.PDUType.DATA_TF, len(body)) + body


def test_pdus_and_pdvs_come_out_in_order() -> None:
    stream = data_tf(pdv(b"ab", 1, 3), pdv(b"cd", 1, 0)) + data_tf(pdv(b"ef", 1, 2)) + pdu.RELEASE_RQ

    assert fed(Framer(0), stream) == [
        (1, 3, b"ab", True),
        (1, 0, b"cd", True),
        (1, 2, b"ef", True),
        ControlPDU(5, bytes(4)),
    ]


def test_a_fragment_is_handed_out_before_its_pdu_is_complete() -> None:
    framer = Framer(0)
    stream = data_tf(pdv(b"abcdef"))

    assert fed(framer, stream[:14]) == [(1, 0, b"ab", False)]
    assert framer.in_message
    assert fed(framer, stream[14:]) == [(1, 0, b"cdef", True)]
    assert not framer.in_message


def test_fragments_are_views_of_the_buffer_and_no_copies() -> None:
    buffer = bytearray(data_tf(pdv(b"abcdef")))

    (event,) = Framer(0).feed(memoryview(buffer))

    assert not isinstance(event, ControlPDU)
    buffer[12] = ord("X")
    assert bytes(event[2]) == b"Xbcdef"


def test_headers_may_come_in_pieces() -> None:
    framer = Framer(0)
    stream = data_tf(pdv(b"ab")) + pdu.RELEASE_RQ
    events = []
    for index in range(len(stream)):
        events += fed(framer, stream[index : index + 1])

    assert events == [(1, 0, b"a", False), (1, 0, b"b", True), ControlPDU(5, bytes(4))]


def test_an_empty_pdv_is_an_event() -> None:
    assert fed(Framer(0), data_tf(pdv(b"", 1, 2))) == [(1, 2, b"", True)]


def test_a_long_control_pdu_is_allowed_as_the_first_one_only() -> None:
    framer = Framer(0)
    request = pdu.PDU_HEADER.pack(1, 100_000) + bytes(100_000)
    assert fed(framer, request) == [ControlPDU(1, bytes(100_000))]
    assert fed(framer, pdu.PDU_HEADER.pack(5, 65_536) + bytes(65_536)) == [ControlPDU(5, bytes(65_536))]
    with pytest.raises(ProtocolError, match="too long"):
        framer.feed(memoryview(pdu.PDU_HEADER.pack(5, 65_537)))


def test_a_control_pdu_that_drips_is_not_copied_again_with_each_drop() -> None:
    framer = Framer(0)
    fed(framer, pdu.PDU_HEADER.pack(1, 1 << 20))
    for _ in range((1 << 10) - 1):
        assert fed(framer, bytes(1 << 10)) == []
        assert framer._pending == b""  # what is copied together with the next bytes
    assert len(fed(framer, bytes(1 << 10))) == 1
    assert not framer.in_message


def test_a_control_pdu_without_a_body_is_an_event() -> None:
    assert fed(Framer(0), pdu.PDU_HEADER.pack(7, 0)) == [ControlPDU(7, b"")]


def test_an_incomplete_control_pdu_counts_as_inside_a_message() -> None:
    framer = Framer(0)

    assert fed(framer, pdu.RELEASE_RQ[:8]) == []
    assert framer.in_message


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"\x08\0\0\0\0\0", 1),
        (b"\x00\0\0\0\0\0", 1),
        (b"GET / HTTP/1.1\r\n", 1),
        (b"\x01\0\0\x20\0\0", 6),
        (b"\x04\0\0\0\0\5", 6),
        (b"\x04\0\0\1\0\0", 6),
        (data_tf(b"\0\0\0\1\1\3"), 6),
        (data_tf(b"\0\0\0\x20\1\3"), 6),
        (data_tf(pdv(b"ab"), b"\0\0\0"), 6),
    ],
    ids=[
        "pdu 8",
        "pdu 0",
        "http",
        "huge control pdu",
        "tiny p-data",
        "huge p-data",
        "pdv without header",
        "pdv longer than pdu",
        "rest that is no pdv",
    ],
)
def test_what_is_no_dicom_is_a_protocol_error(stream: bytes, reason: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        Framer(1024).feed(memoryview(stream))

    assert caught.value.reason == reason


def test_senders_that_count_the_header_too_are_tolerated() -> None:
    assert fed(Framer(1024), data_tf(pdv(bytes(1100)))) == [(1, 0, bytes(1100), True)]
