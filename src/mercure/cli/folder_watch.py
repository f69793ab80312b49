"""Says clearly when the data folder goes away or becomes read-only while services run, and when it is back."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from mercure.cli.probe_folders import why_unusable
from mercure.spool.layout import Layout

log = logging.getLogger(__name__)

_SECONDS = 2.0


class FolderWatch:
    """Looks at the folders now and then, on a thread of its own. Tells each change once."""

    def __init__(self, layout: Callable[[], Layout]) -> None:
        """Look at nothing yet. `layout` is asked each time: a changed configuration may name other folders."""
        self._layout = layout
        self._devices: dict[Path, int] = {}
        self._told: dict[Path, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="folders", daemon=True)

    def start(self) -> None:
        """Look once, then now and then."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Look once, and log what has changed: one line for all folders that have the same trouble."""
        layout = self._layout()
        folders = sorted({*layout.folders().values(), layout.sealed, layout.drafts})
        self._devices = {folder: device for folder, device in self._devices.items() if folder in folders}
        now = {folder: reason for folder in folders if (reason := self._trouble(folder))}
        new: dict[str, list[str]] = {}
        for folder, reason in now.items():
            if self._told.get(folder) != reason:
                new.setdefault(reason, []).append(str(folder))
        for reason, named in new.items():
            subject = named[0] if len(named) == 1 else f"{', '.join(named)}: each"
            log.error("%s %s; nothing is acknowledged or moved there until this is mended", subject, reason)
        for folder in (self._told.keys() - now.keys()) & set(folders):
            log.warning("%s can be used again", folder)
        self._told = now

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
        while not self._stop.wait(_SECONDS):
            self.look()
