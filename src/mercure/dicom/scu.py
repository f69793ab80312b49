"""C-STORE as the sending side (PS3.4 Annex B, PS3.7 9.1.1).

`store_all` is the hot path: while the peer works on one instance, the next is read from its file, and the result of the
one before is handed out, so that writing the ledger costs the wire nothing.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from mercure.dicom import dimse, uids
from mercure.dicom.association_scu import Association
from mercure.dicom.pdu import ProposedContext
from mercure.dicom.peer import Peer
from mercure.dicom.send_buffer import SendBuffer

MOST_CONTEXTS = 128
HIGH_PRIORITY, MEDIUM_PRIORITY = 1, 0

FALLBACK = (uids.EXPLICIT_VR_LITTLE_ENDIAN, uids.IMPLICIT_VR_LITTLE_ENDIAN)
"""What is proposed beside the stored transfer syntax: each application must accept implicit VR (PS3.5 10.1)."""

Kind = tuple[str, str]
"""SOP class UID and transfer syntax UID."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An instance to send: the data set is `size` bytes of `source` (a path, or an open file) from `offset` on."""

    name: str
    sop_class_uid: str
    sop_instance_uid: str
    context_id: int
    source: str | BinaryIO
    offset: int
    size: int


@dataclass(slots=True)
class _Loaded:
    """An instance with its first PDUs in memory and its file open."""

    outgoing: Outgoing
    message_id: int
    descriptor: int
    sent: int
    pdus: memoryview


def propose(kinds: Iterable[Kind]) -> tuple[ProposedContext, ...]:
    """One context for each kind with its stored transfer syntax alone, and one for each class with uncompressed ones.

    The stored syntax stands alone so that the peer cannot choose another although it would take this one. Raises
    `ValueError` when they are more than an association can have; see `split_kinds`.
    """
    proposals: list[tuple[str, tuple[str, ...]]] = []
    for sop_class, syntaxes in _by_class(kinds).items():
        proposals += [(sop_class, (syntax,)) for syntax in syntaxes]
        proposals.append((sop_class, FALLBACK))
    if len(proposals) > MOST_CONTEXTS:
        raise ValueError(f"{len(proposals)} presentation contexts do not fit in one association")
    return tuple(ProposedContext(2 * index + 1, *proposal) for index, proposal in enumerate(proposals))


def split_kinds(kinds: Iterable[Kind]) -> list[frozenset[Kind]]:
    """Divide kinds into groups that `propose` can put into one association each. Mostly there is one group."""
    groups: list[frozenset[Kind]] = []
    group: set[Kind] = set()
    room = MOST_CONTEXTS
    for sop_class, syntaxes in _by_class(kinds).items():
        for start in range(0, len(syntaxes), MOST_CONTEXTS - 1):
            part = syntaxes[start : start + MOST_CONTEXTS - 1]
            if len(part) + 1 > room:
                groups.append(frozenset(group))
                group, room = set(), MOST_CONTEXTS
            group.update((sop_class, syntax) for syntax in part)
            room -= len(part) + 1
    if group:
        groups.append(frozenset(group))
    return groups


def _by_class(kinds: Iterable[Kind]) -> dict[str, list[str]]:
    classes: dict[str, list[str]] = {}
    for sop_class, syntax in sorted(set(kinds)):
        classes.setdefault(sop_class, []).append(syntax)
    return classes


