"""Palettes, look-up tables, colour profiles, and images inside of sequences."""

import struct
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from mercure_anonymizer.icc import clean_profile
from mercure_anonymizer.instance import deidentify_file, quiet_pydicom
from mercure_anonymizer.settings import read_settings
from pydicom.dataset import Dataset, FileDataset
from tests import builders
from tests.addons.anonymizer.samples import SECRET, task

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TEXT = b"SMITH JANE"
PALETTES = ("RedPalette", "GreenPalette", "BluePalette", "AlphaPalette")


def treated(
    folder: Path, image: FileDataset, transfer_syntax: str = builders.EXPLICIT_LITTLE, **settings: Any
) -> tuple[FileDataset, bytes]:
    source, target = folder / "in.dcm", folder / "out.dcm"
    source.write_bytes(builders.encode(image, transfer_syntax))
    with quiet_pydicom():
        deidentify_file(str(source), str(target), read_settings(task({"secret": SECRET, **settings}), {}), NOW)
    written = target.read_bytes()
    return pydicom.dcmread(BytesIO(written)), written


@pytest.mark.parametrize(
    ("descriptor", "table"),
    [([4, 0, 16], bytes(range(8))), ([4, 0, 8], bytes(range(8))), ([3, 0, 8], bytes(range(4)))],
)
@pytest.mark.parametrize("palette", PALETTES)
@pytest.mark.parametrize("transfer_syntax", [builders.EXPLICIT_LITTLE, builders.IMPLICIT_LITTLE])
def test_palettes_are_cut_to_their_descriptors(
    transfer_syntax: str, palette: str, descriptor: list[int], table: bytes, tmp_path: Path
) -> None:
    image = builders.dataset("CT")
    hidden = b"" if len(table) == 4 else TEXT
    for holder in (image, item := Dataset()):
        setattr(holder, f"{palette}ColorLookupTableDescriptor", descriptor)
        setattr(holder, f"{palette}ColorLookupTableData", table + hidden)
    image.ReferencedSeriesSequence = [item]
    found, written = treated(tmp_path, image, transfer_syntax)
    for holder in (found, found.ReferencedSeriesSequence[0]):
        assert holder[f"{palette}ColorLookupTableData"].value == table
    assert TEXT not in written


def test_look_up_tables_are_cut_whatever_their_values_are_called(tmp_path: Path) -> None:
    image, items = builders.dataset("CT"), (Dataset(), Dataset())
    for item, vr, value in zip(items, ("OW", "US"), (b"\1\0\2\0" + TEXT, [1, 2, 0x4D53]), strict=True):
        item.LUTDescriptor = [2, 0, 16]
        item.add_new(0x00283006, vr, value)
    image.ModalityLUTSequence = items
    found, written = treated(tmp_path, image)
    assert [item.LUTData for item in found.ModalityLUTSequence] == [b"\1\0\2\0", [1, 2]]
    assert TEXT not in written


@pytest.mark.parametrize("descriptor", [None, [2, 0], []])
def test_a_table_without_a_descriptor_goes(descriptor: list[int] | None, tmp_path: Path) -> None:
    image = builders.dataset("CT")
    image.RedPaletteColorLookupTableData = TEXT
    if descriptor is not None:
        image.RedPaletteColorLookupTableDescriptor = descriptor
    found, written = treated(tmp_path, image)
    assert "RedPaletteColorLookupTableData" not in found
    assert TEXT not in written


DESCRIPTORS = {
    "GrayLookupTable": ("GrayLookupTableData",),
    "RedPaletteColorLookupTable": (
        "RedPaletteColorLookupTableData",
        "SegmentedRedPaletteColorLookupTableData",
    ),
    "GreenPaletteColorLookupTable": (
        "GreenPaletteColorLookupTableData",
        "SegmentedGreenPaletteColorLookupTableData",
    ),
    "BluePaletteColorLookupTable": (
        "BluePaletteColorLookupTableData",
        "SegmentedBluePaletteColorLookupTableData",
    ),
    "AlphaPaletteColorLookupTable": (
        "AlphaPaletteColorLookupTableData",
        "SegmentedAlphaPaletteColorLookupTableData",
    ),
    "BlendingLookupTable": ("BlendingLookupTableData",),
    "LUT": ("LUTData",),
    "WeightingLookupTable": ("WeightingLookupTableData",),
    "LargeRedPaletteColorLookupTable": ("LargeRedPaletteColorLookupTableData",),
    "LargeGreenPaletteColorLookupTable": ("LargeGreenPaletteColorLookupTableData",),
    "LargeBluePaletteColorLookupTable": ("LargeBluePaletteColorLookupTableData",),
}
WORDS = list(struct.unpack("<5H", TEXT))


@pytest.mark.parametrize("name", DESCRIPTORS)
@pytest.mark.parametrize("with_data", [True, False])
def test_a_descriptor_with_other_values_goes_and_the_data_with_it(name: str, with_data: bool, tmp_path: Path) -> None:
    image, item = builders.dataset("CT"), Dataset()
    image.ReferencedSeriesSequence = [item]
    keywords = [f"{name}Descriptor", *(DESCRIPTORS[name] if with_data else ())]
    for holder in (image, item):
        holder.add_new(keywords[0], "US", WORDS)
        for data in keywords[1:]:
            holder.add_new(data, "OB" if name.startswith("Weighting") else "OW", TEXT)
    found, written = treated(tmp_path, image)
    for holder in (found, found.ReferencedSeriesSequence[0]):
        assert not [keyword for keyword in keywords if keyword in holder]
    assert TEXT not in written


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_a_descriptor_of_as_many_values_as_it_has_stays_and_so_does_its_data(name: str, tmp_path: Path) -> None:
    image = builders.dataset("CT")
    values = [0, 2, 0, 16] if name.startswith("Large") else [2, 0, 16]
    image.add_new(f"{name}Descriptor", "US", values)
    for data in DESCRIPTORS[name]:
        image.add_new(data, "OB" if name.startswith("Weighting") else "OW", b"\1\0\2\0")
    found, _ = treated(tmp_path, image)
    assert list(found[f"{name}Descriptor"].value) == values
    assert {found[data].value for data in DESCRIPTORS[name]} == {b"\1\0\2\0"}


