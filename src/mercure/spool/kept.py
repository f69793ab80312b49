"""Series that are kept sealed because jobs of theirs stand in memory: which of these must be made once more.

Where `processing/` lies on a tmpfs, it is emptied by a restart of the machine, of a container, or by a new mount. The
sealed folder stays with the originals then, and notes two things:

- `.made`: the jobs that were made, and a mark of the memory at that time. The mark is a file in `processing/` itself,
  so it is lost together with the jobs. A job is made again only when the mark is another one and the job stood there.
- `.safe-JOB`: this job has reached a disk. Written by whoever takes it there, so it holds even when the job is deleted
  or taken elsewhere a moment later. Such a job is never made again.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from mercure.core.stages import Stage
from mercure.spool import layout as names
from mercure.spool.durable import fsync_folder, give_to_owner, is_volatile, write_durably
from mercure.spool.layout import Layout
from mercure.spool.plans import PlacedJob

_AGAIN = "-r"
_LONGEST_STEM = 90


def is_in_memory(layout: Layout) -> bool:
    """Whether `processing/` is emptied by a restart, and `incoming/` is not: it lies in a memory of its own.

    Raises `OSError` when that cannot be known: nobody may take that for a disk.
    """
    apart = os.stat(layout.processing).st_dev != os.stat(layout.sealed).st_dev
    return apart and is_volatile(layout.processing)


def memory_of_now(layout: Layout) -> str | None:
    """Return the mark of the memory that `processing/` lies in, "" when that is a disk, None when it has none yet.

    Raises `OSError`.
    """
    if not is_in_memory(layout):
        return ""
    try:
        return (layout.processing / names.MEMORY_FILE).read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None


def kept_again_id(job_id: str) -> str:
    """Return the name below `.sealed/` of a job that is kept there because it is processed anew in memory."""
    return job_id[:_LONGEST_STEM] + _AGAIN


def note_safe(layout: Layout, job_id: str) -> None:
    """Note that a job stands on a disk, in each series that is kept for it. Durable when it returns.

    Raises `OSError`. Without effect for a job of which nothing is kept.
    """
    for seal_id in (job_id.rpartition("-")[0], kept_again_id(job_id)):
        folder = layout.sealed / seal_id
        if seal_id and (folder / names.MADE_FILE).exists():
            _mark_safe(folder, job_id)


class KeptSeries:
    """The notes in one sealed folder, whose lock the caller holds."""

    def __init__(self, layout: Layout, folder: Path) -> None:
        """Read what was noted before; a note that is damaged says nothing.

        Raises `OSError` when it cannot be read just now: what it says could make a job twice if it were passed over.
        """
        self._layout = layout
        self._folder = folder
        self._file = folder / names.MADE_FILE
        self._made: frozenset[str] = frozenset()
        self._made_in = ""
        self.was_begun = False
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            content = self._file.read_bytes()
            self.was_begun = True
            noted = json.loads(content)
            self._made, self._made_in = frozenset(noted["jobs"]), str(noted["memory"])

    def begin(self) -> None:
        """Say that the series is kept, before the first of its jobs is made: from now on its safe ones are noted."""
        if not self.was_begun:
            self._write(frozenset(), _memory(self._layout))

    def missing(self, jobs: Sequence[PlacedJob]) -> list[PlacedJob]:
        """Return the jobs that have to be made: never made, or lost together with the memory that they stood in."""
        memory = _memory(self._layout)
        return [
            placed
            for placed in jobs
            if self._place(placed) is None and not self._is_marked(placed) and not self._holds(placed, memory)
        ]

    def note_made(self, jobs: Sequence[PlacedJob], made: Iterable[PlacedJob]) -> None:
        """Note which jobs there are by now: those just made, those that stand somewhere, and those from before."""
        memory = _memory(self._layout)
        new = {placed.job.id for placed in made}
        there = frozenset(
            placed.job.id
            for placed in jobs
            if placed.job.id in new or self._holds(placed, memory) or self._place(placed) is not None
        )
        if (there, memory) != (self._made, self._made_in):
            self._write(there, memory)

    def are_safe(self, jobs: Sequence[PlacedJob]) -> bool:
        """Whether no restart can take any of the jobs: nothing has to be kept any more. Notes those seen on a disk."""
        unsafe = [placed for placed in jobs if not self._is_safe(placed)]
        return not unsafe

    def _is_safe(self, placed: PlacedJob) -> bool:
        if placed.stage is not Stage.PROCESSING:
            return placed.job.id in self._made
        if self._is_marked(placed):
            return True
        place = self._place(placed)
        if place is None or (place is Stage.PROCESSING and is_in_memory(self._layout)):
            return False
        _mark_safe(self._folder, placed.job.id)
        return True

    def _holds(self, placed: PlacedJob, memory: str) -> bool:
        """Whether the note that a job was made still holds: it was on a disk, or in the memory of now."""
        return placed.job.id in self._made and (placed.stage is not Stage.PROCESSING or self._made_in == memory)

    def _place(self, placed: PlacedJob) -> Stage | None:
        """Return the stage where a job stands; they are looked at in the order in which jobs go."""
        for stage in Stage:
            if (self._layout.stage(stage) / placed.job.id).exists():
                return stage
        return None

    def _is_marked(self, placed: PlacedJob) -> bool:
        return _safe_mark(self._folder, placed.job.id).exists()

    def _write(self, made: frozenset[str], memory: str) -> None:
        write_durably(self._file, json.dumps({"memory": memory, "jobs": sorted(made)}).encode())
        self._made, self._made_in, self.was_begun = made, memory, True


def _safe_mark(folder: Path, job_id: str) -> Path:
    return folder / f"{names.SAFE_PREFIX}{names.check_job_id(job_id)}"


def _mark_safe(folder: Path, job_id: str) -> None:
    try:
        descriptor = os.open(_safe_mark(folder, job_id), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            give_to_owner(descriptor, folder)
        finally:
            os.close(descriptor)
        fsync_folder(folder)
    except FileNotFoundError:
        return  # the series is not kept any more


def _memory(layout: Layout) -> str:
    """Return the mark of the memory that `processing/` lies in, made if there is none; "" when that is a disk."""
    mark = memory_of_now(layout)
    if mark is not None:
        return mark
    path = layout.processing / names.MEMORY_FILE
    for left in layout.processing.glob(f"{path.name}-*"):  # by a crash, or when the memory was full
        left.unlink(missing_ok=True)
    token = secrets.token_hex(16)
    draft = path.with_name(f"{path.name}-{token}")
    try:
        draft.write_text(token, encoding="ascii")  # on a full disk this leaves an empty file
        with contextlib.suppress(FileExistsError, FileNotFoundError):  # another router was faster: its mark counts
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path.read_text(encoding="ascii", errors="replace")
