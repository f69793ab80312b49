"""Taking instances in: from the first byte of a draft to a name in a reception.

The order of the steps is the promise. A draft is written below `.new/`; renamed to a name that says its size and its
origin; fsynced; linked into its reception; and only then acknowledged. The one fsync makes bytes and draft name
durable together: file systems with a metadata journal write the rename of a file no later than the fsync of that file.
When the power fails before the link is durable, recovery finds a draft whose size matches its name, and finishes it.
A draft that is cut off never matches, and was never acknowledged.

A reception is sealed by renaming its folder. A worker that looks up the folder just before the seal could still link
into it just after; so it holds a shared `flock` on the reception's own file while it links, and a router holds it
exclusively while it seals. The kernel frees the lock of a dead worker.
"""

import contextlib
import errno
import fcntl
import filecmp
import hashlib
import itertools
import json
import os
import secrets
import shutil
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from mercure.core.errors import SpoolError
from mercure.spool import layout as names
from mercure.spool.drafts import Draft, Sync
from mercure.spool.durable import orders_names, write_all
from mercure.spool.layout import Layout, Origin

_KEPT_OPEN = 16
"""Receptions that one association keeps at hand; a sender works on one series, rarely on a few."""

_HELD_OPEN = 1000
"""Receptions on which one association keeps the lock that says that it may add to them: one descriptor each."""

_INODES_KEPT = 1000
_INODES_PART = 20
"""At most every twentieth inode is kept free: a small disk must not be refused from the start."""

_MAXIMUM_COPIES = 1000
_MAXIMUM_TRIES = 100
"""To open a reception that a router seals at the same time; each time it does, somebody's instance went in."""

Kind = Literal["new", "identical", "different"]


@dataclass(frozen=True, slots=True)
class Published:
    """Where an instance went: its reception, its file name, and whether the SOP Instance UID was there before."""

    reception: str
    name: str
    kind: Kind


class Intake:
    """The drafts of one receiver worker. Threads share it; each association opens its own `Session`."""

    def __init__(self, layout: Layout, *, fsync: bool = True, hold_open: bool = False) -> None:
        """Make this worker's folder of drafts and hold its lock for life.

        With `hold_open` each association keeps a lock on the receptions it has added to, until it ends.
        """
        self.layout = layout
        self.fsync = fsync
        self.hold_open = hold_open
        self._numbers = itertools.count(1)
        if not fsync:
            self._sync = Sync.NEVER
        else:
            self._sync = Sync.FILES if orders_names(layout.drafts) else Sync.FILES_AND_NAMES
        self.folder = layout.drafts / f"{os.getpid()}-{secrets.token_hex(4)}"
        # The lock is held before the folder has its name: recovery must never see it without.
        hidden = layout.drafts / f".{self.folder.name}"
        os.mkdir(hidden, 0o750)
        self._lock = os.open(hidden / names.LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o640)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.rename(hidden, self.folder)
        self.prefix = f"{self.folder}/"

    def close(self) -> None:
        """Give up the folder of drafts when it is empty; what is left is for recovery."""
        with contextlib.suppress(OSError):
            if os.listdir(self.folder) == [names.LOCK_FILE]:
                os.unlink(self.folder / names.LOCK_FILE)
                os.rmdir(self.folder)
        os.close(self._lock)

    def draft(self) -> Draft:
        """Open a new draft. Raises `OSError` when the disk is full or the folder cannot be written."""
        return Draft(self.prefix, next(self._numbers), sync=self._sync)

    def adopt(self, path: str) -> Draft:
        """Open a draft that a dead worker left complete, to publish it from here."""
        return Draft(self.prefix, next(self._numbers), path, sync=self._sync)

    def session(self, origin: Origin) -> "Session":
        """Begin to publish what one association sends."""
        return Session(self, origin)


