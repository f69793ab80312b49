"""Reads the events of all services, each exactly once, however often reader and writers die."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from mercure.core.errors import SpoolError
from mercure.core.events import Event
from mercure.journal import files

log = logging.getLogger(__name__)

_LONGEST_LINE: Final = 64 * 1024
"""Our lines are far shorter. A longer one is no event, and is not gathered in memory."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some events, and where to go on after them.

    Save `positions` together with what was made of `events`, in one transaction or one rename: that makes it exactly
    once. `corrupted` is the number of lines that were skipped because they are no events.
    """

    events: tuple[Event, ...]
    positions: Mapping[str, int]
    corrupted: int = 0


class JournalReader:
    """Goes through the files of a journal folder from the given positions (file name -> bytes read).

    Events of one file come in the order in which they were written, files in the order in which they were begun;
    between two writers there is no order but their times. A reader whose positions could not be saved is thrown away,
    and a new one made with those that were saved last. Not safe for several threads.

    A file that this user may not read is passed over, with one line in the log; its position stays, and it is read from
    there as soon as it may be.
    """

    def __init__(self, folder: Path, positions: Mapping[str, int] | None = None) -> None:
        """Read nothing yet. The folder need not exist."""
        self._folder = folder
        self._positions = dict(positions or {})
        self._unreadable: set[str] = set()

    def read(self, limit: int = 10_000) -> Batch:
        """Return the next events, at most `limit`; none when there are none now. Raises `SpoolError` with the reason.

        The last line of a file counts only when it is whole. When the writer has died in the middle of it, it is one
        corrupted line.
        """
        names = self._names()
        positions = dict(self._positions)
        if names:  # a folder that is not there for a moment must not make us forget
            positions = {name: positions[name] for name in names if name in positions}
        events: list[Event] = []
        unreadable: set[str] = set()
        corrupted = 0
        try:
            for name in names:
                try:
                    for event in self._read_file(name, positions, limit - len(events)):
                        if event is None:
                            corrupted += 1
                        else:
                            events.append(event)
                except PermissionError:
                    unreadable.add(name)
        except OSError as error:
            raise SpoolError(f"the journal cannot be read: {error}") from error
        self._positions = positions
        self._say(unreadable)
        return Batch(tuple(events), dict(positions), corrupted)

    def removable(self) -> list[Path]:
        """Return the files that have been read to the end and whose writers have gone. Nothing is ever added to them.

        They may be removed once the positions are saved.
        """
        return [self._folder / name for name in self._names() if self._is_finished(name)]

    def _say(self, unreadable: set[str]) -> None:
        """Name files that may not be read, once each until they may be."""
        if new := sorted(unreadable - self._unreadable):
            more = f" and {len(new) - 1} more" if len(new) > 1 else ""
            log.warning(
                "%s%s in %s may not be read by this user: their events are missing here; `mercure doctor` says more",
                new[0],
                more,
                self._folder,
            )
        self._unreadable = unreadable

    def _names(self) -> list[str]:
        try:
            with os.scandir(self._folder) as entries:
                found = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SpoolError(f"the journal cannot be listed: {error}") from error
        starts = [(start, name) for name in found if (start := files.start_of(name)) is not None]
        return [name for _, name in sorted(starts)]

    def _read_file(self, name: str, positions: dict[str, int], limit: int) -> Iterator[Event | None]:
        """Yield the new events of a file, None for a corrupted line; keep its position up to date."""
        offset = positions.get(name, 0)
        try:
            with open(self._folder / name, "rb") as file:
                if limit <= 0 or os.fstat(file.fileno()).st_size <= offset:
                    return
                has_writer = files.has_writer(file.fileno())  # before reading: what is cut off then stays cut off
                file.seek(offset)
                for _ in range(limit):
                    line, length = _next_line(file)
                    if length == 0 or (not line.endswith(b"\n") and has_writer):
                        return
                    offset += length
                    positions[name] = offset
                    yield _event(line)
        except FileNotFoundError:
            return  # removed since it was listed

    def _is_finished(self, name: str) -> bool:
        try:
            with open(self._folder / name, "rb") as file:
                is_free = not files.has_writer(file.fileno())
                return is_free and os.fstat(file.fileno()).st_size <= self._positions.get(name, 0)
        except OSError:
            return False


def _next_line(file: BinaryIO) -> tuple[bytes, int]:
    """Return the next line and its length; of a line that is too long only the line feed, if there is one."""
    line = file.readline(_LONGEST_LINE)
    length = len(line)
    while length >= _LONGEST_LINE and line and not line.endswith(b"\n"):
        line = file.readline(_LONGEST_LINE)
        length += len(line)
    return (line if length <= _LONGEST_LINE else line[-1:]), length


def _event(line: bytes) -> Event | None:
    try:
        return Event.from_json(json.loads(line))
    except (ValueError, RecursionError, SpoolError):
        return None
