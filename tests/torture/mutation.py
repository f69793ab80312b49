"""Damaged bytes: what mutates, and the whole originals. The same seed gives the same cases."""

import struct
import zlib
from collections.abc import Callable
from functools import cache
from random import Random

from tests import builders
from tests.builders import CT_STORAGE, DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, RLE

from mercure.dicom import dimse, pdu, uids
from mercure.dicom.pdu import AssociateAC, AssociateRQ, ContextAnswer, ProposedContext, Role

SYNTAXES = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED)
STRANGE_UIDS = ("../../x", "../../../../../../../../tmp/x", "/x", "..", ".", "1..2", "1.2/3", "1.2\\x", "1.2\0.3", "é")

_LENGTHS = (0, 1, 2, 3, 7, 8, 0x7F, 0xFF, 0x7FFF, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFE, 0xFFFFFFFF)
_BYTES = (0, 1, 0x20, 0x2F, 0x2E, 0x5C, 0x7F, 0x80, 0xFE, 0xFF)
_TAGS = (0x00020010, 0x00080005, 0x00080018, 0x0020000D, 0x0020000E, 0x00081199, 0x7FE00010, 0xFFFEE000, 0xFFFEE00D)
_OPENING = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
    "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
)


def mutate(data: bytes, chance: Random, other: bytes = b"") -> bytes:
    """Change, cut, repeat, insert or exchange some bytes, once or a few times."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        chance.choice(_WAYS)(changed, chance, other)
    return bytes(changed)


def _set(data: bytearray, chance: Random, _other: bytes) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.choice((*_BYTES, chance.randrange(256)))


def _flip(data: bytearray, chance: Random, _other: bytes) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _set_length(data: bytearray, chance: Random, _other: bytes) -> None:
    form = chance.choice(("<I", ">I", "<H", ">H"))
    size = struct.calcsize(form)
    if len(data) >= size:
        value = chance.choice((*_LENGTHS, len(data), len(data) - 1, len(data) + 1)) & ((1 << 8 * size) - 1)
        struct.pack_into(form, data, chance.randrange(len(data) - size + 1), value)


def _set_tag(data: bytearray, chance: Random, _other: bytes) -> None:
    if len(data) >= 4:
        tag = chance.choice(_TAGS)
        form = chance.choice(("<HH", ">HH"))
        struct.pack_into(form, data, chance.randrange(len(data) - 3) & ~1, tag >> 16, tag & 0xFFFF)


def _cut(data: bytearray, chance: Random, _other: bytes) -> None:
    start = chance.randrange(len(data) + 1)
    del data[start : start + chance.choice((1, 2, 4, 8, 100, len(data)))]


def _repeat(data: bytearray, chance: Random, _other: bytes) -> None:
    start = chance.randrange(len(data) + 1)
    piece = data[start : start + chance.choice((1, 2, 8, 40, 300))]
    data[start:start] = piece * chance.choice((1, 2, 50))


def _insert(data: bytearray, chance: Random, _other: bytes) -> None:
    start = chance.randrange(len(data) + 1)
    data[start:start] = chance.randbytes(chance.choice((1, 2, 4, 8, 64)))


def _nest(data: bytearray, chance: Random, _other: bytes) -> None:
    start = chance.randrange(len(data) + 1)
    data[start:start] = _OPENING * chance.choice((1, 10, 3000))


def _splice(data: bytearray, chance: Random, other: bytes) -> None:
    data[chance.randrange(len(data) + 1) :] = other[chance.randrange(len(other) + 1) :]


def _rename(data: bytearray, chance: Random, _other: bytes) -> None:
    """Put a strange UID where one was."""
    places = [place for place in (data.find(b"2.25."), data.rfind(b"2.25.")) if place >= 0]
    if places:
        place, strange = chance.choice(places), chance.choice(STRANGE_UIDS).encode("latin-1")
        data[place : place + len(strange)] = strange


_WAYS: tuple[Callable[[bytearray, Random, bytes], None], ...] = (
    _set,
    _set,
    _flip,
    _flip,
    _set_length,
    _set_length,
    _set_tag,
    _cut,
    _cut,
    _repeat,
    _insert,
    _nest,
    _splice,
    _rename,
)


# -- originals ---------------------------------------------------------------------------------------------------------


@cache
def requests() -> tuple[bytes, ...]:
    """Bodies of association requests."""
    contexts = tuple(
        ProposedContext(2 * number + 1, sop_class, (EXPLICIT_LITTLE, IMPLICIT_LITTLE, RLE))
        for number, sop_class in enumerate((CT_STORAGE, uids.VERIFICATION, uids.STORAGE_COMMITMENT_PUSH_MODEL))
    )
    small = AssociateRQ("MERCURE", "SENDER", contexts[:1], 16384)
    large = AssociateRQ("MERCURE", "SENDER", contexts, 0, roles={CT_STORAGE: Role(scu=True, scp=True)})
    return small.encode()[6:], large.encode()[6:]


@cache
def acceptances() -> tuple[bytes, ...]:
    """Bodies of association acceptances."""
    answers = tuple(ContextAnswer(2 * number + 1, number % 5, IMPLICIT_LITTLE) for number in range(5))
    return (
        AssociateAC("MERCURE", "SENDER", answers, 16384, roles={CT_STORAGE: Role(scu=True, scp=False)}).encode()[6:],
    )


@cache
def commands() -> tuple[bytes, ...]:
    """Command sets."""
    action: dict[int, int | str | bytes] = {
        dimse.REQUESTED_SOP_CLASS_UID: uids.STORAGE_COMMITMENT_PUSH_MODEL,
        dimse.COMMAND_FIELD: int(dimse.Command.N_ACTION_RQ),
        dimse.MESSAGE_ID: 3,
        dimse.DATA_SET_TYPE: 1,
        dimse.REQUESTED_SOP_INSTANCE_UID: uids.STORAGE_COMMITMENT_INSTANCE,
        dimse.ACTION_TYPE_ID: 1,
    }
    store = dimse.store_request(1, CT_STORAGE, builders.new_uid())
    return store, dimse.echo_request(2), dimse.encode(action), dimse.response_to(dimse.decode(store), 0xA700)


@cache
def data_sets(syntax: str) -> tuple[bytes, ...]:
    """Data sets in one transfer syntax."""
    small = {"rows": 8, "columns": 8}
    plain = builders.dicom_bytes(transfer_syntax=syntax, part10=False, **small)  # type: ignore[arg-type]
    undefined = builders.dicom_bytes(transfer_syntax=syntax, part10=False, undefined_lengths=True, **small)  # type: ignore[arg-type]
    return plain, undefined


@cache
def bombs() -> tuple[bytes, bytes]:
    """Deflated data sets of 64 MB: one large private element before the UIDs, and nothing but tiny elements."""
    large = struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, 64 << 20) + bytes(64 << 20)
    tiny = struct.pack("<HH2sH", 0x0009, 0x1010, b"LO", 0) * (8 << 20)
    return deflated(large), deflated(tiny)


def deflated(data: bytes) -> bytes:
    """Deflate as PS3.5 A.5 says."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