class StoreAssociation:
    """An association for C-STORE of certain kinds of instance. Can be kept open and used again."""

    def __init__(self, peer: Peer, kinds: Iterable[Kind]) -> None:
        """Prepare; nothing is connected yet."""
        self.kinds = frozenset(kinds)
        self.association = Association(peer)
        self.stored = 0
        self.unanswered: Outgoing | None = None
        """What was being sent when the association broke."""
        self._contexts = propose(self.kinds)
        self._chosen: dict[Kind, int] = {}
        self._buffers: list[SendBuffer] = []

    def open(self) -> None:
        """Connect and negotiate; raises as `Association.open`."""
        self.association.open(self._contexts)
        accepted = self.association.accepted
        for context in reversed(self._contexts):
            if context.context_id in accepted:
                self._chosen[context.abstract_syntax, accepted[context.context_id]] = context.context_id

    def context_for(self, sop_class_uid: str, transfer_syntax_uid: str) -> int | None:
        """Return the id of the context that takes this kind as it is, or None."""
        return self._chosen.get((sop_class_uid, transfer_syntax_uid))

    def accepted_for(self, sop_class_uid: str) -> tuple[str, ...]:
        """Return the transfer syntaxes that the peer takes for a SOP class."""
        return tuple(syntax for sop_class, syntax in self._chosen if sop_class == sop_class_uid)

    def store_all(
        self,
        instances: Iterable[Outgoing],
        done: Callable[[Outgoing, int], None],
        *,
        before: Callable[[], None] = lambda: None,
        priority: int = MEDIUM_PRIORITY,
    ) -> None:
        """Send instances in order and tell `done` the status of each (PS3.4 B.2.3).

        `before` is called before each; what it raises ends the transfer between two instances. Raises transient errors
        when the association breaks or a file has become shorter, `OSError` when one cannot be read. Whatever was
        answered has been told when this returns or raises; after an error the association is closed.
        """
        waiting = iter(instances)
        answered: tuple[Outgoing, int] | None = None
        loaded: _Loaded | None = None
        try:
            loaded = self._load_next(waiting, priority)
            while loaded is not None:
                before()
                current, loaded = loaded, None
                self.unanswered = current.outgoing
                self._send(current)
                if answered is not None:
                    told, answered = answered, None
                    done(*told)
                try:
                    loaded = self._load_next(waiting, priority)
                finally:  # the answer to what was sent counts, whatever became of the next one
                    answered = current.outgoing, self._status_of(current)
                    self.stored += 1
                    self.unanswered = None
        except BaseException:
            if loaded is not None:
                _close(loaded)
            self.association.abort()
            raise
        finally:
            if answered is not None:
                done(*answered)

    def rest(self) -> None:
        """Give back the memory that sending took, before the association is kept for later."""
        self._buffers.clear()

    def _load_next(self, waiting: Iterator[Outgoing], priority: int) -> _Loaded | None:
        outgoing = next(waiting, None)
        if outgoing is None:
            return None
        if not self._buffers:
            self._buffers = [SendBuffer(self.association.pdu_bytes), SendBuffer(self.association.pdu_bytes)]
        buffer = self._buffers[0]
        self._buffers.reverse()
        message_id = self.association.next_message_id()
        command = dimse.store_request(message_id, outgoing.sop_class_uid, outgoing.sop_instance_uid, priority=priority)
        descriptor = _open(outgoing.source)
        try:
            pdus = buffer.load(descriptor, outgoing.offset, outgoing.size, outgoing.context_id, command)
        except BaseException:
            os.close(descriptor)
            raise
        return _Loaded(outgoing, message_id, descriptor, min(outgoing.size, buffer.capacity), pdus)

    def _send(self, loaded: _Loaded) -> None:
        outgoing = loaded.outgoing
        try:
            self.association.send(loaded.pdus)
            while loaded.sent < outgoing.size:
                buffer = self._buffers[1]
                left = outgoing.size - loaded.sent
                offset = outgoing.offset + loaded.sent
                self.association.send(buffer.load(loaded.descriptor, offset, left, outgoing.context_id))
                loaded.sent += min(left, buffer.capacity)
        finally:
            _close(loaded)
        self.association.expect_reply()

    def _status_of(self, loaded: _Loaded) -> int:
        context_id = loaded.outgoing.context_id
        reply = self.association.receive_reply(context_id, dimse.Command.C_STORE_RQ, loaded.message_id)
        return reply.command.status


def _open(source: str | BinaryIO) -> int:
    if isinstance(source, str):
        return os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    return os.dup(source.fileno())


def _close(loaded: _Loaded) -> None:
    os.close(loaded.descriptor)
