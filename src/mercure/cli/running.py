"""Which processes run the platform on this data folder: those that hold the lock of a file of its journal."""

import contextlib
import os

from mercure.journal.files import has_writer, start_of
from mercure.spool.layout import Layout

_MOST_ANCESTORS = 32


def running_processes(layout: Layout) -> frozenset[int]:
    """Return the ids of the processes that write the journal of a data folder now."""
    found = set()
    with contextlib.suppress(OSError), os.scandir(layout.journal) as entries:
        for entry in entries:
            if start_of(entry.name) is not None and _is_written(entry.path):
                found.add(int(entry.name.rsplit("-", 2)[1]))
    return frozenset(found)


def belongs_to(pid: int, layout: Layout) -> bool:
    """Whether a process, or one that started it, runs the platform on this data folder."""
    running = running_processes(layout)
    for _ in range(_MOST_ANCESTORS):
        if pid in running:
            return True
        if (pid := _parent_of(pid)) <= 1:
            break
    return pid in running


def _is_written(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return has_writer(descriptor)
    finally:
        os.close(descriptor)


def _parent_of(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith("PPid:"):
                return int(line.split()[1])
    return 0
