"""The check at the end: every instance is where it must be, with the bytes with which it was sent.

It takes nothing from the platform's own word: it reads the files of the sender and those at the target. Of what a
module made there must be one new instance for each that was sent, and the target must have them as they were made.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom

from mercure.cli.demo.series import DemoSeries
from mercure.dicom.part10 import NotDicomError, read_file_meta
from mercure.spool.layout import RESULT_FILE


@dataclass(frozen=True, slots=True)
class Finding:
    """What of one series is at one place: how many instances were sent, are missing, and differ from what was sent.

    With `module` it is about what that module made of them; `result` is what its result.json says, as text.
    """

    place: str
    series_uid: str
    sent: int
    missing: int
    different: int
    module: str = ""
    result: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether everything is there unchanged, the word of the module too."""
        return not self.missing and not self.different and bool(self.result or not self.module)


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


def verify_results(place: str, series: DemoSeries, results: Sequence[Path], folders: Iterable[Path]) -> Finding:
    """Check what a module made of a series, from the folders of its results and at a target.

    An instance counts when it belongs to the same study, has a UID of its own in a series of its own, and stands for
    one that was sent, by its number. Results that are the same as what was sent are no results: they are missing.
    """
    folders = tuple(folders)
    sent = {number: uid for number, uid, _, _ in map(_place_of, series.files)}
    study = _place_of(series.files[0])[3]
    made: dict[str, dict[int, Path]] = {}
    for file in (file for folder in results for file in folder.glob("*.dcm")):
        number, uid, series_uid, study_uid = _place_of(file)
        is_new = uid not in sent.values() and series_uid != series.series_uid
        if is_new and study_uid == study and number in sent:
            made.setdefault(series_uid, {})[number] = file
    there = [verify(place, series_uid, files.values(), folders) for series_uid, files in made.items()]
    missing = len(sent) - sum(finding.sent - finding.missing for finding in there)
    different = sum(finding.different for finding in there)
    return Finding(place, series.series_uid, len(sent), missing, different, series.wanted.module, _result_of(results))


def _place_of(file: Path) -> tuple[int, str, str, str]:
    """Return the number of an instance, its UID, and those of its series and study."""
    tags = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    header = pydicom.dcmread(file, specific_tags=["InstanceNumber", *tags])
    uid, series_uid, study_uid = (str(header.get(tag, "")) for tag in tags)
    return int(header.get("InstanceNumber") or 0), uid, series_uid, study_uid


def _result_of(folders: Iterable[Path]) -> str:
    """Return what the modules say of their results, in one line; "" when there is nothing that can be read."""
    try:
        said = [json.loads((folder / RESULT_FILE).read_bytes()) for folder in folders]
    except (OSError, ValueError):
        return ""
    return ", ".join(map(json.dumps, said))


def _fingerprint(file: Path) -> tuple[str, str]:
    """Return the SOP Instance UID that the data set itself names, and the SHA-256 of the data set's bytes."""
    header = pydicom.dcmread(file, specific_tags=["SOPInstanceUID"])
    offset = read_file_meta(str(file)).data_set_offset
    return str(header.get("SOPInstanceUID", "")), hashlib.sha256(file.read_bytes()[offset:]).hexdigest()
