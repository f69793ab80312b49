"""Whether a data set is whole: its elements are stepped over, by their lengths, up to the last byte (PS3.5 section 7).

Who reads only the first elements of a file does not see that the rest is missing. Here every element is seen and no
value is read: a value of defined length is jumped over, one of undefined length is entered, with its items, up to its
delimiter. The bytes come from a stranger: whatever they are, the walk returns or raises `BrokenDataSetError`, needs a
fixed amount of memory, and makes no more steps than it is allowed.

What stands in a value of defined length is not looked at, nor is what the elements mean. Zeros up to the end of a
block are taken: media and archives have left them behind many a file, and whoever copies it keeps them.
"""

import struct
from typing import NamedTuple

from mercure.dicom import uids
from mercure.dicom.data_set_bytes import HEADER_BYTES, BrokenDataSetError, DataSetBytes, InflatedBytes, StoredBytes
from mercure.dicom.part10 import FileMeta

MAXIMUM_ELEMENTS = 1 << 24
"""Elements, items and delimiters of one data set that are stepped over: a slide of a million tiles has fewer."""

_MOST_PADDING_BYTES = 4096
_LEAST_PADDING_BYTES = 2
"""A single zero may be the first byte of a tag that was cut off."""

_DEEPEST = 64
"""Sequences within sequences."""

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_FIRST_TAG, _DELIMITERS = 0x00080000, 0xFFFE0000
_PIXEL_DATA, _FLOAT_PIXEL_DATA = 0x7FE00010, 0x7FE00008

_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_FRAGMENTED_VRS = frozenset({b"OB", b"OW"})

_PLAIN = struct.Struct("<HHI").unpack_from


class _Open(NamedTuple):
    """A value of undefined length, or an item in it, that was entered and has not ended yet."""

    tag: int
    begin: int
    is_item: bool
    explicit: bool
    is_fragmented: bool


def check_whole(descriptor: int, meta: FileMeta, *, most_elements: int = MAXIMUM_ELEMENTS) -> None:
    """Return when the data set of an open file is whole, and nothing else stands behind it.

    Raises `BrokenDataSetError`, which tells in which element, and at which byte of the file (of the inflated data set,
    when it is deflated), and `OSError`.
    """
    syntax = meta.transfer_syntax_uid
    source: DataSetBytes
    if syntax == uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        source, first = InflatedBytes(descriptor, meta.data_set_offset), 0
    else:
        source, first = StoredBytes(descriptor, meta.data_set_offset, meta.size), meta.data_set_offset
    order = ">" if syntax == uids.EXPLICIT_VR_BIG_ENDIAN else "<"
    _Walk(source, order, explicit=syntax != uids.IMPLICIT_VR_LITTLE_ENDIAN).run(first, most_elements)


