"""The check at the end: every instance is where it must be, with the bytes with which it was sent.

It takes nothing from the platform's own word: it reads the files of the sender and those at the target.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pydicom

from mercure.dicom.part10 import NotDicomError, read_file_meta


@dataclass(frozen=True, slots=True)
class Finding:
    """What of one series is at one place: how many instances were sent, are missing, and differ from what was sent."""

    place: str
    series_uid: str
    sent: int
    missing: int
    different: int

    @property
    def is_complete(self) -> bool:
        """Whether everything is there unchanged."""
        return not self.missing and not self.different


def verify(place: str, series_uid: str, sent: Iterable[Path], folders: Iterable[Path]) -> Finding:
    """Compare the files that were sent with those of the series below some folders, by UID and data set bytes."""
    wanted = dict(_fingerprint(file) for file in sent)
    there: dict[str, str] = {}
    for folder in folders:
        for file in folder.rglob(f"{series_uid}#*.dcm"):
            try:
                uid, digest = _fingerprint(file)
            except (OSError, NotDicomError, pydicom.errors.InvalidDicomError):
                continue  # moved meanwhile, or damaged: then it is missing
            there[uid] = digest
    missing = wanted.keys() - there.keys()
    different = [uid for uid, digest in wanted.items() if uid not in missing and there[uid] != digest]
    return Finding(place, series_uid, len(wanted), len(missing), len(different))


def _fingerprint(file: Path) -> tuple[str, str]:
    """Return the SOP Instance UID that the data set itself names, and the SHA-256 of the data set's bytes."""
    header = pydicom.dcmread(file, specific_tags=["SOPInstanceUID"])
    offset = read_file_meta(str(file)).data_set_offset
    return str(header.get("SOPInstanceUID", "")), hashlib.sha256(file.read_bytes()[offset:]).hexdigest()
