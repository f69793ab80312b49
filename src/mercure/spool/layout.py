"""Names in the data folder. Nothing that came over the network becomes a path without passing here."""

import hashlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from mercure.core.errors import SpoolError
from mercure.core.stages import Stage
from mercure.core.tags import is_valid_uid

log = logging.getLogger(__name__)

RECEPTION_FILE = "reception.json"
TASK_FILE = "task.json"
PLAN_FILE = "plan.json"
LEDGER_FILE = "ledger.jsonl"
ERROR_LOG = "error.log"
RECEIVED = "received"
RESULTS = "results"
RESULT_FILE = "result.json"
ATTACHMENTS = "attachments"
MODULE_INPUT = "in"
MODULE_OUTPUT = "out"
MODULE_LOGS = "logs"
STEP_FILE = ".step"
PROCESS_LOG = "process.log"
LOCK_FILE = ".lock"
HOLD_FILE = "HALT"
CANCEL_FILE = ".cancel"
RETRY_FILE = ".retry"
JOB_HOLD_FILE = ".hold"
MADE_FILE = ".made"
SAFE_PREFIX = ".safe-"
MEMORY_FILE = ".memory"
KIND_PREFIX = ".kind-"
OPEN_FILE = ".open"
RELEASED_FOLDER = ".released"
DRAFTS_FOLDER = ".new"
SEALED_FOLDER = ".sealed"
JOURNAL_FOLDER = "journal"
CONTROL_FILE = "control"
DATA_ID_FILE = "data.id"


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sent an instance, and to whom: calling and called AE title, and the address of the peer (never its name)."""

    calling_ae_title: str
    called_ae_title: str
    peer_address: str


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of the data folder. They may lie on different file systems."""

    incoming: Path
    studies: Path
    processing: Path
    outgoing: Path
    success: Path
    error: Path
    discard: Path
    jobs: Path

    @classmethod
    def under(cls, data_folder: Path) -> "Layout":
        """Return the layout with the standard names below one folder."""
        names = ("incoming", "studies", "processing", "outgoing", "success", "error", "discard", "jobs")
        return cls(*(data_folder / name for name in names))

    @property
    def drafts(self) -> Path:
        """Instances while they are being received, one folder for each receiver worker."""
        return self.incoming / DRAFTS_FOLDER

    @property
    def sealed(self) -> Path:
        """Receptions that a router has taken and whose jobs are not all made."""
        return self.incoming / SEALED_FOLDER

    @property
    def released(self) -> Path:
        """One empty file for each reception whose associations may all be released; a hint, no more."""
        return self.incoming / RELEASED_FOLDER

    @property
    def journal(self) -> Path:
        """The journal of events."""
        return self.jobs / JOURNAL_FOLDER

    @property
    def control(self) -> Path:
        """Touched after an operator changed a job from outside, so that services look again at what they know."""
        return self.jobs / CONTROL_FILE

    def stage(self, stage: Stage) -> Path:
        """Return the folder of a stage."""
        folder: Path = getattr(self, stage.value)
        return folder

    def folders(self) -> dict[str, Path]:
        """Return every folder that must exist, by name."""
        names = ("incoming", "studies", "processing", "outgoing", "success", "error", "discard", "jobs")
        return {name: getattr(self, name) for name in names}

    def create(self) -> None:
        """Make what is missing, and say what: it may belong to a disk that is not mounted.

        Raises `SpoolError` naming the folder that cannot be made.
        """
        made: list[str] = []
        try:
            for path in (*self.folders().values(), self.drafts, self.sealed, self.released, self.journal):
                made += _make(path)
        finally:
            if made:
                log.warning(
                    "made, because not there: %s; if a disk belongs there, it is not mounted",
                    ", ".join(_outermost(made)),
                )


def _make(path: Path) -> list[str]:
    """Make a folder and those above it; return which were missing, the outermost first. Raises `SpoolError`."""
    try:
        missing = [str(one) for one in (*reversed(path.parents), path) if not one.exists()]
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpoolError(f"cannot make the folder {path}: {error.strerror}") from error
    return missing


def _outermost(folders: list[str]) -> list[str]:
    """Leave out what lies in another one of them: it could not have been there."""
    return [folder for folder in folders if os.path.dirname(folder) not in folders]


def reception_name(study_uid: str, series_uid: str, origin: Origin) -> str:
    """Return the folder name of a reception: the series, and a mark for who sends it to whom.

    The same series from another sender, to another called AE title or under another study is another reception.
    Raises `SpoolError` when a UID is no UID.
    """
    check_uid(study_uid, "StudyInstanceUID")
    check_uid(series_uid, "SeriesInstanceUID")
    mark = "\0".join((study_uid, origin.calling_ae_title, origin.called_ae_title, origin.peer_address))
    return f"{series_uid}#{hashlib.blake2s(mark.encode(), digest_size=5).hexdigest()}"


def instance_name(series_uid: str, sop_instance_uid: str, copy: int = 1) -> str:
    """Return the file name of an instance; copies that differ from the first one carry their number."""
    suffix = f"#{copy}" if copy > 1 else ""
    return f"{series_uid}#{sop_instance_uid}{suffix}.dcm"


def in_order(file_names: Iterable[str]) -> list[str]:
    """Return names of instances sorted, each before those that came later under the same SOP Instance UID.

    A target that keeps the last of them then keeps the newest.
    """

    def place(name: str) -> tuple[str, int]:
        series, _, rest = name.removesuffix(".dcm").partition("#")
        instance, _, copy = rest.partition("#")
        return f"{series}#{instance}", int(copy) if copy.isdecimal() else 1

    return sorted(file_names, key=place)


def sop_instance_uid_of(file_name: str) -> str:
    """Return the SOP Instance UID that a file name carries, or "" when it carries none."""
    parts = file_name.removesuffix(".dcm").split("#")
    return parts[1] if len(parts) > 1 and is_valid_uid(parts[1]) else ""


def check_uid(uid: str, name: str) -> None:
    """Raise `SpoolError` when the text is no UID. The text itself is not repeated: it may be anything."""
    if not is_valid_uid(uid):
        raise SpoolError(f"{name} is missing" if not uid else f"{name} is not a valid UID")


def draft_name(number: int, size_bytes: int, origin: Origin) -> str:
    """Return the name of a draft that is complete: with it alone a recovery can finish what was acknowledged."""
    return "#".join(
        (
            str(number),
            str(size_bytes),
            _quoted(origin.calling_ae_title),
            _quoted(origin.called_ae_title),
            _quoted(origin.peer_address) + ".dcm",
        )
    )


def parse_draft_name(name: str) -> tuple[int, Origin] | None:
    """Return size in bytes and origin of a complete draft; None for anything else."""
    parts = name.removesuffix(".dcm").split("#")
    if len(parts) != 5 or not name.endswith(".dcm") or not parts[1].isdecimal():
        return None
    return int(parts[1]), Origin(*(unquote(part, encoding="latin-1") for part in parts[2:]))


def _quoted(text: str) -> str:
    """Write an AE title or address for a file name. Latin-1, as on the wire, keeps the longest name below 255 bytes."""
    return quote(text, safe="", encoding="latin-1", errors="replace")


def check_job_id(job_id: str) -> str:
    """Return a job id that is safe as a folder name. Raises `SpoolError` otherwise."""
    if not job_id or len(job_id) > 100 or job_id[0] == "." or not all(c.isalnum() or c in "-_." for c in job_id):
        raise SpoolError("not a job id")
    if os.sep in job_id or not job_id.isascii():
        raise SpoolError("not a job id")
    return job_id
