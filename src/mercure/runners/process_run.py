"""A module that runs as a process of this machine: its guard, its private folder, and what it writes."""

import contextlib
import marshal
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mercure.core.errors import TransientError
from mercure.runners.process_claim import Claim, clear_folder
from mercure.runners.process_link import GuardLink
from mercure.spool.module_folders import remove_tree

_START_SECONDS = 60.0
_END_SECONDS = 30.0
_PIECE_BYTES = 1 << 16
_KILLED = -9


class ProcessRun:
    """One run: `Running` of `core.processing`. Made by `begin`."""

    def __init__(self, guard: GuardLink, claim: Claim, folder: str, output: Callable[[bytes], None]) -> None:
        """Take over a guard that has no order yet, the claim, and the private folder."""
        self._guard = guard
        self._claim = claim
        self._folder = folder
        self._code: int | None = None
        self._received = b""
        self._closed = False
        self._sending = threading.Lock()
        self._reader = threading.Thread(target=_pass_on, args=(guard.output, output), name="module output", daemon=True)
        self._reader.start()

    def begin(self, order: Mapping[str, Any]) -> None:
        """Have the guard start the module. Raises `OSError` with the reason when it cannot; close the run then."""
        self._claim.record(self._guard.process.pid, self._folder)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._guard.send_order(marshal.dumps(dict(order)), self._claim.descriptor)
        self._claim.hand_over()
        answer = self._line(_START_SECONDS)
        if answer == b"started":
            return
        self._code = _KILLED
        if answer is not None and answer.startswith(b"failed "):
            number = int(answer.split()[1])
            raise OSError(number, os.strerror(number))
        raise TransientError("the guard of a module did not start it")

    @property
    def image_digest(self) -> str:
        """Nothing: a program is no image."""
        return ""

    def wait(self, seconds: float) -> int | None:
        """Wait so long for the end of the module and all that it started; return the exit code, or None."""
        if self._code is None:
            answer = self._line(seconds)
            if answer is not None:
                self._code = int(answer.split()[1]) if answer.startswith(b"ended ") else self._lost()
        return self._code

    def stop(self) -> None:
        """Send SIGTERM to the module itself, as to the first process of a container."""
        self._tell(b"T")

    def kill(self) -> None:
        """Have all ended with SIGKILL, also what made a session of its own."""
        self._tell(b"K")

    def leave(self) -> None:
        """End the module: nobody would read what it writes."""
        self.close()

    def close(self) -> None:
        """Remove the private folder and the claim, after the module has ended, or is ended now.

        Raises `TransientError` when a process of it cannot be ended; the claim stays then.
        """
        if self._closed:
            return
        if self._code is None:
            self.kill()
            if self.wait(_END_SECONDS) is None:
                raise TransientError("a process of the module cannot be ended")
        clear_private(self._folder)
        self._claim.forget()
        self._closed = True
        with self._sending:
            self._guard.control.close()
        try:
            self._guard.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            raise TransientError("the guard of a module does not end") from None
        self._reader.join(_END_SECONDS)

    # -- the guard ---------------------------------------------------------------------------------------------------

    def _tell(self, letter: bytes) -> None:
        with self._sending, contextlib.suppress(OSError):
            self._guard.control.send(letter)

    def _line(self, seconds: float) -> bytes | None:
        """Return the next line of the guard, b"" when it is gone, or None when there was none in time."""
        deadline = time.monotonic() + seconds
        waiting = select.poll()
        waiting.register(self._guard.control, select.POLLIN)
        while b"\n" not in self._received:
            if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            try:
                piece = self._guard.control.recv(4096)
            except ConnectionResetError:
                piece = b""
            if not piece:
                return b""
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _lost(self) -> int:
        """The guard died, by the hand of the kernel or an operator, and the module with it: end what is left."""
        self._guard.process.wait(_END_SECONDS)
        clear_folder(self._folder)
        return _KILLED


def clear_private(folder: str) -> None:
    """Remove a private folder whose run is over, whatever modes the module gave to what is in it."""
    remove_tree(Path(folder))


def _pass_on(descriptor: int, output: Callable[[bytes], None]) -> None:
    """Hand on what the module writes until all who could write have ended."""
    try:
        while piece := os.read(descriptor, _PIECE_BYTES):
            output(piece)
    finally:
        os.close(descriptor)
