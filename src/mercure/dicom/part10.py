"""The head of a DICOM file: preamble, prefix and File Meta Information (PS3.10 section 7.1), read and written.

Hot path of sending and of storing: only the first bytes of a file are read, by a parser that knows this one group.
"""

import os
import re
import struct
from dataclasses import dataclass
from functools import lru_cache

from mercure.core.errors import PermanentError
from mercure.dicom import header, uids

PREFIX = bytes(128) + b"DICM"

_START = len(PREFIX)
_FIRST_READ_BYTES = 1024
_MAXIMUM_HEAD_BYTES = 1 << 20
_DATA_SET_HEAD_BYTES = 1 << 16
_ELEMENT = struct.Struct("<HH2sH")
_LONG_LENGTH = struct.Struct("<I")
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_UID = re.compile(rb"[0-9.]{1,64}")

_SOP_CLASS = 0x0002
_SOP_INSTANCE = 0x0003
_TRANSFER_SYNTAX = 0x0010
_WANTED = frozenset({_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX})


class NotDicomError(PermanentError):
    """The file is no DICOM file, or its head cannot be used."""

    code = "not_dicom"


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What must be known of a file to send it. `size` is that of the whole file, in bytes."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_offset: int
    size: int

    @property
    def data_set_size(self) -> int:
        """Bytes of the data set: everything after the File Meta Information."""
        return self.size - self.data_set_offset


def read_file_meta(source: str | int) -> FileMeta:
    """Read the head of a file, given by path or by open descriptor.

    Tolerates a missing or wrong group length, an odd order and a meta group in implicit VR. Raises `NotDicomError` when
    it is no DICOM file or lacks a UID that is needed, `OSError` when it cannot be read. Never reads the whole file.
    """
    if isinstance(source, int):
        return _read_open(source)
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _read_open(descriptor)
    finally:
        os.close(descriptor)


def _read_open(descriptor: int) -> FileMeta:
    size = os.fstat(descriptor).st_size
    wanted = _FIRST_READ_BYTES
    while True:
        head = os.pread(descriptor, wanted, 0)
        if head[128:_START] != b"DICM":
            raise NotDicomError("the file has no DICOM prefix")
        values: dict[int, bytes] = {}
        position = _parse(head, values)
        if position >= 0:
            break
        if len(head) >= size:
            raise NotDicomError("the File Meta Information is cut off")
        if wanted >= _MAXIMUM_HEAD_BYTES:
            raise NotDicomError("the File Meta Information is too long")
        wanted *= 8
    transfer_syntax = _uid(values, _TRANSFER_SYNTAX, "transfer syntax")
    if _SOP_CLASS not in values or _SOP_INSTANCE not in values:
        _complete_from_data_set(descriptor, values, transfer_syntax, position)
    sop_class, sop_instance = _uid(values, _SOP_CLASS, "SOP class"), _uid(values, _SOP_INSTANCE, "SOP instance")
    return FileMeta(sop_class, sop_instance, transfer_syntax, position, size)


def _parse(head: bytes, values: dict[int, bytes]) -> int:
    """Collect the wanted values of group 0002; return where the data set begins, or -1 when more bytes are needed."""
    position, end = _START, len(head)
    unpack = _ELEMENT.unpack_from
    while position + 8 <= end:
        group, element, vr, length = unpack(head, position)
        if group != 2:
            return position
        value = position + 8
        if vr in _LONG_VRS:
            if value + 4 > end:
                return -1
            (length,) = _LONG_LENGTH.unpack_from(head, value)
            value += 4
        elif not vr.isalpha():  # implicit VR, which is not allowed here, but found
            (length,) = _LONG_LENGTH.unpack_from(head, position + 4)
        position = value + length
        if position > end:
            return -1
        if element in _WANTED:
            values[element] = head[value:position]
    return -1


def _uid(values: dict[int, bytes], element: int, what: str) -> str:
    value = values.get(element, b"").strip(b"\0 ")
    if not _UID.fullmatch(value):
        raise NotDicomError(f"the File Meta Information has no valid {what} UID")
    return value.decode("ascii")


def _complete_from_data_set(descriptor: int, values: dict[int, bytes], transfer_syntax: str, offset: int) -> None:
    """Take the SOP UIDs that the meta group lacks from the data set itself."""
    head = os.pread(descriptor, _DATA_SET_HEAD_BYTES, offset)
    wanted = {header.SOP_CLASS_UID: _SOP_CLASS, header.SOP_INSTANCE_UID: _SOP_INSTANCE}
    try:
        is_whole = len(head) < _DATA_SET_HEAD_BYTES
        last = header.SOP_INSTANCE_UID
        found = header.read_elements(head, transfer_syntax, frozenset(wanted), last, whole=is_whole)
    except (header.HeaderError, header.Incomplete):
        raise NotDicomError("the data set cannot be read") from None
    for tag, element in wanted.items():
        if tag in found:
            values.setdefault(element, found[tag][1])


def encode_file_meta(
    sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae_title: str = ""
) -> bytes:
    """Return preamble, prefix and File Meta Information: what stands before the data set in a file (PS3.10 7.1)."""
    before, after = _template(sop_class_uid, transfer_syntax_uid, source_ae_title)
    instance = _encoded(0x0003, b"UI", sop_instance_uid.encode("latin-1", "replace"))
    group_length = len(before) + len(instance) + len(after)
    return b"".join((PREFIX, b"\x02\0\0\0UL\x04\0", _LONG_LENGTH.pack(group_length), before, instance, after))


@lru_cache(maxsize=512)
def _template(sop_class_uid: str, transfer_syntax_uid: str, source_ae_title: str) -> tuple[bytes, bytes]:
    """Everything before and after the SOP instance UID: the same for each instance of a series."""
    before = b"\x02\0\x01\0OB\0\0\x02\0\0\0\0\x01" + _encoded(0x0002, b"UI", sop_class_uid.encode("latin-1", "replace"))
    after = _encoded(0x0010, b"UI", transfer_syntax_uid.encode("ascii", "replace"))
    after += _encoded(0x0012, b"UI", uids.IMPLEMENTATION_CLASS.encode("ascii"))
    after += _encoded(0x0013, b"SH", uids.IMPLEMENTATION_VERSION.encode("ascii"))
    if source_ae_title:
        after += _encoded(0x0016, b"AE", source_ae_title.encode("latin-1", "replace"))
    return before, after


def _encoded(element: int, vr: bytes, value: bytes) -> bytes:
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return _ELEMENT.pack(2, element, vr, len(value)) + value
