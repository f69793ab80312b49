"""Free space and inodes of the file systems of the data folder, also of those on which it is still to be made."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mercure.cli.doctor_findings import Finding
from mercure.cli.output import size
from mercure.config.schema import Config
from mercure.spool.intake import inode_reserve

_GIGABYTE = 10**9
_FEW_INODES = 100_000


@dataclass(frozen=True, slots=True)
class Place:
    """Folders of one file system. `path` is on it, and exists; `receives` when `incoming` is among the folders."""

    names: str
    path: Path
    receives: bool


def space_findings(place: Place, config: Config) -> Iterator[Finding]:
    """Compare what is free with what the receiver keeps in reserve."""
    try:
        found = os.statvfs(place.path)
    except OSError as error:
        yield Finding("space", "error", f"{place.path}: {error.strerror}", "Examine the file system.")
        return
    yield _space(place, found, config.receiver.min_free_space_gb * _GIGABYTE)
    yield _inodes(place, found, refuses=place.receives and config.receiver.min_free_space_gb > 0)


def _space(place: Place, found: os.statvfs_result, reserve: float) -> Finding:
    free = found.f_bavail * found.f_frsize
    least = reserve if place.receives else _GIGABYTE
    where = f"{place.names}: {size(free)} of {size(found.f_blocks * found.f_frsize)} free"
    if place.receives and free < least:
        message = f"{where}, less than receiver.min_free_space_gb ({size(least)}): every instance is refused"
        return Finding("space", "error", message, "Make room, or use a larger disk.")
    if free < 2 * least:
        return Finding("space", "warning", where, "Make room soon: instances are refused when there is too little.")
    return Finding("space", "ok", where)


def _inodes(place: Place, found: os.statvfs_result, *, refuses: bool) -> Finding:
    free, kept = found.f_favail, inode_reserve(found)
    if not found.f_files:
        return Finding("inodes", "ok", f"{place.names}: as many files as there is space free")
    where = f"{place.names}: {free:,} of {found.f_files:,} inodes free"
    remedy = "Each instance is a file: remove old jobs, or make a file system with more inodes."
    if free == 0 or free < kept:
        refused = f", fewer than the receiver keeps ({kept:,}): every instance is refused" if refuses else ""
        return Finding("inodes", "error", f"{where}{refused}", remedy)
    return Finding("inodes", "warning" if free < _FEW_INODES else "ok", where, remedy if free < _FEW_INODES else "")
