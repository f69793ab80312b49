"""What keeps a receiver from storing anything, for the log: said when it begins and when it is over."""

import logging
import threading
import time
from typing import Final

log = logging.getLogger(__name__)

_AGAIN_SECONDS: Final = 60.0
"""A trouble that comes and goes, as at the edge of the reserve, is said once in this time."""


class Trouble:
    """One state of the machine, seen by all associations of a worker: a sender may try thousands of instances in it."""

    def __init__(self) -> None:
        """Begin well."""
        self._lock = threading.Lock()
        self._told = ""
        self._told_at: dict[str, float] = {}

    def begin(self, reason: str) -> None:
        """An instance or an association was refused for this reason, which holds no value that changes each time."""
        now = time.monotonic()
        with self._lock:
            if reason == self._told or now - self._told_at.get(reason, float("-inf")) < _AGAIN_SECONDS:
                return
            self._told = reason
            self._told_at[reason] = now
        log.error("instances are refused: %s", reason)

    def end(self) -> None:
        """An instance was stored."""
        if not self._told:  # as nearly always: no lock for that
            return
        with self._lock:
            told, self._told = self._told, ""
        if told:
            log.warning("instances are stored again")
