"""What stays of overlays with Clean Graphics: the bits of a region, and what describes them."""

from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from mercure_anonymizer.instance import deidentify_file, quiet_pydicom
from mercure_anonymizer.settings import read_settings
from pydicom.dataelem import DataElement
from pydicom.dataset import FileDataset
from tests import builders
from tests.addons.anonymizer.answer_key import encoded, plant_overlay
from tests.addons.anonymizer.samples import SECRET, task

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CLEAN = {"options": ["clean_graphics"]}


def with_region(*elements: tuple[int, str, Any]) -> FileDataset:
    made = builders.dataset("CT")
    with quiet_pydicom():
        plant_overlay(made, 0x6000, "R")
        for element, vr, value in elements:
            made[0x60000000 + element] = DataElement(0x60000000 + element, vr, value)
    return made


def treated(folder: Path, image: FileDataset, **settings: Any) -> tuple[FileDataset, bytes]:
    source, target = folder / "in.dcm", folder / "out.dcm"
    with quiet_pydicom():
        source.write_bytes(encoded(image))
        deidentify_file(str(source), str(target), read_settings(task({"secret": SECRET, **settings}), {}), NOW)
    written = target.read_bytes()
    return pydicom.dcmread(BytesIO(written)), written


def elements_of(found: FileDataset) -> list[int]:
    return [element.tag.element for element in found if element.tag.group == 0x6000]


@pytest.mark.parametrize(
    ("element", "vr"),
    [(0x1234, "LO"), (0x1001, "LO"), (0x1001, "CS"), (0x0051, "LT"), (0x0060, "CS"), (0x0061, "SH"), (0x0045, "LO")],
)
@pytest.mark.parametrize("settings", [CLEAN, {"remove_overlays": False}])
def test_text_in_a_region_goes_wherever_it_stands(
    element: int, vr: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    found, written = treated(tmp_path, with_region((element, vr, "SMITH JANE")), **settings)
    assert elements_of(found) == [0x0010, 0x0011, 0x0040, 0x0050, 0x0100, 0x0102, 0x3000]
    assert b"SMITH" not in written


def test_what_describes_a_region_stays(tmp_path: Path) -> None:
    image = with_region((0x0015, "IS", "1"), (0x0045, "LO", "USER"), (0x1301, "IS", "12"), (0x1302, "DS", "1.5"))
    found, _ = treated(tmp_path, image, **CLEAN)
    assert elements_of(found) == [
        *(0x0010, 0x0011, 0x0015, 0x0040, 0x0045, 0x0050, 0x0100, 0x0102, 0x1301, 0x1302, 0x3000)
    ]
    assert found[0x60003000].value == image[0x60003000].value[:32]


@pytest.mark.parametrize("element", [0x0015, 0x1301, 0x1302])
def test_numbers_of_a_region_that_are_none_go(element: int, tmp_path: Path) -> None:
    image = with_region()
    source = encoded(image)
    vr = b"DS" if element == 0x1302 else b"IS"
    text = b"\x00\x60" + element.to_bytes(2, "little") + vr + b"\x0a\x00SMITH JANE"
    later = b"\x00\x60\x00\x15LO" if element > 0x1000 else b"\x00\x60\x22\x00LO"
    at = source.index(later)
    (tmp_path / "in.dcm").write_bytes(source[:at] + text + source[at:])
    with quiet_pydicom():
        settings = read_settings(task({"secret": SECRET, **CLEAN}), {})
        deidentify_file(str(tmp_path / "in.dcm"), str(tmp_path / "out.dcm"), settings, NOW)
    assert b"SMITH" not in (tmp_path / "out.dcm").read_bytes()


def test_bytes_behind_the_last_bit_of_a_region_are_cut_off(tmp_path: Path) -> None:
    found, written = treated(tmp_path, with_region((0x3000, "OW", bytes(range(32)) + b"SMITH JANE")), **CLEAN)
    assert found[0x60003000].value == bytes(range(32))
    assert b"SMITH" not in written


def test_bits_of_no_known_size_go(tmp_path: Path) -> None:
    image = with_region((0x3000, "OW", b"SMITH JANE"))
    del image[0x60000010]
    found, written = treated(tmp_path, image, **CLEAN)
    assert 0x3000 not in elements_of(found)
    assert b"SMITH" not in written
