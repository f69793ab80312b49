"""The journal: events that this user may not read are missing wherever somebody looks for them."""

import os
from collections.abc import Iterator
from pathlib import Path

from mercure.cli.doctor_findings import Finding
from mercure.cli.output import counted
from mercure.journal.files import start_of
from mercure.spool.layout import Layout

_NAMED = 3


def journal_findings(layout: Layout) -> Iterator[Finding]:
    """Try to list the journal and to open each of its files. Nothing is found where there is none yet."""
    folder = layout.journal
    try:
        closed = _closed(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        message = f"{folder} cannot be listed: {error.strerror}"
        yield Finding("journal", "error", message, _remedy(layout.jobs, [folder], recursive=True))
        return
    if closed:
        more = f" and {len(closed) - _NAMED} more" if len(closed) > _NAMED else ""
        named = ", ".join(path.name for path in closed[:_NAMED])
        message = f"{counted(len(closed), 'file')} of {folder} cannot be read: {named}{more}; their events are missing"
        yield Finding("journal", "error", message, _remedy(folder, closed))


def _closed(folder: Path) -> list[Path]:
    """Return the files of a journal that cannot be opened. Raises `OSError` when the folder cannot be listed."""
    closed = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if start_of(entry.name) is None or not entry.is_file(follow_symlinks=False):
                continue
            try:
                os.close(os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
            except FileNotFoundError:
                continue  # removed since it was listed
            except OSError:
                closed.append(Path(entry.path))
    return sorted(closed)


def _remedy(owned: Path, closed: list[Path], *, recursive: bool = False) -> str:
    """Return what root does so that they belong to whom the folder around them belongs to, who may then read them."""
    named = " ".join(map(str, closed)) if len(closed) <= _NAMED else f"{owned}/*.jsonl"
    # -h: root must not be led to another file by a link in this folder.
    chown, chmod = ("chown -hR", "chmod -R") if recursive else ("chown -h", "chmod")
    return f"As root: {chown} --reference={owned} {named} && {chmod} u+rX {named}"
