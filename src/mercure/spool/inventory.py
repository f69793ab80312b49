"""Whether instances are in the data folder, found by their names: no file is opened."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from mercure.core.stages import Stage
from mercure.spool import layout as names
from mercure.spool.layout import Layout


def find_instances(layout: Layout, sop_instance_uids: Iterable[str]) -> dict[str, str]:
    """Return a path of each of the instances that is gathering, sealed, or in a job of any stage but `discard`.

    What is discarded waits to be deleted: nobody may rely on it. One pass over the folders, in the order in which
    instances move, so that one that moves meanwhile is met. A path may be outdated when it is used. Raises `OSError`
    when a folder of the layout cannot be read.
    """
    missing = set(sop_instance_uids) - {""}
    found: dict[str, str] = {}
    for folder in _folders(layout):
        if not missing:
            break
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in os.listdir(folder):
                uid = name.partition("#")[2].removesuffix(".dcm").partition("#")[0]
                if uid in missing:
                    missing.discard(uid)
                    found[uid] = f"{folder}/{name}"
    return found


def find_copies(layout: Layout, series_uid: str, sop_instance_uid: str) -> Iterator[str]:
    """Give out the paths in sealed receptions and jobs that have the name of this instance; one look at each folder.

    Both UIDs are valid ones. A path may be outdated when it is used. Raises `OSError` as `find_instances`.
    """
    for parent in _parents(layout):
        for entry in os.listdir(parent):
            path = f"{parent}/{entry}/{names.RECEIVED}/{names.instance_name(series_uid, sop_instance_uid)}"
            copy = 1
            while os.path.exists(path):
                yield path
                copy += 1
                path = f"{os.path.dirname(path)}/{names.instance_name(series_uid, sop_instance_uid, copy)}"


def _parents(layout: Layout) -> tuple[Path, ...]:
    return (layout.sealed, *(layout.stage(stage) for stage in Stage))


def _folders(layout: Layout) -> Iterator[str]:
    for name in os.listdir(layout.incoming):
        if not name.startswith("."):
            yield f"{layout.incoming}/{name}"
    for parent in _parents(layout):
        if parent != layout.discard:
            for name in os.listdir(parent):
                yield f"{parent}/{name}/{names.RECEIVED}"
