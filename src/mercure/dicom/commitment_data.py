"""The two data sets of storage commitment (PS3.4 tables J.3-1 and J.3-2), read and written without a dictionary.

The request comes from a stranger: reading it raises `CommitmentDataError` and nothing else, and takes time in
proportion to its bytes.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mercure.core.errors import PermanentError
from mercure.core.tags import is_valid_uid
from mercure.dicom import dimse, uids
from mercure.dicom.header import HeaderError, Incomplete, skip_undefined_length, uid_text

REFERENCED_SOP_CLASS_UID = 0x00081150
REFERENCED_SOP_INSTANCE_UID = 0x00081155
TRANSACTION_UID = 0x00081195
FAILURE_REASON = 0x00081197
FAILED_SOP_SEQUENCE = 0x00081198
REFERENCED_SOP_SEQUENCE = 0x00081199

MAXIMUM_REFERENCES = 50_000
"""That all unconfirmed requests of one association may have together; their reports take some 10 MB."""

_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())


class CommitmentDataError(PermanentError):
    """The data set is no request for storage commitment."""

    code = "commitment_request"


class TooManyReferencesError(CommitmentDataError):
    """The request refers to more instances than may be asked about now."""

    code = "commitment_references"


@dataclass(frozen=True, slots=True)
class Reference:
    """An instance that is asked about."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Failure:
    """An instance that is not in safe keeping, and why (Failure Reason, PS3.3 C.14)."""

    reference: Reference
    reason: int


def read_request(
    data: bytes, transfer_syntax: str, maximum_references: int = MAXIMUM_REFERENCES
) -> tuple[str, Sequence[Reference]]:
    """Return Transaction UID and references. Raises `CommitmentDataError`, also for more references than that."""
    try:
        transaction_uid, references = _Reader(data, transfer_syntax, maximum_references).request()
    except (struct.error, HeaderError, Incomplete) as error:
        raise CommitmentDataError("the data set is malformed") from error
    if not is_valid_uid(transaction_uid):
        raise CommitmentDataError("the request has no valid Transaction UID")
    if not references:
        raise CommitmentDataError("the request refers to no instance")
    return transaction_uid, references


class _Reader:
    """A cursor over a data set. `struct.error` stands for its untimely end."""

    def __init__(self, data: bytes, transfer_syntax: str, maximum_references: int) -> None:
        self._data = data
        self._maximum_references = maximum_references
        self._position = 0
        self._explicit = transfer_syntax != uids.IMPLICIT_VR_LITTLE_ENDIAN
        self._order = ">" if transfer_syntax == uids.EXPLICIT_VR_BIG_ENDIAN else "<"

    def request(self) -> tuple[str, Sequence[Reference]]:
        transaction_uid = ""
        references: list[Reference] = []
        while self._position < len(self._data):
            tag, length, is_un = self._header()
            if tag == TRANSACTION_UID:
                transaction_uid = uid_text(self._value(length))
            elif tag == REFERENCED_SOP_SEQUENCE:
                references = self._items(length)
            else:
                self._skip(length, is_un=is_un)
        return transaction_uid, references

    def _header(self) -> tuple[int, int, bool]:
        """Return tag, length, and whether the VR is UN, whose undefined length means implicit items."""
        group, element, length = struct.unpack_from(self._order + "HHI", self._data, self._position)
        tag = group << 16 | element
        vr = self._data[self._position + 4 : self._position + 6]
        self._position += 8
        if self._explicit and group != 0xFFFE:
            if vr in _LONG_VRS:
                (length,) = struct.unpack_from(self._order + "I", self._data, self._position)
                self._position += 4
            else:
                (length,) = struct.unpack_from(self._order + "H", self._data, self._position - 2)
        return tag, length, vr == b"UN"

    def _value(self, length: int) -> bytes:
        start = self._position
        self._advance(length)
        return self._data[start : self._position]

    def _advance(self, length: int) -> None:
        if self._position + length > len(self._data):
            raise Incomplete(self._position + length)
        self._position += length

    def _skip(self, length: int, *, is_un: bool) -> None:
        if length == _UNDEFINED:
            explicit = self._explicit and not is_un
            self._position = skip_undefined_length(self._data, self._position, explicit=explicit, order=self._order)
        else:
            self._advance(length)

    def _items(self, length: int) -> list[Reference]:
        references: list[Reference] = []
        end = None if length == _UNDEFINED else self._position + length
        while end is None or self._position < end:
            tag, item_length, _ = self._header()
            if tag == _SEQUENCE_END:
                break
            if tag != _ITEM:
                raise CommitmentDataError("the sequence holds something that is no item")
            if len(references) == self._maximum_references:
                raise TooManyReferencesError("the request refers to too many instances")
            references.append(self._reference(item_length))
        return references

    def _reference(self, length: int) -> Reference:
        end = None if length == _UNDEFINED else self._position + length
        values = {REFERENCED_SOP_CLASS_UID: "", REFERENCED_SOP_INSTANCE_UID: ""}
        while end is None or self._position < end:
            tag, value_length, is_un = self._header()
            if tag == _ITEM_END:
                break
            if tag in values:
                values[tag] = uid_text(self._value(value_length))
            else:
                self._skip(value_length, is_un=is_un)
        if not all(map(is_valid_uid, values.values())):
            raise CommitmentDataError("an item lacks a valid UID")
        return Reference(values[REFERENCED_SOP_CLASS_UID], values[REFERENCED_SOP_INSTANCE_UID])


