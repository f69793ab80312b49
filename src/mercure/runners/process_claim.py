"""The claim of a run: a locked file beside its input folder, which says that no other run of the same order lives.

The lock belongs to the guard, which keeps it until nothing of the module is left, also when the service has died. So
who holds the lock knows that there is none, and may start one.
"""

import contextlib
import fcntl
import json
import os
import signal
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from mercure.core.errors import TransientError
from mercure.runners import process_tree
from mercure.spool.module_folders import remove_tree

PRIVATE_PREFIX = "mercure-module-"
_END_SECONDS = 5.0
_KILL_SECONDS = 20.0
_MAXIMUM_RECORD_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class _Record:
    """Who held the claim, as its file says; the module could have written it, so nothing of it is believed as it is."""

    guard: int = 0
    started: int = 0
    folder: str = ""


class Claim:
    """The claim of one run, held. `descriptor` is for the guard: the lock is its when the service closes its own."""

    def __init__(self, path: str, descriptor: int) -> None:
        """Made by `take`."""
        self._path = path
        self.descriptor = descriptor

    @classmethod
    def take(cls, input_folder: str) -> "Claim":
        """Take the claim of a run after ending an earlier one that is alive, and removing what it left behind.

        Raises `TransientError` when the earlier run cannot be ended, and `OSError`.
        """
        path = path_of(input_folder)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                record = _lock(descriptor)
                if _is_file_at(path, descriptor):
                    _clear(record)
                    return cls(path, descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def record(self, guard: int, folder: str) -> None:
        """Write down who holds the claim, for the service that comes after this one has died."""
        content = json.dumps({"guard": guard, "started": process_tree.started(guard) if guard else 0, "folder": folder})
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, content.encode(), 0)

    def release(self) -> None:
        """Give the claim back, when nothing of the run is left."""
        if self.descriptor >= 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            self.hand_over()

    def hand_over(self) -> None:
        """Close the descriptor of this process; the guard has its own."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def forget(self) -> None:
        """Remove the file when nothing of the run is left, while the guard still has the lock."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def path_of(input_folder: str) -> str:
    """Return where the claim of a run stands, by its input folder."""
    parent, name = os.path.split(input_folder.rstrip("/"))
    return os.path.join(parent, f".{name}.claim")


def _is_file_at(path: str, descriptor: int) -> bool:
    """Whether this is still the file there: its last holder may have removed it while we waited."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))


def _lock(descriptor: int) -> _Record:
    """Get the lock, ending who has it; return what the file said."""
    begun = time.monotonic()
    while True:
        record = _read(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            late = time.monotonic() - begun
            if late > _KILL_SECONDS:
                raise TransientError("an earlier run of the module cannot be ended") from None
            _end_guard(record, signal.SIGTERM if late < _END_SECONDS else signal.SIGKILL)
            time.sleep(0.01)
        else:
            return record


def _read(descriptor: int) -> _Record:
    try:
        data = json.loads(os.pread(descriptor, _MAXIMUM_RECORD_BYTES, 0))
        return _Record(int(data["guard"]), int(data["started"]), str(data["folder"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return _Record()


def _end_guard(record: _Record, number: signal.Signals) -> None:
    """Signal the guard, if it is the process that was recorded: the same pid, begun at the same time."""
    if record.guard > 1 and record.started and process_tree.started(record.guard) == record.started:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(record.guard, number)


def _clear(record: _Record) -> None:
    if record.folder and os.path.basename(record.folder).startswith(PRIVATE_PREFIX):
        clear_folder(record.folder)


def clear_folder(folder: str) -> None:
    """End what still carries the mark of a run, whose guard died before it could, and remove its private folder.

    Raises `TransientError` when it cannot be ended.
    """
    deadline = time.monotonic() + _KILL_SECONDS
    while left := process_tree.marked(f"TMPDIR={folder}"):
        if time.monotonic() > deadline:
            raise TransientError("what an earlier run of the module started cannot be ended")
        process_tree.send(signal.SIGKILL, left)
        time.sleep(0.01)
    with contextlib.suppress(FileNotFoundError):
        status = os.stat(folder, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            remove_tree(Path(folder))
