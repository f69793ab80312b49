"""What dciodvfy (dicom3tools) has against an output, it had against the input."""

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from mercure_anonymizer.actions import Option
from mercure_anonymizer.instance import deidentify_file, quiet_pydicom
from mercure_anonymizer.settings import read_settings
from pydicom.data import get_testdata_file
from tests import builders
from tests.addons.anonymizer.samples import SECONDARY_CAPTURE, SECRET, screen, task

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
US_RULE = {"Modality": "US", "rectangles": [[0, 0, 10, 10]]}
WITHOUT_FULL_DATES = [option for option in Option if option is not Option.FULL_DATES]
SHIPPED = [
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_implicit.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_RLE.dcm",
    "examples_palette.dcm",  # ultrasound
    "examples_ybr_color.dcm",  # ultrasound of many frames
    "examples_overlay.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_rle_2frame.dcm",
    "rtplan.dcm",
    "rtdose.dcm",
    "test-SR.dcm",
    "reportsi.dcm",
    "waveform_ecg.dcm",
    "liver_1frame.dcm",  # segmentation
]
_VALUES = re.compile(r"(?<=VR=)<[^>]*>|(?<= = )<[^>]*>|value is <[^>]*>|(?<=UID )[0-9.]+")
SETTINGS: dict[str, dict[str, Any]] = {
    "basic profile": {},
    "all options": {"options": [str(option) for option in WITHOUT_FULL_DATES]},
    "full dates": {"options": "retain_longitudinal_full_dates, clean_descriptors, clean_structured_content"},
}


def errors(path: Path) -> set[str]:
    """What is wrong with a file, without the values that differ between input and output."""
    program = shutil.which("dciodvfy")
    assert program, "dciodvfy is missing: Debian's package dicom3tools has it"
    done = subprocess.run([program, str(path)], capture_output=True, timeout=60, check=False)
    lines = (done.stderr + done.stdout).decode("latin-1").splitlines()
    return {_VALUES.sub("", line) for line in lines if line.startswith("Error")}


def compared(source: Path, target: Path, settings: dict[str, Any]) -> set[str]:
    accepted = {"secret": SECRET, "burned_in": "accept", **settings}
    with quiet_pydicom():
        deidentify_file(str(source), str(target), read_settings(task(accepted), {}), NOW)
    return errors(target) - errors(source)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_no_error_is_new_in_files_of_many_kinds(settings: dict[str, Any], name: str, tmp_path: Path) -> None:
    found = get_testdata_file(name)
    assert isinstance(found, str)
    assert compared(Path(found), tmp_path / "out.dcm", settings) == set()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_no_error_is_new_in_scanner_images(
    modality: builders.Modality, settings: dict[str, Any], tmp_path: Path
) -> None:
    source = tmp_path / "in.dcm"
    source.write_bytes(builders.dicom_bytes(modality=modality, undefined_lengths=True))
    assert compared(source, tmp_path / "out.dcm", settings) == set()


@pytest.mark.parametrize("transfer_syntax", [builders.EXPLICIT_LITTLE, builders.RLE])
@pytest.mark.parametrize("kind", ["US", "SC"])
def test_no_error_is_new_in_blackened_images(kind: str, transfer_syntax: str, tmp_path: Path) -> None:
    image = screen() if kind == "US" else screen(SECONDARY_CAPTURE, modality="OT", ConversionType="WSD")
    source, target = tmp_path / "in.dcm", tmp_path / "out.dcm"
    source.write_bytes(builders.encode(image, transfer_syntax))
    rules = {"pixel_rules": [US_RULE, {**US_RULE, "Modality": "OT"}]}
    assert compared(source, target, rules) == set()
    assert not np.array(pydicom.dcmread(target).pixel_array)[:10, :10].any()


def test_errors_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(builders.dicom_bytes(Modality=None))
    broken = errors(path)
    path.write_bytes(builders.dicom_bytes())
    assert any("<Modality>" in line for line in broken - errors(path))
