"""Finding the DICOM files among what the command line names."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mercure.core.errors import PermanentError
from mercure.dicom.part10 import read_file_meta

_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR: a table of contents, which is never stored (PS3.3 F)."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A file to send."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Found:
    """The files to send, in the order of their names, and the others with the reason.

    `named_others`: one of the others stood on the command line itself.
    """

    instances: tuple[Instance, ...]
    others: tuple[tuple[str, str], ...]
    named_others: bool


def find_instances(paths: Iterable[Path]) -> Found:
    """Look at every file, in folders at all below them; a file that is reached twice counts once."""
    instances: dict[str, Instance] = {}
    others: dict[str, str] = {}
    named_others = False
    for path in paths:
        for file in _files_below(path):
            reason, size_bytes = _examine(file)
            if reason:
                others[file] = reason
                named_others = named_others or not path.is_dir()
            else:
                instances[os.path.realpath(file)] = Instance(file, size_bytes)
    return Found(tuple(instances.values()), tuple(others.items()), named_others)


def _files_below(path: Path) -> Iterator[str]:
    if not path.is_dir():
        yield str(path)
        return
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            yield os.path.join(folder, name)


def _examine(path: str) -> tuple[str, int]:
    """Return why a file cannot be sent, or "", and its size."""
    try:
        if not os.path.isfile(path):  # a pipe or a device would hold us up
            return "no regular file", 0
        meta = read_file_meta(path)
    except PermanentError as error:
        return f"no DICOM file: {error}", 0
    except OSError as error:
        return f"cannot be read: {error.strerror}", 0
    if meta.sop_class_uid == _MEDIA_DIRECTORY:
        return "a DICOMDIR, which is not sent", 0
    return "", meta.size
