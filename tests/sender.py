"""Messages of a sender, byte by byte: for tests that choose fragments, commands and ends as no real sender does."""

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.builders import CT_STORAGE, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from tests.peers import DEADLINE_SECONDS

from mercure.dicom import dimse, pdu, uids
from mercure.dicom.dimse import CommandSet
from mercure.dicom.pdu import AssociateRQ, ProposedContext


def associate_rq(
    contexts: Sequence[tuple[str, Sequence[str]]] = ((CT_STORAGE, (EXPLICIT_LITTLE,)),),
    *,
    called: str = "MERCURE",
    calling: str = "SENDER",
    maximum_length: int = 16384,
) -> bytes:
    """An association request; the contexts get the ids 1, 3, 5 ..."""
    proposed = tuple(
        ProposedContext(2 * number + 1, abstract, tuple(syntaxes))
        for number, (abstract, syntaxes) in enumerate(contexts)
    )
    return AssociateRQ(called, calling, proposed, maximum_length).encode()


def data_pdus(context_id: int, control: int, data: bytes, *, size: int = 16_000) -> bytes:
    """Bytes of a command (control 1) or a data set (control 0) as P-DATA-TFs of `size` bytes of payload each."""
    pdus = b""
    for start in range(0, max(1, len(data)), size):
        part = data[start : start + size]
        last = 2 if start + size >= len(data) else 0
        pdus += struct.pack(">BxIIBB", 4, len(part) + 6, len(part) + 2, context_id, control | last) + part
    return pdus


def store(
    data_set: bytes,
    sop_instance_uid: str,
    *,
    sop_class_uid: str = CT_STORAGE,
    context_id: int = 1,
    message_id: int = 1,
    size: int = 16_000,
) -> bytes:
    """A C-STORE with its data set."""
    command = dimse.store_request(message_id, sop_class_uid, sop_instance_uid)
    return data_pdus(context_id, 1, command) + data_pdus(context_id, 0, data_set, size=size)


def commitment_rq(transfer_syntax: str = IMPLICIT_LITTLE, *, calling: str = "SENDER") -> bytes:
    """An association request for CT in context 1 and storage commitment in context 3."""
    commitment = (uids.STORAGE_COMMITMENT_PUSH_MODEL, (transfer_syntax,))
    return associate_rq([(CT_STORAGE, (EXPLICIT_LITTLE,)), commitment], calling=calling)


def commitment_action(data_set: bytes, *, action_type: int = 1, message_id: int = 1) -> bytes:
    """A request for storage commitment (N-ACTION, PS3.4 J.3.2) in context 3."""
    command = dimse.encode(
        {
            dimse.REQUESTED_SOP_CLASS_UID: uids.STORAGE_COMMITMENT_PUSH_MODEL,
            dimse.COMMAND_FIELD: dimse.Command.N_ACTION_RQ,
            dimse.MESSAGE_ID: message_id,
            dimse.DATA_SET_TYPE: 1,
            dimse.REQUESTED_SOP_INSTANCE_UID: uids.STORAGE_COMMITMENT_INSTANCE,
            dimse.ACTION_TYPE_ID: action_type,
        }
    )
    return data_pdus(3, 1, command) + data_pdus(3, 0, data_set)


class Caller:
    """A connection to a receiver, with what is needed to read its answers."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def pdu(self) -> tuple[int, bytes]:
        """Type and body of the next PDU; (0, b"") at the end of the connection."""
        header = self._read(6)
        if len(header) < 6:
            return 0, b""
        return header[0], self._read(int.from_bytes(header[2:], "big"))

    def response(self) -> CommandSet:
        """The next command set; a data set that follows is left to `data_set`."""
        kind, body = self.pdu()
        assert kind == pdu.PDUType.DATA_TF, f"expected a message, got a PDU of type {kind}: {body.hex()}"
        assert body[5] == 3
        return dimse.decode(body[6:])

    def data_set(self) -> bytes:
        """The data set that follows a command, whole."""
        data = b""
        while True:
            kind, body = self.pdu()
            assert kind == pdu.PDUType.DATA_TF
            data += body[6:]
            if body[5] & 2:
                return data

    def status(self) -> int:
        """The status of the next response."""
        return self.response().status

    def release(self) -> None:
        """Release the association in an orderly way."""
        self.send(pdu.RELEASE_RQ)
        kind, _ = self.pdu()
        assert kind == pdu.PDUType.RELEASE_RP

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                return data
            data += piece
        return data


@contextmanager
def called(port: int, request: bytes | None = None) -> Iterator[Caller]:
    """An open association. Leaves by closing the connection."""
    caller = Caller(port)
    try:
        caller.send(request if request is not None else associate_rq())
        kind, body = caller.pdu()
        assert kind == pdu.PDUType.ASSOCIATE_AC, f"not accepted: PDU of type {kind}: {body.hex()}"
        yield caller
    finally:
        caller.socket.close()


VERIFICATION_CONTEXT = (uids.VERIFICATION, (uids.IMPLICIT_VR_LITTLE_ENDIAN,))
