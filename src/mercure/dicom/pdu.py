"""Protocol data units of the DICOM upper layer (PS3.8 section 9.3): values, and their encoding to and from bytes.

Decoders take bytes from a stranger. They raise `ProtocolError` for everything that is not a PDU, and never anything
else; what can be tolerated (padding, unknown items, odd order) is tolerated.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from mercure.core.errors import TransientError
from mercure.dicom import uids


class ProtocolError(TransientError):
    """The peer sent something that is not DICOM, or not allowed now. Carries the reason for A-ABORT (PS3.8 9.3.8)."""

    code = "protocol"

    def __init__(self, message: str, reason: int = 0) -> None:
        """Keep the reason of the provider: 0 not specified, 1 unrecognised PDU, 2 unexpected PDU, 6 bad parameter."""
        super().__init__(message)
        self.reason = reason


class PDUType(IntEnum):
    """First byte of each PDU."""

    ASSOCIATE_RQ = 0x01
    ASSOCIATE_AC = 0x02
    ASSOCIATE_RJ = 0x03
    DATA_TF = 0x04
    RELEASE_RQ = 0x05
    RELEASE_RP = 0x06
    ABORT = 0x07


UNRECOGNIZED_PDU = 1
UNEXPECTED_PDU = 2
INVALID_PARAMETER = 6

PDU_HEADER = struct.Struct(">BxI")
PDV_HEADER = struct.Struct(">IBB")
COMMAND, LAST = 0x01, 0x02

MAXIMUM_CONTROL_PDU_BYTES = 1 << 20
"""No association request in the field comes near this; a larger one is an attack or a broken peer."""

MAXIMUM_LATER_PDU_BYTES = 1 << 16
"""After request and answer control PDUs have ten bytes; longer ones are read only to tell what they are."""

RELEASE_RQ = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"
RELEASE_RP = b"\x06\x00\x00\x00\x00\x04\x00\x00\x00\x00"

_ITEM = struct.Struct(">BxH")
_APPLICATION_CONTEXT_ITEM = 0x10
_CONTEXT_RQ_ITEM = 0x20
_CONTEXT_AC_ITEM = 0x21
_ABSTRACT_SYNTAX_ITEM = 0x30
_TRANSFER_SYNTAX_ITEM = 0x40
_USER_INFORMATION_ITEM = 0x50
_MAXIMUM_LENGTH_ITEM = 0x51
_IMPLEMENTATION_CLASS_ITEM = 0x52
_ROLE_SELECTION_ITEM = 0x54
_IMPLEMENTATION_VERSION_ITEM = 0x55

_FIXED_PART_BYTES = 68
_MAXIMUM_CONTEXTS = 128


class ContextResult(IntEnum):
    """Result of one presentation context (PS3.8 table 9-18)."""

    ACCEPTED = 0
    USER_REJECTION = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


@dataclass(frozen=True, slots=True)
class Role:
    """Which roles the requestor takes for a SOP class (PS3.7 D.3.3.4)."""

    scu: bool
    scp: bool


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """A presentation context of an association request; `context_id` is odd, 1 to 255."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ContextAnswer:
    """The acceptor's answer to one proposed context; `transfer_syntax` has meaning only when accepted."""

    context_id: int
    result: int
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class AssociateRQ:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2). `maximum_length`: the largest P-DATA-TF in bytes that its sender takes, 0: any."""

    called_ae_title: str
    calling_ae_title: str
    contexts: tuple[ProposedContext, ...]
    maximum_length: int = 0
    implementation_class_uid: str = uids.IMPLEMENTATION_CLASS
    implementation_version: str = uids.IMPLEMENTATION_VERSION
    application_context: str = uids.APPLICATION_CONTEXT
    protocol_version: int = 1
    roles: Mapping[str, Role] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the PDU."""
        contexts = b"".join(_encode_proposed(context) for context in self.contexts)
        return _encode_associate(PDUType.ASSOCIATE_RQ, self.called_ae_title, self.calling_ae_title, contexts, self)


