"""Processes as the kernel shows them in /proc: who descends from whom, and who still carries the mark of a run.

Read by the guard of a module as well as by the service; imports nothing that costs time to start.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_PARENT, _THREADS, _STARTED = 1, 17, 19
"""Places in /proc/PID/stat, counted from the field after the name: ppid, num_threads, starttime (proc(5))."""


def _stat(pid: int) -> list[bytes]:
    """Return the fields of /proc/PID/stat after the name, which may hold anything; [] when there is no such process."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return os.read(descriptor, 4096).rpartition(b")")[2].split()
    except OSError:
        return []
    finally:
        os.close(descriptor)


def _all() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def started(pid: int) -> int:
    """Return when a process started, in clock ticks since boot: with the pid it names a process for good. 0: none."""
    fields = _stat(pid)
    return int(fields[_STARTED]) if len(fields) > _STARTED else 0


def threads_of_machine() -> int:
    """Return how many threads the kernel has: cheap to ask for, whatever their number (proc(5), loadavg)."""
    descriptor = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(descriptor, 256).split()[3].split(b"/")[1])
    finally:
        os.close(descriptor)


def descendants(root: int) -> dict[int, int]:
    """Return all that descend from a process, as far as parents live, with the number of their threads."""
    children: dict[int, list[int]] = {}
    threads: dict[int, int] = {}
    for pid in _all():
        fields = _stat(pid)
        if len(fields) > _STARTED:
            children.setdefault(int(fields[_PARENT]), []).append(pid)
            threads[pid] = int(fields[_THREADS])
    found: dict[int, int] = {}
    pending = list(children.get(root, ()))
    while pending:
        pid = pending.pop()
        found[pid] = threads[pid]
        pending.extend(children.get(pid, ()))
    return found


def send(number: int, pids: "Iterable[int]") -> None:
    """Send a signal to each that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def marked(mark: str) -> list[int]:
    """Return the processes, of those that may be looked at, that were started with this variable (`NAME=value`)."""
    wanted = b"\0" + os.fsencode(mark) + b"\0"
    found = []
    for pid in _all():
        if pid == os.getpid():
            continue
        try:
            descriptor = os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            content = b"\0"
            while piece := os.read(descriptor, 1 << 16):
                content += piece
            if wanted in content:
                found.append(pid)
        except OSError:
            continue
        finally:
            os.close(descriptor)
    return found
