"""A DICOM node as target, with and without TLS: C-STORE with a result for each instance (PS3.4 Annex B)."""

import contextlib
import os
import threading
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field

from mercure.core.delivery import InstanceResult, Outcome, Parcel, Progress, TargetTest
from mercure.core.errors import JobError, PermanentError, TransientError
from mercure.dicom.association_scu import Association
from mercure.dicom.part10 import FileMeta, read_file_meta
from mercure.dicom.peer import BrokenError, NoAnswerError, Peer, RejectedError, UnknownTitleError, UnreachableError
from mercure.dicom.scu import HIGH_PRIORITY, MEDIUM_PRIORITY, Kind, Outgoing, StoreAssociation, split_kinds
from mercure.dicom.services_scu import echo
from mercure.dicom.store_status import outcome_of
from mercure.dicom.tls_client import TlsClient, TlsFiles, TlsFilesError
from mercure.dicom.transcoder import Transcoder
from mercure.targets.association_pool import AssociationPool
from mercure.targets.broken_associations import Breaks

SENDER = "sender"
"""Host that means: back to the address that sent the series."""


@dataclass(frozen=True, slots=True)
class DicomNode:
    """What is configured of a DICOM target."""

    host: str
    port: int
    called_ae_title: str
    calling_ae_title: str = "MERCURE"
    forward_calling_ae_title: bool = False
    forward_called_ae_title: bool = False
    tls: TlsFiles | None = None
    connect_timeout_seconds: float = 10.0
    response_timeout_seconds: float = 60.0
    associations_idle_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class _Item:
    """A file of the parcel whose head was read."""

    name: str
    path: str
    meta: FileMeta

    @property
    def kind(self) -> Kind:
        return self.meta.sop_class_uid, self.meta.transfer_syntax_uid


@dataclass(slots=True)
class _Delivery:
    """One call of `send`: what is still to do, and how to break it off."""

    parcel: Parcel
    progress: Progress
    transcoder: Transcoder = field(default_factory=Transcoder)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: bool = False
    _association: Association | None = None
    _recorded: set[str] = field(default_factory=set)

    def record(self, name: str, outcome: Outcome, detail: str = "") -> None:
        self._recorded.add(name)
        self.progress.record(InstanceResult(name, outcome, detail))

    def without_result(self, items: Iterable[_Item]) -> dict[str, _Item]:
        """Return, by name, what still has no result of this call."""
        return {item.name: item for item in items if item.name not in self._recorded}

    def use(self, association: Association) -> None:
        """Have `close` end this association from now on."""
        with self._lock:
            self._association = association
            if self._closed:
                association.close()

    def let_go(self) -> None:
        """Have `close` end nothing any more: the association goes to somebody else."""
        with self._lock:
            self._association = None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._association is not None:
                self._association.close()
        self.transcoder.close()

    @property
    def is_closed(self) -> bool:
        return self._closed


class DicomTarget:
    """Sends to one DICOM node. Safe to use from many threads: each call has an association of its own."""

    def __init__(self, node: DicomNode) -> None:
        """Connect nothing yet."""
        self._node = node
        self._pool = AssociationPool(node.associations_idle_seconds)
        self._tls = TlsClient(node.tls) if node.tls is not None else None

    def send(self, parcel: Parcel, progress: Progress) -> None:
        """Deliver the instances; see `mercure.core.delivery.Target`.

        An instance in a transfer syntax that the node refuses is sent uncompressed if the node takes that. A kept
        association that turns out to be dead before anything was sent on it is replaced, and that is no failure.
        """
        delivery = _Delivery(parcel, progress)
        progress.attach(delivery.close)
        peer = self._peer_for(parcel)
        items = _read_heads(delivery)
        try:
            with delivery.transcoder:
                for kinds in split_kinds(item.kind for item in items):
                    self._send_group(peer, kinds, [item for item in items if item.kind in kinds], delivery)
        except TransientError:
            if delivery.is_closed:
                progress.check()  # a transfer that was broken off by a cancel is cancelled, not failed
            raise

    def _peer_for(self, parcel: Parcel) -> Peer:
        node = self._node
        host = parcel.peer_address if node.host == SENDER else node.host
        if not host:
            raise PermanentError("the target is the sender of the series, and its address is not known")
        calling = parcel.calling_ae_title if node.forward_calling_ae_title else ""
        called = (parcel.called_ae_title if node.forward_called_ae_title else "") or node.called_ae_title
        if not called:
            raise PermanentError("the AE title to call is that of the series, and the series has none")
        return self._peer(host, called, calling or node.calling_ae_title)

    def _peer(self, host: str, called: str, calling: str) -> Peer:
        node = self._node
        tls = self._tls.context() if self._tls is not None else None
        return Peer(host, node.port, called, calling, tls, node.connect_timeout_seconds, node.response_timeout_seconds)

    def _send_group(self, peer: Peer, kinds: frozenset[Kind], items: list[_Item], delivery: _Delivery) -> None:
        """Send instances that fit on one association; on others what is left when the node breaks it off."""
        breaks, blamed = Breaks(), None
        kept = self._pool.take(peer, kinds)
        while left := delivery.without_result(items):
            association = kept or self._open(peer, kinds, delivery)
            before = association.stored
            try:
                self._send_on(association, [left[name] for name in breaks.order(left)], delivery)
            except TransientError as error:
                stored = association.stored != before
                if delivery.is_closed:
                    raise
                if kept is None or stored:
                    left = delivery.without_result(items)
                    blamed = _heed_break(error, association.unanswered, breaks, left, stored=stored)
                kept = None
            else:
                break
        if blamed is not None and delivery.without_result(items):  # given up while others could still be sent
            raise blamed

    def _open(self, peer: Peer, kinds: frozenset[Kind], delivery: _Delivery) -> StoreAssociation:
        fresh = StoreAssociation(peer, kinds)
        delivery.use(fresh.association)
        fresh.open()
        return fresh

    def _send_on(self, association: StoreAssociation, items: list[_Item], delivery: _Delivery) -> None:
        delivery.use(association.association)

        def done(outgoing: Outgoing, status: int) -> None:
            delivery.record(outgoing.name, *outcome_of(status))

        priority = HIGH_PRIORITY if delivery.parcel.urgent else MEDIUM_PRIORITY
        try:
            with contextlib.closing(_outgoing(association, items, delivery)) as outgoing:
                association.store_all(outgoing, done, before=delivery.progress.check, priority=priority)
        except OSError as error:
            raise TransientError(f"a file of the job cannot be read: {error.strerror}") from None
        delivery.let_go()
        self._pool.give(association)

    def test(self) -> TargetTest:
        """Connect, and verify with C-ECHO."""
        node = self._node
        if node.host == SENDER:
            return TargetTest(reachable=True, detail="not tested: sends back to whoever sent the series")
        try:
            seconds = echo(self._peer(node.host, node.called_ae_title, node.calling_ae_title))
        except JobError as error:
            return TargetTest(reachable=False, detail=str(error), remedy=_remedy(error))
        where = f"{node.called_ae_title} at {node.host}:{node.port}"
        return TargetTest(reachable=True, detail=f"{where} answered C-ECHO in {seconds * 1000:.0f} ms")

    def close(self) -> None:
        """Release the associations that are kept."""
        self._pool.close()


