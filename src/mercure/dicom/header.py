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
_EXPLICIT = {
    order: (struct.Struct(order + "HH2sH").unpack_from, struct.Struct(order + "I").unpack_from) for order in "<>"
}
_IMPLICIT = struct.Struct("<HHI").unpack_from
_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD
_MAXIMUM_DEPTH = 64
_FIRST_READ_BYTES = 16 << 10
_FIRST_INFLATED_BYTES = 64 << 10

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

_Found = dict[int, Element]


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


def read_placing_of(
    read: Callable[[int], bytes], available: int, transfer_syntax: str, head: bytes | memoryview = b""
) -> Placing:
    """Read what decides the place of an instance, taking more of its first bytes as they are needed.

    `read` gives so many bytes from the start of the data set, which has `available` bytes; `head` are those at hand.
    Raises `HeaderError`.
    """
    head = head or read(min(_FIRST_READ_BYTES, available))
    while True:
        try:
            return read_placing(head, transfer_syntax)
        except Incomplete as incomplete:
            if len(head) >= min(available, MAXIMUM_HEADER_BYTES):
                raise HeaderError("the data set ends before its SeriesInstanceUID") from None
            wanted = max(incomplete.needed, len(head) * 4)
            head = read(min(wanted, available, MAXIMUM_HEADER_BYTES))


def read_elements(
    data: bytes | memoryview, transfer_syntax: str, wanted: frozenset[int], last: int, *, whole: bool = False
) -> dict[int, Element]:
    """Return the wanted elements of the top level up to and with tag `last`.

    With `whole` the bytes are the whole data set, which may end before `last`. Raises `Incomplete` when the bytes end
    too early and `HeaderError` when they are no data set.
    """
    return _WALKERS.get(transfer_syntax, _walk_explicit_little)(data, wanted, last, whole)


def uid_text(value: bytes) -> str:
    """Return a UID value without padding."""
    return value.rstrip(b"\0 ").decode("latin-1")


def _walk_explicit_little(data: bytes | memoryview, wanted: frozenset[int], last: int, whole: bool) -> _Found:  # noqa: FBT001
    return _walk_explicit(data, wanted, last, whole, "<")


def _walk_explicit_big(data: bytes | memoryview, wanted: frozenset[int], last: int, whole: bool) -> _Found:  # noqa: FBT001
    return _walk_explicit(data, wanted, last, whole, ">")


def _walk_explicit(data: bytes | memoryview, wanted: frozenset[int], last: int, whole: bool, order: str) -> _Found:  # noqa: FBT001
    """Walk the top level. Written as one loop: it runs some fifty times for each instance that is received."""
    found: _Found = {}
    position, end = 0, len(data)
    unpack, unpack_length = _EXPLICIT[order]
    short_vrs, long_vrs = _SHORT_VRS, _LONG_VRS
    while position + 8 <= end:
        group, element, vr, length = unpack(data, position)
        tag = group << 16 | element
        if tag > last:
            return found
        if vr in short_vrs:
            value = position + 8
        elif vr in long_vrs or _has_long_form(vr, length):
            value = position + 12
            if value > end:
                raise Incomplete(value)
            (length,) = unpack_length(data, position + 8)
            if length == _UNDEFINED:
                position = skip_undefined_length(data, value, explicit=vr != b"UN", order=order)
                continue
        else:
            value = position + 8
        position = value + length
        if tag in wanted:
            if position > end:
                raise Incomplete(position)
            found[tag] = (vr, bytes(data[value:position]))
            if tag == last:
                return found
    if whole and position == end:
        return found
    raise Incomplete(max(position + 8, end + 1))


def _has_long_form(vr: bytes, length: int) -> bool:
    """Whether an element of unknown VR has a length of 32 bits, as all VRs to come will have (PS3.5 6.2).

    The 16 bits at the place of a short length are then reserved and zero. Some writers put `??` for what they do not
    know. Raises `HeaderError` for what cannot be a VR.
    """
    if not (vr.isalpha() and vr.isupper()) and vr != b"??":
        raise HeaderError("an element has no valid VR")
    return length == 0


