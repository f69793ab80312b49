"""A data set cut into P-DATA-TF PDUs, read from its file straight into the place where it stands in the stream.

One scattered read puts the bytes between the headers of many PDUs, and one send call hands all of them to the kernel:
peers that announce 16 KB PDUs cost two system calls per megabyte instead of two per PDU, over TLS too.
"""

import mmap
import os

from mercure.core.errors import TransientError
from mercure.dicom.pdu import COMMAND, INVALID_PARAMETER, LAST, PDU_HEADER, PDV_HEADER, PDUType, ProtocolError

BUFFER_BYTES = 1 << 20
LARGEST_PDU_BYTES = 1 << 18
"""Even when a peer takes any length: larger ones save nothing, and some peers allocate what the header says."""

SMALLEST_PDU_BYTES = 128

_HEADERS_BYTES = PDU_HEADER.size + PDV_HEADER.size
_COMMAND_SPACE_BYTES = 4096
_MOST_READ_VECTORS = 1024  # IOV_MAX of Linux


def usable_pdu_bytes(announced: int) -> int:
    """Return the PDU length to use for a peer's maximum length (PS3.8 D.1; 0 is "any"). Fragments stay even."""
    if announced == 0:
        return LARGEST_PDU_BYTES
    if announced < SMALLEST_PDU_BYTES:
        raise ProtocolError(f"the peer takes PDUs of {announced} bytes only", INVALID_PARAMETER)
    return min(announced, LARGEST_PDU_BYTES) & ~1


def encode_pdata(data: bytes, context_id: int, control: int, pdu_bytes: int) -> bytes:
    """Return a whole small command set or data set as P-DATA-TF PDUs; `control` is 1 for commands (PS3.8 E.2)."""
    payload = pdu_bytes - PDV_HEADER.size
    parts = []
    for start in range(0, len(data) or 1, payload):
        part = data[start : start + payload]
        last = LAST if start + payload >= len(data) else 0
        parts += [_headers(len(part), context_id, control | last), part]
    return b"".join(parts)


def _headers(size: int, context_id: int, control: int) -> bytes:
    return PDU_HEADER.pack(PDUType.DATA_TF, size + PDV_HEADER.size) + PDV_HEADER.pack(size + 2, context_id, control)


class SendBuffer:
    """About a megabyte of PDUs ready to be sent. Memory is taken page by page as it is used."""

    def __init__(self, pdu_bytes: int) -> None:
        """Lay out as many PDUs of `pdu_bytes` as fit."""
        self._pdu_bytes = pdu_bytes
        self._payload = pdu_bytes - PDV_HEADER.size
        self._stride = pdu_bytes + PDU_HEADER.size
        self._count = max(1, min(_MOST_READ_VECTORS, BUFFER_BYTES // self._stride))
        length = _COMMAND_SPACE_BYTES + self._count * self._stride
        self._memory = memoryview(mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        starts = range(_COMMAND_SPACE_BYTES + _HEADERS_BYTES, length, self._stride)
        self._slots = [self._memory[start : start + self._payload] for start in starts]

    @property
    def capacity(self) -> int:
        """Bytes of a data set that fit."""
        return self._count * self._payload

    def load(self, descriptor: int, offset: int, size: int, context_id: int, command: bytes = b"") -> memoryview:
        """Read the next `size` bytes of a data set, or as many as fit, and return the PDUs that carry them.

        A command set is put in front. Raises `TransientError` when the file ends too soon. The view is valid until
        the next load.
        """
        taken = min(size, self.capacity)
        slots = self._slots[: max(1, -(-taken // self._payload))]
        last = taken - (len(slots) - 1) * self._payload
        slots[-1] = slots[-1][:last]
        _read(descriptor, slots, offset, taken)
        full = _headers(self._payload, context_id, 0)
        position = _COMMAND_SPACE_BYTES
        for _ in range(len(slots) - 1):
            self._memory[position : position + _HEADERS_BYTES] = full
            position += self._stride
        control = LAST if taken == size else 0
        self._memory[position : position + _HEADERS_BYTES] = _headers(last, context_id, control)
        begin = self._put_command(command, context_id)
        return self._memory[begin : position + _HEADERS_BYTES + last]

    def _put_command(self, command: bytes, context_id: int) -> int:
        if not command:
            return _COMMAND_SPACE_BYTES
        pdus = encode_pdata(command, context_id, COMMAND, self._pdu_bytes)
        begin = _COMMAND_SPACE_BYTES - len(pdus)
        self._memory[begin:_COMMAND_SPACE_BYTES] = pdus
        return begin


def _read(descriptor: int, slots: list[memoryview], offset: int, size: int) -> None:
    done = os.preadv(descriptor, slots, offset)
    while done < size:
        part, begin = divmod(done, len(slots[0]))
        count = os.preadv(descriptor, [slots[part][begin:], *slots[part + 1 :]], offset + done)
        if not count:
            raise TransientError("the file is shorter than it was when it was opened")
        done += count
