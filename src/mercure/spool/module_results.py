"""What a module hands back: its output folder, looked at before it is believed, and made into `results/`.

It was made by somebody else's program: nothing in it is followed, opened or kept before it is known to be a plain file.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mercure.core.errors import PermanentError
from mercure.core.tags import is_valid_uid
from mercure.spool import layout as names
from mercure.spool.durable import fsync_folder, link_or_copy
from mercure.spool.module_folders import copy_file
from mercure.spool.trees import remove_tree

MAXIMUM_ENTRIES = 200_000
"""Files and folders that a module may make."""

_MAXIMUM_PATH_BYTES = 1024
MAXIMUM_DEPTH = 64
"""Folders within folders that a module may make."""

_ENTRY_BYTES = 4096
"""What each file and folder counts at least: an empty one takes room, too."""

_ENTRIES_AT_ONCE = 1000
_TOO_DEEP = "the module made folders within folders too deep to follow"
_DRAFT = ".results"
_PREFIX_END = 132
_AT_ONCE = 256

Identify = Callable[[str], tuple[str, str]]
"""Gives series and SOP instance UID of a DICOM file; raises `PermanentError` when it cannot be read as one."""


@dataclass(frozen=True, slots=True)
class Made:
    """One regular file in the output of a module, by its path below the output folder."""

    path: str
    size: int
    links: int


def open_up(folder: Path) -> None:
    """Let the service read and move all that a module made, as far as it is the owner. No link is followed.

    Raises `PermanentError` for what `output_files` would refuse for its number or depth, and `OSError`.
    """
    for entry, _ in _walk(str(folder)):
        mode = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
        if entry.is_dir(follow_symlinks=False):
            needed = 0o700
        elif entry.is_file(follow_symlinks=False):
            needed = 0o600
        else:
            continue
        if mode & needed != needed:
            os.chmod(entry.path, mode | needed)


def output_files(folder: Path) -> list[Made]:
    """Return the files of an output folder, in order of their paths.

    Raises `PermanentError` when there is anything but folders and regular files, or too much of them: symbolic links,
    devices, pipes and sockets are never what a module should hand back.
    """
    made: list[Made] = []
    for entry, path in _walk(str(folder)):
        if len(path.encode("utf-8", "surrogateescape")) > _MAXIMUM_PATH_BYTES:
            raise PermanentError("the module made names that are too long")
        if entry.is_dir(follow_symlinks=False):
            continue
        status = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise PermanentError(f"the module made {_kind(status.st_mode)}; only files and folders are taken")
        made.append(Made(path, status.st_size, status.st_nlink))
    return sorted(made, key=lambda one: one.path)


def output_bytes(folder: Path, is_given_up: Callable[[], bool] = lambda: False) -> int:
    """Return what an output folder holds just now, for a module that still writes to it.

    A file counts what it takes on the disk, or its length when that is more: holes are filled when it is copied or
    sent. What vanishes meanwhile, or cannot be looked into, hides nothing else. Once it `is_given_up`, which is asked
    now and then, what was counted so far is returned. Raises `PermanentError` for what `output_files` would refuse for
    its number or depth.
    """

    def passed_over(error: OSError) -> None:
        del error

    total = 0
    for count, (entry, _) in enumerate(_walk(str(folder), passed_over), 1):
        with contextlib.suppress(OSError):
            total += _charge(entry)
        if count % _ENTRIES_AT_ONCE == 0 and is_given_up():
            break
    return total


def _charge(entry: "os.DirEntry[str]") -> int:
    status = entry.stat(follow_symlinks=False)
    length = status.st_size if stat.S_ISREG(status.st_mode) else 0  # some file systems give folders that of their files
    return max(length, status.st_blocks * 512, _ENTRY_BYTES)


def _raise(error: OSError) -> None:
    raise error


def _walk(folder: str, on_error: Callable[[OSError], None] = _raise) -> Iterator[tuple["os.DirEntry[str]", str]]:
    """Give out all that is below a folder, with its path there; a folder before it is listed, and what is in it later.

    A folder that cannot be listed goes to `on_error`. Raises `PermanentError` for too many entries, or too deep ones.
    """
    pending = [(folder, "")]
    count = 0
    while pending:
        place, prefix = pending.pop()
        try:
            entries = os.scandir(place)
        except OSError as error:
            on_error(error)
            continue
        with entries:
            for entry in entries:
                count += 1
                if count > MAXIMUM_ENTRIES:
                    raise PermanentError(f"the module made more than {MAXIMUM_ENTRIES} files and folders")
                path = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if path.count("/") > MAXIMUM_DEPTH:
                        raise PermanentError(_TOO_DEEP)
                    pending.append((entry.path, path + "/"))
                yield entry, path


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFBLK: "a device",
        stat.S_IFCHR: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something odd")


def is_dicom(path: str) -> bool:
    """Whether a file counts as a DICOM instance: by its name, or by the prefix of PS3.10 7.1."""
    if path.lower().endswith(".dcm"):
        return True
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, _PREFIX_END, 0)[128:] == b"DICM"
    finally:
        os.close(descriptor)


def store_results(
    job_folder: Path, output_folder: Path, identify: Identify, kept: Sequence[Path] = ()
) -> tuple[str, ...]:
    """Turn the output of the last module into `results/`; returns the names of the instances in it.

    Instances are named by their UIDs, as received ones are; a second one with the same UIDs gets a number. Everything
    else keeps its path below `results/attachments/`, but `result.json`, which stands in `results/`. `kept` are
    instances as received that are added, unless a module made one of the same name. Durable when it returns. Raises
    `PermanentError` for what cannot be taken, and `OSError`.
    """
    draft = job_folder / _DRAFT
    remove_tree(draft)
    os.mkdir(draft, 0o750)
    instances: list[str] = []
    for made in output_files(output_folder):
        source = f"{output_folder}/{made.path}"
        if made.path == names.TASK_FILE or made.path.endswith(".tags"):
            continue
        name = _instance_name(source, identify, draft)
        target = draft / (name or _attachment(made.path))
        target.parent.mkdir(parents=True, exist_ok=True)
        if made.links > 1:  # of a file of the input, perhaps: a result must not share its bytes
            copy_file(source, target)
        else:
            os.rename(source, target)
            os.chmod(target, 0o640)
        if name:
            instances.append(name)
    taken = set(instances)
    for path in kept:
        if path.name not in taken:
            link_or_copy(path, draft / path.name)
            instances.append(path.name)
    _make_durable(draft)
    results = job_folder / names.RESULTS
    remove_tree(results)
    os.rename(draft, results)
    fsync_folder(job_folder)
    return tuple(names.in_order(instances))


def _instance_name(source: str, identify: Identify, draft: Path) -> str:
    """Return the name of an instance among the results; "" for what is no DICOM file."""
    if not is_dicom(source):
        return ""
    series_uid, sop_instance_uid = identify(source)
    if not (is_valid_uid(series_uid) and is_valid_uid(sop_instance_uid)):
        raise PermanentError("an instance that the module made has a UID that can be no name of a file")
    name = names.instance_name(series_uid, sop_instance_uid)
    stem, copy = name.removesuffix(".dcm"), 1
    while os.path.lexists(draft / name):
        copy += 1
        name = f"{stem}#{copy}.dcm"
    return name


def _attachment(path: str) -> str:
    return path if path == names.RESULT_FILE else f"{names.ATTACHMENTS}/{path}"


def _make_durable(folder: Path) -> None:
    """Have all files written at once, then wait for each: the disk is not asked to finish one before the next."""
    places = [(place, files) for place, _, files in os.walk(folder)]
    opened = [os.path.join(place, name) for place, files in places for name in files]
    for start in range(0, len(opened), 256):
        descriptors = [
            os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC) for path in opened[start : start + 256]
        ]
        try:
            for descriptor in descriptors:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            for descriptor in descriptors:
                os.fsync(descriptor)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
    for place, _ in places:
        fsync_folder(place)
