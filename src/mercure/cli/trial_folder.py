"""The folder in which a module is tried: found and removed by the next trial when its own was killed.

It holds copies of images, and its name is that of the job, which the container of a trial bears. Whoever holds its lock
is alive.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mercure.core.errors import MercureError
from mercure.core.processing import ModuleRunner
from mercure.spool import layout as names
from mercure.spool.trees import remove_tree

_PREFIX = "mercure-trial-"


def owner_of_trials() -> str:
    """Return who owns the containers of trials that work here, in place of a data folder: this temporary folder.

    A service never takes them for its own, nor does a trial elsewhere that knows nothing of them.
    """
    place = os.stat(tempfile.gettempdir())
    return f"trial-{place.st_dev:x}-{place.st_ino:x}"


@contextlib.contextmanager
def trial_folder() -> Iterator[Path]:
    """Make a folder that says that its trial is alive. What is in it is the caller's to remove, and the folder too."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    draft = folder / f"{names.LOCK_FILE}.new"
    lock = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(draft, folder / names.LOCK_FILE)  # locked before it has its name: nobody can be earlier
        yield folder
    finally:
        os.close(lock)


def clear_left_behind(runner: ModuleRunner) -> None:
    """Remove what trials left that were killed: their containers, then their folders. Without effect on those alive.

    An engine that is away says so when the module is started.
    """
    root = Path(tempfile.gettempdir())
    with contextlib.suppress(MercureError):
        runner.sweep(lambda job_id: job_id.startswith(_PREFIX) and _is_alive(root / job_id))
        for folder in root.glob(f"{_PREFIX}*"):
            if _is_ours(folder) and not _is_alive(folder):
                with contextlib.suppress(OSError):
                    remove_tree(folder)


def _is_ours(folder: Path) -> bool:
    try:
        return os.lstat(folder).st_uid == os.geteuid()
    except OSError:
        return False


def _is_alive(folder: Path) -> bool:
    """Whether a trial works in the folder, or has just begun to."""
    try:
        lock = os.open(folder / names.LOCK_FILE, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return folder.exists()
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
