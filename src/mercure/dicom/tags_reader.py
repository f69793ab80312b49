"""Reading the tags of a stored instance for the rules: the first bytes of a file to names and texts.

Top level only: what stands in sequences is not reached. Pixel data and what follows it is never read.
"""

import logging
import os
import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from mercure.dicom import part10, uids
from mercure.dicom.attributes import (
    MEDIA_STORAGE_SOP_CLASS_UID,
    STANDARD_ATTRIBUTES,
    Attribute,
    UnknownAttributeError,
    find_attribute,
)
from mercure.dicom.character_sets import codec_of, decode_text
from mercure.dicom.header import MAXIMUM_HEADER_BYTES, Element, HeaderError, Incomplete, read_elements
from mercure.dicom.part10 import FileMeta

log = logging.getLogger(__name__)

_FIRST_READ_BYTES = 64 << 10
_MAXIMUM_VALUE_BYTES = 64 << 10
"""Longer values are cut: rules match descriptions and codes, and a job carries its tags with it."""

_REMEMBERED_BYTES = 64
"""Values up to here are decoded once for many instances: those of a series have most of them in common."""

_BEFORE_PIXEL_DATA = 0x7FDFFFFF
_SPECIFIC_CHARACTER_SET = 0x00080005

_WITH_CHARACTER_SET = frozenset({b"SH", b"LO", b"ST", b"LT", b"UC", b"UT", b"PN", b"UN"})
_ONE_VALUE = frozenset({b"ST", b"LT", b"UT", b"UR"})
_NUMBERS = {b"US": "H", b"SS": "h", b"UL": "I", b"SL": "i", b"UV": "Q", b"SV": "q", b"FL": "f", b"FD": "d"}
_NO_TEXT = frozenset({b"SQ", b"OB", b"OD", b"OF", b"OL", b"OV", b"OW"})
_LINES = str.maketrans({"\r": ";", "\n": " ", '"': "'"})


def read_tags(path: str | Path, additional: Sequence[str] = ()) -> dict[str, str]:
    """Return the tags of a Part 10 file as text by name, several values of one element joined by backslashes.

    `additional` names more attributes by keyword or `gggg,eeee`; they are returned under the name that was given. A tag
    that the instance does not have is not in the result; one that is empty is "". Sequences and binary bulk values
    have no text and are left out, as are additional names that no dictionary knows. CR, LF and double quotes are
    replaced as existing installations do. Text that does not fit its character set never raises. Raises `NotDicomError`
    or `HeaderError` when the file cannot be understood and `OSError` when it cannot be read.
    """
    wanted = _wanted(tuple(additional))
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        meta = part10.read_file_meta(descriptor)
        found = _read_found(descriptor, meta, wanted)
    finally:
        os.close(descriptor)
    return _texts(found, meta, wanted)


