"""What a module finds: its input folder.

Instances go into the input as hard links that nobody may write, so no byte is copied; a module that changes its input
gets copies.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mercure.spool import layout as names
from mercure.spool.durable import link_or_copy, write_all
from mercure.spool.instances import READ_ONLY
from mercure.spool.trees import remove_tree

__all__ = ["copy_file", "lay_out_input", "remove_tree", "write_task_of_step"]

Json = Any


def lay_out_input(
    input_folder: Path,
    instances: Sequence[Path],
    task: Json,
    *,
    copy: bool,
    tags: Callable[[Path], Mapping[str, str]],
) -> None:
    """Fill a new input folder of a module: the instances, a `.tags` file beside each, and `task.json`.

    The instances are links to the given files, which lose their write permission, or copies of them. Raises `OSError`,
    and what `tags` raises. Nothing is durable: a crash has the input laid out anew.
    """
    os.mkdir(input_folder, 0o750)
    prefix = f"{input_folder}/"
    for source in instances:
        target = prefix + source.name
        if copy:
            copy_file(source, target)
        else:
            os.chmod(source, READ_ONLY)
            link_or_copy(source, Path(target))
        _write(target.removesuffix(".dcm") + ".tags", json.dumps(dict(tags(source))).encode())
    write_task_of_step(input_folder, task)


def write_task_of_step(folder: Path, task: Json) -> None:
    """Write the `task.json` that a module sees."""
    path = folder / names.TASK_FILE
    path.unlink(missing_ok=True)
    _write(str(path), json.dumps(task, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def copy_file(source: str | Path, target: str | Path) -> None:
    """Copy a file; where the file system can share the bytes until one side changes, it does."""
    with open(source, "rb") as old, open(target, "xb") as new:
        left = os.fstat(old.fileno()).st_size
        try:
            while left > 0 and (count := os.copy_file_range(old.fileno(), new.fileno(), left)):
                left -= count
        except OSError:
            old.seek(new.seek(0, os.SEEK_END))
            shutil.copyfileobj(old, new, 1 << 20)
        os.fchmod(new.fileno(), 0o640)


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        write_all(descriptor, content)
    finally:
        os.close(descriptor)