def event_report_request(message_id: int, event_type: int) -> bytes:
    """Return the command set of an N-EVENT-REPORT-RQ (PS3.7 10.3.1.1)."""
    return dimse.encode(
        {
            dimse.AFFECTED_SOP_CLASS_UID: uids.STORAGE_COMMITMENT_PUSH_MODEL,
            dimse.COMMAND_FIELD: dimse.Command.N_EVENT_REPORT_RQ,
            dimse.MESSAGE_ID: message_id,
            dimse.DATA_SET_TYPE: 1,
            dimse.AFFECTED_SOP_INSTANCE_UID: uids.STORAGE_COMMITMENT_INSTANCE,
            dimse.EVENT_TYPE_ID: event_type,
        }
    )


def encode_report(
    transfer_syntax: str, transaction_uid: str, committed: Sequence[Reference], failed: Sequence[Failure]
) -> bytes:
    """Return the data set of a report. An empty sequence is left out (PS3.4 table J.3-2, types 1C)."""
    writer = _Writer(transfer_syntax)
    parts = [writer.uid(TRANSACTION_UID, transaction_uid)]
    if failed:
        items = (writer.reference(one.reference) + writer.number(FAILURE_REASON, one.reason) for one in failed)
        parts.append(writer.sequence(FAILED_SOP_SEQUENCE, items))
    if committed:
        parts.append(writer.sequence(REFERENCED_SOP_SEQUENCE, map(writer.reference, committed)))
    return b"".join(parts)


class _Writer:
    def __init__(self, transfer_syntax: str) -> None:
        self._explicit = transfer_syntax != uids.IMPLICIT_VR_LITTLE_ENDIAN
        self._order = ">" if transfer_syntax == uids.EXPLICIT_VR_BIG_ENDIAN else "<"

    def _element(self, tag: int, vr: bytes, value: bytes) -> bytes:
        head = struct.pack(self._order + "HH", tag >> 16, tag & 0xFFFF)
        if not self._explicit:
            return head + struct.pack(self._order + "I", len(value)) + value
        if vr == b"SQ":
            return head + vr + struct.pack(self._order + "HI", 0, len(value)) + value
        return head + vr + struct.pack(self._order + "H", len(value)) + value

    def uid(self, tag: int, uid: str) -> bytes:
        value = uid.encode("ascii")
        return self._element(tag, b"UI", value + b"\0" * (len(value) % 2))

    def number(self, tag: int, value: int) -> bytes:
        return self._element(tag, b"US", struct.pack(self._order + "H", value))

    def reference(self, reference: Reference) -> bytes:
        sop_class = self.uid(REFERENCED_SOP_CLASS_UID, reference.sop_class_uid)
        return sop_class + self.uid(REFERENCED_SOP_INSTANCE_UID, reference.sop_instance_uid)

    def sequence(self, tag: int, items: Iterable[bytes]) -> bytes:
        item = struct.Struct(self._order + "HHI")
        return self._element(tag, b"SQ", b"".join(item.pack(0xFFFE, 0xE000, len(one)) + one for one in items))
