"""Ends the runs that belong to no job any more: of jobs that were cancelled, or failed, while nobody followed them.

A run that is ended by mistake is hours of work lost, one that is ended late is nothing. So a job counts as gone only if
its folder was missing in two sweeps, a minute apart, from the very folder of jobs that was there at the start: a disk
that is away for a moment, or an error of it, ends nothing.
"""

import logging
import os
import threading
from collections.abc import Callable, Collection

from mercure.core.clock import Clock
from mercure.core.errors import MercureError, SpoolError
from mercure.core.processing import ModuleRunner
from mercure.spool.layout import check_job_id

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class RunSweep:
    """Looks at the runs of all runners once a minute, on a thread of its own. Used by the processor's own thread."""

    def __init__(self, folder: str | os.PathLike[str], clock: Clock) -> None:
        """`folder` is the one that holds the jobs, `processing/`."""
        self._folder = folder
        self._clock = clock
        self._identity: tuple[int, int] | None = None
        self._next = float("-inf")
        self._missing: frozenset[str] = frozenset()
        self._thread: threading.Thread | None = None
        self._said: object = None

    def begin(self) -> None:
        """Take the folder for the right one as it is now. The first sweep is a minute away."""
        self._identity = None
        self._missing = frozenset()
        self._next = self._clock.monotonic() + SWEEP_SECONDS
        try:
            found = os.stat(self._folder)
        except OSError as error:
            self._say(f"the folder of jobs cannot be read: {error.strerror}")
            return
        self._identity = found.st_dev, found.st_ino

    def start_due(self, runners: Collection[ModuleRunner]) -> None:
        """Start a sweep when it is time for one, and the last has ended. Does not wait for it, and does not raise."""
        if self._clock.monotonic() < self._next or (self._thread is not None and self._thread.is_alive()):
            return
        if self._identity is None:
            self.begin()
            return
        self._next = self._clock.monotonic() + SWEEP_SECONDS
        thread = threading.Thread(target=self._run, args=(tuple(runners),), name="sweep", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._say(f"no thread can be started: {error}")
            return
        self._thread = thread

    def _run(self, runners: Collection[ModuleRunner]) -> None:
        try:
            self._missing = self._sweep(runners)
        except OSError as error:
            self._missing = frozenset()
            self._say(f"the folder of jobs cannot be read: {error.strerror}")

    def _sweep(self, runners: Collection[ModuleRunner]) -> frozenset[str]:
        """End the runs of jobs that are missing for the second time; return those that are now. Raises `OSError`."""
        missing: set[str] = set()
        folder = os.open(self._folder, _FOLDER)

        def is_wanted(job_id: str) -> bool:
            if not _is_missing(folder, job_id):
                return True
            missing.add(job_id)
            return job_id not in self._missing

        try:
            found = os.fstat(folder)
            if (found.st_dev, found.st_ino) != self._identity:
                self._say("the folder of jobs is another one than at the start")
                return frozenset()
            for runner in runners:
                _sweep_one(runner, is_wanted)
        finally:
            os.close(folder)
        self._said = None
        return frozenset(missing)

    def _say(self, why: str) -> None:
        if self._said != why:
            log.warning("runs of modules that no job has are not looked for now: %s", why)
        self._said = why


def _sweep_one(runner: ModuleRunner, is_wanted: Callable[[str], bool]) -> None:
    try:
        runner.sweep(is_wanted)
    except MercureError as error:  # there is no engine, or it is away: it is asked again in a minute
        log.debug("runs of modules that no job has cannot be looked for: %s", error)
    except Exception:
        log.exception("runs of modules that no job has cannot be looked for")


def _is_missing(folder: int, job_id: str) -> bool:
    """Whether a job is certainly not in the folder."""
    try:
        os.stat(check_job_id(job_id), dir_fd=folder, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, SpoolError):
        pass
    return False
