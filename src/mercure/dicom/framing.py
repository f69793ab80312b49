"""Cutting the byte stream of an association into PDUs and PDVs, without I/O (PS3.8 section 9.3.5 and Annex E).

P-DATA-TF is the hot path: its fragments are handed out as views of the caller's buffer as soon as their bytes are
there, also in the middle of a PDU, so that no data set is ever gathered in memory. Other PDUs are small and are
handed out whole.
"""

from dataclasses import dataclass

from mercure.dicom.pdu import (
    INVALID_PARAMETER,
    MAXIMUM_CONTROL_PDU_BYTES,
    MAXIMUM_LATER_PDU_BYTES,
    PDU_HEADER,
    PDV_HEADER,
    UNRECOGNIZED_PDU,
    PDUType,
    ProtocolError,
)

_DATA_TF = int(PDUType.DATA_TF)


@dataclass(frozen=True, slots=True)
class ControlPDU:
    """Any PDU but P-DATA-TF: its type and its body without the six bytes of header."""

    kind: int
    body: bytes


Fragment = tuple[int, int, memoryview, bool]
"""Context id, message control header, some bytes, and whether they end the PDV. A tuple: made once per 16 KB or so."""


class Framer:
    """Turns received bytes into control PDUs and fragments.

    `maximum_pdu_bytes` is the largest P-DATA-TF that this side has announced. Twice that is tolerated (senders count
    the header differently), more is a protocol error, so that a PDU length can never make us wait for 4 GB. The first
    control PDU is the association request or its answer and may be long; those after it may not.
    """

    def __init__(self, maximum_pdu_bytes: int) -> None:
        """Start before the first PDU."""
        self._limit = maximum_pdu_bytes * 2 + 64 if maximum_pdu_bytes else 0xFFFFFFFF
        self._pending = b""  # bytes of a header that is not complete yet
        self._control_limit = MAXIMUM_CONTROL_PDU_BYTES
        self._control_kind = 0
        self._control_left = 0  # bytes of the current control PDU still to come
        self._control_body = bytearray()
        self._pdu_left = 0  # bytes of the current P-DATA-TF after the current PDV
        self._pdv_left = 0  # payload bytes of the current PDV still to come
        self._context_id = 0
        self._control = 0

    @property
    def in_message(self) -> bool:
        """Whether the stream stands inside a PDU: closing now would cut it off."""
        return bool(self._pending or self._pdv_left or self._pdu_left or self._control_left)

    def feed(self, data: memoryview) -> list[ControlPDU | Fragment]:
        """Return what the bytes complete. Views are valid until the caller reuses its buffer."""
        events: list[ControlPDU | Fragment] = []
        if self._pending:
            data = memoryview(self._pending + bytes(data))
            self._pending = b""
        position, end = 0, len(data)
        while position < end:
            if self._pdv_left:
                size = min(self._pdv_left, end - position)
                self._pdv_left -= size
                view = data[position : position + size]
                events.append((self._context_id, self._control, view, not self._pdv_left))
                position += size
            elif self._pdu_left:
                if end - position < 6:
                    break
                position = self._begin_pdv(data, position, events)
            elif self._control_left:
                position = self._take_control(data, position, events)
            else:
                if end - position < 6:
                    break
                self._begin_pdu(data, position, events)
                position += 6
        if position < end:
            self._pending = bytes(data[position:])
        return events

    def _begin_pdv(self, data: memoryview, position: int, events: list[ControlPDU | Fragment]) -> int:
        length: int
        length, self._context_id, self._control = PDV_HEADER.unpack_from(data, position)
        if length < 2 or length + 4 > self._pdu_left:
            raise ProtocolError("PDV length does not fit its PDU", INVALID_PARAMETER)
        self._pdu_left -= length + 4
        self._pdv_left = length - 2
        if not self._pdv_left:
            events.append((self._context_id, self._control, data[:0], True))
        elif self._pdu_left and self._pdu_left < 6:
            raise ProtocolError("P-DATA-TF ends with part of a PDV", INVALID_PARAMETER)
        return position + 6

    def _take_control(self, data: memoryview, position: int, events: list[ControlPDU | Fragment]) -> int:
        part = data[position : position + self._control_left]
        self._control_body += part
        self._control_left -= len(part)
        if not self._control_left:
            events.append(ControlPDU(self._control_kind, bytes(self._control_body)))
            self._control_body = bytearray()
        return position + len(part)

    def _begin_pdu(self, data: memoryview, position: int, events: list[ControlPDU | Fragment]) -> None:
        kind: int
        length: int
        kind, length = PDU_HEADER.unpack_from(data, position)
        if kind == _DATA_TF:
            if length < 6 or length > self._limit:
                raise ProtocolError("P-DATA-TF has an impossible length", INVALID_PARAMETER)
            self._pdu_left = length
            return
        if not 1 <= kind <= PDUType.ABORT:
            raise ProtocolError("unrecognised PDU", UNRECOGNIZED_PDU)
        if length > self._control_limit:
            raise ProtocolError("PDU is too long", INVALID_PARAMETER)
        self._control_limit = MAXIMUM_LATER_PDU_BYTES
        self._control_kind, self._control_left = kind, length
        if not length:
            events.append(ControlPDU(kind, b""))
