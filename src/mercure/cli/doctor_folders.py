"""The data folder: there, writable, quick and reliable enough, with space left."""

import contextlib
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from mercure.app.assembly import layout_of
from mercure.cli import probe_folders
from mercure.cli.doctor_findings import Finding
from mercure.cli.doctor_incoming import incoming_findings
from mercure.cli.doctor_journal import journal_findings
from mercure.cli.doctor_space import Place, space_findings
from mercure.config.schema import Config
from mercure.spool.layout import DATA_ID_FILE, Layout

_SLOW_FSYNC_SECONDS = 0.020
_SKEW_SECONDS = 1.0
_LINKED = ("studies", "processing", "outgoing", "success", "error", "discard")


def folder_findings(config: Config) -> list[Finding]:
    """Examine the data folder. What needs a folder that cannot be used is left out: its own finding says enough."""
    layout = layout_of(config)
    usable, missing, unusable = _sorted_out(layout)
    findings = [_unusable(path, reason) for path, reason in unusable.values()]
    findings += _missing(missing, is_in_use=_is_in_use(layout))
    if not findings:
        findings.append(Finding("folders", "ok", f"all {len(usable)} exist and can be written to"))
    if usable:
        count = len(usable) + len(unusable)
        findings += _owner(usable)
        groups = probe_folders.rename_groups(usable)
        findings += _renames(groups)
        for group in groups.groups:
            findings += _file_system(_named(group, count), usable[group[0]])
        findings += _links(layout, usable, groups)
        for group in groups.groups:
            place = Place(_named(group, count), usable[group[0]], receives="incoming" in group)
            findings += space_findings(place, config)
    there = {name: path for name, (path, reason) in unusable.items() if reason != probe_folders.NO_FOLDER}
    for place in (*_places_of_unusable(there, usable), *_places_to_be(missing, usable | there)):
        findings += space_findings(place, config)
    return [*findings, *incoming_findings(layout, config), *journal_findings(layout)]


def _named(group: tuple[str, ...], count: int) -> str:
    return "all folders" if len(group) == count else ", ".join(group)


def _sorted_out(layout: Layout) -> tuple[dict[str, Path], dict[str, Path], dict[str, tuple[Path, str]]]:
    """Return the folders that can be used, those that do not exist, and the others, each with the reason."""
    usable, missing, unusable = {}, {}, {}
    for name, path in layout.folders().items():
        reason = probe_folders.why_unusable(path)
        if not reason:
            usable[name] = path
        elif reason == probe_folders.MISSING:
            missing[name] = path
        else:
            unusable[name] = (path, reason)
    return usable, missing, unusable


def _unusable(path: Path, reason: str) -> Finding:
    if reason == probe_folders.NO_FOLDER:
        file = next(one for one in (path, *path.parents) if os.path.lexists(one))
        remedy = f"Move it away (mv {file} {file}.old); `mercure run` makes the folder."
        return Finding("folders", "error", f"{path} cannot be made: {file} is not a folder", remedy)
    remedies = {
        probe_folders.NO_SPACE: "Make room, or use a larger disk.",
        probe_folders.NO_INODES: "Remove old jobs, or make a file system with more inodes.",
        "is read-only": "Mount it read-write.",
    }
    return Finding("folders", "error", f"{path} {reason}", remedies.get(reason, give_remedy(path)))


def _is_in_use(layout: Layout) -> bool:
    """Whether services have worked here already: a folder that is missing has vanished then, or its disk has."""
    with contextlib.suppress(OSError):  # what this user may not look at is another finding
        return (layout.jobs / DATA_ID_FILE).exists() or any(layout.journal.glob("*.jsonl"))
    return False


