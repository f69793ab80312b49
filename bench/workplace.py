"""Where a bench works: one folder on the disk of the checkout, cleaned between measurements."""

import fcntl
import itertools
import os
import platform
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".bench-data"
_PROBES = 200
_QUICK_SECONDS = 100e-6
_PATIENCE_SECONDS = 400
_PLACES = 20
# Numbers of the requests and of the flag as in the manual page of ioctl_iflags, for 64-bit systems.
_GET_FLAGS, _SET_FLAGS, _TOP_OF_HIERARCHY = 0x80086601, 0x40086602, 0x20000
_numbers = itertools.count()
_NATIVE = Path(__file__).resolve().parent / "native"


def prepare() -> None:
    """Make the folder; it ignores itself in git."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n", encoding="ascii")
    _spread_folders(FOLDER)


@contextmanager
def alone() -> Iterator[None]:
    """Keep other benches away from the folder, then remove what the measurements left behind."""
    prepare()
    with (FOLDER / ".gitignore").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit("another bench is running in this checkout") from None
        try:
            yield
        finally:
            _remove()


@contextmanager
def clean_folder(name: str) -> Iterator[Path]:
    """A new, empty folder for one measurement, at a place of the disk where files are made quickly.

    All that was written before is brought to the disk first, so that one measurement does not pay for another's bytes.
    Afterwards the files are emptied but not deleted: ext4 without a journal does not use an inode again for minutes
    after its deletion, and searching past thousands of those would slow down whatever is measured next.
    """
    prepare()
    folder = _quick_folder(name)
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


def warm_memory(size_bytes: int) -> None:
    """Use memory and free it, just before something is measured whose files will need about so much.

    The host of a virtual machine takes away memory that was freed in large amounts, and gives it back slowly: a second
    for each GB. A receiver that is measured would pay for that or not by mere chance.
    """
    with (FOLDER / "warm").open("wb", buffering=0) as file:
        block = bytes(256 << 10)
        for _ in range(2 * size_bytes // len(block)):
            file.write(block)
        file.truncate(0)


def _quick_folder(name: str) -> Path:
    """A folder among other inodes than those that somebody has just deleted; waits when there is none."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for attempt in itertools.count(1):
        folder = FOLDER / f"{name}-{os.getpid()}-{next(_numbers):05d}"
        folder.mkdir()
        taken = _seconds_per_file(folder / "probe")
        if taken < _QUICK_SECONDS:
            return folder
        if time.monotonic() > deadline:
            break
        if attempt % _PLACES == 0:
            print(f"making a file takes {taken * 1e6:.0f} microseconds: waiting for deleted inodes to rest", flush=True)
            time.sleep(5)
    message = f"making a file takes {taken * 1e6:.0f} microseconds on this disk: nothing can be measured here"
    raise RuntimeError(message)


def _seconds_per_file(probe: Path) -> float:
    probe.mkdir()
    started = time.perf_counter()
    for number in range(_PROBES):
        os.close(os.open(probe / str(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    return (time.perf_counter() - started) / _PROBES


def _spread_folders(folder: Path) -> None:
    """Have ext4 place each folder in this one among other inodes (chattr +T); elsewhere this means nothing."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flags = bytearray(8)
        fcntl.ioctl(descriptor, _GET_FLAGS, flags)
        value = struct.unpack_from("i", flags)[0] | _TOP_OF_HIERARCHY
        fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("i4x", value))
    except OSError:
        pass  # another file system, which has no such flag and no such trap
    finally:
        os.close(descriptor)


def _remove() -> None:
    """Delete what measurements left behind, inputs included; compiled programs stay."""
    started = time.monotonic()
    for folder in FOLDER.iterdir():
        if folder.is_dir() and folder.name != "bin":
            shutil.rmtree(folder)
    os.sync()
    print(f"cleaning up took {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


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
