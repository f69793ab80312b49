"""Drafts: instances while they arrive, before they have a name that anybody else looks at."""

import contextlib
import os
from collections.abc import Sequence

from mercure.spool import layout as names
from mercure.spool.durable import write_all
from mercure.spool.layout import Origin

_MAXIMUM_CHUNKS = 1000
"""The kernel takes 1024 at once (IOV_MAX); a sender with very small PDUs makes more of them."""


class Draft:
    """One instance while it arrives: a file in the worker's folder of drafts. Used by one thread."""

    __slots__ = ("_descriptor", "_is_complete", "_number", "_prefix", "path", "size")

    def __init__(self, prefix: str, number: int, existing: str = "") -> None:
        """Create the file, or open an existing one that is complete and keeps its name."""
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
