"""Guards as the service has them: a process, a socket to it, and the end of the pipe that its module will write to.

A guard takes about ten milliseconds to start, which is more than many modules need to see that there is nothing to do.
So one is kept ready once the first module has run: it waits for its order, and ends with the service.
"""

import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass

import mercure
from mercure.runners.process_guard import LENGTH_BYTES

_GUARD = "import sys; sys.path.append(sys.argv[1]); from mercure.runners.process_guard import main; main()"
_END_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class GuardLink:
    """One guard. `output` is a descriptor of the service's."""

    process: "subprocess.Popen[bytes]"
    control: socket.socket
    output: int

    @classmethod
    def spawn(cls) -> "GuardLink":
        """Start a guard, which waits for its order. Raises `OSError`."""
        ours, theirs = socket.socketpair()
        told, tell = os.pipe2(os.O_CLOEXEC)
        try:
            return cls(_start(theirs.fileno(), tell), ours, told)
        except BaseException:
            ours.close()
            os.close(told)
            raise
        finally:
            theirs.close()
            os.close(tell)

    def send_order(self, content: bytes, lock: int) -> None:
        """Send an order (see `process_guard`), and a descriptor that the guard keeps open. Raises `OSError`."""
        socket.send_fds(self.control, [len(content).to_bytes(LENGTH_BYTES, "little")], [lock])
        self.control.sendall(content)

    def discard(self) -> None:
        """Let a guard without an order end."""
        self.control.close()
        os.close(self.output)
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class SpareGuard:
    """A guard that is ready before it is needed. Safe to use from many threads."""

    def __init__(self) -> None:
        """None is started before the first `prepare`."""
        self._lock = threading.Lock()
        self._ready: GuardLink | None = None

    def take(self) -> GuardLink:
        """Return the guard that is ready, or a new one. Raises `OSError`."""
        with self._lock:
            ready, self._ready = self._ready, None
        if ready and ready.process.poll() is not None:  # an operator ended it, or the kernel for want of memory
            ready.discard()
            ready = None
        return ready or GuardLink.spawn()

    def prepare(self) -> None:
        """Have a guard ready for the next run. That it cannot be started just now is for the next run to say."""
        with self._lock:
            if self._ready is None:
                try:
                    self._ready = GuardLink.spawn()
                except OSError:
                    return

    def close(self) -> None:
        """End the guard that is ready."""
        with self._lock:
            ready, self._ready = self._ready, None
        if ready:
            ready.discard()


def _start(control: int, output: int) -> "subprocess.Popen[bytes]":
    """Start a guard, with nothing of the environment of the service and no module of its installation but ours."""
    program = getattr(sys, "_base_executable", "") or sys.executable
    source = os.path.dirname(os.path.dirname(os.path.abspath(mercure.__file__)))
    return subprocess.Popen(
        [program, "-I", "-S", "-c", _GUARD, source],
        stdin=control,
        stdout=output,
        stderr=output,
        env={},
        cwd="/",
        start_new_session=True,
    )
