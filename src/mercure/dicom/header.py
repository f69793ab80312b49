"""Reading the first elements of a data set from its bytes (PS3.5 section 7), fast and without a dictionary.

The receiver needs six values of each instance, the router about fifty of one instance of each series. Both walk the
top level of the data set once, stepping over what they do not want, and stop before the pixel data. Nothing is
converted here: values are raw bytes. The walk takes bytes from a stranger: it raises `HeaderError` or `Incomplete`,
never anything else, and its work is bounded by the number of bytes.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from mercure.core.errors import PermanentError
from mercure.dicom import uids

SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
IMAGE_TYPE = 0x00080008
MODALITY = 0x00080060
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E

_PLACING = frozenset({IMAGE_TYPE, SOP_CLASS_UID, SOP_INSTANCE_UID, MODALITY, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID})

_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())

_UNDEFINED = 0xFFFFFFFF
_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD
_MAXIMUM_DEPTH = 64

MAXIMUM_HEADER_BYTES = 16 << 20
"""Elements up to group 0020 that need more than this are refused: no modality comes near it."""


class HeaderError(PermanentError):
    """The bytes are not a data set in the given transfer syntax."""

    code = "header"


class Incomplete(Exception):  # noqa: N818 -- not an error: the caller gives more bytes and asks again
    """The bytes end before the last wanted element. `needed` is the length that is known to be required."""

    def __init__(self, needed: int) -> None:
        """Keep the number of bytes, from the start of the data set, that the next try needs at least."""
        super().__init__(needed)
        self.needed = needed


Element = tuple[bytes, bytes]
"""VR (empty when implicit) and raw value."""


@dataclass(frozen=True, slots=True)
class Placing:
    """What decides where an instance is put, from its data set (not from the command)."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    signature: bytes
    """Modality, SOP class and image type as one value: instances of one kind have the same."""


def read_placing(data: bytes | memoryview, transfer_syntax: str) -> Placing:
    """Read what decides the place of an instance. Absent values are ""."""
    found = read_elements(data, transfer_syntax, _PLACING, SERIES_INSTANCE_UID)
    empty = (b"", b"")
    sop_class = found.get(SOP_CLASS_UID, empty)[1]
    return Placing(
        uid_text(found.get(STUDY_INSTANCE_UID, empty)[1]),
        uid_text(found.get(SERIES_INSTANCE_UID, empty)[1]),
        uid_text(found.get(SOP_INSTANCE_UID, empty)[1]),
        uid_text(sop_class),
        b"\\".join((found.get(MODALITY, empty)[1], sop_class, found.get(IMAGE_TYPE, empty)[1])),
    )


def read_elements(
    data: bytes | memoryview, transfer_syntax: str, wanted: frozenset[int], last: int
) -> dict[int, Element]:
    """Return the wanted elements of the top level up to and with tag `last`.

    Raises `Incomplete` when the bytes end before that and `HeaderError` when they are no data set.
    """
    return _WALKERS.get(transfer_syntax, _walk_explicit_little)(data, wanted, last)


def uid_text(value: bytes) -> str:
    """Return a UID value without padding."""
    return value.rstrip(b"\0 ").decode("latin-1")


def _walk_explicit_little(data: bytes | memoryview, wanted: frozenset[int], last: int) -> dict[int, Element]:
    return _walk_explicit(data, wanted, last, struct.Struct("<HH2sH").unpack_from, "<I")


def _walk_explicit_big(data: bytes | memoryview, wanted: frozenset[int], last: int) -> dict[int, Element]:
    return _walk_explicit(data, wanted, last, struct.Struct(">HH2sH").unpack_from, ">I")


def _walk_explicit(
    data: bytes | memoryview,
    wanted: frozenset[int],
    last: int,
    unpack: Callable[[bytes | memoryview, int], tuple[int, int, bytes, int]],
    length_format: str,
) -> dict[int, Element]:
    """Walk the top level. Written as one loop: it runs some fifty times for each instance that is received."""
    found: dict[int, Element] = {}
    position, end = 0, len(data)
    short_vrs, long_vrs = _SHORT_VRS, _LONG_VRS
    while position + 8 <= end:
        group, element, vr, length = unpack(data, position)
        tag = group << 16 | element
        if tag > last:
            return found
        if vr in short_vrs:
            value = position + 8
        elif vr in long_vrs:
            value = position + 12
            if value > end:
                raise Incomplete(value)
            (length,) = struct.unpack_from(length_format, data, position + 8)
            if length == _UNDEFINED:
                position = _skip_sequence(data, value, explicit=vr != b"UN", order=length_format[0])
                continue
        else:
            raise HeaderError(f"element ({group:04X},{element:04X}) has no valid VR")
        position = value + length
        if tag in wanted:
            if position > end:
                raise Incomplete(position)
            found[tag] = (vr, bytes(data[value:position]))
            if tag == last:
                return found
    raise Incomplete(max(position + 8, end + 1))


