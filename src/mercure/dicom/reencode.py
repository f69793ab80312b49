"""Rewrites a data set in another uncompressed transfer syntax, element by element, without understanding values.

What travels through is what came: texts are not decoded, numbers only change their byte order, private elements and
unknown VRs survive. Memory does not grow with the data set. Sequences get undefined lengths, because theirs would no
longer be right (PS3.5 7.5.2), and the retired group lengths are left out.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from mercure.core.errors import PermanentError
from mercure.dicom import uids

PIXEL_DATA = 0x7FE00010
UNDEFINED = 0xFFFFFFFF

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DEEPEST = 64
_CHUNK_BYTES = 1 << 20  # a multiple of each swap width

_LONG_VRS = frozenset("OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT_VRS = frozenset("AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_SWAPS = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), 2),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
_LEFT_OUT_WITH_ENCAPSULATION = frozenset({0x7FE00001, 0x7FE00002, 0x7FE00003})
"""Extended offset table, its lengths, and the total length: about fragments that are no longer there."""


class TranscodeError(PermanentError):
    """The instance cannot be brought into a transfer syntax that the peer accepts."""

    code = "transcode"


class MalformedError(TranscodeError):
    """The data set cannot be read as its transfer syntax says."""

    code = "malformed"


class Sink(Protocol):
    """Where the result is written."""

    def write(self, data: bytes, /) -> object:
        """Write all of it."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How elements are encoded (PS3.5 Annex A)."""

    explicit: bool
    big: bool

    @property
    def order(self) -> str:
        """Byte order for `struct`."""
        return ">" if self.big else "<"


ENCODINGS = {
    uids.IMPLICIT_VR_LITTLE_ENDIAN: Encoding(explicit=False, big=False),
    uids.EXPLICIT_VR_LITTLE_ENDIAN: Encoding(explicit=True, big=False),
    uids.EXPLICIT_VR_BIG_ENDIAN: Encoding(explicit=True, big=True),
}


@dataclass(frozen=True, slots=True)
class PixelPlan:
    """What to do with compressed pixel data: new values of elements that stand before it, and its new value.

    `values` has the little-endian values of elements of the main data set by tag, which replace those that are there.
    `write` writes the uncompressed value of `size` bytes, an even number.
    """

    values: dict[int, bytes]
    vr: str
    size: int
    write: Callable[[Sink], None]


@dataclass(frozen=True, slots=True)
class _Element:
    tag: int
    vr: str
    length: int


