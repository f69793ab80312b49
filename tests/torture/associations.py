"""Damaged associations for a real receiver: whole conversations, broken at one place, sent in pieces."""

import itertools
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from tests.builders import CT_STORAGE, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from tests.peers import DEADLINE_SECONDS
from tests.sender import associate_rq, data_pdus
from tests.torture import mutation
from tests.torture.mutation import STRANGE_UIDS, mutate

from mercure.dicom import dimse, pdu, uids
from mercure.dicom.dimse import Command
from mercure.dicom.framing import ControlPDU, Framer

_SYNTAXES = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG)
_CONTEXTS = (
    *((CT_STORAGE, (syntax,)) for syntax in _SYNTAXES),
    (uids.VERIFICATION, (IMPLICIT_LITTLE,)),
    (uids.STORAGE_COMMITMENT_PUSH_MODEL, (EXPLICIT_LITTLE,)),
)
_TITLES = ("MERCURE", "../../x", "/etc", ".", "..", "A#B", "x\\y", "x" * 16)


@dataclass(frozen=True)
class Conversation:
    """What is sent, and in which pieces; the end is a half-close, a reset, or silence."""

    pieces: tuple[bytes, ...]
    end: str


def conversation(chance: Random) -> Conversation:
    """One damaged association."""
    part = chance.choice(("stream", "stream", "request", "command", "data set", "data set", "commitment", "uid"))
    calling, called = "SENDER", "MERCURE"
    if chance.random() < 0.1:
        calling, called = chance.choice(_TITLES), chance.choice(_TITLES)
    request = associate_rq(_CONTEXTS, calling=calling, called=called)
    if part == "request":
        body = mutate(request[6:], chance, request)
        request = pdu.PDU_HEADER.pack(1, len(body)) + body
    stream = request
    for number in range(chance.choice((1, 1, 2, 3))):
        stream += _message(chance, part, number)
    stream += pdu.RELEASE_RQ
    if part == "stream":
        stream = mutate(stream, chance, stream)
    return Conversation(_pieces(stream, chance), chance.choice(("half-close", "half-close", "reset")))


def _message(chance: Random, part: str, number: int) -> bytes:
    index = chance.randrange(len(_SYNTAXES))
    syntax, context_id = _SYNTAXES[index], 2 * index + 1
    size = chance.choice((1, 13, 500, 16_000))
    if part == "commitment" or (number and chance.random() < 0.2):
        command = mutation.commands()[2]
        data = chance.choice(mutation.commitments(EXPLICIT_LITTLE))
        data = mutate(data, chance, data) if part == "commitment" else data
        return data_pdus(9, 1, command) + data_pdus(9, 0, data, size=max(size, 200))
    data, uid = _instance(chance, syntax)
    if part == "data set":
        data = mutate(data, chance, chance.choice(mutation.data_sets(syntax)))
    if part == "uid":
        data, uid = _with_strange_uid(chance, data, uid)
    command = dimse.store_request(number + 1, CT_STORAGE, uid)
    if part == "command":
        command = mutate(command, chance, chance.choice(mutation.commands()))
    return data_pdus(context_id, 1, command, size=max(size, 20)) + data_pdus(context_id, 0, data, size=max(size, 300))


def _instance(chance: Random, syntax: str) -> tuple[bytes, str]:
    """A data set with a SOP Instance UID of its own."""
    data = chance.choice(mutation.data_sets(syntax))
    old = _value(data, b"\x08\x00\x18\x00", b"\x00\x08\x00\x18")
    new = f"2.25.{chance.randrange(10**38, 10**39)}"
    return data.replace(old, new.encode()), new


def _with_strange_uid(chance: Random, data: bytes, uid: str) -> tuple[bytes, str]:
    """A UID that would be a path stands in for the study, the series or the instance."""
    strange = chance.choice(STRANGE_UIDS).encode("latin-1").ljust(44, b"\0")
    which = chance.randrange(3)
    little, big = ((b"\x20\x00\x0d\x00", b"\x00\x20\x00\x0d"), (b"\x20\x00\x0e\x00", b"\x00\x20\x00\x0e"))[which % 2]
    if which == 2:
        return data.replace(uid.encode(), strange), strange.rstrip(b"\0").decode("latin-1")
    return data.replace(_value(data, little, big), strange), uid


def _value(data: bytes, little: bytes, big: bytes) -> bytes:
    """The 44 characters of a UID element."""
    place = data.find(little)
    place = place if place >= 0 else data.index(big)
    return data[place + 8 : place + 52]


def _pieces(stream: bytes, chance: Random) -> tuple[bytes, ...]:
    if chance.random() < 0.2:
        stream = stream[: chance.randrange(len(stream) + 1)]
    cuts = sorted(chance.randrange(len(stream) + 1) for _ in range(chance.choice((0, 0, 1, 3, 20))))
    return tuple(stream[start:end] for start, end in itertools.pairwise((0, *cuts, len(stream))))


def hold(port: int, talk: Conversation) -> set[str]:
    """Play a conversation until the receiver ends it; return the SOP Instance UIDs that it acknowledged.

    Raises `TimeoutError` when the receiver neither reads nor ends the connection within a deadline.
    """
    answers = b""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(ConnectionError):
            for piece in talk.pieces:
                connection.sendall(piece)
            if talk.end == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return set()
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(1 << 16):
                answers += data
    return acknowledged(answers)


def acknowledged(answers: bytes) -> set[str]:
    """Read what a receiver sent: the instances whose C-STORE ended with 0x0000."""
    found, command = set(), b""
    for event in Framer(0).feed(memoryview(answers)):
        if isinstance(event, ControlPDU):
            continue
        _, control, view, ends = event
        if not control & pdu.COMMAND:
            continue
        command += view
        if ends and control & pdu.LAST:
            response = dimse.decode(command)
            command = b""
            if response.command == Command.C_STORE_RSP and response.status == dimse.SUCCESS:
                found.add(response.uid(dimse.AFFECTED_SOP_INSTANCE_UID))
    return found
