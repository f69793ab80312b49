"""One instance: read from a file that is not trusted, de-identified, written to a new file.

The file meta information is made anew: it keeps the SOP class and the transfer syntax, and nothing of who sent what to
whom. The preamble is empty.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import pydicom
from pydicom import config
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID

from mercure_anonymizer.assignments import Macros
from mercure_anonymizer.cleaning import Cleaner
from mercure_anonymizer.deidentify import Walker, assign
from mercure_anonymizer.errors import AnonymizerError, InstanceError
from mercure_anonymizer.identity import Identity
from mercure_anonymizer.markers import mark
from mercure_anonymizer.pixels import clean_pixels
from mercure_anonymizer.regular_files import NotRegularError, open_regular
from mercure_anonymizer.report import Tally
from mercure_anonymizer.settings import Settings
from mercure_anonymizer.values import texts
from mercure_anonymizer.whole import check_ending, check_pixels

IMPLEMENTATION_CLASS_UID = "2.25.166378446092385209114962437201867544203"
IMPLEMENTATION_VERSION = "MERCURE_ANON_1"
_KEYS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


@dataclass(frozen=True, slots=True)
class Written:
    """What an instance has become."""

    series_uid: str
    instance_uid: str
    tally: Tally


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom from printing what it reads: its warnings repeat values, and the log of a job is no place for them.

    Values that are kept are written as they were read, however odd. Changes state of the whole process.
    """
    before = (config.settings.reading_validation_mode, config.settings.writing_validation_mode)
    logger = logging.getLogger("pydicom")
    disabled = logger.disabled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.disabled = True
        config.settings.reading_validation_mode = config.IGNORE
        config.settings.writing_validation_mode = config.IGNORE
        try:
            yield
        finally:
            config.settings.reading_validation_mode, config.settings.writing_validation_mode = before
            logger.disabled = disabled


def deidentify_file(path: str, target: str, settings: Settings, now: datetime) -> Written:
    """De-identify the file to a new one, which must not exist.

    Raises `AnonymizerError` when the instance cannot be de-identified safely, and `OSError`.
    """
    try:
        return _deidentify_file(path, target, settings, now)
    except AnonymizerError:
        raise
    except NotRegularError:
        raise InstanceError("the instance is no regular file") from None
    except Exception as error:  # whatever pydicom raises: its text may hold values
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk; pydicom's own, of files that end too early, have no number
        raise InstanceError(f"the instance cannot be processed ({type(error).__name__})") from None


def _deidentify_file(path: str, target: str, settings: Settings, now: datetime) -> Written:
    tally = Tally(instances=1)
    with open_regular(path) as file:
        dataset = pydicom.dcmread(file)
        uid = str(dataset.get("SOPInstanceUID", ""))
        try:
            check_ending(file, dataset)  # pydicom takes a file that was cut off for a shorter one
            check_pixels(dataset)
            deidentify(dataset, settings, now, tally)
        except AnonymizerError as error:
            if UID(uid).is_valid:
                raise type(error)(f"SOP instance {uid}: {error}") from None
            raise
    with open(target, "xb") as file:
        dcmwrite(file, dataset, enforce_file_format=True)
    return Written(str(dataset.SeriesInstanceUID), str(dataset.SOPInstanceUID), tally)


def deidentify(dataset: FileDataset, settings: Settings, now: datetime, tally: Tally) -> None:
    """De-identify an instance in memory, its file meta information included. Raises `AnonymizerError`."""
    for keyword in _KEYS:
        _check_uid(dataset, keyword)
    macros = _macros(dataset, settings, now)
    cleaned = clean_pixels(dataset, settings)
    walker = Walker(
        settings=settings,
        macros=macros,
        cleaner=Cleaner(Identity.of_dataset(dataset)),
        sop_class=str(dataset.SOPClassUID),
        pseudonym=settings.mapping.pseudonym(macros.patient) if settings.preset == "default" else "",
        shift_days=settings.mapping.shift_days(macros.patient) if settings.preset == "default" else 0,
        tally=tally,
    )
    walker.walk(dataset)
    _set_what_is_missing(dataset, settings, macros)
    mark(dataset, settings, pixels_cleaned=cleaned)
    dataset.file_meta = _file_meta(dataset)
    dataset.preamble = bytes(128)


def _check_uid(dataset: Dataset, keyword: str) -> None:
    value = dataset.get(keyword)
    if not isinstance(value, UID) or not value.is_valid:
        raise InstanceError(f"{keyword} is missing or is no UID")


def _macros(dataset: Dataset, settings: Settings, now: datetime) -> Macros:
    wanted = {tag for one in settings.assignments.values() for tag in one.sources}
    values = {tag: "\\".join(texts(dataset[tag])) for tag in wanted if tag in dataset}
    study = str(dataset.StudyInstanceUID)
    return Macros(
        project=settings.project,
        mapping=settings.mapping,
        now=now,
        # Without an id nobody knows whose images these are: then the study stands for the patient.
        patient=str(dataset.get("PatientID") or "").strip() or study,
        accession=str(dataset.get("AccessionNumber") or "").strip() or study,
        instance=str(dataset.SOPInstanceUID),
        values=values,
    )


def _set_what_is_missing(dataset: Dataset, settings: Settings, macros: Macros) -> None:
    """`set(...)` gives a value also to tags that the instance did not have."""
    for tag, assignment in settings.assignments.items():
        if assignment.command == "set" and tag not in dataset:
            assign(dataset, tag, macros.fill(assignment, tag, ""))


def _file_meta(dataset: FileDataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    return meta
