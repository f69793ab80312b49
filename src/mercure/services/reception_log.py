"""What the log and the journal say of associations: who called, what came, what was refused and why."""

import logging
from typing import Any

from mercure.core.clock import Clock
from mercure.core.events import Event, EventKind, EventSink

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 60.0
"""The same trouble with the same peer is said once a minute: a scanner that is refused calls again and again."""

_MOST_REMEMBERED = 1000
_MOST_TITLES = 10
"""Pairs of AE titles that one peer can have named in this time, for the same trouble; it can invent any number."""

_TROUBLES = ("rejected", "aborted:", "timed out", "closed (", "TLS handshake failed")


class ReceptionLog:
    """Takes the reports of the receiver. AE titles are printed with escapes: a peer can put anything into them.

    Here and nowhere before, so that they are escaped once.
    """

    def __init__(self, clock: Clock, events: EventSink) -> None:
        """Start with nothing said."""
        self._clock = clock
        self._events = events
        self._said: dict[tuple[str, str], tuple[float, set[str]]] = {}

    def association(self, report: dict[str, Any]) -> None:
        """Say what an association brought that stored or refused something."""
        now = self._clock.now()
        titles = f"{_titles(report['calling_ae_title'], report['called_ae_title'])} from {report['peer_address']}"
        ended = f"{titles}: {report['how']}{_repeats(int(report['identical']), int(report['different']))}"
        stored, refused = int(report["stored"]), int(report["refused"])
        self._events.emit(
            Event(EventKind.ASSOCIATION_CLOSED, now, count=stored, size_bytes=int(report["stored_bytes"]), detail=ended)
        )
        if refused:
            why = str(report.get("last_refusal") or "see the log of the receiver")
            job_id = str(report.get("last_refused_job") or "") or None
            self._events.emit(
                Event(EventKind.INSTANCES_REFUSED, now, job_id=job_id, count=refused, detail=f"{titles}: {why}")
            )
            kept = f", kept as job {job_id}" if job_id else ""
            log.warning("association %s: %d stored, %d refused, the last one: %s%s", ended, stored, refused, why, kept)
        elif stored:
            log.info("association %s: %d instances stored", ended, stored)

    def end(self, peer: str, how: str, calling_ae_title: str = "", called_ae_title: str = "") -> None:
        """Say how a connection ended, if somebody must know: it was rejected, broken off, or closed unheard."""
        has_titles = calling_ae_title or called_ae_title
        titles = f" ({_titles(calling_ae_title, called_ae_title)})" if has_titles else ""
        if not how.startswith(_TROUBLES) or not self._is_new(peer, how, titles):
            return
        log.warning("connection from %s%s %s", peer, titles, how)
        self._events.emit(Event(EventKind.ASSOCIATION_REJECTED, self._clock.now(), detail=f"{peer}{titles}: {how}"))

    def recovered(self, count: int) -> None:
        """Say that instances which a dead worker had acknowledged were found again."""
        log.warning("%d instances of a receiver that died were recovered", count)
        self._events.emit(Event(EventKind.RECOVERED, self._clock.now(), count=count))

    def _is_new(self, peer: str, how: str, titles: str) -> bool:
        moment = self._clock.monotonic()
        since, said = self._said.get((peer, how), (float("-inf"), set()))
        if moment - since >= _AGAIN_SECONDS:
            if len(self._said) >= _MOST_REMEMBERED:
                self._said.clear()
            since, said = moment, set()
            self._said[peer, how] = since, said
        if titles in said or len(said) >= _MOST_TITLES:
            return False
        said.add(titles)
        return True


def _titles(calling: str, called: str) -> str:
    return f"{calling!r} to {called!r}"


def _repeats(identical: int, different: int) -> str:
    """Say how many of the stored instances were there before: a sender that repeats, or one that changes images."""
    said = [f"{identical} identical"] if identical else []
    if different:
        said.append(f"{different} with other content, kept beside the first")
    return f" (came again: {', '.join(said)})" if said else ""
