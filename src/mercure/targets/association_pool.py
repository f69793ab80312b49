"""Associations that stay open for a while after a job, so that the next job to the same peer needs no new one."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from mercure.dicom.peer import Peer
from mercure.dicom.scu import Kind, StoreAssociation


@dataclass(frozen=True, slots=True)
class _Kept:
    association: StoreAssociation
    until: float


class AssociationPool:
    """Keeps open associations for `idle_seconds` each. Safe to use from many threads; nobody shares an association."""

    def __init__(self, idle_seconds: float, most: int = 8) -> None:
        """Keep at most `most` of them; with 0 seconds none is kept."""
        self._idle_seconds = idle_seconds
        self._most = most
        self._lock = threading.Lock()
        self._kept: list[_Kept] = []
        self._timer: threading.Timer | None = None

    def take(self, peer: Peer, kinds: Iterable[Kind]) -> StoreAssociation | None:
        """Return an open association with this peer, to which all these kinds were proposed, or None.

        The caller owns it then. It may still be dead: a peer can end it at any moment. With None, those that
        are kept for other kinds are released first: many a peer serves one association at a time, and would let the
        new one wait until the kept one is over.
        """
        wanted = frozenset(kinds)
        unusable = []
        others = []
        try:
            with self._lock:
                for kept in list(self._kept):
                    association = kept.association
                    if association.association.peer != peer:
                        continue
                    if not wanted <= association.kinds:
                        others.append(kept)
                        continue
                    self._kept.remove(kept)
                    if association.association.is_quiet:
                        return association
                    unusable.append(association)
                self._kept = [kept for kept in self._kept if kept not in others]
            for kept in others:
                kept.association.association.release()
        finally:
            for association in unusable:
                association.association.abort()
        return None

    def give(self, association: StoreAssociation) -> None:
        """Hand over an association between two messages; it is kept, or released when there is no room."""
        association.rest()
        with self._lock:
            keep = self._idle_seconds > 0 and association.association.is_open and len(self._kept) < self._most
            if keep:
                self._kept.append(_Kept(association, time.monotonic() + self._idle_seconds))
                self._arrange()
        if not keep:
            association.association.release()

    def close(self) -> None:
        """Release all associations that are kept. The pool can be used again."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            kept, self._kept = self._kept, []
        for each in kept:
            each.association.association.release()

    def _arrange(self) -> None:
        """Have the ones that stay unused released when their time is over. Called with the lock held."""
        if self._timer is None and self._kept:
            delay = max(0.0, self._kept[0].until - time.monotonic())
            self._timer = threading.Timer(delay, self._expire)
            self._timer.daemon = True
            self._timer.start()

    def _expire(self) -> None:
        with self._lock:
            self._timer = None
            now = time.monotonic()
            over = [kept for kept in self._kept if kept.until <= now]
            self._kept = [kept for kept in self._kept if kept.until > now]
            self._arrange()
        for kept in over:
            kept.association.association.release()
