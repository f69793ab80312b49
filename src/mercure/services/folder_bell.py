"""Rings a bell when something appears in a folder: speed only. The scan of each service is the correctness.

Notifications can be missing (network file systems, a full queue, a folder that was replaced), so nothing depends on
them: a service that is not woken looks by itself at its scan interval.
"""

import contextlib
import logging
import os
import select
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from inotify_simple import INotify, flags

log = logging.getLogger(__name__)

_APPEARS = flags.CREATE | flags.MOVED_TO
_CHANGES = _APPEARS | flags.CLOSE_WRITE | flags.ATTRIB


class FolderBell:
    """Watches folders on a thread of its own, from construction to `close`."""

    def __init__(self, folders: Iterable[Path], ring: Callable[[], None], *, changes: bool = False) -> None:
        """Begin to watch. Folders that cannot be watched are left to the scans; `changes` also tells of new content."""
        self._ring = ring
        self._stop_read, self._stop_write = os.pipe2(os.O_CLOEXEC)
        self._thread: threading.Thread | None = None
        try:
            self._inotify = INotify(nonblocking=True)
        except OSError as error:
            log.warning("no folder notifications (%s): services look at their scan intervals", error.strerror)
            return
        for folder in folders:
            with contextlib.suppress(OSError):
                self._inotify.add_watch(folder, _CHANGES if changes else _APPEARS)
        thread = threading.Thread(target=self._listen, name="folder-bell", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            log.warning("no folder notifications (%s): services look at their scan intervals", error)
            self._inotify.close()
            return
        self._thread = thread

    def close(self) -> None:
        """Stop watching."""
        os.write(self._stop_write, b"!")
        if self._thread:
            self._thread.join()
            self._inotify.close()
        os.close(self._stop_write)
        os.close(self._stop_read)

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._inotify.fileno(), select.POLLIN)
        poll.register(self._stop_read, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _event in poll.poll()}
            if self._stop_read in ready:
                return
            events = self._inotify.read(timeout=0)
            # Receptions and jobs have names; drafts begin with a dot and concern nobody yet.
            if any(not event.name.startswith(".") for event in events):
                self._ring()


def modified_at(path: Path) -> int:
    """Return when a folder or file was changed last, in nanoseconds of its file system's clock; 0 when it is gone."""
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0