class Reception:
    """A gathering series as one association knows it: the open file that carries its lock."""

    __slots__ = ("_open_descriptor", "descriptor", "inode", "kinds", "name", "path")

    def __init__(self, path: str, *, hold_open: bool) -> None:
        """Open the reception. Raises `FileNotFoundError` when there is none under this path."""
        self.path = path
        self.name = path.rpartition("/")[2]
        self.descriptor = os.open(f"{path}/{names.RECEPTION_FILE}", os.O_RDWR | os.O_CLOEXEC)
        self.inode = os.fstat(self.descriptor).st_ino
        self.kinds: set[bytes] = set()
        self._open_descriptor = -1
        if hold_open:
            try:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                self._open_descriptor = os.open(f"{path}/{names.OPEN_FILE}", flags, 0o640)
                fcntl.flock(self._open_descriptor, fcntl.LOCK_SH)
            except OSError:
                self.close()
                raise

    def is_gathering(self) -> bool:
        """Whether the folder under this name is still the one whose lock is held."""
        try:
            return os.stat(f"{self.path}/{names.RECEPTION_FILE}").st_ino == self.inode
        except FileNotFoundError:
            return False

    def note_kind(self, signature: bytes) -> None:
        """Remember, for the router, that the series holds instances of this kind (one small file for each kind)."""
        mark = hashlib.blake2s(signature, digest_size=4).hexdigest()
        os.close(os.open(f"{self.path}/{names.KIND_PREFIX}{mark}", os.O_WRONLY | os.O_CREAT, 0o640))
        self.kinds.add(signature)

    def set_aside(self) -> int:
        """Close all but the descriptor of the lock for the router, and give that away; -1 when there is none."""
        os.close(self.descriptor)
        return self._open_descriptor

    def close(self) -> None:
        """Close the descriptors, and with them the locks."""
        if self.set_aside() >= 0:
            os.close(self._open_descriptor)


