"""What goes wrong with jobs outside of their modules: said once, and counted when it is an error of ours.

A disk or an engine that is away says nothing about a job, so it is tried until that is over. An error that nobody
foresaw is tried again a few times; after that its job must end, or it would be tried, and fill the log, for ever.
"""

import logging
import os
from collections.abc import Container, Iterable

from mercure.core.errors import MercureError
from mercure.core.module_policy import root_trouble
from mercure.core.processing import ModuleSpec

log = logging.getLogger(__name__)

MOST_FAULTS = 3


class Troubles:
    """Remembers the troubles of jobs until they are over. Used by the processor's own thread only."""

    def __init__(self) -> None:
        """Start without any."""
        self._reasons: dict[str, str] = {}
        self._faults: dict[str, int] = {}
        self._foreseen: dict[str, str] = {}

    def foresee(self, modules: Iterable[ModuleSpec]) -> None:
        """Log, before any job asks for them, which modules cannot run under the user of this service. Each once."""
        found = {one.name: text for one in modules if (text := root_trouble(one, os.geteuid()))}
        for name, text in found.items():
            if self._foreseen.get(name) != text:
                log.error("module %s cannot run, and its jobs will go to error: %s", name, text)
        self._foreseen = found

    def note(self, job_id: str, what: str, error: Exception) -> bool:
        """Log that something (started, settled) cannot be done with a job now. True: do not try it any more.

        Names of files stay out of the log: modules choose some of them.
        """
        if isinstance(error, OSError | MercureError):
            reason = str(error.strerror if isinstance(error, OSError) else error)
            if self._reasons.get(job_id) != reason:
                log.error("job %s cannot be %s now: %s", job_id, what, reason)
            self._reasons[job_id] = reason
            return False
        self._faults[job_id] = self._faults.get(job_id, 0) + 1
        log.error("job %s cannot be %s, by an error of ours", job_id, what, exc_info=error)
        return self._faults[job_id] >= MOST_FAULTS

    def over(self, job_id: str) -> None:
        """Forget what was wrong with a job: it came through."""
        self._reasons.pop(job_id, None)
        self._faults.pop(job_id, None)

    def keep_only(self, known: Container[str]) -> None:
        """Forget all other jobs: they are gone."""
        self._reasons = {job_id: reason for job_id, reason in self._reasons.items() if job_id in known}
        self._faults = {job_id: count for job_id, count in self._faults.items() if job_id in known}
