"""Memory and processor time of a process and its descendants, as the kernel counts them."""

import os
import time
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_SETTLE_SECONDS = 60.0


def peak_resident_kb(root_pid: int) -> int:
    """The largest peak (VmHWM) that any process of the tree has had, in KiB."""
    return max(_number(pid, "status", "VmHWM") for pid in tree(root_pid))


def resident_kb(root_pid: int) -> int:
    """The resident memory of all processes of the tree, added up (RSS): pages that they share count several times."""
    return sum(_number(pid, "status", "VmRSS") for pid in tree(root_pid))


def proportional_kb(root_pid: int) -> int:
    """What all processes of the tree hold together (PSS): pages that they share count once."""
    return sum(_number(pid, "smaps_rollup", "Pss") for pid in tree(root_pid))


def cpu_seconds(root_pid: int) -> float:
    """What all processes of the tree have used, threads and children that have ended included."""
    return sum(_cpu_seconds(pid) for pid in tree(root_pid))


def cpu_share(root_pid: int, seconds: float) -> float:
    """What share of one core the tree uses from now on for so long."""
    before, started = cpu_seconds(root_pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(root_pid) - before) / (time.monotonic() - started)


def wait_until_idle(root_pid: int, share: float = 0.05) -> None:
    """Wait until the tree has used less than this share of a core for a second; what it does at its start is over."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while cpu_share(root_pid, 1.0) >= share:
        if time.monotonic() > deadline:
            message = f"process {root_pid} is still busy after {_SETTLE_SECONDS:g} s"
            raise RuntimeError(message)


def tree(root_pid: int) -> list[int]:
    """The process and all its descendants."""
    found, pids = [], [root_pid]
    while pids:
        pid = pids.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            pids += [int(child) for child in _read(task).split()]
    return found


def _cpu_seconds(pid: int) -> float:
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS_PER_SECOND  # utime, stime, cutime, cstime


def _number(pid: int, file: str, key: str) -> int:
    for line in _read(Path(f"/proc/{pid}/{file}")).splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""  # a process that has ended holds nothing; its parent has taken over its time