@cache
def files(syntax: str) -> tuple[bytes, ...]:
    """Part 10 files."""
    return (builders.dicom_bytes(transfer_syntax=syntax, rows=8, columns=8, undefined_lengths=True),)


@cache
def commitments(syntax: str) -> tuple[bytes, ...]:
    """Requests for storage commitment."""
    order = ">" if syntax == EXPLICIT_BIG else "<"

    def element(tag: int, vr: bytes, value: bytes, *, undefined: bool = False) -> bytes:
        length = 0xFFFFFFFF if undefined else len(value)
        head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
        if syntax == IMPLICIT_LITTLE or tag >> 16 == 0xFFFE:
            return head + struct.pack(order + "I", length) + value
        form = vr + (b"\0\0" + struct.pack(order + "I", length) if vr == b"SQ" else struct.pack(order + "H", length))
        return head + form + value

    reference = element(0x00081150, b"UI", CT_STORAGE.encode() + b"\0") + element(
        0x00081155, b"UI", builders.new_uid().encode()
    )
    closed = element(0xFFFEE000, b"", reference * 1) * 3
    opened = element(0xFFFEE000, b"", reference + element(0xFFFEE00D, b"", b""), undefined=True)
    transaction = element(0x00081195, b"UI", builders.new_uid().encode())
    return (
        transaction + element(0x00081199, b"SQ", closed),
        transaction + element(0x00081199, b"SQ", opened + element(0xFFFEE0DD, b"", b""), undefined=True),
    )


def pdus() -> tuple[bytes, ...]:
    """Streams of PDUs."""
    command = commands()[0]
    data = b"".join(
        struct.pack(">BxIIBB", 4, len(part) + 6, len(part) + 2, 1, control) + part
        for part, control in ((command, 3), (bytes(2000), 0), (b"", 0), (bytes(99), 2))
    )
    return (
        pdu.PDU_HEADER.pack(1, len(requests()[1])) + requests()[1] + data + pdu.RELEASE_RQ,
        data * 3 + pdu.encode_abort(0, 0),
    )