class _Walk:
    """One way through one data set."""

    def __init__(self, source: DataSetBytes, order: str, *, explicit: bool) -> None:
        self._source = source
        self._explicit = explicit
        self._short = struct.Struct(order + "HH2sH").unpack_from
        self._long = struct.Struct(order + "I").unpack_from
        self._item = struct.Struct(order + "HHI").unpack_from
        self._open: list[_Open] = []
        self._last = (0, 0)
        """Tag of the element whose header was read last, and where it begins."""
        self._after_pixels = 0
        """No element of the top level may come with a tag up to this one: the pixel data that was there."""

    def run(self, position: int, most_elements: int) -> None:
        look, opened = self._source.look, self._open
        left = most_elements
        while left >= 0:
            looked = look(position)
            if looked is None:
                raise _cut_off(*self._last)
            window, at = looked
            if not (opened or self._after_pixels):
                next_at, count = self._quick(window, at, position - at)
                if count:
                    position += next_at - at
                    left -= count
                    continue
            data = window[at : at + HEADER_BYTES]
            if len(data) < 8 or not any(data):
                self._end(position)
                return
            if not opened:
                position = self._element(data, position, explicit=self._explicit)
            elif opened[-1].is_item:
                position = self._element(data, position, explicit=opened[-1].explicit)
            else:
                position = self._in_sequence(data, position, opened[-1])
            left -= 1
        raise BrokenDataSetError(f"the data set has more than {most_elements} elements")

    def _quick(self, window: bytes, at: int, start: int) -> tuple[int, int]:
        """Step over the elements in a window that are nothing special: most of all. Written as one loop for its speed.

        Returns where the next element is, counted from the begin of the window, and how many were stepped over.
        """
        unpack, unpack_long, short_vrs, long_vrs = self._short, self._long, _SHORT_VRS, _LONG_VRS
        last, count = len(window) - HEADER_BYTES, 0
        group = number = begin = 0
        while at <= last:
            next_group, next_number, vr, length = unpack(window, at)
            if not 0x0008 <= next_group < 0x7FE0:
                break
            if not self._explicit:
                _, _, length = _PLAIN(window, at)
                size = 8
            elif vr in short_vrs:
                size = 8
            elif vr in long_vrs:
                (length,) = unpack_long(window, at + 8)
                size = HEADER_BYTES
            else:
                break
            if length == _UNDEFINED:
                break
            group, number, begin = next_group, next_number, at
            at += size + length
            count += 1
        if count:
            self._last = group << 16 | number, start + begin
        return at, count

    def _end(self, position: int) -> None:
        if self._open:
            raise _cut_off(self._open[-1].tag, self._open[-1].begin)
        rest = self._rest(position)
        if rest and (any(rest) or not _LEAST_PADDING_BYTES <= len(rest) <= _MOST_PADDING_BYTES):
            raise BrokenDataSetError(f"the data set ends with bytes that are no element, at {position}")

    def _rest(self, position: int) -> bytes:
        """Return what stands from a position on: all of it, or more than any padding."""
        rest = b""
        while len(rest) <= _MOST_PADDING_BYTES and (looked := self._source.look(position + len(rest))):
            window, at = looked
            if at == len(window):
                break
            rest += window[at:]
        return rest

    def _element(self, data: bytes, position: int, *, explicit: bool) -> int:
        """Take the header of an element; return where the next one is: behind its value, or in it."""
        length: int
        vr, size = b"", 8
        if explicit:
            group, number, vr, length = self._short(data)
            tag = group << 16 | number
            if vr not in _SHORT_VRS and tag < _DELIMITERS and _has_long_form(vr, length, tag, position):
                size = HEADER_BYTES
                if len(data) < size:
                    raise _cut_off(tag, position)
                (length,) = self._long(data, 8)
        else:
            group, number, length = _PLAIN(data)
            tag = group << 16 | number
        if tag == _ITEM_END and self._open:
            self._open.pop()
            return position + 8
        if not _FIRST_TAG <= tag < _DELIMITERS:
            raise BrokenDataSetError(f"{_name(tag)} cannot be the tag of an element, at {position}")
        if not self._open:
            self._heed_order(tag, position)
        self._last = tag, position
        if length != _UNDEFINED:
            return position + size + length
        fragmented = vr in _FRAGMENTED_VRS or tag == _PIXEL_DATA
        # What is in a UN has no VRs, and is little endian, whatever is around it (PS3.5 6.2.2).
        self._enter(_Open(tag, position, False, explicit and vr != b"UN", fragmented))
        return position + size

    def _heed_order(self, tag: int, position: int) -> None:
        """Nothing that stands before pixel data can follow it: what is left of another file, perhaps."""
        if tag <= self._after_pixels:
            raise BrokenDataSetError(f"element {_name(tag)} cannot stand behind the pixel data, at {position}")
        if _FLOAT_PIXEL_DATA <= tag <= _PIXEL_DATA:
            self._after_pixels = tag

    def _in_sequence(self, data: bytes, position: int, sequence: _Open) -> int:
        """Take the header of an item, or the delimiter of the sequence."""
        length: int
        group, number, length = (self._item if sequence.explicit else _PLAIN)(data)
        tag = group << 16 | number
        if tag == _SEQUENCE_END:
            self._open.pop()
        elif tag != _ITEM or (length == _UNDEFINED and sequence.is_fragmented):
            raise BrokenDataSetError(f"element {_name(sequence.tag)} holds something that is no item, at {position}")
        elif length == _UNDEFINED:
            self._enter(sequence._replace(begin=position, is_item=True))
        else:
            self._last = sequence.tag, sequence.begin
            return position + 8 + length
        return position + 8

    def _enter(self, entered: _Open) -> None:
        if len(self._open) >= 2 * _DEEPEST:  # each with its item
            raise BrokenDataSetError("sequences are nested too deeply")
        self._open.append(entered)


def _has_long_form(vr: bytes, length: int, tag: int, position: int) -> bool:
    """Whether an element has a length of 32 bits. An unknown VR has when the place of a short length is zero."""
    if vr in _LONG_VRS:
        return True
    if not (vr.isalpha() and vr.isupper()) and vr != b"??":
        raise BrokenDataSetError(f"element {_name(tag)} has no VR, at {position}")
    return length == 0


def _cut_off(tag: int, begin: int) -> BrokenDataSetError:
    return BrokenDataSetError(f"the data set ends inside of element {_name(tag)}, which begins at {begin}")


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
