"""The guard: a small process between the service and a module, one for each run, started by `process_link`.

Standard input is a socket to the service: an order comes in, with the lock of the run's claim, then `T` (ask the
module to end) or `K` (end it). What goes back is `started`, or `failed ERRNO`, and at last `ended CODE`. When the
socket ends, the service is dead, and so is the module a moment later: the guard inherits all that descends from it
(PR_SET_CHILD_SUBREAPER), also what made a session of its own, and ends only when the kernel says that nothing is left.
The lock is open in here, so whoever gets it knows that, too. Imports nothing that costs time to start.

An order is a dict: command, environment, folder (private, becomes the working folder), writable, network, memory,
file_size, processes, threads_of_user, cpus.
"""

import _signal  # type: ignore[import-not-found] # `signal` makes enumerations of it, which takes as long as all else
import _socket
import marshal
import os
import select
import time

from mercure.runners import process_fence, process_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_CONTROL, _OUTPUT = 0, 1
_TICK_MILLISECONDS = 20
_COUNT_SECONDS = 5.0
_STOP_PASSES = 100
LENGTH_BYTES = 8


class Guard:
    """One run of a module, seen from its parent."""

    def __init__(self, order: "dict[str, Any]") -> None:
        """Start nothing yet."""
        self._order = order
        self._module = 0
        self._code = -_signal.SIGKILL
        self._asked_to_end = False
        self._others = 0
        self._count_at = 0.0

    def run(self) -> None:
        """Start the module, stay until it and all that it started have ended, and report."""
        _signal.signal(_signal.SIGTERM, self._on_end)
        for number in (_signal.SIGINT, _signal.SIGHUP):
            _signal.signal(number, _signal.SIG_IGN)
        process_fence.guard_self()
        fault = self._start()
        if fault:
            self._tell(f"failed {fault}\n")
            return
        self._tell("started\n")
        self._watch()
        self._end_all()
        self._tell(f"ended {self._code}\n")
        self._wait_for_service()

    def _on_end(self, *_: object) -> None:
        self._asked_to_end = True

    def _tell(self, text: str) -> None:
        _try(os.write, _CONTROL, text.encode())

    # -- start -------------------------------------------------------------------------------------------------------

    def _start(self) -> int:
        """Start the module; return the number of the error, or 0."""
        told, tell = os.pipe()
        guard = os.getpid()
        self._module = os.fork()
        if self._module == 0:
            self._become_module(guard, tell)
        os.close(tell)
        fault = os.read(told, 16)
        os.close(told)
        # The other end of a module that writes and is not read would never be known to be closed.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 2)
        return int(fault or 0)

    def _become_module(self, guard: int, tell: int) -> None:
        try:
            os.setsid()
            for number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGPIPE, _signal.SIGXFSZ):
                _signal.signal(number, _signal.SIG_DFL)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
            os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
            os.chdir(self._order["folder"])
            process_fence.fence(self._order, guard)
            command = self._order["command"]
            os.execvpe(command[0], command, self._order["environment"])  # noqa: S606 - never through a shell
        except OSError as error:
            os.write(tell, str(error.errno or 1).encode())
        except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as a second guard
            os.write(tell, b"22")
        os._exit(127)

    # -- while it runs -----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Return when the module ended, or has to."""
        handle = os.pidfd_open(self._module)
        waiting = select.poll()
        waiting.register(_CONTROL, select.POLLIN)
        waiting.register(handle, select.POLLIN)
        self._prefer_self()
        while True:
            ready = dict(waiting.poll(_TICK_MILLISECONDS))
            if _CONTROL in ready:
                try:
                    asked = os.read(_CONTROL, 64)
                except OSError:
                    asked = b""
                if not asked or b"K" in asked:
                    return
                _try(os.kill, self._module, _signal.SIGTERM)
            if handle in ready or self._asked_to_end or self._too_many():
                return
            self._reap_orphans()

    def _prefer_self(self) -> None:
        """A module that forks without end must not keep its guard from the processor."""
        _try(os.sched_setscheduler, 0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))

    def _too_many(self) -> bool:
        limit = self._order["processes"]
        if limit is None:
            return False
        now, total = time.monotonic(), process_tree.threads_of_machine()
        if now < self._count_at and total - self._others <= limit:
            return False
        mine = sum(process_tree.descendants(os.getpid()).values())
        self._others, self._count_at = total - mine, now + _COUNT_SECONDS
        if mine > limit:
            self._say(f"mercure: ended, because it had more than {limit} processes and threads\n")
        return bool(mine > limit)

    def _say(self, text: str) -> None:
        """Write a line to what the module writes, if there is room: the service reads it."""
        os.set_blocking(_OUTPUT, False)
        _try(os.write, _OUTPUT, text.encode())

    # -- the end -----------------------------------------------------------------------------------------------------

    def _reap_orphans(self) -> None:
        """Take leave of those that have ended, but the module: as long as it is not, its group keeps its number."""
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid == self._module:
                return
            os.waitpid(ended.si_pid, 0)

    def _end_all(self) -> None:
        """End all that is left. One signal to the group first: the kernel lets none of them fork past it."""
        _try(os.killpg, self._module, _signal.SIGKILL)
        pause = 1
        while not self._reap():
            self._kill_descendants()
            if self._reap():
                return
            select.poll().poll(pause)
            pause = min(pause * 2, 50)

    def _kill_descendants(self) -> None:
        """Stop all before the first is killed: who dies makes room for those that fork, who is stopped does not."""
        stopped: set[int] = set()
        for _ in range(_STOP_PASSES):
            found = set(process_tree.descendants(os.getpid()))
            if found <= stopped:
                break
            process_tree.send(_signal.SIGSTOP, found - stopped)
            stopped |= found
        process_tree.send(_signal.SIGKILL, stopped)

    def _reap(self) -> bool:
        """Take leave of all that have ended; whether nothing is left, now that orphans become children of ours."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self._module:
                self._code = os.waitstatus_to_exitcode(status)

    def _wait_for_service(self) -> None:
        """Keep the claim until the service has cleared up; when it died instead, remove the private folder for it."""
        _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
        os.close(_OUTPUT)
        try:
            while not self._asked_to_end and os.read(_CONTROL, 64):
                pass
        except OSError:
            pass
        if os.path.isdir(self._order["folder"]):
            from mercure.spool.trees import remove_tree  # noqa: PLC0415 - takes time to import, and is hardly needed

            _try(remove_tree, self._order["folder"])


def _try(call: "Callable[..., object]", *arguments: object) -> None:
    """Call what may fail for lack of a process, a right or a reader, and need not succeed."""
    try:
        call(*arguments)
    except OSError:
        return


def _receive() -> "dict[str, Any]":
    """Wait for the order, which comes behind its length; the lock that comes with it stays open, and is not looked at.

    Ends this process when the service goes away instead.
    """
    control = _socket.socket(fileno=_CONTROL)
    length, *_ = control.recvmsg(LENGTH_BYTES, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
    control.detach()
    content = length + _read(LENGTH_BYTES - len(length))
    order = _read(int.from_bytes(content, "little"))
    return dict(marshal.loads(order))  # noqa: S302 - from the service that started this process, by its own socket


def _read(count: int) -> bytes:
    content = b""
    while len(content) < count:
        piece = os.read(_CONTROL, count - len(content))
        if not piece:
            os._exit(0)
        content += piece
    return content


def main() -> None:
    """Guard one run."""
    try:
        order = _receive()
    except ConnectionResetError:
        os._exit(0)
    Guard(order).run()
    os._exit(0)
