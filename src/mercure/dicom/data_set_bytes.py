"""The bytes of a data set, looked at from the first to the last through a small window; most are jumped over."""

import os
import zlib
from typing import Protocol

from mercure.core.errors import PermanentError

HEADER_BYTES = 12
"""The longest header of an element (PS3.5 7.1.2)."""

MAXIMUM_INFLATED_BYTES = 1 << 32
"""What a deflated data set may grow to."""

_WINDOW_BYTES = 4096
_INFLATED_BYTES = 64 << 10
_DEFLATED_BYTES = 16 << 10
_TRAILER_BYTES = 9
"""What may follow a deflated stream: a byte that makes it even. Old writers leave check sum and size of gzip there."""


class BrokenDataSetError(PermanentError):
    """The data set ends too early, or holds something that is no element. The message has no value of it."""

    code = "broken_data_set"


class DataSetBytes(Protocol):
    """The bytes of a data set, looked at from the first to the last."""

    def look(self, position: int) -> tuple[bytes, int] | None:
        """Return some bytes, and where among them a position is, which never goes back; None when it is beyond the end.

        From there on there are 12 bytes at least, or all that are left.
        """


class StoredBytes:
    """A part of a file, looked at through a small window."""

    def __init__(self, descriptor: int, start: int, end: int) -> None:
        """Look at the bytes of an open file from `start` up to `end`. Positions are those in the file."""
        self._descriptor = descriptor
        self._end = end
        self._start = start
        self._window = b""

    def look(self, position: int) -> tuple[bytes, int] | None:
        """Look from a position on. Raises `OSError`."""
        at = position - self._start
        if at + HEADER_BYTES > len(self._window):
            if position > self._end:
                return None
            wanted = min(_WINDOW_BYTES, self._end - position)
            self._window = os.pread(self._descriptor, wanted, position)
            self._start, at = position, 0
            if len(self._window) < wanted:  # the file has become shorter
                return None
        return self._window, at


class InflatedBytes:
    """A deflated data set (PS3.5 A.5): inflated as far as it is looked at, and dropped again."""

    def __init__(self, descriptor: int, start: int) -> None:
        """Look at what is stored from `start` to the end of an open file. Positions are those in the inflated bytes."""
        self._descriptor = descriptor
        self._next = start
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._window = b""
        self._start = 0

    def look(self, position: int) -> tuple[bytes, int] | None:
        """Look from a position on. Raises `BrokenDataSetError` and `OSError`."""
        while position + HEADER_BYTES > self._start + len(self._window):
            more = self._more()
            if not more:
                break
            if position + HEADER_BYTES > MAXIMUM_INFLATED_BYTES:
                raise BrokenDataSetError("the deflated data set is too long")
            drop = min(len(self._window), position - self._start)
            self._start += drop
            self._window = self._window[drop:] + more
        at = position - self._start
        return None if at > len(self._window) else (self._window, at)

    def _more(self) -> bytes:
        """Inflate a little more; returns nothing at the end of the stream, which must be that of the file, too."""
        try:
            while not self._inflater.eof:
                data = self._inflater.unconsumed_tail or self._read()
                if more := self._inflater.decompress(data, _INFLATED_BYTES):  # without data, too: it may hold some back
                    return more
                if not (data or self._inflater.eof):
                    raise BrokenDataSetError("the deflated data set ends too early")
        except zlib.error:
            raise BrokenDataSetError("the data set cannot be inflated") from None
        unread = os.pread(self._descriptor, _TRAILER_BYTES + 1, self._next)
        if len(self._inflater.unused_data) + len(unread) > _TRAILER_BYTES:
            raise BrokenDataSetError("something else follows the deflated data set")
        return b""

    def _read(self) -> bytes:
        data = os.pread(self._descriptor, _DEFLATED_BYTES, self._next)
        self._next += len(data)
        return data
