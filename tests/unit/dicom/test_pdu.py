"""PDUs: what is written can be read, by us and by pynetdicom; what is no PDU is a ProtocolError."""

import struct

import pytest
from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ

from mercure.dicom import pdu, uids
from mercure.dicom.pdu import (
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    ContextAnswer,
    PDUType,
    ProposedContext,
    ProtocolError,
    Role,
)

REQUEST = AssociateRQ(
    "CALLED",
    "CALLING",
    (
        ProposedContext(1, "1.2.3", ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")),
        ProposedContext(255, "1.2.4", ("1.5",)),
    ),
    maximum_length=16_382,
    roles={"1.2.3": Role(scu=False, scp=True)},
)
ACCEPT = AssociateAC(
    "CALLED",
    "CALLING",
    (ContextAnswer(1, 0, "1.2.840.10008.1.2"), ContextAnswer(255, 4, "")),
    maximum_length=0,
    roles={"1.2.3": Role(scu=True, scp=False)},
)


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def request_with(*items: bytes) -> bytes:
    """The body of a request with these items after the fixed part."""
    return b"\0\1\0\0" + b"A".ljust(16) + b"B".ljust(16) + bytes(32) + b"".join(items)


CONTEXT = item(0x20, b"\1\0\0\0" + item(0x30, b"1.2") + item(0x40, b"1.3"))


def test_an_association_request_is_read_as_it_was_written() -> None:
    data = REQUEST.encode()

    assert data[0] == PDUType.ASSOCIATE_RQ
    assert pdu.decode_associate_rq(data[6:]) == REQUEST


def test_an_association_acceptance_is_read_as_it_was_written() -> None:
    data = ACCEPT.encode()

    assert data[0] == PDUType.ASSOCIATE_AC
    assert pdu.decode_associate_ac(data[6:]) == ACCEPT


def test_pynetdicom_reads_our_request() -> None:
    theirs = A_ASSOCIATE_RQ()
    theirs.decode(REQUEST.encode())

    user = theirs.user_information
    contexts = theirs.to_primitive().presentation_context_definition_list
    assert theirs.called_ae_title == "CALLED"
    assert [(each.context_id, str(each.abstract_syntax)) for each in contexts] == [(1, "1.2.3"), (255, "1.2.4")]
    assert user is not None
    assert user.maximum_length == 16_382
    assert str(user.implementation_class_uid) == uids.IMPLEMENTATION_CLASS
    assert user.role_selection[UID("1.2.3")].scp_role


def test_pynetdicom_reads_our_acceptance() -> None:
    theirs = A_ASSOCIATE_AC()
    theirs.decode(ACCEPT.encode())

    results = [(each.context_id, each.result) for each in theirs.presentation_context]
    assert results == [(1, 0), (255, 4)]


def test_ae_titles_are_cut_to_sixteen_characters_and_lose_their_padding() -> None:
    data = AssociateRQ("X" * 20, " PADDED ", REQUEST.contexts).encode()

    read = pdu.decode_associate_rq(data[6:])

    assert (read.called_ae_title, read.calling_ae_title) == ("X" * 16, "PADDED")


def test_a_byte_outside_the_default_repertoire_in_an_ae_title_stays_visible() -> None:
    body = bytearray(REQUEST.encode()[6:])
    body[4] = 0xE4

    assert pdu.decode_associate_rq(bytes(body)).called_ae_title == "äALLED"


def test_padded_uids_unknown_items_and_odd_order_are_tolerated() -> None:
    user = item(
        0x50, item(0x99, b"what is this") + item(0x51, b"\0\0\x40\0") + item(0x52, b"1.9\0") + item(0x51, b"\1")
    )
    context = item(0x20, b"\1\0\0\0" + item(0x40, b"1.3\0") + item(0x77, b"?") + item(0x30, b"1.2 "))

    read = pdu.decode_associate_rq(request_with(user, item(0x99, b""), context, item(0x10, b"1.4")))

    assert read.contexts == (ProposedContext(1, "1.2", ("1.3",)),)
    assert (read.maximum_length, read.implementation_class_uid, read.application_context) == (0x4000, "1.9", "1.4")


def test_unknown_items_of_an_acceptance_are_tolerated() -> None:
    answer = item(0x21, b"\1\0\0\0" + item(0x99, b"?") + item(0x40, b"1.3"))

    read = pdu.decode_associate_ac(request_with(item(0x99, b""), answer))

    assert read.contexts == (ContextAnswer(1, 0, "1.3"),)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(67),
        request_with(),
        request_with(CONTEXT, CONTEXT),
        request_with(item(0x20, b"\2\0\0\0" + item(0x30, b"1.2"))),
        request_with(item(0x20, b"\1\0\0")),
        request_with(CONTEXT, b"\x50\0"),
        request_with(CONTEXT, b"\x50\0\0\x09abc"),
        request_with(CONTEXT, item(0x50, item(0x54, b"\0\x09abc"))),
        request_with(CONTEXT, item(0x50, item(0x54, b""))),
        request_with(*[item(0x20, bytes((number, 0, 0, 0))) for number in range(1, 256)]),
    ],
    ids=[
        "empty",
        "short",
        "no context",
        "same id twice",
        "even id",
        "short context",
        "cut item",
        "long item",
        "short role",
        "empty role",
        "too many contexts",
    ],
)
def test_what_is_no_association_request_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        pdu.decode_associate_rq(body)

    assert caught.value.reason == pdu.INVALID_PARAMETER


@pytest.mark.parametrize("body", [b"", bytes(67), request_with(item(0x21, b"\1\0")), request_with(b"\x21")])
def test_what_is_no_association_acceptance_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        pdu.decode_associate_ac(body)


@pytest.mark.parametrize(
    ("rejection", "transient"), [(pdu.REJECT_CONGESTION, True), (pdu.REJECT_CALLED_AE_TITLE, False)]
)
def test_a_rejection_is_read_as_it_was_written(rejection: AssociateRJ, *, transient: bool) -> None:
    data = rejection.encode()

    assert len(data) == 10
    assert pdu.decode_associate_rj(data[6:]) == rejection
    assert rejection.is_transient is transient


def test_a_short_rejection_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError):
        pdu.decode_associate_rj(b"\0\1\1")


def test_an_abort_is_read_as_it_was_written_and_a_short_one_says_nothing() -> None:
    assert pdu.decode_abort(pdu.encode_abort(2, 6)[6:]) == (2, 6)
    assert pdu.decode_abort(b"\0") == (0, 0)
