"""Whether a data set is whole: its elements are stepped over, by their lengths, up to the last byte (PS3.5 section 7).

Who reads only the first elements of a file does not see that the rest is missing. Here every element is seen and no
value is read: a value of defined length is jumped over, one of undefined length is entered, with its items, up to its
delimiter. The bytes come from a stranger: whatever they are, the walk returns or raises `BrokenDataSetError`, needs a
fixed amount of memory, and makes no more steps than it is allowed.

What stands in a value of defined length is not looked at, nor is what the elements mean.
"""

import os
import struct
import zlib
from typing import NamedTuple, Protocol

from mercure.core.errors import PermanentError
from mercure.dicom import uids
from mercure.dicom.part10 import FileMeta

MAXIMUM_ELEMENTS = 1 << 24
"""Elements, items and delimiters of one data set that are stepped over: a slide of a million tiles has fewer."""

MAXIMUM_INFLATED_BYTES = 1 << 32
"""What a deflated data set may grow to."""

_DEEPEST = 64
"""Sequences within sequences."""

_HEADER_BYTES = 12
_WINDOW_BYTES = 4096
_INFLATED_BYTES = 64 << 10
_DEFLATED_BYTES = 16 << 10
_TRAILER_BYTES = 9
"""What may follow a deflated stream: a byte that makes it even. Old writers leave check sum and size of gzip there."""

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_FIRST_TAG, _DELIMITERS = 0x00080000, 0xFFFE0000
_PIXEL_DATA, _FLOAT_PIXEL_DATA = 0x7FE00010, 0x7FE00008

_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_FRAGMENTED_VRS = frozenset({b"OB", b"OW"})

_PLAIN = struct.Struct("<HHI").unpack_from


class BrokenDataSetError(PermanentError):
    """The data set ends too early, or holds something that is no element. The message has no value of it."""

    code = "broken_data_set"


class _Bytes(Protocol):
    """The bytes of a data set, looked at from the first to the last."""

    def head(self, position: int) -> bytes | None:
        """Return up to 12 bytes from a position, which never goes back; None when it is beyond the end."""


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
    source: _Bytes
    if syntax == uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        source, first = _Inflated(descriptor, meta.data_set_offset), 0
    else:
        source, first = _Stored(descriptor, meta.data_set_offset, meta.size), meta.data_set_offset
    order = ">" if syntax == uids.EXPLICIT_VR_BIG_ENDIAN else "<"
    _Walk(source, order, explicit=syntax != uids.IMPLICIT_VR_LITTLE_ENDIAN).run(first, most_elements)


class _Stored:
    """A part of a file, looked at through a small window."""

    def __init__(self, descriptor: int, start: int, end: int) -> None:
        self._descriptor = descriptor
        self._end = end
        self._start = start
        self._window = b""

    def head(self, position: int) -> bytes | None:
        at = position - self._start
        if at + _HEADER_BYTES > len(self._window):
            if position > self._end:
                return None
            self._window = os.pread(self._descriptor, min(_WINDOW_BYTES, self._end - position), position)
            self._start, at = position, 0
        return self._window[at : at + _HEADER_BYTES]


class _Inflated:
    """A deflated data set (PS3.5 A.5): inflated as far as it is looked at, and dropped again."""

    def __init__(self, descriptor: int, start: int) -> None:
        self._descriptor = descriptor
        self._next = start
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._window = b""
        self._start = 0

    def head(self, position: int) -> bytes | None:
        while position + _HEADER_BYTES > self._start + len(self._window):
            more = self._more()
            if not more:
                break
            if position + _HEADER_BYTES > MAXIMUM_INFLATED_BYTES:
                raise BrokenDataSetError("the deflated data set is too long")
            drop = min(len(self._window), position - self._start)
            self._start += drop
            self._window = self._window[drop:] + more
        at = position - self._start
        return None if at > len(self._window) else self._window[at : at + _HEADER_BYTES]

    def _more(self) -> bytes:
        """Inflate a little more; returns nothing at the end of the stream, which must be that of the file, too."""
        try:
            while not self._inflater.eof:
                data = self._inflater.unconsumed_tail or self._read()
                if more := self._inflater.decompress(data, _INFLATED_BYTES):  # without data, too: it may hold some back
                    return more
                if not (data or self._inflater.eof):
                    raise BrokenDataSetError("the deflated data set ends too early")
        except zlib.error:
            raise BrokenDataSetError("the data set cannot be inflated") from None
        unread = os.pread(self._descriptor, _TRAILER_BYTES + 1, self._next)
        if len(self._inflater.unused_data) + len(unread) > _TRAILER_BYTES:
            raise BrokenDataSetError("something else follows the deflated data set")
        return b""

    def _read(self) -> bytes:
        data = os.pread(self._descriptor, _DEFLATED_BYTES, self._next)
        self._next += len(data)
        return data


class _Walk:
    """One way through one data set."""

    def __init__(self, source: _Bytes, order: str, *, explicit: bool) -> None:
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
        head, opened = self._source.head, self._open
        for _ in range(most_elements):
            data = head(position)
            if data is None or len(data) < 8:
                self._end(data, position)
                return
            if not opened:
                position = self._element(data, position, explicit=self._explicit)
            elif opened[-1].is_item:
                position = self._element(data, position, explicit=opened[-1].explicit)
            else:
                position = self._in_sequence(data, position, opened[-1])
        raise BrokenDataSetError(f"the data set has more than {most_elements} elements")

    def _end(self, rest: bytes | None, position: int) -> None:
        if rest is None:
            raise _cut_off(*self._last)
        if self._open:
            raise _cut_off(self._open[-1].tag, self._open[-1].begin)
        if rest:
            raise BrokenDataSetError(f"the data set ends with {len(rest)} bytes that are no element, at {position}")

    def _element(self, data: bytes, position: int, *, explicit: bool) -> int:
        """Take the header of an element; return where the next one is: behind its value, or in it."""
        length: int
        vr, size = b"", 8
        if explicit:
            group, number, vr, length = self._short(data)
            tag = group << 16 | number
            if vr not in _SHORT_VRS and tag < _DELIMITERS and _has_long_form(vr, length, tag, position):
                size = _HEADER_BYTES
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
