"""Where a bench works: one folder on the disk of the checkout, cleaned between measurements."""

import itertools
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".bench-data"
_PROBES = 200
_QUICK_CREATE_SECONDS = 100e-6
_INODE_PATIENCE_SECONDS = 400
_numbers = itertools.count()
_NATIVE = Path(__file__).resolve().parent / "native"


def prepare() -> None:
    """Make the folder; it ignores itself in git."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n", encoding="ascii")


@contextmanager
def clean_folder(name: str) -> Iterator[Path]:
    """A new, empty folder for one measurement.

    All that was written before is brought to the disk first, so that one measurement does not pay for another's bytes.
    Afterwards the files are emptied but not deleted: ext4 without a journal does not use an inode again for a minute
    after its deletion, and searching past thousands of those would slow down whatever is measured next.
    """
    prepare()
    folder = FOLDER / f"{name}-{next(_numbers):04d}"
    folder.mkdir()
    _wait_for_inodes(folder)
    os.sync()
    try:
        yield folder
    except Exception:
        for log in sorted(folder.glob("*.log")):
            print(f"{log.name}:\n{log.read_text(encoding='utf-8', errors='replace')[-4000:]}", file=sys.stderr)
        raise
    finally:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                os.truncate(path, 0)
        os.sync()


def _wait_for_inodes(folder: Path) -> None:
    """Wait until files are made quickly here, which they are not for a while after many were deleted: see above."""
    deadline = time.monotonic() + _INODE_PATIENCE_SECONDS
    for attempt in itertools.count():
        probe = folder / f"probe-{attempt}"
        probe.mkdir()
        started = time.perf_counter()
        for number in range(_PROBES):
            os.close(os.open(probe / str(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        taken = (time.perf_counter() - started) / _PROBES
        if taken < _QUICK_CREATE_SECONDS:
            return
        if time.monotonic() > deadline:
            message = f"making a file takes {taken * 1e6:.0f} microseconds on this disk: nothing can be measured here"
            raise RuntimeError(message)
        print(f"making a file takes {taken * 1e6:.0f} microseconds: waiting until deleted inodes rest", flush=True)
        time.sleep(5)


def remove() -> None:
    """Delete what measurements left behind, inputs included; compiled programs stay."""
    for folder in FOLDER.iterdir():
        if folder.is_dir() and folder.name != "bin":
            shutil.rmtree(folder)
    os.sync()


def native(name: str) -> Path:
    """Compile one of the C programs of the bench, unless it is newer than its source, and return its path."""
    prepare()
    source, binary = _NATIVE / f"{name}.c", FOLDER / "bin" / name
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        binary.parent.mkdir(exist_ok=True)
        options = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
        subprocess.run(["gcc", *options, "-o", str(binary), str(source)], check=True)
    return binary


def machine() -> str:
    """What the figures were measured on, in so many words as they mean something elsewhere."""
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {platform.system()}, Python {platform.python_version()}, over loopback"
