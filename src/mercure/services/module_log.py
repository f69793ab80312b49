"""What a module writes while it runs, kept in its job; and `process.log`, one line for each step of any job."""

import contextlib
import os
import threading
from datetime import datetime
from pathlib import Path

from mercure.spool.durable import give_to_owner

_PROCESS_LOG_BYTES = 16 << 20


class ModuleLog:
    """A log file that grows to a limit; what comes after is counted, and the end says how much it was."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        """Open the file, whose folder is made if needed; an earlier run's log is continued."""
        path.parent.mkdir(mode=0o750, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o640)
        self._left = limit_bytes
        self._dropped = 0
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        """Take what the module wrote, on any thread. Does not raise: a full disk costs the log, not the job."""
        with self._lock:
            kept = data[: max(0, self._left)]
            self._left -= len(kept)
            self._dropped += len(data) - len(kept)
            if kept and self._descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.write(self._descriptor, kept)

    def close(self) -> None:
        """End the log. What comes later is dropped."""
        with self._lock:
            if self._descriptor < 0:
                return
            with contextlib.suppress(OSError):
                if self._dropped:
                    os.write(self._descriptor, f"\n... {self._dropped} bytes more were not kept\n".encode())
                os.close(self._descriptor)
            self._descriptor = -1


class ProcessLog:
    """The log for operators: `processing/process.log`. Ids and names only. Kept below a size by one older file."""

    def __init__(self, path: Path) -> None:
        """Open nothing yet."""
        self._path = path
        self._lock = threading.Lock()

    def line(self, at: datetime, job_id: str, text: str) -> None:
        """Add a line. Does not raise."""
        content = f"{at:%Y-%m-%dT%H:%M:%SZ} {job_id} {' '.join(text.split())}\n".encode("utf-8", "replace")
        with self._lock, contextlib.suppress(OSError):
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self._path).st_size > _PROCESS_LOG_BYTES:
                    os.replace(self._path, self._path.with_name(f"{self._path.name}.1"))
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o640)
            try:
                give_to_owner(descriptor, self._path.parent)
                os.write(descriptor, content)
            finally:
                os.close(descriptor)