@pytest.mark.parametrize("keyword", ["BlendingLookupTable", "WeightingLookupTable", "GrayLookupTable"])
def test_other_tables_are_cut_or_go(keyword: str, tmp_path: Path) -> None:
    image, item = builders.dataset("CT"), Dataset()
    image.ReferencedSeriesSequence = [item]
    vr = "OB" if keyword.startswith("Weighting") else "OW"
    image.add_new(f"{keyword}Descriptor", "US", [2, 0, 16])
    image.add_new(f"{keyword}Data", vr, b"\1\0\2\0" + TEXT)
    item.add_new(f"{keyword}Data", vr, TEXT)
    found, written = treated(tmp_path, image)
    assert found[f"{keyword}Data"].value == b"\1\0\2\0"
    assert f"{keyword}Data" not in found.ReferencedSeriesSequence[0]
    assert TEXT not in written


@pytest.mark.parametrize("data", [one for tables in DESCRIPTORS.values() for one in tables])
def test_no_data_stays_without_a_descriptor(data: str, tmp_path: Path) -> None:
    image = builders.dataset("CT")
    image.add_new(data, "OB" if data.startswith("Weighting") else "OW", TEXT)
    found, written = treated(tmp_path, image)
    assert data not in found
    assert TEXT not in written


def test_a_command_keeps_a_descriptor_as_it_is(tmp_path: Path) -> None:
    image = builders.dataset("CT")
    image.BluePaletteColorLookupTableDescriptor = WORDS
    assert TEXT in treated(tmp_path, image, **{"(0028,1103)": "keep"})[1]


def test_images_inside_of_sequences_go_unless_a_command_keeps_them(tmp_path: Path) -> None:
    image, item = builders.dataset("CT"), Dataset()
    item.PixelData, item.Rows = TEXT, 1
    item["PixelData"].VR = "OB"
    item.ExtendedOffsetTable = item.ExtendedOffsetTableLengths = TEXT[:8]
    image.ReferencedSeriesSequence = [item]
    found, written = treated(tmp_path, image)
    assert "PixelData" not in found.ReferencedSeriesSequence[0]
    assert TEXT[:8] not in written
    (tmp_path / "out.dcm").unlink()
    assert TEXT in treated(tmp_path, image, **{"(0008,1115)": "keep"})[1]


# -- colour profiles -------------------------------------------------------------------------------------------------


def profile(version: int = 2, **tags: bytes) -> bytes:
    """A profile that talks wherever it can."""
    header = bytearray(128)
    header[8], header[12:24], header[24:36] = version, b"mntrRGB XYZ ", struct.pack(">6H", 1957, 11, 3, 1, 2, 3)
    header[36:40] = b"acsp"
    header[4:8] = header[48:52] = header[80:84] = b"JANE"
    header[100:110] = TEXT
    entries, data = b"", b""
    for name, content in {"desc": b"desc" + bytes(4) + TEXT, "cprt": b"text" + bytes(4) + TEXT, **tags}.items():
        entries += struct.pack(">4sLL", name.encode(), 132 + 12 * (len(tags) + 2) + len(data), len(content))
        data += content + bytes(2 + -len(content) % 4) + TEXT + bytes(4)
    whole = bytes(header) + struct.pack(">L", len(tags) + 2) + entries + data
    return struct.pack(">L", len(whole)) + whole[4:] + TEXT


def tags_of(content: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">L", content, 128)
    entries = [struct.unpack_from(">4sLL", content, 132 + 12 * number) for number in range(count)]
    return {name: content[offset : offset + size] for name, offset, size in entries}


@pytest.mark.parametrize("version", [2, 4])
def test_a_profile_keeps_its_numbers_and_nothing_else(version: int) -> None:
    point = b"XYZ " + bytes(4) + struct.pack(">3L", 1, 2, 3)
    cleaned = clean_profile(profile(version, rXYZ=point, wtpt=point, dmnd=b"desc" + TEXT, targ=b"text" + TEXT))
    assert cleaned is not None
    assert struct.unpack_from(">L", cleaned) == (len(cleaned),)
    assert {name: data for name, data in tags_of(cleaned).items() if name not in {b"desc", b"cprt"}} == {
        b"rXYZ": point,
        b"wtpt": point,
    }
    assert cleaned[12:24] == b"mntrRGB XYZ "
    for hidden in (b"SMITH", b"JANE", struct.pack(">H", 1957)):
        assert hidden not in cleaned
    assert clean_profile(cleaned) == cleaned


@pytest.mark.parametrize(
    "content",
    [b"", TEXT * 20, profile()[:140], profile()[:128] + b"\xff" * 40, profile()[:132] + b"\xff" * 40],
)
def test_what_is_no_profile_is_none(content: bytes) -> None:
    assert clean_profile(content) is None


def test_profiles_in_an_instance_are_cleaned_or_go(tmp_path: Path) -> None:
    image, item = builders.dataset("CT"), Dataset()
    image.ICCProfile, item.ICCProfile = TEXT, profile(rXYZ=b"XYZ " + bytes(16))
    image.OpticalPathSequence = [item]
    found, written = treated(tmp_path, image)
    assert "ICCProfile" not in found
    assert found.OpticalPathSequence[0].ICCProfile[36:40] == b"acsp"
    assert TEXT not in written