def _walk_implicit(data: bytes | memoryview, wanted: frozenset[int], last: int) -> dict[int, Element]:
    found: dict[int, Element] = {}
    position, end = 0, len(data)
    unpack = struct.Struct("<HHI").unpack_from
    while position + 8 <= end:
        group, element, length = unpack(data, position)
        tag = group << 16 | element
        if tag > last:
            return found
        value = position + 8
        if length == _UNDEFINED:
            position = _skip_sequence(data, value, explicit=False, order="<")
            continue
        position = value + length
        if tag in wanted:
            if position > end:
                raise Incomplete(position)
            found[tag] = (b"", bytes(data[value:position]))
            if tag == last:
                return found
    raise Incomplete(max(position + 8, end + 1))


def _walk_deflated(data: bytes | memoryview, wanted: frozenset[int], last: int) -> dict[int, Element]:
    """Inflate no more than is needed (PS3.5 A.5: raw deflate), so that a small message cannot grow without end."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    size = 1 << 16
    try:
        plain = inflater.decompress(bytes(data), size)
        while True:
            try:
                return _walk_explicit_little(plain, wanted, last)
            except Incomplete:
                if not inflater.unconsumed_tail or len(plain) >= MAXIMUM_HEADER_BYTES:
                    raise Incomplete(len(data) + 1) from None
                plain += inflater.decompress(inflater.unconsumed_tail, len(plain))
    except zlib.error as error:
        raise HeaderError("deflated data set cannot be inflated") from error


_WALKERS = {
    uids.IMPLICIT_VR_LITTLE_ENDIAN: _walk_implicit,
    uids.EXPLICIT_VR_BIG_ENDIAN: _walk_explicit_big,
    uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN: _walk_deflated,
}


def _skip_sequence(data: bytes | memoryview, position: int, *, explicit: bool, order: str) -> int:
    """Return the position after a value of undefined length (PS3.5 7.5): a sequence, or UN with implicit items.

    Iterative: `open_items` holds, per open level, whether it is an item (its elements follow) or a sequence.
    """
    end = len(data)
    tag_of = struct.Struct(order + "HHI").unpack_from
    levels = [False]
    while levels:
        if position + 8 > end:
            raise Incomplete(position + 8)
        group, element, length = tag_of(data, position)
        tag = group << 16 | element
        if not levels[-1]:
            position = _step_in_sequence(tag, length, position, levels)
        elif tag == _ITEM_END:
            levels.pop()
            position += 8
        else:
            position = _step_in_item(data, position, levels, explicit=explicit, order=order, length=length)
        if len(levels) > _MAXIMUM_DEPTH:
            raise HeaderError("sequences are nested too deeply")
    return position


def _step_in_sequence(tag: int, length: int, position: int, levels: list[bool]) -> int:
    if tag == _SEQUENCE_END:
        levels.pop()
        return position + 8
    if tag != _ITEM:
        raise HeaderError("sequence of undefined length holds something that is no item")
    if length == _UNDEFINED:
        levels.append(True)
        return position + 8
    return position + 8 + length


def _step_in_item(
    data: bytes | memoryview, position: int, levels: list[bool], *, explicit: bool, order: str, length: int
) -> int:
    """Step over one element of an item; `length` is its implicit length field."""
    header = 8
    if explicit:
        vr = bytes(data[position + 4 : position + 6])
        if vr in _SHORT_VRS:
            (length,) = struct.unpack_from(order + "H", data, position + 6)
        elif vr in _LONG_VRS:
            header = 12
            if position + header > len(data):
                raise Incomplete(position + header)
            (length,) = struct.unpack_from(order + "I", data, position + 8)
        else:
            raise HeaderError("element in a sequence has no valid VR")
    if length == _UNDEFINED:
        levels.append(False)
        return position + header
    return position + header + length
