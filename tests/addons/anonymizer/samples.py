"""Instances and jobs for the tests of the anonymizer."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID
from tests import builders
from tests.addons.anonymizer.conftest import SOURCE

SECRET = "a secret for tests"
US_IMAGE, US_MULTIFRAME = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.3.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def task(settings: Mapping[str, Any], called: str = "ANON") -> dict[str, Any]:
    """A task as the platform lays it beside the input of a module."""
    return {"info": {"receiver_aet": called}, "process": {"settings": dict(settings)}}


def screen(
    kind: str = US_IMAGE,
    *,
    modality: str = "US",
    photometric: str = "RGB",
    rows: int = 24,
    columns: int = 32,
    frames: int = 1,
    **elements: Any,
) -> FileDataset:
    """An image as from a screen: all pixels are bright, so that what was blackened is what is not."""
    made = builders.dataset("CT", **dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "SliceLocation")))
    made.remove_private_tags()
    made.SOPClassUID, made.Modality = UID(kind), modality
    samples = 1 if photometric.startswith(("MONO", "PALETTE")) else 3
    made.SamplesPerPixel, made.PhotometricInterpretation = samples, photometric
    made.Rows, made.Columns = rows, columns
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    if samples == 3:
        made.PlanarConfiguration = 0
    if frames > 1:
        made.NumberOfFrames = frames
    for keyword in (
        "RescaleSlope",
        "RescaleIntercept",
        "RescaleType",
        "PixelPaddingValue",
        "WindowCenter",
        "WindowWidth",
    ):
        if keyword in made:
            delattr(made, keyword)
    bright = 100 if photometric == "MONOCHROME1" else 200
    made.PixelData = np.full((frames, rows, columns, samples), bright, dtype=np.uint8).tobytes()
    made["PixelData"].VR = "OB"
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def region(x0: int, y0: int, x1: int, y1: int) -> Dataset:
    """An item of Sequence of Ultrasound Regions."""
    made = Dataset()
    made.RegionLocationMinX0, made.RegionLocationMinY0 = x0, y0
    made.RegionLocationMaxX1, made.RegionLocationMaxY1 = x1, y1
    return made


def regions(*items: Dataset) -> Sequence:
    """Sequence of Ultrasound Regions."""
    return Sequence(items)


def folders(root: Path) -> tuple[Path, Path]:
    """The input and the output folder of a job."""
    taken, made = root / "in", root / "out"
    taken.mkdir(parents=True, exist_ok=True)
    made.mkdir(exist_ok=True)
    return taken, made


def put(folder: Path, dataset: FileDataset, transfer_syntax: str = builders.EXPLICIT_LITTLE) -> Path:
    """Write an instance as the platform names it."""
    path = folder / f"{dataset.SeriesInstanceUID}#{dataset.SOPInstanceUID}.dcm"
    path.write_bytes(builders.encode(dataset, transfer_syntax))
    path.with_suffix(".tags").write_text("{}")
    return path


def run(
    taken: Path, made: Path, settings: Mapping[str, Any], called: str = "ANON", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the module as a process, as the platform does."""
    (taken / "task.json").write_text(json.dumps(task(settings, called)))
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), "PYTHONWARNINGS": "default"}
    variables |= {"MERCURE_IN_DIR": str(taken), "MERCURE_OUT_DIR": str(made), **environment}
    command = [sys.executable, "-m", "mercure_anonymizer"]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)


def instances(folder: Path) -> list[Path]:
    """The instances of a folder, by name."""
    return sorted(folder.glob("*.dcm"))