class Reencoder:
    """One pass over one data set."""

    def __init__(
        self,
        source: BinaryIO,
        end: int,
        sink: Sink,
        *,
        read: Encoding,
        write: Encoding,
        bits_allocated: int = 16,
        is_signed: bool = False,
        pixel_plan: PixelPlan | None = None,
    ) -> None:
        """Read from where `source` stands up to position `end`. Pixels `is_signed` or not decides VRs "US or SS"."""
        self._source = source
        self._position = source.tell()
        self._end = end
        self._sink = sink
        self._read = read
        self._write = write
        self._pixel_width = max(2, bits_allocated // 8)
        self._plan = pixel_plan
        self._signed = is_signed

    def run(self) -> None:
        """Rewrite everything. Raises `MalformedError` when the data set is not what it should be."""
        self._data_set(self._end, 0, self._read)

    def _data_set(self, end: int, depth: int, read: Encoding) -> None:
        """Rewrite elements up to `end`, or up to the delimiter of an item of undefined length."""
        if depth > _DEEPEST:
            raise MalformedError("sequences are nested too deeply")
        while self._position < end:
            element = self._header(read)
            if element.tag == _ITEM_END and depth:
                return
            self._element(element, depth, read)
        if self._position > end:
            raise MalformedError("an element is longer than its item")

    def _element(self, element: _Element, depth: int, read: Encoding) -> None:
        tag, length = element.tag, element.length
        if tag == PIXEL_DATA and length == UNDEFINED:
            self._compressed_pixels(depth)
        elif length == UNDEFINED or element.vr == "SQ":
            nested = ENCODINGS[uids.IMPLICIT_VR_LITTLE_ENDIAN] if element.vr == "UN" else read
            self._begin(tag, "SQ", UNDEFINED)
            self._items(self._position + length if length != UNDEFINED else self._end, length, depth, nested)
            self._delimiter(_SEQUENCE_END)
        elif self._position + length > self._end:
            raise MalformedError(f"element {_name(tag)} is cut off")
        elif tag & 0xFFFF == 0 or (self._plan is not None and not depth and tag in _LEFT_OUT_WITH_ENCAPSULATION):
            self._skip(length)
        elif self._plan is not None and not depth and tag in self._plan.values:
            self._skip(length)
            self._small(tag, element.vr, self._plan.values[tag])
        else:
            self._leaf(element, depth, swap=read.big != self._write.big)

    def _items(self, end: int, length: int, depth: int, read: Encoding) -> None:
        while self._position < end:
            item = self._item_header(read)
            if item.tag == _SEQUENCE_END and length == UNDEFINED:
                return
            if item.tag != _ITEM:
                raise MalformedError("a sequence holds something else than items")
            self._delimiter(_ITEM, UNDEFINED)
            item_end = self._end if item.length == UNDEFINED else self._position + item.length
            if item_end > self._end:
                raise MalformedError("an item is longer than the data set")
            self._data_set(item_end, depth + 1, read)
            self._delimiter(_ITEM_END)
        if self._position != end or length == UNDEFINED:
            raise MalformedError("a sequence is cut off")

    def _compressed_pixels(self, depth: int) -> None:
        if self._plan is None or depth:
            raise MalformedError("compressed pixel data stands where none can be decompressed")
        little = ENCODINGS[uids.IMPLICIT_VR_LITTLE_ENDIAN]
        while (item := self._item_header(little)).tag == _ITEM:
            self._skip(item.length)
        if item.tag != _SEQUENCE_END:
            raise MalformedError("compressed pixel data is cut off")
        self._begin(PIXEL_DATA, self._plan.vr, self._plan.size)
        self._plan.write(self._sink)

    def _leaf(self, element: _Element, depth: int, *, swap: bool) -> None:
        self._begin(element.tag, element.vr, element.length)
        width = _SWAPS.get(element.vr, 1) if swap else 1
        if element.tag == PIXEL_DATA and element.vr == "OW" and swap and not depth:
            width = self._pixel_width
        left = element.length
        while left:
            part = self._take(min(left, _CHUNK_BYTES))
            left -= len(part)
            self._sink.write(_swapped(part, width) if width > 1 else part)

    def _small(self, tag: int, vr: str, value: bytes) -> None:
        self._begin(tag, vr, len(value))
        self._sink.write(_swapped(value, _SWAPS[vr]) if self._write.big and vr in _SWAPS else value)

    def _begin(self, tag: int, vr: str, length: int) -> None:
        """Write the header of an element."""
        order = self._write.order
        if not self._write.explicit:
            self._sink.write(struct.pack(f"{order}HHI", tag >> 16, tag & 0xFFFF, length))
            return
        if vr in _SHORT_VRS and length > 0xFFFF:
            vr = "UN"  # PS3.5 6.2.2: the only way to write a value that long
        name = vr.encode("ascii")
        if vr in _SHORT_VRS:
            self._sink.write(struct.pack(f"{order}HH2sH", tag >> 16, tag & 0xFFFF, name, length))
        else:
            self._sink.write(struct.pack(f"{order}HH2sHI", tag >> 16, tag & 0xFFFF, name, 0, length))

    def _delimiter(self, tag: int, length: int = 0) -> None:
        self._sink.write(struct.pack(f"{self._write.order}HHI", tag >> 16, tag & 0xFFFF, length))

    def _header(self, read: Encoding) -> _Element:
        if not read.explicit:
            plain = self._item_header(read)
            return _Element(plain.tag, "" if plain.tag == _ITEM_END else self._vr_of(plain), plain.length)
        group, number, raw, short = struct.unpack(f"{read.order}HH2sH", self._take(8))
        tag = group << 16 | number
        if tag == _ITEM_END:
            return _Element(tag, "", 0)
        vr = raw.decode("latin-1")
        if vr in _SHORT_VRS:
            return _Element(tag, vr, short)
        if not (vr.isascii() and vr.isupper() and vr.isalpha()):
            raise MalformedError(f"element {_name(tag)} has no VR")
        (length,) = struct.unpack(f"{read.order}I", self._take(4))
        return _Element(tag, vr, length)

    def _item_header(self, read: Encoding) -> _Element:
        group, number, length = struct.unpack(f"{read.order}HHI", self._take(8))
        return _Element(group << 16 | number, "", length)

    def _vr_of(self, element: _Element) -> str:
        """Return the VR of an element that came without one (PS3.5 6.2.2 for what nobody knows)."""
        from pydicom.datadict import dictionary_VR  # noqa: PLC0415  # not loaded unless needed

        tag = element.tag
        if tag >> 16 & 1:
            return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"
        try:
            vr = str(dictionary_VR(tag))
        except KeyError:
            return "UN"
        if len(vr) == 2:
            return vr
        if "OW" in vr:
            return "OW"
        return "SS" if self._signed else "US"

    def _take(self, size: int) -> bytes:
        data = self._source.read(size)
        self._position += size
        if len(data) != size or self._position > self._end:
            raise MalformedError("the data set is cut off")
        return data

    def _skip(self, size: int) -> None:
        if self._position + size > self._end:
            raise MalformedError("the data set is cut off")
        self._source.seek(size, 1)
        self._position += size


def _swapped(data: bytes, width: int) -> bytes:
    """Reverse the bytes of each group of `width`; a rest that is no whole group stays as it is."""
    whole = len(data) // width * width
    out = bytearray(data)
    for index in range(width):
        out[index:whole:width] = data[width - 1 - index : whole : width]
    return bytes(out)


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
