"""A small file system of its own for a test: to fill it up, to make it read-only, or just to be another one."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(folder: Path, size_bytes: int = 16 << 20, inodes: int | None = None) -> Iterator[Path]:
    """Mount a tmpfs of this size on a folder, which is made. Needs root or sudo without a password.

    It holds as many files as given; 0: no limit that it knows of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    limit = "" if inodes is None else f",nr_inodes={inodes}"
    _mount("mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0777{limit}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        _mount("umount", "--lazy", str(folder))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a mounted small disk read-only for a while."""
    _mount("mount", "-o", "remount,ro", str(folder))
    try:
        yield
    finally:
        _mount("mount", "-o", "remount,rw", str(folder))


def fill(folder: Path) -> Path:
    """Take all the space that is left; remove the file that is returned to give it back."""
    ballast = folder / ".ballast"
    with ballast.open("wb") as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    os.write(file.fileno(), bytes(size))
            except OSError:
                continue
    return ballast


def take_inodes(folder: Path, left: int = 0) -> list[Path]:
    """Make empty files until so many inodes are left; remove those that are returned to give them back."""
    files = [folder / f".ballast-{number}" for number in range(os.statvfs(folder).f_favail, left, -1)]
    for file in files:
        file.touch()
    return files


def _mount(*command: str) -> None:
    prefix = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    done = subprocess.run([*prefix, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        message = f"{' '.join(command)}: {done.stderr.strip()} (tests mount small disks: run as root, or allow sudo)"
        raise RuntimeError(message)
