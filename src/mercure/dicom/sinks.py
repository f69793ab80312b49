"""Sinks for data sets that are not stored: read past, or gathered when they are small."""

from collections.abc import Callable, Sequence

from mercure.dicom import pdu


class Ignored:
    """Reads a data set past, then does what was asked for."""

    def __init__(self, act: Callable[[], None] = lambda: None) -> None:
        """Take what is to be done at the end."""
        self._act = act

    def write(self, chunks: Sequence[memoryview]) -> None:
        """Drop."""

    def finish(self) -> None:
        """Act."""
        self._act()

    def abandon(self) -> None:
        """Nothing to undo."""


class Gathered:
    """Gathers a small data set."""

    _MAXIMUM_BYTES = 16 << 20

    def __init__(self, act: Callable[[bytes], None]) -> None:
        """Take what is to be done with the whole."""
        self._act = act
        self._data = bytearray()

    def write(self, chunks: Sequence[memoryview]) -> None:
        """Gather, up to a limit that no storage commitment request comes near. Raises `ProtocolError`."""
        for chunk in chunks:
            if len(self._data) + len(chunk) > self._MAXIMUM_BYTES:
                raise pdu.ProtocolError("data set of this command is too long", pdu.INVALID_PARAMETER)
            self._data += chunk

    def finish(self) -> None:
        """Act on the whole."""
        data, self._data = bytes(self._data), bytearray()
        self._act(data)

    def abandon(self) -> None:
        """Drop."""
        self._data.clear()
