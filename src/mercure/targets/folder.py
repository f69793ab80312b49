"""A folder of this machine as target: each job becomes a folder in it, complete or not visible."""

import contextlib
import errno
import fnmatch
import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from mercure.core.delivery import InstanceResult, Outcome, Parcel, Progress, TargetTest
from mercure.core.errors import PermanentError, TransientError

COMPLETE = ".complete"
"""Marker file that says to consumers: nothing is missing any more. Written last."""

_CHUNK_BYTES = 8 << 20
_NO_COPY_IN_KERNEL = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM})


class SourceError(Exception):
    """An instance of the job cannot be read: about that instance, not about the target."""


@dataclass(frozen=True, slots=True)
class FolderTarget:
    """Copies instances to `<folder>/<job>/`; `exclude` are patterns of names that are left out.

    Files are written and fsynced in `<folder>/.<job>/`, which gets its name when all of them are there; the marker
    follows. A retry goes on where the last attempt ended and makes no second copy. Nothing but instances is copied.
    """

    folder: str
    exclude: Sequence[str] = ()

    def send(self, parcel: Parcel, progress: Progress) -> None:
        """Deliver the instances; see `mercure.core.delivery.Target`. Durable when it returns.

        Instances are recorded when the folder has its name: before, nobody can see them.
        """
        closed = threading.Event()
        progress.attach(closed.set)
        _check_name(parcel.job_id)
        results: list[InstanceResult] = []
        try:
            place = self._place(parcel.job_id)
            for name in parcel.names:
                progress.check()
                if closed.is_set():
                    raise TransientError("the transfer was broken off")
                results.append(self._deliver(parcel.folder, name, place))
            if any(result.outcome is Outcome.DELIVERED for result in results):
                self._publish(place, parcel.job_id)
        except OSError as error:
            raise TransientError(f"folder target {self.folder}: {error.strerror}") from None
        for result in results:
            progress.record(result)

    def _place(self, job_id: str) -> str:
        """Return the folder to write to: the one that was published before, or the draft."""
        published = os.path.join(self.folder, job_id)
        if os.path.isdir(published):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(published, COMPLETE))
            return published
        draft = os.path.join(self.folder, f".{job_id}")
        with contextlib.suppress(FileExistsError):
            os.mkdir(draft)
        return draft

    def _deliver(self, source: str, name: str, place: str) -> InstanceResult:
        _check_name(name)
        if not name.endswith(".dcm"):
            return InstanceResult(name, Outcome.DELIVERED, "left out: no instance")
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.exclude):
            return InstanceResult(name, Outcome.DELIVERED, "left out by the target's filter")
        try:
            _copy_once(os.path.join(source, name), place, name)
        except SourceError as error:
            return InstanceResult(name, Outcome.REFUSED, f"the file cannot be read: {error}")
        return InstanceResult(name, Outcome.DELIVERED)

    def _publish(self, place: str, job_id: str) -> None:
        _sync(place)
        published = os.path.join(self.folder, job_id)
        if place != published:
            os.rename(place, published)
            _sync(self.folder)
        marker = os.open(os.path.join(published, COMPLETE), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        os.close(marker)
        _sync(published)

    def test(self) -> TargetTest:
        """Look whether the folder exists and can be written to, and what space it has."""
        probe = os.path.join(self.folder, f".probe-{os.getpid()}-{threading.get_ident()}")
        try:
            if not os.path.isdir(self.folder):
                return TargetTest(reachable=False, detail=f"{self.folder} is no folder", remedy="Create or mount it.")
            os.mkdir(probe)
            os.rmdir(probe)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            detail = f"{self.folder}: {error.strerror}"
            return TargetTest(reachable=False, detail=detail, remedy="Let the service's user write to the folder.")
        return TargetTest(reachable=True, detail=f"{self.folder} can be written to, {free / 1e9:.1f} GB free")

    def close(self) -> None:
        """Nothing is kept."""


def _check_name(name: str) -> None:
    """Names come from job folders, but end up as paths: be sure that they are plain names, and visible ones."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise PermanentError("a name in the job cannot be a file name at the target")


def _copy_once(source: str, place: str, name: str) -> None:
    """Copy unless it was copied before. The name appears when the copy is complete and on disk."""
    destination = os.path.join(place, name)
    try:
        reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(error.strerror) from None
    try:
        size = os.fstat(reader).st_size
        if _size_of(destination) == size:
            return
        part = os.path.join(place, f".{name}.part")
        writer = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            _copy_bytes(reader, writer, size)
            os.fsync(writer)
        finally:
            os.close(writer)
        os.rename(part, destination)
    finally:
        os.close(reader)


def _size_of(path: str) -> int:
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except FileNotFoundError:
        return -1


def _copy_bytes(reader: int, writer: int, size: int) -> None:
    """Copy in the kernel, as a reflink where the file system can; else by reading and writing."""
    done = 0
    try:
        while done < size:
            count = os.copy_file_range(reader, writer, min(size - done, _CHUNK_BYTES))
            if not count:
                break
            done += count
    except OSError as error:
        if error.errno not in _NO_COPY_IN_KERNEL:
            raise
    while done < size:
        data = os.pread(reader, _CHUNK_BYTES, done)
        if not data:
            raise SourceError("it became shorter while it was copied")
        _write_all(writer, data)
        done += len(data)


def _write_all(writer: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(writer, view) :]


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
