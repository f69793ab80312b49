"""The files of a job folder: `task.json`, the ledger of deliveries, `error.log`. Formats, not decisions."""

import json
import os
from datetime import datetime
from pathlib import Path

from mercure import __version__
from mercure.core.delivery import InstanceResult, Outcome
from mercure.core.errors import SpoolError
from mercure.core.task import Job, from_json, to_json
from mercure.spool import layout as names
from mercure.spool.durable import give_to_owner, write_all, write_durably

_MAXIMUM_TASK_BYTES = 64 << 20


def write_task(folder: Path, job: Job, *, fsync: bool = True, fsync_name: bool = False) -> None:
    """Replace `task.json` atomically; see `write_durably`."""
    content = json.dumps(to_json(job, version=__version__), ensure_ascii=False, separators=(",", ":"))
    write_durably(
        folder / names.TASK_FILE, content.encode("utf-8", "surrogatepass"), fsync=fsync, fsync_name=fsync_name
    )


def read_task(folder: Path) -> Job:
    """Read `task.json`. Raises `SpoolError` when it is not there or not valid.

    Raises `OSError` when it cannot be read just now (no descriptor left, a disk or a file server that fails): that says
    nothing about the job.
    """
    try:
        with open(folder / names.TASK_FILE, "rb") as file:
            content = file.read(_MAXIMUM_TASK_BYTES + 1)
        if len(content) > _MAXIMUM_TASK_BYTES:
            raise SpoolError("task.json is too long")
        return from_json(json.loads(content.decode("utf-8", "surrogatepass")))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise SpoolError("there is no task.json") from error
    except (ValueError, RecursionError) as error:
        raise SpoolError(f"task.json is no JSON ({type(error).__name__})") from error


def write_error_log(folder: Path, reason: str, at: datetime) -> None:
    """Add the reason to `error.log`, for a person."""
    line = f"{at:%Y-%m-%dT%H:%M:%SZ} {' '.join(reason.split())}\n"
    descriptor = os.open(folder / names.ERROR_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    try:
        give_to_owner(descriptor, folder)
        write_all(descriptor, line.encode("utf-8", "replace"))
    finally:
        os.close(descriptor)


class Ledger:
    """One line for each instance and target: what the target has confirmed, and what it refused.

    A line is written with one system call before the next instance goes out, so it outlives the process. It is not
    fsynced: after a power cut some instances may be sent again, which a target must stand anyway.
    """

    def __init__(self, folder: Path) -> None:
        """Open for appending; made when missing. A line that a crash cut off gets its end, so that ours is whole."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(folder / names.LEDGER_FILE, flags, 0o640)
        try:
            size = os.fstat(self._descriptor).st_size
            self._is_cut_off = bool(size) and os.pread(self._descriptor, 1, size - 1) != b"\n"
        except BaseException:
            self.close()
            raise

    def record(self, target: str, result: InstanceResult) -> None:
        """Append a line. Raises `OSError`; the next line stands by itself all the same."""
        line = json.dumps([target, result.name, result.outcome.value, result.detail], ensure_ascii=False)
        content = line.encode("utf-8", "replace") + b"\n"
        if self._is_cut_off:
            content = b"\n" + content
        self._is_cut_off = True
        write_all(self._descriptor, content)
        self._is_cut_off = False

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def read_ledger(folder: Path) -> dict[tuple[str, str], InstanceResult]:
    """Return the latest result by target and instance. A line that was cut off by a crash does not count."""
    results: dict[tuple[str, str], InstanceResult] = {}
    try:
        with open(folder / names.LEDGER_FILE, encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
    except FileNotFoundError:
        return results
    for line in lines:
        try:
            target, name, outcome, detail = json.loads(line)
            results[target, name] = InstanceResult(name, Outcome(outcome), detail)
        except (ValueError, TypeError):
            continue
    return results