@dataclass(frozen=True, slots=True)
class AssociateAC:
    """A-ASSOCIATE-AC (PS3.8 9.3.3). The AE titles repeat those of the request."""

    called_ae_title: str
    calling_ae_title: str
    contexts: tuple[ContextAnswer, ...]
    maximum_length: int = 0
    implementation_class_uid: str = uids.IMPLEMENTATION_CLASS
    implementation_version: str = uids.IMPLEMENTATION_VERSION
    application_context: str = uids.APPLICATION_CONTEXT
    roles: Mapping[str, Role] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the PDU."""
        contexts = b"".join(_encode_answer(context) for context in self.contexts)
        return _encode_associate(PDUType.ASSOCIATE_AC, self.called_ae_title, self.calling_ae_title, contexts, self)


@dataclass(frozen=True, slots=True)
class AssociateRJ:
    """A-ASSOCIATE-RJ (PS3.8 9.3.4)."""

    result: int
    source: int
    reason: int

    def encode(self) -> bytes:
        """Return the PDU."""
        return bytes((PDUType.ASSOCIATE_RJ, 0, 0, 0, 0, 4, 0, self.result, self.source, self.reason))

    @property
    def is_transient(self) -> bool:
        """Whether the same request may be accepted later (result 2)."""
        return self.result == 2


REJECT_APPLICATION_CONTEXT = AssociateRJ(1, 1, 2)
REJECT_CALLING_AE_TITLE = AssociateRJ(1, 1, 3)
REJECT_CALLED_AE_TITLE = AssociateRJ(1, 1, 7)
REJECT_PROTOCOL_VERSION = AssociateRJ(1, 2, 2)
REJECT_CONGESTION = AssociateRJ(2, 3, 1)
REJECT_LOCAL_LIMIT = AssociateRJ(2, 3, 2)


def encode_abort(source: int, reason: int) -> bytes:
    """Return an A-ABORT (PS3.8 9.3.8); source 0 is the service user, 2 the provider."""
    return bytes((PDUType.ABORT, 0, 0, 0, 0, 4, 0, 0, source, reason))


def decode_associate_rq(body: bytes) -> AssociateRQ:
    """Read the body (after the six bytes of the PDU header) of an A-ASSOCIATE-RQ."""
    version, called, calling = _fixed_part(body)
    contexts: list[ProposedContext] = []
    user = _UserInformation()
    application_context = ""
    for kind, value in _items(body, _FIXED_PART_BYTES):
        if kind == _APPLICATION_CONTEXT_ITEM:
            application_context = _uid(value)
        elif kind == _CONTEXT_RQ_ITEM:
            contexts.append(_decode_proposed(value))
        elif kind == _USER_INFORMATION_ITEM:
            user.read(value)
    _check_contexts([context.context_id for context in contexts])
    return AssociateRQ(
        called,
        calling,
        tuple(contexts),
        user.maximum_length,
        user.implementation_class_uid,
        user.implementation_version,
        application_context,
        version,
        user.roles,
    )


def decode_associate_ac(body: bytes) -> AssociateAC:
    """Read the body of an A-ASSOCIATE-AC."""
    _version, called, calling = _fixed_part(body)
    contexts: list[ContextAnswer] = []
    user = _UserInformation()
    for kind, value in _items(body, _FIXED_PART_BYTES):
        if kind == _CONTEXT_AC_ITEM:
            contexts.append(_decode_answer(value))
        elif kind == _USER_INFORMATION_ITEM:
            user.read(value)
    return AssociateAC(
        called,
        calling,
        tuple(contexts),
        user.maximum_length,
        user.implementation_class_uid,
        user.implementation_version,
        roles=user.roles,
    )


def decode_associate_rj(body: bytes) -> AssociateRJ:
    """Read the body of an A-ASSOCIATE-RJ."""
    if len(body) < 4:
        raise ProtocolError("A-ASSOCIATE-RJ is too short", INVALID_PARAMETER)
    return AssociateRJ(body[1], body[2], body[3])


def decode_abort(body: bytes) -> tuple[int, int]:
    """Return source and reason of an A-ABORT; a short one counts as not specified."""
    return (body[2], body[3]) if len(body) >= 4 else (0, 0)


class _UserInformation:
    """What the user information item says; every part of it may be missing."""

    def __init__(self) -> None:
        self.maximum_length = 0
        self.implementation_class_uid = ""
        self.implementation_version = ""
        self.roles: dict[str, Role] = {}

    def read(self, value: bytes) -> None:
        for kind, part in _items(value, 0):
            if kind == _MAXIMUM_LENGTH_ITEM and len(part) == 4:
                self.maximum_length = int.from_bytes(part, "big")
            elif kind == _IMPLEMENTATION_CLASS_ITEM:
                self.implementation_class_uid = _uid(part)
            elif kind == _IMPLEMENTATION_VERSION_ITEM:
                self.implementation_version = _text(part)[:16]
            elif kind == _ROLE_SELECTION_ITEM:
                self._read_role(part)

    def _read_role(self, part: bytes) -> None:
        length = int.from_bytes(part[:2], "big")
        if len(part) < length + 4:
            raise ProtocolError("role selection item is too short", INVALID_PARAMETER)
        self.roles[_uid(part[2 : 2 + length])] = Role(bool(part[2 + length]), bool(part[3 + length]))


def _check_contexts(context_ids: list[int]) -> None:
    if not context_ids:
        raise ProtocolError("association request without presentation contexts", INVALID_PARAMETER)
    if len(context_ids) > _MAXIMUM_CONTEXTS or len(set(context_ids)) != len(context_ids):
        raise ProtocolError("presentation context ids are not unique", INVALID_PARAMETER)
    if any(context_id % 2 == 0 for context_id in context_ids):
        raise ProtocolError("presentation context id is not odd", INVALID_PARAMETER)


def _fixed_part(body: bytes) -> tuple[int, str, str]:
    if len(body) < _FIXED_PART_BYTES:
        raise ProtocolError("association PDU is too short", INVALID_PARAMETER)
    return int.from_bytes(body[:2], "big"), _text(body[4:20]), _text(body[20:36])


def _items(data: bytes, position: int) -> Iterator[tuple[int, bytes]]:
    end = len(data)
    while position < end:
        if position + 4 > end:
            raise ProtocolError("item header is cut off", INVALID_PARAMETER)
        kind, length = _ITEM.unpack_from(data, position)
        position += 4
        if position + length > end:
            raise ProtocolError("item is longer than the PDU", INVALID_PARAMETER)
        yield kind, data[position : position + length]
        position += length


def _decode_proposed(value: bytes) -> ProposedContext:
    if len(value) < 4:
        raise ProtocolError("presentation context item is too short", INVALID_PARAMETER)
    abstract_syntax = ""
    transfer_syntaxes: list[str] = []
    for kind, part in _items(value, 4):
        if kind == _ABSTRACT_SYNTAX_ITEM:
            abstract_syntax = _uid(part)
        elif kind == _TRANSFER_SYNTAX_ITEM:
            transfer_syntaxes.append(_uid(part))
    return ProposedContext(value[0], abstract_syntax, tuple(transfer_syntaxes))


def _decode_answer(value: bytes) -> ContextAnswer:
    if len(value) < 4:
        raise ProtocolError("presentation context item is too short", INVALID_PARAMETER)
    transfer_syntax = next((_uid(part) for kind, part in _items(value, 4) if kind == _TRANSFER_SYNTAX_ITEM), "")
    return ContextAnswer(value[0], value[2], transfer_syntax)


def _text(data: bytes) -> str:
    """Decode what should be the default repertoire; a stray byte stays visible instead of ending the association."""
    return data.decode("latin-1").strip(" \0")


def _uid(data: bytes) -> str:
    return data.decode("latin-1").strip(" \0")


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def _encode_proposed(context: ProposedContext) -> bytes:
    syntaxes = _item(_ABSTRACT_SYNTAX_ITEM, context.abstract_syntax.encode("ascii"))
    syntaxes += b"".join(_item(_TRANSFER_SYNTAX_ITEM, uid.encode("ascii")) for uid in context.transfer_syntaxes)
    return _item(_CONTEXT_RQ_ITEM, bytes((context.context_id, 0, 0, 0)) + syntaxes)


def _encode_answer(context: ContextAnswer) -> bytes:
    syntax = _item(_TRANSFER_SYNTAX_ITEM, context.transfer_syntax.encode("latin-1"))
    return _item(_CONTEXT_AC_ITEM, bytes((context.context_id, 0, context.result, 0)) + syntax)


def _encode_role(sop_class_uid: str, role: Role) -> bytes:
    uid = sop_class_uid.encode("latin-1")
    return _item(_ROLE_SELECTION_ITEM, len(uid).to_bytes(2, "big") + uid + bytes((role.scu, role.scp)))


def _encode_associate(
    kind: PDUType, called: str, calling: str, contexts: bytes, source: AssociateRQ | AssociateAC
) -> bytes:
    user = _item(_MAXIMUM_LENGTH_ITEM, source.maximum_length.to_bytes(4, "big"))
    user += _item(_IMPLEMENTATION_CLASS_ITEM, source.implementation_class_uid.encode("latin-1"))
    user += b"".join(_encode_role(uid, role) for uid, role in source.roles.items())
    user += _item(_IMPLEMENTATION_VERSION_ITEM, source.implementation_version.encode("latin-1"))
    body = b"".join(
        (
            b"\x00\x01\x00\x00",
            called.encode("latin-1").ljust(16)[:16],
            calling.encode("latin-1").ljust(16)[:16],
            bytes(32),
            _item(_APPLICATION_CONTEXT_ITEM, source.application_context.encode("latin-1")),
            contexts,
            _item(_USER_INFORMATION_ITEM, user),
        )
    )
    return PDU_HEADER.pack(kind, len(body)) + body
