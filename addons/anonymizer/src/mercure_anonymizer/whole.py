"""Whether a file is whole: its last byte ends an element, and what is an image has pixels.

A reader takes a file that was cut off for a shorter one. So the lengths of all elements, sequences and items are
followed (PS3.5 7.1, 7.5): each must end inside of what holds it, and undefined lengths must have their delimiter.
Zeros up to the end of a block are taken: media and archives have left them behind many a file. No output has them.
"""

import os
import zlib
from dataclasses import dataclass
from io import BytesIO
from struct import Struct
from typing import BinaryIO

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from mercure_anonymizer.errors import InstanceError

_FIRST_ELEMENT = 132
"""Behind the preamble and the prefix (PS3.10 7.1)."""
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DELIMITERS = 0xFFFE
_LONG_VRS = frozenset(vr.encode("ascii") for vr in EXPLICIT_VR_LENGTH_32)
_SEQUENCE, _UNKNOWN = b"SQ", b"UN"
_MOST_PADDING, _LEAST_PADDING = 4096, 2
"""Bytes. A single zero may be the first byte of a tag that was cut off."""
_DEEPEST = 40
"""Deeper than what is de-identified: that says so with the name of the instance."""

_PIXELS = (0x7FE00010, 0x7FE00008, 0x7FE00009)
_SPECTRA = 0x56000020
_ROWS, _COLUMNS = 0x00280010, 0x00280011
_IMAGE = "Image Storage"
_OTHER_IMAGES = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("6.2", "30", "66.4", "77.1.5.8", "77.1.9", "81.1", "82.1")
)
"""Volumes, maps and segmentations: images whose classes are not called so."""


def check_pixels(dataset: Dataset) -> None:
    """Raise `InstanceError` for an image without pixels: by its size, or by its SOP class (PS3.4 B.5).

    Spectra have rows and columns too, and are no images.
    """
    if any(dataset[tag].value for tag in _PIXELS if tag in dataset):
        return
    sop_class = UID(str(dataset.get("SOPClassUID", "")))
    has_size = _ROWS in dataset and _COLUMNS in dataset and _SPECTRA not in dataset
    if has_size or _IMAGE in sop_class.name or sop_class in _OTHER_IMAGES:
        raise InstanceError("an image without pixel data")


def check_ending(file: BinaryIO, dataset: FileDataset) -> None:
    """Raise `InstanceError` unless the file that the data set was read from ends where an element does, or in zeros.

    Moves the position of the file.
    """
    meta = _Walk(file, file.seek(0, os.SEEK_END), little_endian=True)
    start = meta.skip_group(0x0002, _FIRST_ELEMENT)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == DeflatedExplicitVRLittleEndian:
        file.seek(start)
        content = _inflated(file.read())
        file, start, size = BytesIO(content), 0, len(content)
    else:
        start, size = meta.skip_group(0x0000, start), meta.size
    _Walk(file, size, little_endian=syntax != ExplicitVRBigEndian).data_set(start, size)


