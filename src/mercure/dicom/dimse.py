"""DIMSE command sets (PS3.7 section 6.3 and Annex E): values, and their encoding to and from bytes.

A command set is always implicit VR little endian. Only the services that Mercure speaks have names here; of any other
command the set is still read, so that it can be refused in an orderly way.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from mercure.dicom.pdu import INVALID_PARAMETER, ProtocolError


class Command(IntEnum):
    """Command Field (0000,0100); responses have the high bit set."""

    C_STORE_RQ = 0x0001
    C_STORE_RSP = 0x8001
    C_GET_RQ = 0x0010
    C_FIND_RQ = 0x0020
    C_MOVE_RQ = 0x0021
    C_ECHO_RQ = 0x0030
    C_ECHO_RSP = 0x8030
    N_EVENT_REPORT_RQ = 0x0100
    N_EVENT_REPORT_RSP = 0x8100
    N_ACTION_RQ = 0x0130
    N_ACTION_RSP = 0x8130
    C_CANCEL_RQ = 0x0FFF


RESPONSE = 0x8000
NO_DATA_SET = 0x0101

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
DATA_SET_MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
PROCESSING_FAILURE = 0x0110
SOP_CLASS_NOT_SUPPORTED = 0x0122
UNRECOGNIZED_OPERATION = 0x0211
NO_SUCH_ACTION = 0x0123
INVALID_ARGUMENT = 0x0115

GROUP_LENGTH = 0x0000
AFFECTED_SOP_CLASS_UID = 0x0002
REQUESTED_SOP_CLASS_UID = 0x0003
COMMAND_FIELD = 0x0100
MESSAGE_ID = 0x0110
MESSAGE_ID_RESPONDED_TO = 0x0120
PRIORITY = 0x0700
DATA_SET_TYPE = 0x0800
STATUS = 0x0900
ERROR_COMMENT = 0x0902
AFFECTED_SOP_INSTANCE_UID = 0x1000
REQUESTED_SOP_INSTANCE_UID = 0x1001
EVENT_TYPE_ID = 0x1002
ACTION_TYPE_ID = 0x1008

MAXIMUM_COMMAND_BYTES = 1 << 16
"""A command set has some hundred bytes; more is refused before it costs memory."""

_ELEMENT = struct.Struct("<HHI")
_UID_ELEMENTS = frozenset(
    {AFFECTED_SOP_CLASS_UID, REQUESTED_SOP_CLASS_UID, AFFECTED_SOP_INSTANCE_UID, REQUESTED_SOP_INSTANCE_UID}
)


@dataclass(frozen=True, slots=True)
class CommandSet:
    """The elements of a command set as raw values by element number of group 0000."""

    elements: Mapping[int, bytes]

    def number(self, element: int, default: int | None = None) -> int:
        """Return a US value; raises `ProtocolError` when it is missing (without a default) or no number."""
        value = self.elements.get(element)
        if value is None and default is not None:
            return default
        if value is None or len(value) != 2:
            raise ProtocolError(f"command element (0000,{element:04X}) is missing or no number", INVALID_PARAMETER)
        return value[0] | value[1] << 8

    def uid(self, element: int) -> str:
        """Return a UID value without its padding, or "" when it is missing."""
        return self.elements.get(element, b"").rstrip(b"\0 ").decode("latin-1")

    @property
    def command(self) -> int:
        """Command Field, see `Command`; other values are possible."""
        return self.number(COMMAND_FIELD)

    @property
    def message_id(self) -> int:
        """Message ID of a request."""
        return self.number(MESSAGE_ID)

    @property
    def status(self) -> int:
        """Status of a response (PS3.7 Annex C)."""
        return self.number(STATUS)

    @property
    def has_data_set(self) -> bool:
        """Whether a data set follows the command."""
        return self.number(DATA_SET_TYPE, NO_DATA_SET) != NO_DATA_SET


def decode(data: bytes | bytearray | memoryview) -> CommandSet:
    """Read a complete command set. Raises `ProtocolError` when it is none."""
    elements: dict[int, bytes] = {}
    position, end = 0, len(data)
    unpack = _ELEMENT.unpack_from
    while position < end:
        if position + 8 > end:
            raise ProtocolError("command element is cut off", INVALID_PARAMETER)
        group, element, length = unpack(data, position)
        position += 8
        if group != 0 or position + length > end:
            raise ProtocolError("command set is malformed", INVALID_PARAMETER)
        elements[element] = bytes(data[position : position + length])
        position += length
    return CommandSet(elements)


def encode(elements: Mapping[int, int | str | bytes]) -> bytes:
    """Return a command set with its group length; numbers become US, text is padded to even length (PS3.5 6.2)."""
    body = b"".join(_encode_element(element, elements[element]) for element in sorted(elements))
    return _encode_element(GROUP_LENGTH, len(body).to_bytes(4, "little")) + body


def _encode_element(element: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        raw = value.to_bytes(2, "little")
    elif isinstance(value, str):
        raw = value.encode("latin-1")
        if len(raw) % 2:
            raw += b"\0" if element in _UID_ELEMENTS else b" "
    else:
        raw = value
    return _ELEMENT.pack(0, element, len(raw)) + raw


def response_to(request: CommandSet, status: int, *, has_data_set: bool = False, comment: str = "") -> bytes:
    """Return the response command set to a request: same SOP class and instance, its message id, and the status."""
    elements: dict[int, int | str | bytes] = {
        COMMAND_FIELD: request.command | RESPONSE,
        MESSAGE_ID_RESPONDED_TO: request.message_id,
        DATA_SET_TYPE: 1 if has_data_set else NO_DATA_SET,
        STATUS: status,
    }
    for affected, requested in (
        (AFFECTED_SOP_CLASS_UID, REQUESTED_SOP_CLASS_UID),
        (AFFECTED_SOP_INSTANCE_UID, REQUESTED_SOP_INSTANCE_UID),
    ):
        uid = request.uid(affected) or request.uid(requested)
        if uid:
            elements[affected] = uid
    if comment:
        elements[ERROR_COMMENT] = comment[:64]
    return encode(elements)


def store_request(message_id: int, sop_class_uid: str, sop_instance_uid: str, *, priority: int = 0) -> bytes:
    """Return a C-STORE-RQ (PS3.7 9.3.1.1); priority 0 medium, 1 high, 2 low."""
    return encode(
        {
            AFFECTED_SOP_CLASS_UID: sop_class_uid,
            COMMAND_FIELD: Command.C_STORE_RQ,
            MESSAGE_ID: message_id,
            PRIORITY: priority,
            DATA_SET_TYPE: 1,
            AFFECTED_SOP_INSTANCE_UID: sop_instance_uid,
        }
    )


def echo_request(message_id: int) -> bytes:
    """Return a C-ECHO-RQ (PS3.7 9.3.5.1)."""
    return encode(
        {
            AFFECTED_SOP_CLASS_UID: "1.2.840.10008.1.1",
            COMMAND_FIELD: Command.C_ECHO_RQ,
            MESSAGE_ID: message_id,
            DATA_SET_TYPE: NO_DATA_SET,
        }
    )
