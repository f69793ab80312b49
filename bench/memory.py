"""Resident memory of a process and its descendants, as the kernel counts it."""

from pathlib import Path


def peak_resident_kb(root_pid: int) -> int:
    """The largest peak (VmHWM) that any process of the tree has had, in KiB."""
    return max(_status_kb(pid, "VmHWM") for pid in _tree(root_pid))


def resident_kb(root_pid: int) -> int:
    """What all processes of the tree hold together now, in KiB; pages shared between them count once (PSS)."""
    return sum(_pss_kb(pid) for pid in _tree(root_pid))


def _tree(root_pid: int) -> list[int]:
    found, pids = [], [root_pid]
    while pids:
        pid = pids.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            pids += [int(child) for child in task.read_text(encoding="ascii").split()]
    return found


def _status_kb(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    return 0  # a process that has ended holds no memory


def _pss_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0