def _walk_implicit(data: bytes | memoryview, wanted: frozenset[int], last: int, whole: bool) -> _Found:  # noqa: FBT001
    found: _Found = {}
    position, end = 0, len(data)
    unpack = _IMPLICIT
    while position + 8 <= end:
        group, element, length = unpack(data, position)
        tag = group << 16 | element
        if tag > last:
            return found
        value = position + 8
        if length == _UNDEFINED:
            position = skip_undefined_length(data, value, explicit=False, order="<")
            continue
        position = value + length
        if tag in wanted:
            if position > end:
                raise Incomplete(position)
            found[tag] = (b"", bytes(data[value:position]))
            if tag == last:
                return found
    if whole and position == end:
        return found
    raise Incomplete(max(position + 8, end + 1))


def _walk_deflated(data: bytes | memoryview, wanted: frozenset[int], last: int, whole: bool) -> _Found:  # noqa: FBT001
    """Inflate no more than is needed (PS3.5 A.5: raw deflate), so that a small message cannot grow without end."""
    del whole  # the deflated stream knows its own end
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(data, _FIRST_INFLATED_BYTES)
        while True:
            try:
                return _walk_explicit_little(plain, wanted, last, inflater.eof)
            except Incomplete:
                more = inflater.decompress(inflater.unconsumed_tail, len(plain) or _FIRST_INFLATED_BYTES)
                if not more:
                    raise Incomplete(len(data) + 1) from None
                if len(plain) >= MAXIMUM_HEADER_BYTES:
                    raise HeaderError("the header is too long") from None
                plain += more
    except zlib.error as error:
        raise HeaderError("deflated data set cannot be inflated") from error


_WALKERS = {
    uids.IMPLICIT_VR_LITTLE_ENDIAN: _walk_implicit,
    uids.EXPLICIT_VR_BIG_ENDIAN: _walk_explicit_big,
    uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN: _walk_deflated,
}


def skip_undefined_length(data: bytes | memoryview, position: int, *, explicit: bool, order: str) -> int:
    """Return the position after a value of undefined length (PS3.5 7.5): a sequence, or UN with implicit items.

    Iterative: `levels` holds, per open level, whether it is an item (its elements follow) or a sequence, and whether
    its elements have a VR. What is in a UN has none and is little endian, whatever surrounds it (PS3.5 6.2.2).
    """
    end = len(data)
    plain, swapped = struct.Struct("<HHI").unpack_from, struct.Struct(order + "HHI").unpack_from
    levels = [(False, explicit)]
    while levels:
        if position + 8 > end:
            raise Incomplete(position + 8)
        is_item, explicit = levels[-1]
        group, element, length = (swapped if explicit else plain)(data, position)
        tag = group << 16 | element
        if not is_item:
            position = _step_in_sequence(tag, length, position, levels)
        elif tag == _ITEM_END:
            levels.pop()
            position += 8
        elif explicit:
            position = _step_in_explicit_item(data, position, levels, order)
        elif length == _UNDEFINED:
            levels.append((False, False))
            position += 8
        else:
            position += 8 + length
        if len(levels) > _MAXIMUM_DEPTH:
            raise HeaderError("sequences are nested too deeply")
    return position


_Levels = list[tuple[bool, bool]]


def _step_in_sequence(tag: int, length: int, position: int, levels: _Levels) -> int:
    if tag == _SEQUENCE_END:
        levels.pop()
        return position + 8
    if tag != _ITEM:
        raise HeaderError("sequence of undefined length holds something that is no item")
    if length == _UNDEFINED:
        levels.append((True, levels[-1][1]))
        return position + 8
    return position + 8 + length


def _step_in_explicit_item(data: bytes | memoryview, position: int, levels: _Levels, order: str) -> int:
    """Step over one element of an item."""
    unpack, unpack_length = _EXPLICIT[order]
    length: int
    _group, _element, vr, length = unpack(data, position)
    value = position + 8
    if vr not in _SHORT_VRS and (vr in _LONG_VRS or _has_long_form(vr, length)):
        value = position + 12
        if value > len(data):
            raise Incomplete(value)
        (length,) = unpack_length(data, position + 8)
    if length == _UNDEFINED:
        levels.append((False, vr != b"UN"))
        return value
    return value + length
