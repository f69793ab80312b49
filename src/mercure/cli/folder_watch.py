"""Says clearly when the data folder goes away or becomes read-only while services run, and when it is back."""

import logging
import os
import threading
from pathlib import Path

from mercure.cli.probe_folders import why_unusable
from mercure.spool.layout import Layout

log = logging.getLogger(__name__)

_SECONDS = 2.0


class FolderWatch:
    """Looks at the folders now and then, on a thread of its own. Tells each change once."""

    def __init__(self, layout: Layout) -> None:
        """Look at nothing yet."""
        self._folders = sorted({*layout.folders().values(), layout.sealed, layout.drafts})
        self._devices: dict[Path, int] = {}
        self._told: dict[Path, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="folders", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Look once, and log what has changed."""
        for folder in self._folders:
            reason = self._trouble(folder)
            before = self._told.pop(folder, "")
            if reason:
                self._told[folder] = reason
            if reason and reason != before:
                log.error("%s %s: nothing is acknowledged or moved there until this is mended", folder, reason)
            elif before and not reason:
                log.warning("%s can be used again", folder)

    def _trouble(self, folder: Path) -> str:
        try:
            device = os.stat(folder).st_dev
        except FileNotFoundError:
            return "has vanished"
        except OSError as error:
            return f"cannot be reached: {error.strerror}"
        if self._devices.setdefault(folder, device) != device:
            return "is another file system than at the start (was it unmounted, or mounted over?)"
        if not os.access(folder, os.W_OK | os.X_OK):
            return why_unusable(folder)
        return ""

    def _run(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(_SECONDS)
