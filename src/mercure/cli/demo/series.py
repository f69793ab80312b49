"""The series of the demo: real CT and MR images that pydicom ships, made into series of many slices, and sent."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from mercure.core.errors import ConfigError
from mercure.dicom import dimse
from mercure.dicom.part10 import read_file_meta
from mercure.dicom.peer import Peer
from mercure.dicom.scu import Outgoing, StoreAssociation

_FILES = {"CT": "CT_small.dcm", "MR": "MR_small.dcm"}
_SLICE_MILLIMETRES = 1.5


@dataclass(frozen=True, slots=True)
class Wanted:
    """A series to be made: who sends it, what it is, and the targets that the rules of the demo give it.

    What its module makes of it goes to `result_targets`. Without any target no rule takes it, so it is to be found in
    `discard/`.
    """

    sender: str
    modality: str
    description: str
    targets: tuple[str, ...]
    module: str = ""
    result_targets: tuple[str, ...] = ()

    @property
    def is_unwanted(self) -> bool:
        """Whether no rule takes it."""
        return not self.targets and not self.result_targets


@dataclass(frozen=True, slots=True)
class DemoSeries:
    """A series on disk, as its sender has it. `files` are in order of their instance numbers."""

    wanted: Wanted
    series_uid: str
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Sent:
    """What the sender saw: monotonic times of its first and last moment, and how many instances were acknowledged."""

    started_at: float
    ended_at: float
    acknowledged: int


def make_series(folder: Path, wanted: Wanted, slices: int) -> DemoSeries:
    """Write a series of so many slices: each a valid instance with UIDs, number, position and pixels of its own."""
    found = get_testdata_file(_FILES[wanted.modality], download=False)
    if found is None:
        raise ConfigError(f"pydicom comes without its file {_FILES[wanted.modality]}; install pydicom from its wheel")
    image = pydicom.dcmread(str(found))
    image.PatientName, image.PatientID, image.AccessionNumber = f"DEMO^{wanted.sender}", "DEMO", "DEMO1"
    image.SeriesDescription = wanted.description
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    pixels = image.pixel_array
    folder.mkdir(parents=True)
    files = []
    for number in range(1, slices + 1):
        position = number * _SLICE_MILLIMETRES
        image.InstanceNumber = number
        image.ImagePositionPatient = [-96, -96, position]
        image.SliceLocation = position
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.PixelData = np.roll(pixels, number, axis=0).tobytes()
        files.append(folder / f"{number:04}.dcm")
        image.save_as(files[-1])
    return DemoSeries(wanted, str(image.SeriesInstanceUID), tuple(files))


def send(series: DemoSeries, port: int, called_ae_title: str) -> Sent:
    """Send a series over DICOM, as a scanner does. Raises a `TransientError` when the receiver cannot be reached."""
    started = time.monotonic()
    heads = [(file, read_file_meta(str(file))) for file in series.files]
    peer = Peer("127.0.0.1", port, called_ae_title, series.wanted.sender)
    association = StoreAssociation(peer, {(head.sop_class_uid, head.transfer_syntax_uid) for _, head in heads})
    association.open()
    statuses: list[int] = []
    association.store_all(
        (
            Outgoing(
                file.name,
                head.sop_class_uid,
                head.sop_instance_uid,
                association.context_for(head.sop_class_uid, head.transfer_syntax_uid) or 0,
                str(file),
                head.data_set_offset,
                head.data_set_size,
            )
            for file, head in heads
        ),
        lambda _outgoing, status: statuses.append(status),
    )
    association.association.release()
    return Sent(started, time.monotonic(), statuses.count(dimse.SUCCESS))


def total_bytes(series: Sequence[DemoSeries]) -> int:
    """Return the size of all files."""
    return sum(file.stat().st_size for one in series for file in one.files)