def _missing(missing: dict[str, Path], *, is_in_use: bool) -> Iterator[Finding]:
    """Say once for all folders that would be made below the same one that exists."""
    by_above: dict[Path, list[Path]] = {}
    for path in missing.values():
        by_above.setdefault(existing_above(path), []).append(path)
    for above, paths in by_above.items():
        named = _in_one_line(paths)
        do = "does" if len(paths) == 1 else "do"
        them = "it" if len(paths) == 1 else "them"
        if is_in_use and os.access(above, os.W_OK | os.X_OK):
            make = f"mkdir -p {' '.join(map(str, paths))}"
            remedy = (
                f"If a disk belongs there, mount it. Else start `mercure run` anew, which makes {them}, "
                f"or make {them} as the user of the services: {make}"
            )
            yield Finding("folders", "error", f"{named} {do} not exist, and this data folder is in use", remedy)
        elif os.access(above, os.W_OK | os.X_OK):
            remedy = f"`mercure run` makes {them}."
            yield Finding("folders", "warning", f"{named} {do} not exist yet", remedy)
        else:
            message = f"{named} {do} not exist, and {above} cannot be written to"
            yield Finding("folders", "error", message, give_remedy(*_togive_remedy(paths, above)))


def existing_above(path: Path) -> Path:
    """Return the nearest folder above that exists."""
    return next(parent for parent in path.parents if parent.exists())


def _in_one_line(paths: list[Path]) -> str:
    parents = {path.parent for path in paths}
    if len(paths) == 1 or len(parents) > 1:
        return ", ".join(map(str, paths))
    return f"{len(paths)} folders in {parents.pop()} ({', '.join(path.name for path in paths)})"


def _togive_remedy(paths: list[Path], above: Path) -> list[Path]:
    """Return what root has to make: the common folder of all of them when that does not exist either."""
    parents = {path.parent for path in paths}
    return list(parents) if len(parents) == 1 and above not in parents else paths


def _places_of_unusable(unusable: dict[str, Path], usable: dict[str, Path]) -> Iterator[Place]:
    """Return the file systems of folders that cannot be used, which may be so for want of space or inodes there."""
    devices = _devices(usable)
    by_device: dict[int, list[str]] = {}
    for name, path in unusable.items():
        for device in _devices({name: path}):
            by_device.setdefault(device, []).append(name)
    for device, names in by_device.items():
        if device not in devices or "incoming" in names:
            named = "all folders" if len(names) == len(unusable) and not usable else ", ".join(names)
            yield Place(named, unusable[names[0]], receives="incoming" in names)


def _devices(folders: dict[str, Path]) -> set[int]:
    found = set()
    for path in folders.values():
        with contextlib.suppress(OSError):  # behind a folder that this user may not enter
            found.add(path.stat().st_dev)
    return found


def _places_to_be(missing: dict[str, Path], there: dict[str, Path]) -> Iterator[Place]:
    """Return the file systems on which folders are to be made, and on which there is none so far."""
    devices = _devices(there)
    by_device: dict[int, list[str]] = {}
    above = {name: existing_above(path) for name, path in missing.items()}
    for name, path in above.items():
        by_device.setdefault(path.stat().st_dev, []).append(name)
    for device, names in by_device.items():
        if device not in devices:
            path = above[names[0]]
            named = ", ".join(names) if there or len(names) < len(missing) else "all folders"
            yield Place(f"{path} (for {named})", path, receives="incoming" in names)


def give_remedy(*paths: Path) -> str:
    """Return what root does so that this user can write to folders."""
    named = " ".join(map(str, paths))
    return f"As root: mkdir -p {named} && chown {_user()} {named}"


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


def _links(layout: Layout, usable: dict[str, Path], groups: probe_folders.Groups) -> Iterator[Finding]:
    needed = [path for path in probe_folders.need_links(layout) if path in usable.values()]
    faults = [(path, reason) for path in needed if (reason := probe_folders.link_failure(path, path))]
    for path, reason in faults:
        message = f"hard links within {path} do not work: {reason}; nothing can be received or routed"
        yield Finding("links", "error", message, "Put it on a file system with hard links, as ext4, XFS or NFS.")
    if faults or "incoming" not in usable:
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
