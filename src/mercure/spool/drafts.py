"""Drafts: instances while they arrive, before they have a name that anybody else looks at."""

import contextlib
import os
from collections.abc import Sequence
from enum import Enum

from mercure.spool import layout as names
from mercure.spool.durable import fsync_folder, write_all
from mercure.spool.layout import Origin

_WRITE_OUT_BYTES = 256 << 10
"""So much is handed to the disk while the rest still arrives: the fsync at the end then waits for the rest only."""

_MAXIMUM_CHUNKS = 1000
"""The kernel takes 1024 at once (IOV_MAX); a sender with very small PDUs makes more of them."""


class Sync(Enum):
    """What makes a draft durable."""

    NEVER = "never"
    FILES = "files"
    """One fsync of the file: its file system writes the name no later than that."""
    FILES_AND_NAMES = "files and names"
    """Another fsync of the folder: nothing is known of the file system."""


class Draft:
    """One instance while it arrives: a file in the worker's folder of drafts. Used by one thread."""

    __slots__ = ("_descriptor", "_is_complete", "_number", "_prefix", "_sync", "_written_out", "path", "size")

    def __init__(self, prefix: str, number: int, existing: str = "", *, sync: "Sync") -> None:
        """Create the file, or open an existing one that is complete and keeps its name."""
        self._sync = sync
        self._written_out = 0
        self._prefix = prefix
        self._number = number
        self._is_complete = bool(existing)
        self.path = existing or f"{prefix}{number}.part"
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_NOFOLLOW if existing else os.O_CREAT | os.O_EXCL)
        self._descriptor = os.open(self.path, flags, 0o640)
        self.size = os.fstat(self._descriptor).st_size if existing else 0

    def write(self, chunks: Sequence[bytes | memoryview]) -> None:
        """Append bytes. Raises `OSError` (ENOSPC, EDQUOT, EIO ...)."""
        if len(chunks) > _MAXIMUM_CHUNKS:
            chunks = (b"".join(chunks),)
        expected = sum(map(len, chunks))
        written = os.writev(self._descriptor, chunks) if len(chunks) > 1 else os.write(self._descriptor, chunks[0])
        self.size += written
        if written != expected:
            rest = b"".join(chunks)[written:]
            write_all(self._descriptor, rest)
            self.size += len(rest)
        if self.size - self._written_out >= _WRITE_OUT_BYTES:
            self.write_out()

    def write_out(self) -> None:
        """Hand to the disk what it does not have yet, without waiting for it: the fsync to come will be shorter."""
        if self._sync is not Sync.NEVER and self.size > self._written_out:
            # The pages stay cached: those under way to the disk are not dropped.
            os.posix_fadvise(self._descriptor, self._written_out, self.size - self._written_out, os.POSIX_FADV_DONTNEED)
            self._written_out = self.size

    def read(self, size: int, offset: int) -> bytes:
        """Read back what was written, for headers that did not fit into the first chunk."""
        return os.pread(self._descriptor, size, offset)

    def complete(self, origin: Origin) -> None:
        """Make the draft durable under a name that says that it is whole."""
        if not self._is_complete:
            complete = self._prefix + names.draft_name(self._number, self.size, origin)
            os.rename(self.path, complete)
            self.path = complete
            self._is_complete = True
        os.fsync(self._descriptor)
        if self._sync is Sync.FILES_AND_NAMES:
            fsync_folder(self._prefix)

    def close(self) -> None:
        """Close the file, whose name stays; safe at any time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Close the file and remove this name of it."""
        self.close()
        os.unlink(self.path)

    def discard(self) -> None:
        """Give up what was written; safe at any time."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                self.remove()