def _inflated(content: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(content)
    if not inflater.eof:
        raise _cut_off()
    return inflated


def _cut_off() -> InstanceError:
    return InstanceError("the file is cut off: it ends inside of an element, or an element runs over what holds it")


@dataclass(frozen=True, slots=True)
class _Head:
    """What stands before a value, and where that begins."""

    tag: int
    vr: bytes
    length: int
    value: int


class _Walk:
    """Follows lengths through a file. Positions are those of the file; nothing of a value is read."""

    def __init__(self, file: BinaryIO, size: int, *, little_endian: bool) -> None:
        self._file = file
        self.size = size
        order = "<" if little_endian else ">"
        self._implicit, self._short, self._long = Struct(f"{order}HHL"), Struct(f"{order}H"), Struct(f"{order}L")

    def skip_group(self, group: int, position: int) -> int:
        """Return where the elements of the group end that begin at the position."""
        implicit = self._looks_implicit(position)
        while position < self.size:
            head = self._head(position, self.size, implicit=implicit)
            if head.tag >> 16 != group:
                break
            position = self._end_of_value(head, self.size, implicit=implicit, depth=0)
        return position

    def data_set(
        self, position: int, end: int, *, implicit: bool = False, depth: int = 0, delimited: bool = False
    ) -> int:
        """Return where the data set ends: at `end`, or behind its delimiter. Raises `InstanceError` for neither.

        Items of an explicit data set may be implicit (PS3.5 6.2.2), and files do not always keep to their syntax: the
        first VR decides, as it does for who reads them.
        """
        implicit = implicit or self._looks_implicit(position)
        while position < end:
            if not depth and self._is_padding(position, end):
                return end
            head = self._head(position, end, implicit=implicit)
            if head.tag == _ITEM_END and (delimited or head.value == end):
                return head.value
            if head.tag >> 16 == _DELIMITERS:
                raise InstanceError("a delimiter stands where no sequence or item ends")
            position = self._end_of_value(head, end, implicit=implicit, depth=depth)
        if delimited:
            raise _cut_off()
        return position

    def _end_of_value(self, head: _Head, end: int, *, implicit: bool, depth: int) -> int:
        holds_data_sets = _is_sequence(head)
        if head.length == _UNDEFINED:
            return self._items(head.value, end, implicit=implicit, depth=depth, data_sets=holds_data_sets)
        stop = head.value + head.length
        if stop > end:
            raise _cut_off()
        if holds_data_sets and head.vr != _UNKNOWN:
            self._items(head.value, stop, implicit=implicit, depth=depth, data_sets=True, delimited=False)
        return stop

    def _items(
        self, position: int, end: int, *, implicit: bool, depth: int, data_sets: bool, delimited: bool = True
    ) -> int:
        """Return where the items of a sequence, or the fragments of pixels (PS3.5 A.4), end."""
        if depth >= _DEEPEST:
            raise InstanceError("sequences are nested too deep")
        while position < end:
            head = self._head(position, end, implicit=True)
            if head.tag == _SEQUENCE_END and (delimited or head.value == end):
                return head.value
            if head.tag != _ITEM or (head.length == _UNDEFINED and not data_sets):
                raise InstanceError("a sequence or pixel data hold what is no item")
            if head.length == _UNDEFINED:
                position = self.data_set(head.value, end, implicit=implicit, depth=depth + 1, delimited=True)
                continue
            position = head.value + head.length
            if position > end:
                raise _cut_off()
            if data_sets:
                self.data_set(head.value, position, implicit=implicit, depth=depth + 1)
        if delimited:
            raise _cut_off()
        return position

    def _head(self, position: int, end: int, *, implicit: bool) -> _Head:
        self._file.seek(position)
        content = self._file.read(min(12, end - position))
        if len(content) < self._implicit.size:
            raise _cut_off()
        group, element, length = self._implicit.unpack_from(content)
        tag, vr = group << 16 | element, content[4:6]
        if implicit or not b"AA" <= vr <= b"ZZ":  # delimiters have no VR, and some writers leave it out
            return _Head(tag, b"", length, position + 8)
        if vr not in _LONG_VRS:
            return _Head(tag, vr, self._short.unpack_from(content, 6)[0], position + 8)
        if len(content) < 12:
            raise _cut_off()
        return _Head(tag, vr, self._long.unpack_from(content, 8)[0], position + 12)

    def _is_padding(self, position: int, end: int) -> bool:
        self._file.seek(position)
        if not _LEAST_PADDING <= end - position <= _MOST_PADDING:
            return False
        return not any(self._file.read(end - position))

    def _looks_implicit(self, position: int) -> bool:
        self._file.seek(position + 4)
        vr = self._file.read(2)
        return not (len(vr) == 2 and vr.isalpha() and vr.isupper())


def _is_sequence(head: _Head) -> bool:
    """Tell whether the value is made of items that are data sets. What nobody knows is taken for one."""
    if head.vr:
        return head.vr == _SEQUENCE or (head.vr == _UNKNOWN and head.length == _UNDEFINED)
    if not dictionary_has_tag(head.tag):
        return head.length == _UNDEFINED
    return dictionary_VR(head.tag) == "SQ"
