"""The data folder: there, writable, quick and reliable enough, with space left."""

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from mercure.app import layout_of
from mercure.cli import probe_folders
from mercure.cli.doctor_findings import Finding
from mercure.cli.output import size
from mercure.config.schema import Config
from mercure.spool.layout import Layout

_GIGABYTE = 10**9
_SLOW_FSYNC_SECONDS = 0.020
_SKEW_SECONDS = 1.0
_FEW_INODES = 100_000
_NO_INODES = 1_000
_LINKED = ("studies", "processing", "outgoing", "success", "error", "discard")


def folder_findings(config: Config) -> list[Finding]:
    """Examine the data folder. What needs a folder that cannot be used is left out: its own finding says enough."""
    layout = layout_of(config)
    usable, findings = _usable(layout)
    if usable:
        findings += _owner(usable)
        groups = probe_folders.rename_groups(usable)
        findings += _renames(groups)
        for group in groups.groups:
            findings += _file_system(_named(group, usable), usable[group[0]])
        findings += _links(usable, groups)
        findings += _space(usable, groups, config)
    return findings


def _named(group: tuple[str, ...], usable: dict[str, Path]) -> str:
    return "all folders" if len(group) == len(usable) else ", ".join(group)


def _usable(layout: Layout) -> tuple[dict[str, Path], list[Finding]]:
    usable, findings = {}, []
    for name, path in layout.folders().items():
        reason = probe_folders.why_unusable(path)
        if not reason:
            usable[name] = path
        else:
            findings.append(_unusable(path, reason))
    if not findings:
        findings.append(Finding("folders", "ok", f"all {len(usable)} exist and can be written to"))
    return usable, findings


def _unusable(path: Path, reason: str) -> Finding:
    if reason == "does not exist" and not path.exists():
        above = next(parent for parent in path.parents if parent.exists())
        if os.access(above, os.W_OK | os.X_OK):
            return Finding("folders", "warning", f"{path} does not exist yet", "`mercure run` makes it.")
        return Finding("folders", "error", f"{path} does not exist, and {above} cannot be written to", _give(path))
    remedies = {"is full": "Make room, or use a larger disk.", "is read-only": "Mount it read-write."}
    return Finding("folders", "error", f"{path} {reason}", remedies.get(reason, _give(path)))


def _give(path: Path) -> str:
    return f"As root: mkdir -p {path} && chown {_user()} {path}"


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _owner(usable: dict[str, Path]) -> Iterator[Finding]:
    """Root may do everything, so what root can do says nothing of the user that the services run as."""
    owners = {path.stat().st_uid for path in usable.values()}
    if os.geteuid() == 0 and owners - {0}:
        owner = min(owners - {0})
        message = f"this was examined as root, but folders belong to user {owner}"
        yield Finding("folders", "warning", message, f"sudo -u '#{owner}' mercure doctor")


def _renames(groups: probe_folders.Groups) -> Iterator[Finding]:
    for failure in groups.failures:
        remedy = "The user of the services must be able to write to both folders."
        yield Finding("renames", "error", f"a folder cannot be moved: {failure}", remedy)
    if len(groups.groups) > 1:
        parts = " | ".join(", ".join(group) for group in groups.groups)
        message = f"moves copy and remove instead of a rename between: {parts}"
        remedy = "Put them on one file system and one mount, unless that is meant so (as with tmpfs for processing)."
        yield Finding("renames", "warning", message, remedy)
    elif not groups.failures:
        yield Finding("renames", "ok", "a folder moves between every two stages by a rename")


def _file_system(where: str, path: Path) -> Iterator[Finding]:
    """Examine what every folder of a file system has in common, in one of them."""
    try:
        failure = probe_folders.lock_failure(path)
        seconds = probe_folders.fsync_seconds(path)
        skew = probe_folders.clock_skew_seconds(path)
    except OSError as error:
        yield Finding("files", "error", f"{where}: {error.strerror}", "Examine the file system.")
        return
    if failure:
        remedy = "Use a file system with locks (for NFS: version 4, or without nolock and local_lock)."
        yield Finding("locks", "error", f"{where}: flock does not work: {failure}", remedy)
    else:
        yield Finding("locks", "ok", f"{where}: flock works")
    slow = seconds > _SLOW_FSYNC_SECONDS
    message = f"{where}: 64 KB are durable after {seconds * 1000:.1f} ms"
    remedy = "Each instance waits for that before it is acknowledged: use a faster disk, or one with a protected cache."
    yield Finding("fsync", "warning" if slow else "ok", message, remedy if slow else "")
    if abs(skew) > _SKEW_SECONDS:
        message = f"{where}: the clock of the file system is {abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}"
        yield Finding("clock", "warning", message, "A series is complete too late or too early: set the clocks by NTP.")


def _links(usable: dict[str, Path], groups: probe_folders.Groups) -> Iterator[Finding]:
    if "incoming" not in usable:
        return
    near = next((group for group in groups.groups if "incoming" in group), ())
    failures = {}
    for name in _LINKED:
        if name in near and (reason := probe_folders.link_failure(usable["incoming"], usable[name])):
            failures[name] = reason
    if failures:
        name, reason = next(iter(failures.items()))
        message = f"hard links from incoming to {', '.join(failures)} do not work: {reason}"
        yield Finding("links", "warning", message, "A series for several targets is copied; use another file system.")
    else:
        yield Finding("links", "ok", "hard links work: a series for several targets needs its space once")


def _space(usable: dict[str, Path], groups: probe_folders.Groups, config: Config) -> Iterator[Finding]:
    reserve = config.receiver.min_free_space_gb * _GIGABYTE
    for group in groups.groups:
        found = os.statvfs(usable[group[0]])
        free = found.f_bavail * found.f_frsize
        least = reserve if "incoming" in group else _GIGABYTE
        name = _named(group, usable)
        where = f"{name}: {size(free)} of {size(found.f_blocks * found.f_frsize)} free"
        if "incoming" in group and free < least:
            message = f"{where}, less than receiver.min_free_space_gb ({size(least)}): every instance is refused"
            yield Finding("space", "error", message, "Make room, or use a larger disk.")
        elif free < 2 * least:
            yield Finding("space", "warning", where, "Make room soon: instances are refused when there is too little.")
        else:
            yield Finding("space", "ok", where)
        if found.f_files and found.f_favail < _FEW_INODES:
            severe = found.f_favail < _NO_INODES
            message = f"{name}: {found.f_favail:,} inodes free"
            remedy = "Each instance is a file: remove old jobs, or make a file system with more inodes."
            yield Finding("inodes", "error" if severe else "warning", message, remedy)
        else:
            count = f"{found.f_favail:,} inodes" if found.f_files else "as many files as there is space"
            yield Finding("inodes", "ok", f"{name}: {count} free")
