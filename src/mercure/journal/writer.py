"""Writes events: one line of JSON for each, in a file that only this process appends to."""

import json
import logging
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from mercure.core.events import Event
from mercure.journal import files

log = logging.getLogger(__name__)

ROTATE_BYTES: Final = 16 * 1024 * 1024
DETAIL_LENGTH: Final = 2000
"""Longer details are cut, so that a line stays small."""
_SYNC_SECONDS: Final = 1.0


class JournalWriter:
    """The `EventSink` of one service in one process. Safe for many threads; a forked child gets a file of its own.

    An event is handed to the kernel in one write before `emit` returns, so it survives the death of the process at any
    moment. `fsync` follows at most once a second, by the next `emit` or by `close`: a power cut may cost the last
    events, never a job, for the folders are the truth.

    Nothing here raises once it is constructed. An event that cannot be written (full disk, folder gone), or not be made
    durable, is counted in `dropped`; the log says so once when it begins and once when it is over.
    """

    def __init__(self, folder: Path, service: str, *, rotate_bytes: int = ROTATE_BYTES) -> None:
        """Touch nothing yet: the file comes with the first event. Raises `ValueError` for an odd name of a service."""
        self.dropped = 0
        self._folder = folder
        self._service = files.check_service(service)
        self._rotate_bytes = rotate_bytes
        self._begin()

    def _begin(self) -> None:
        """Forget the file, as a new process does, which must not give ids that its parent gives too."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._prefix = os.urandom(8).hex()
        self._count = 0
        self._descriptor: int | None = None
        self._size = 0
        self._synced_at = 0.0
        self._is_line_open = False
        self._is_failing = False

    def emit(self, event: Event) -> None:
        """Append an event; it gets an id unless it has one."""
        if self._pid != os.getpid():
            self._begin()  # the descriptor stays open: it is the parent's lock as well
        with self._lock:
            try:
                self._append(self._line(event))
            except (OSError, ValueError, TypeError) as error:
                self.dropped += 1
                if not self._is_failing:
                    log.error("Events of %s cannot be written and are dropped: %s", self._service, _reason(error))  # noqa: TRY400 - the reason suffices
                self._is_failing = True
            else:
                if self._is_failing:
                    log.warning("Events of %s are written again; dropped so far: %d", self._service, self.dropped)
                self._is_failing = False

    def close(self) -> None:
        """Make everything durable and let go of the file. A later event begins a new one."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._finish_file()

    def _line(self, event: Event) -> bytes:
        self._count += 1
        if event.detail is not None and len(event.detail) > DETAIL_LENGTH:
            event = replace(event, detail=event.detail[:DETAIL_LENGTH])
        data = event.to_json()
        data.setdefault("id", f"{self._prefix}-{self._count}")
        return json.dumps(data, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"

    def _append(self, line: bytes) -> None:
        if self._descriptor is not None and self._size and self._size + len(line) > self._rotate_bytes:
            self._finish_file()
        if self._descriptor is None:
            self._descriptor = self._create()
        if self._is_line_open:
            line = b"\n" + line
        written = os.write(self._descriptor, line)
        self._size += written
        if written < len(line):
            # The disk is full. The reader takes the piece for a line of its own and drops it.
            self._is_line_open = True
            raise OSError(f"only {written} of {len(line)} bytes could be written")
        self._is_line_open = False
        self._sync_now_and_then(self._descriptor)

    def _create(self) -> int:
        files.make_folder(self._folder)  # its parent is in the data folder, which is not ours to make
        descriptor, _ = files.create(self._folder, self._service)
        self._size = 0
        self._is_line_open = False
        self._synced_at = time.monotonic()
        return descriptor

    def _sync_now_and_then(self, descriptor: int) -> None:
        now = time.monotonic()
        if now - self._synced_at < _SYNC_SECONDS:
            return
        self._synced_at = now
        os.fsync(descriptor)
        if os.fstat(descriptor).st_nlink == 0:  # somebody removed the file: do not write where nobody can read
            self._finish_file()

    def _finish_file(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            os.fsync(descriptor)
        except OSError as error:
            log.warning("The last events of %s may not be durable: %s", self._service, _reason(error))
        finally:
            os.close(descriptor)


def _reason(error: Exception) -> str:
    """Return why, without the event: `str` of other errors could repeat a part of it."""
    return str(error) if isinstance(error, OSError) else type(error).__name__
