"""Targets that behave badly until they recover: receivers made of pynetdicom whose every answer the test decides."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from tests.builders import CT_STORAGE, EXPLICIT_LITTLE
from tests.peers import DEADLINE_SECONDS, free_port, pynetdicom_server

Mood = Callable[[evt.Event, str], int]
"""Decides about one instance: the status, after whatever else it does."""


@dataclass
class Peer:
    """A receiver. `confirmed` counts the answers that say that an instance is stored, `asked` all C-STOREs."""

    port: int
    mood: Mood
    asked: Counter[str] = field(default_factory=Counter)
    confirmed: Counter[str] = field(default_factory=Counter)
    recovered: threading.Event = field(default_factory=threading.Event)
    aborted: set[str] = field(default_factory=set)
    """Instances of which it is not known whether the sender has got the answer."""

    def answer(self, event: evt.Event) -> int:
        request = event.request
        if not isinstance(request, C_STORE):
            raise TypeError(type(request).__name__)
        uid = str(request.AffectedSOPInstanceUID)
        self.asked[uid] += 1
        status = 0 if self.recovered.is_set() else self.mood(event, uid)
        if event.assoc.is_aborted:
            self.aborted.add(uid)
        elif status == 0 or 0xB000 <= status <= 0xBFFF:
            self.confirmed[uid] += 1
        return status


@contextmanager
def peer(mood: Mood, *, port: int | None = None, sop_classes: Sequence[str] = (CT_STORAGE,)) -> Iterator[Peer]:
    """Run a receiver that follows its mood until it has recovered."""
    made = Peer(port or free_port(), mood)
    entity = AE(ae_title="PEER")
    for sop_class in sop_classes:
        entity.add_supported_context(sop_class, EXPLICIT_LITTLE)
    with pynetdicom_server(entity, [(evt.EVT_C_STORE, made.answer)], port=made.port):
        try:
            yield made
        finally:
            made.recovered.set()


def good(_event: evt.Event, _uid: str) -> int:
    """Everything is stored."""
    return 0x0000


def slow(_event: evt.Event, _uid: str) -> int:
    """Everything is stored, after a while."""
    threading.Event().wait(0.2)
    return 0x0000


def warns(_event: evt.Event, _uid: str) -> int:
    """Everything is stored, with a remark."""
    return 0xB000


def some(status: int, uids: Sequence[str]) -> Mood:
    """These instances get this status."""
    return lambda _event, uid: status if uid in uids else 0x0000


def aborts_at(uids: Sequence[str]) -> Mood:
    """The association is aborted when one of these instances comes, whenever it comes."""

    def mood(event: evt.Event, uid: str) -> int:
        if uid in uids:
            event.assoc.abort()
        return 0x0000

    return mood


def stuck(release: threading.Event) -> Mood:
    """No C-STORE is answered before the event."""

    def mood(_event: evt.Event, _uid: str) -> int:
        release.wait(DEADLINE_SECONDS * 4)
        return 0x0000

    return mood