class Session:
    """Publishes the drafts of one association. Used by one thread."""

    def __init__(self, intake: Intake, origin: Origin) -> None:
        """Start with no reception open."""
        self._intake = intake
        self._origin = origin
        self._receptions: OrderedDict[tuple[str, str], Reception] = OrderedDict()
        self._held: OrderedDict[str, int] = OrderedDict()

    def publish(
        self,
        draft: Draft,
        study_uid: str,
        series_uid: str,
        sop_instance_uid: str,
        signature: bytes,
        *,
        remove_draft: bool = True,
    ) -> Published:
        """Name a draft as an instance of its reception. Durable when it returns (with fsync on).

        Without `remove_draft` the draft keeps its own name, which the caller removes when it has time. Raises
        `SpoolError` for impossible UIDs and `OSError` when the disk does not take it; the draft is then still there and
        is the caller's to discard or to quarantine.
        """
        names.check_uid(sop_instance_uid, "SOPInstanceUID")
        if self._intake.fsync:
            draft.complete(self._origin)
        file_name = names.instance_name(series_uid, sop_instance_uid)
        key = (study_uid, series_uid)
        while True:
            reception = self._receptions.get(key) or self._open(study_uid, series_uid)
            fcntl.flock(reception.descriptor, fcntl.LOCK_SH)
            try:
                if reception.is_gathering():
                    if signature not in reception.kinds:
                        reception.note_kind(signature)
                    published = _link(draft, reception, file_name)
                    # One that was there before has no second name by which recovery could tell that it is published.
                    if remove_draft or published.kind == "identical":
                        draft.remove()
                    return published
            finally:
                fcntl.flock(reception.descriptor, fcntl.LOCK_UN)
            del self._receptions[key]
            reception.close()

    def close(self) -> None:
        """End the association's part in its receptions; with `hold_open`, tell the router that it may look."""
        for reception in self._receptions.values():
            self._hold(reception.name, reception.set_aside())
        self._receptions.clear()
        while self._held:
            self._let_go(*self._held.popitem())

    def _hold(self, name: str, descriptor: int) -> None:
        """Keep a lock until the end of the association, in place of an earlier one on the same reception."""
        earlier = self._held.pop(name, -1)
        if earlier >= 0:
            os.close(earlier)
        if descriptor >= 0:
            self._held[name] = descriptor
        if len(self._held) > _HELD_OPEN:
            self._let_go(*self._held.popitem(last=False))

    def _let_go(self, name: str, descriptor: int) -> None:
        """Give up a lock and tell the router."""
        os.close(descriptor)
        with contextlib.suppress(OSError):
            path = f"{self._intake.layout.released}/{name}"
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o640))
            os.utime(path)

    def _open(self, study_uid: str, series_uid: str) -> Reception:
        name = names.reception_name(study_uid, series_uid, self._origin)
        path = f"{self._intake.layout.incoming}/{name}"
        for _ in range(_MAXIMUM_TRIES):
            try:
                reception = Reception(path, hold_open=self._intake.hold_open)
            except FileNotFoundError:
                self._make(path, study_uid, series_uid)
                continue
            self._receptions[study_uid, series_uid] = reception
            if len(self._receptions) > _KEPT_OPEN:
                unused = self._receptions.popitem(last=False)[1]
                self._hold(unused.name, unused.set_aside())
            return reception
        raise SpoolError(f"the folder {name} is in the way: it is no reception")

    def _make(self, path: str, study_uid: str, series_uid: str) -> None:
        """Make the folder with its file inside and give it its name by one rename; the loser of a race gives way."""
        hidden = f"{self._intake.prefix}r{secrets.token_hex(6)}"
        os.mkdir(hidden, 0o750)
        origin = self._origin
        content = {
            "study_uid": study_uid,
            "series_uid": series_uid,
            "sender_aet": origin.calling_ae_title,
            "receiver_aet": origin.called_ae_title,
            "sender_address": origin.peer_address,
        }
        try:
            self._write_reception_file(f"{hidden}/{names.RECEPTION_FILE}", json.dumps(content).encode() + b"\n")
            os.rename(hidden, path)
        except OSError as error:
            shutil.rmtree(hidden, ignore_errors=True)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise

    def _write_reception_file(self, path: str, content: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        try:
            write_all(descriptor, content)
            if self._intake.fsync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _link(draft: Draft, reception: Reception, file_name: str) -> Published:
    try:
        os.link(draft.path, f"{reception.path}/{file_name}")
    except FileExistsError:
        return _link_duplicate(draft, reception, file_name)
    return Published(reception.name, file_name, "new")


def _link_duplicate(draft: Draft, reception: Reception, file_name: str) -> Published:
    """Count the same bytes as one instance; keep other bytes beside it."""
    stem = file_name.removesuffix(".dcm")
    for copy in range(1, _MAXIMUM_COPIES):
        name = file_name if copy == 1 else f"{stem}#{copy}.dcm"
        target = f"{reception.path}/{name}"
        if copy > 1:
            with contextlib.suppress(FileExistsError):
                os.link(draft.path, target)
                return Published(reception.name, name, "different")
        if filecmp.cmp(draft.path, target, shallow=False):
            os.utime(reception.path)  # the sender is still at it: the series is not complete yet
            return Published(reception.name, name, "identical")
    raise SpoolError("too many different instances with one SOP Instance UID")


def shortage(folder: str | os.PathLike[str], reserve_bytes: int) -> str:
    """Say why no more should be taken in to the file system of a folder, or return "". Raises `OSError`.

    What is there already must still be sealed, and its jobs made, so bytes are kept free, and names of files with them.
    Without a reserve of bytes nothing is kept.
    """
    status = os.statvfs(folder)
    if status.f_bavail * status.f_frsize < reserve_bytes:
        return "less than receiver.min_free_space_gb is free"
    if reserve_bytes and status.f_favail < (kept := inode_reserve(status)):
        return f"fewer than {kept:,} inodes are free"
    return ""


def inode_reserve(status: os.statvfs_result) -> int:
    """Return how many inodes the intake leaves free; 0 where there is no limit on files (btrfs, some shares)."""
    return min(_INODES_KEPT, status.f_files // _INODES_PART)
