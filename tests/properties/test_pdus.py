"""Whatever comes in, the codec of the wire gives values or a ProtocolError; what goes out can be read."""

import contextlib
import string
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from mercure.dicom import dimse, pdu
from mercure.dicom.framing import ControlPDU, Framer
from mercure.dicom.pdu import AssociateAC, AssociateRJ, AssociateRQ, ContextAnswer, ProposedContext, ProtocolError, Role
from mercure.dicom.send_buffer import encode_pdata

uid = st.text("0123456789.", min_size=1, max_size=64)
ae_title = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=16)
roles = st.dictionaries(uid, st.builds(Role, scu=st.booleans(), scp=st.booleans()), max_size=3)
context_ids = st.lists(st.integers(0, 127), min_size=1, max_size=20, unique=True)
length = st.integers(0, 2**32 - 1)


@st.composite
def requests(draw: st.DrawFn) -> AssociateRQ:
    syntaxes = st.lists(uid, max_size=4).map(tuple)
    contexts = tuple(ProposedContext(2 * each + 1, draw(uid), draw(syntaxes)) for each in draw(context_ids))
    return AssociateRQ(draw(ae_title), draw(ae_title), contexts, draw(length), draw(uid), draw(ae_title), draw(uid),
                       roles=draw(roles))  # fmt: skip


@st.composite
def acceptances(draw: st.DrawFn) -> AssociateAC:
    contexts = tuple(ContextAnswer(2 * each + 1, draw(st.integers(0, 255)), draw(uid)) for each in draw(context_ids))
    return AssociateAC(draw(ae_title), draw(ae_title), contexts, draw(length), draw(uid), draw(ae_title),
                       roles=draw(roles))  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, originals: st.SearchStrategy[bytes]) -> bytes:
    """Bytes in which some were changed, cut out, or put in."""
    data = bytearray(draw(originals))
    for _ in range(draw(st.integers(1, 6))):
        position = draw(st.integers(0, len(data)))
        action = draw(st.sampled_from(["change", "cut", "insert"]))
        if action == "cut":
            del data[position : position + draw(st.integers(1, 20))]
        elif action == "insert":
            data[position:position] = draw(st.binary(min_size=1, max_size=10))
        elif position < len(data):
            data[position] = draw(st.integers(0, 255))
    return bytes(data)


command_elements = st.dictionaries(
    st.integers(1, 0xFFFF),
    st.integers(0, 0xFFFF) | uid.map(lambda each: each + "1") | st.binary(max_size=40),
    max_size=12,
)
fragments = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 3), st.binary(max_size=300)), min_size=1, max_size=5)


@given(requests())
def test_requests_are_read_as_they_were_written(request: AssociateRQ) -> None:
    assert pdu.decode_associate_rq(request.encode()[6:]) == request


@given(acceptances())
def test_acceptances_are_read_as_they_were_written(accept: AssociateAC) -> None:
    assert pdu.decode_associate_ac(accept.encode()[6:]) == accept


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_rejections_are_read_as_they_were_written(result: int, source: int, reason: int) -> None:
    rejection = AssociateRJ(result, source, reason)

    assert pdu.decode_associate_rj(rejection.encode()[6:]) == rejection


@given(command_elements)
def test_command_sets_are_read_as_they_were_written(elements: dict[int, int | str | bytes]) -> None:
    read = dimse.decode(dimse.encode(elements))

    for element, value in elements.items():
        if isinstance(value, int):
            assert read.number(element) == value
        elif isinstance(value, str):
            assert read.uid(element) == value
        else:
            assert read.elements[element] == value
    assert set(read.elements) == {0, *elements}


def only_protocol_errors(decode: Callable[[bytes], object], data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode(data)


@settings(max_examples=400)
@given(mutated(requests().map(lambda each: each.encode()[6:])) | st.binary(max_size=300))
def test_damaged_requests_raise_nothing_but_protocol_errors(data: bytes) -> None:
    only_protocol_errors(pdu.decode_associate_rq, data)


@settings(max_examples=400)
@given(mutated(acceptances().map(lambda each: each.encode()[6:])) | st.binary(max_size=300))
def test_damaged_acceptances_raise_nothing_but_protocol_errors(data: bytes) -> None:
    only_protocol_errors(pdu.decode_associate_ac, data)


@settings(max_examples=400)
@given(mutated(command_elements.map(dimse.encode)) | st.binary(max_size=300))
def test_damaged_command_sets_raise_nothing_but_protocol_errors(data: bytes) -> None:
    only_protocol_errors(dimse.decode, data)


@given(st.binary(max_size=20))
def test_short_rejections_and_aborts_raise_nothing_but_protocol_errors(data: bytes) -> None:
    only_protocol_errors(pdu.decode_associate_rj, data)
    only_protocol_errors(pdu.decode_abort, data)


def stream_of(parts: list[tuple[int, int, bytes]]) -> bytes:
    return b"".join(
        pdu.PDU_HEADER.pack(4, len(data) + 6) + pdu.PDV_HEADER.pack(len(data) + 2, context_id, control) + data
        for context_id, control, data in parts
    )


def gathered(framer: Framer, pieces: list[bytes]) -> list[object]:
    """All events, with the pieces of each PDV put together."""
    out: list[object] = []
    data = b""
    for piece in pieces:
        for event in framer.feed(memoryview(piece)):
            if isinstance(event, ControlPDU):
                out.append(event)
                continue
            context_id, control, view, ends = event
            data += view
            if ends:
                out.append((context_id, control, data))
                data = b""
    return out


@given(fragments, st.lists(st.integers(1, 400), max_size=60))
def test_any_cut_of_a_stream_gives_the_same_fragments(parts: list[tuple[int, int, bytes]], sizes: list[int]) -> None:
    stream = stream_of(parts) + pdu.RELEASE_RQ + stream_of(parts)
    pieces, position = [], 0
    for size in sizes:
        pieces.append(stream[position : position + size])
        position += size
    pieces.append(stream[position:])
    framer = Framer(4096)

    assert gathered(framer, pieces) == [*parts, ControlPDU(5, bytes(4)), *parts]
    assert not framer.in_message


@settings(max_examples=400)
@given(mutated(fragments.map(stream_of)) | st.binary(max_size=300), st.integers(1, 50))
def test_damaged_streams_raise_nothing_but_protocol_errors_and_hold_little(data: bytes, size: int) -> None:
    framer = Framer(4096)
    try:
        for start in range(0, len(data), size):
            framer.feed(memoryview(data[start : start + size]))
    except ProtocolError:
        return
    assert len(framer._pending) <= len(data)


@given(st.binary(max_size=2000), st.integers(0, 255), st.integers(0, 1), st.integers(128, 600))
def test_what_is_cut_into_pdus_comes_together_again(data: bytes, context_id: int, kind: int, limit: int) -> None:
    pdus = encode_pdata(data, context_id, kind, limit)
    events = Framer(limit).feed(memoryview(pdus))

    assert b"".join(event[2] for event in events if not isinstance(event, ControlPDU)) == data
    assert [event[1] & 2 for event in events if not isinstance(event, ControlPDU)][-1] == 2
    assert all(event[0] == context_id and len(event[2]) <= limit - 6 for event in events
               if not isinstance(event, ControlPDU))  # fmt: skip