def _heed_break(
    error: TransientError, unanswered: Outgoing | None, breaks: Breaks, left: Mapping[str, _Item], *, stored: bool
) -> BrokenError:
    """Return the error with the instance that was on its way; raise it when nothing is left for another association."""
    if not isinstance(error, BrokenError) or unanswered is None or unanswered.name not in left:
        raise error
    blamed = BrokenError(f"{error}, on instance {unanswered.sop_instance_uid}")
    if not breaks.note(unanswered.name, left, stored=stored):
        raise blamed from error
    return blamed


def _read_heads(delivery: _Delivery) -> list[_Item]:
    """Read what each file is; one that cannot be sent at all has its result at once."""
    items = []
    for name in delivery.parcel.names:
        path = os.path.join(delivery.parcel.folder, name)
        try:
            items.append(_Item(name, path, read_file_meta(path)))
        except PermanentError as error:
            delivery.record(name, Outcome.REFUSED, str(error))
        except OSError as error:
            delivery.record(name, Outcome.REFUSED, f"the file cannot be read: {error.strerror}")
    return items


def _outgoing(
    association: StoreAssociation, items: list[_Item], delivery: _Delivery
) -> Generator[Outgoing, None, None]:
    """Yield each instance as the peer takes it; record the ones that it does not take in any form."""
    for item in items:
        meta = item.meta
        context_id = association.context_for(*item.kind)
        if context_id is not None:
            yield _as_stored(item, context_id)
            continue
        try:
            converted = delivery.transcoder.transcode(item.path, association.accepted_for(meta.sop_class_uid))
        except PermanentError as error:
            delivery.record(item.name, Outcome.REFUSED, str(error))
            continue
        with converted.file as file:
            context_id = association.context_for(meta.sop_class_uid, converted.transfer_syntax_uid)
            if context_id is None:
                raise TypeError("the transcoder chose a transfer syntax that was not accepted")
            yield Outgoing(item.name, meta.sop_class_uid, meta.sop_instance_uid, context_id, file, 0, converted.size)


def _as_stored(item: _Item, context_id: int) -> Outgoing:
    meta = item.meta
    offset, size = meta.data_set_offset, meta.data_set_size
    return Outgoing(item.name, meta.sop_class_uid, meta.sop_instance_uid, context_id, item.path, offset, size)


_REMEDIES: tuple[tuple[type[JobError], str], ...] = (
    (UnreachableError, "Check host, port, firewall, TLS on both sides, and that the node runs."),
    (UnknownTitleError, "Check both AE titles, here and in the configuration of the node."),
    (RejectedError, "The log of the node says why: it may be busy, at a limit, or not offer what we ask for."),
    (NoAnswerError, "Something listens there, but does not answer as DICOM: check the port, TLS, and the node."),
    (BrokenError, "Check TLS on both sides, the AE titles, and the log of the node."),
    (TlsFilesError, "Check that key, certificate and authorities are PEM files that the service may read."),
)


def _remedy(error: JobError) -> str:
    return next((text for kind, text in _REMEDIES if isinstance(error, kind)), "See the log of the node.")