def tag_names(additional: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of all that `read_tags` looks for, in the order in which existing installations write them.

    Additional names that no dictionary knows are not among them.
    """
    return _wanted(tuple(additional)).names


class _Wanted:
    """The attributes of one reading, prepared once for each set of additional names."""

    __slots__ = ("attributes", "last", "meta", "names", "tags")

    def __init__(self, attributes: Sequence[Attribute]) -> None:
        self.attributes = [a for a in attributes if a.tag >> 16 > 2 and a.tag <= _BEFORE_PIXEL_DATA]
        self.meta = [a for a in attributes if a.tag >> 16 == 2]
        self.tags = frozenset(attribute.tag for attribute in self.attributes)
        self.last = max(self.tags)
        standard = [attribute.name for attribute in STANDARD_ATTRIBUTES]
        names = [attribute.name for attribute in attributes]
        self.names = tuple(dict.fromkeys((*standard, MEDIA_STORAGE_SOP_CLASS_UID, *names)))


@lru_cache(maxsize=16)
def _wanted(additional: tuple[str, ...]) -> _Wanted:
    attributes = list(STANDARD_ATTRIBUTES)
    for name in additional:
        try:
            attributes.append(find_attribute(name))
        except UnknownAttributeError as error:
            log.warning("additional tag left out: %s", error)
    return _Wanted(attributes)


def _read_found(descriptor: int, meta: FileMeta, wanted: _Wanted) -> dict[int, Element]:
    size, available = _FIRST_READ_BYTES, meta.data_set_size
    while True:
        data = os.pread(descriptor, min(size, available), meta.data_set_offset)
        whole = len(data) >= available
        try:
            return read_elements(data, meta.transfer_syntax_uid, wanted.tags, wanted.last, whole=whole)
        except Incomplete as incomplete:
            if whole:
                raise HeaderError("the data set is cut off") from None
            if len(data) >= MAXIMUM_HEADER_BYTES:
                raise HeaderError("the header is too long") from None
            size = min(max(incomplete.needed + _FIRST_READ_BYTES, len(data) * 4), MAXIMUM_HEADER_BYTES)


def _texts(found: dict[int, Element], meta: FileMeta, wanted: _Wanted) -> dict[str, str]:
    character_set = found.get(_SPECIFIC_CHARACTER_SET, (b"", b""))[1]
    codec = codec_of(character_set.strip(b"\0 "))
    order = ">" if meta.transfer_syntax_uid == uids.EXPLICIT_VR_BIG_ENDIAN else "<"
    texts: dict[str, str] = {}
    for attribute in wanted.attributes:
        element = found.get(attribute.tag)
        if element is None:
            continue
        vr, value = element
        if not vr or vr == b"UN":
            vr = attribute.vr
        if vr in _NO_TEXT:
            continue
        read = _text_again if len(value) <= _REMEMBERED_BYTES else _text
        text, valid = read(vr, value[:_MAXIMUM_VALUE_BYTES], codec, order)
        if not valid:
            log.info("the value of %s does not fit its character set", attribute.name)
        texts[attribute.name] = text
    texts[MEDIA_STORAGE_SOP_CLASS_UID] = meta.sop_class_uid
    for attribute in wanted.meta:
        value_of_meta = _META.get(attribute.tag)
        if value_of_meta:
            texts[attribute.name] = getattr(meta, value_of_meta)
    return texts


_META = {0x00020002: "sop_class_uid", 0x00020003: "sop_instance_uid", 0x00020010: "transfer_syntax_uid"}


def _text(vr: bytes, value: bytes, codec: str, order: str) -> tuple[str, bool]:
    """Return the text of a value, and whether it fits its character set."""
    valid = True
    if vr in _NUMBERS:
        return _numbers(vr, value, order), valid
    if vr == b"AT":
        tags = (f"({group:04X},{element:04X})" for group, element in _unpacked("HH", value, order))
        return "\\".join(tags), valid
    if value.isascii() and b"\x1b" not in value:
        text = value.decode("ascii")
    else:
        text, valid = decode_text(value, codec if vr in _WITH_CHARACTER_SET else "ascii")
    if vr in _ONE_VALUE:
        text = text.rstrip(" \0")
    elif "\\" in text:
        text = "\\".join(part.strip(" \0") for part in text.split("\\"))
    else:
        text = text.strip(" \0")
    return text.translate(_LINES), valid


_text_again = lru_cache(maxsize=1024)(_text)


def _unpacked(form: str, value: bytes, order: str) -> list[tuple[int, ...]]:
    """Unpack whole values; an odd rest is dropped."""
    one = struct.Struct(order + form)
    return list(one.iter_unpack(value[: len(value) // one.size * one.size]))


def _numbers(vr: bytes, value: bytes, order: str) -> str:
    values = [number for (number,) in _unpacked(_NUMBERS[vr], value, order)]
    if vr == b"FL":
        return "\\".join(_shortest_single(number) for number in values)
    return "\\".join(map(str, values))


def _shortest_single(number: float) -> str:
    """Return the shortest text that means the same number of 32 bits: 0.1, not 0.10000000149011612."""
    single = struct.Struct("<f")
    for digits in range(6, 9):
        text = f"{number:.{digits}g}"
        if single.pack(float(text)) == single.pack(number):
            return text
    return f"{number:.9g}"
