from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from mercure_anonymizer.errors import InstanceError, SettingsError
from mercure_anonymizer.instance import deidentify_file, quiet_pydicom
from mercure_anonymizer.settings import read_settings
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, generate_frames
from tests import builders
from tests.addons.anonymizer.answer_key import plant_overlay
from tests.addons.anonymizer.samples import SECONDARY_CAPTURE, SECRET, US_MULTIFRAME, region, regions, screen, task

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BANNER = {"Modality": "US", "rectangles": [[4, 2, 10, 5], [30, 20, 2, 4]]}


def treated(folder: Path, content: bytes, **settings: Any) -> FileDataset:
    source, target = folder / "in.dcm", folder / "out.dcm"
    source.write_bytes(content)
    with quiet_pydicom():
        deidentify_file(str(source), str(target), read_settings(task({"secret": SECRET, **settings}), {}), NOW)
    return pydicom.dcmread(BytesIO(target.read_bytes()))


def frames(found: FileDataset) -> NDArray[Any]:
    count = int(found.get("NumberOfFrames", 1))
    return np.array(found.pixel_array).reshape(count, found.Rows, found.Columns, -1)


def in_banner(found: FileDataset) -> NDArray[np.bool_]:
    mask = np.zeros((found.Rows, found.Columns), dtype=bool)
    mask[2:7, 4:14] = True
    mask[20:24, 30:32] = True
    return mask


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("photometric", "black"),
    [("RGB", (0, 0, 0)), ("MONOCHROME2", (0,)), ("MONOCHROME1", (255,)), ("YBR_FULL", (0, 128, 128))],
)
def test_rectangles_are_black_in_all_frames_and_nothing_else_is(
    photometric: str, black: tuple[int, ...], count: int, tmp_path: Path
) -> None:
    image = screen(US_MULTIFRAME if count > 1 else screen().SOPClassUID, photometric=photometric, frames=count)
    before = frames(pydicom.dcmread(BytesIO(builders.encode(image))))
    found = treated(tmp_path, builders.encode(image), pixel_rules=[BANNER])
    mask = in_banner(found)
    raw = np.frombuffer(found.PixelData, dtype=np.uint8).reshape(count, found.Rows, found.Columns, -1)
    assert (raw[:, mask] == black).all()
    assert (frames(found)[:, ~mask] == before[:, ~mask]).all()
    assert found.BurnedInAnnotation == "NO"
    assert "113101" in [code.CodeValue for code in found.DeidentificationMethodCodeSequence]


def test_colours_by_plane_are_blackened_in_every_plane(tmp_path: Path) -> None:
    image = screen(PlanarConfiguration=1)
    found = treated(tmp_path, builders.encode(image), pixel_rules=[BANNER])
    assert found.PlanarConfiguration == 0
    assert (frames(found)[:, in_banner(found)] == 0).all()
    assert (frames(found)[:, ~in_banner(found)] == 200).all()


def test_subsampled_colours_are_blackened_and_stay_what_they_look_like(tmp_path: Path) -> None:
    image = screen(photometric="YBR_FULL_422")
    image.PixelData = bytes([200, 200, 120, 140]) * (24 * 32 // 2)
    before = frames(pydicom.dcmread(BytesIO(builders.encode(image))))
    found = treated(tmp_path, builders.encode(image), pixel_rules=[BANNER])
    raw = np.frombuffer(found.PixelData, dtype=np.uint8).reshape(24, 32, 3)
    assert found.PhotometricInterpretation == "YBR_FULL"
    assert (raw[in_banner(found)] == (0, 128, 128)).all()
    assert (raw[~in_banner(found)] == (200, 120, 140)).all()
    assert (frames(found)[:, ~in_banner(found)] == before[:, ~in_banner(found)]).all()


def test_a_palette_is_blackened_with_its_darkest_colour(tmp_path: Path) -> None:
    image = screen(photometric="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(image, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        entries = np.full(256, 40_000, dtype="<u2")
        entries[17] = 5
        setattr(image, f"{colour}PaletteColorLookupTableData", entries.tobytes())
    found = treated(tmp_path, builders.encode(image), pixel_rules=[BANNER])
    assert (frames(found)[:, in_banner(found)] == 17).all()
    assert (frames(found)[:, ~in_banner(found)] == 200).all()


@pytest.mark.parametrize("bits", [12, 16])
def test_signed_pixels_of_many_bits_are_blackened_with_the_lowest_value(bits: int, tmp_path: Path) -> None:
    image = builders.dataset("CT", BitsStored=bits, HighBit=bits - 1, PixelRepresentation=1, PixelPaddingValue=None)
    image.PixelData = np.full((32, 32), 77, dtype="<i2").tobytes()
    rule = {"Modality": "CT", "rectangles": [[0, 0, 32, 3]]}
    found = treated(tmp_path, builders.encode(image), pixel_rules=[rule])
    assert (found.pixel_array[:3] == -(1 << (bits - 1))).all()
    assert (found.pixel_array[3:] == 77).all()


@pytest.mark.parametrize("transfer_syntax", [builders.RLE, builders.JPEG_2000])
@pytest.mark.parametrize("photometric", ["RGB", "MONOCHROME2"])
def test_compressed_pixels_are_decoded_first(transfer_syntax: str, photometric: str, tmp_path: Path) -> None:
    image = screen(US_MULTIFRAME, photometric=photometric, frames=2, rows=64, columns=64)
    found = treated(tmp_path, builders.encode(image, transfer_syntax), pixel_rules=[BANNER])
    assert found.file_meta.TransferSyntaxUID == builders.EXPLICIT_LITTLE
    assert (frames(found)[:, in_banner(found)] == 0).all()
    assert (frames(found)[:, ~in_banner(found)] == 200).all()


@pytest.mark.parametrize("name", ["SC_rgb_jpeg_gdcm.dcm", "SC_rgb_dcmtk_+eb+cy+s2.dcm", "SC_rgb_jpeg_lossy_gdcm.dcm"])
def test_lossy_colours_are_decoded_and_blackened(name: str, tmp_path: Path) -> None:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    rule = {"Modality": "OT", "rectangles": [[0, 0, 100, 10]]}
    found = treated(tmp_path, Path(path).read_bytes(), pixel_rules=[rule])
    assert found.PhotometricInterpretation == "RGB"
    assert (found.pixel_array[:10] == 0).all()
    assert found.pixel_array[10:].any()


def test_bits_in_bytes_are_blackened(tmp_path: Path) -> None:
    image = screen(photometric="MONOCHROME2", BitsAllocated=1, BitsStored=1, HighBit=0)
    image.PixelData = b"\xff" * (24 * 32 // 8)
    found = treated(tmp_path, builders.encode(image), pixel_rules=[BANNER])
    assert (found.pixel_array == ~in_banner(found)).all()


def test_all_outside_of_the_ultrasound_regions_is_blackened(tmp_path: Path) -> None:
    image = screen(SequenceOfUltrasoundRegions=regions(region(5, 5, 20, 15), region(22, 10, 25, 23)))
    found = treated(
        tmp_path, builders.encode(image), pixel_rules=[{"Modality": "US", "outside_ultrasound_regions": True}]
    )
    shown = np.zeros((24, 32), dtype=bool)
    shown[5:16, 5:21] = shown[10:24, 22:26] = True
    assert ((frames(found)[0] == 200).all(axis=-1) == shown).all()
    assert (frames(found)[0][~shown] == 0).all()


def test_an_image_without_regions_is_refused_when_the_rule_needs_them(tmp_path: Path) -> None:
    rule = {"Modality": "US", "outside_ultrasound_regions": True}
    with pytest.raises(InstanceError, match="needs ultrasound regions"):
        treated(tmp_path, builders.encode(screen()), pixel_rules=[rule])


@pytest.mark.parametrize(
    ("signature", "fits"),
    [
        ({}, True),
        ({"Manufacturer": "acme*", "ManufacturerModelName": "SCAN 7"}, True),
        ({"Rows": 24, "Columns": "32"}, True),
        ({"SoftwareVersions": "2.*"}, True),
        ({"Rows": 25}, False),
        ({"Manufacturer": "acme"}, False),
        ({"SoftwareVersions": "3.*"}, False),
    ],
)
def test_a_rule_fits_when_all_of_its_signature_does(signature: dict[str, Any], fits: bool, tmp_path: Path) -> None:
    image = screen(Manufacturer="ACME Inc", ManufacturerModelName="Scan 7", SoftwareVersions=["1.0", "2.5"])
    rules = [{**BANNER, **signature}]
    if fits:
        found = treated(tmp_path, builders.encode(image), pixel_rules=rules)
        assert (frames(found)[:, in_banner(found)] == 0).all()
    else:
        with pytest.raises(InstanceError):
            treated(tmp_path, builders.encode(image), pixel_rules=rules)


@pytest.mark.parametrize(
    "rectangle", [[5000, 5000, 10, 10], [0, 24, 4, 4], [32, 0, 4, 4], [30, 0, 3, 4], [0, 0, 4, 25]]
)
def test_a_rectangle_that_is_not_inside_of_the_image_refuses_it(rectangle: list[int], tmp_path: Path) -> None:
    rule = {"Modality": "US", "rectangles": [[0, 0, 32, 4], rectangle]}
    with pytest.raises(InstanceError, match="not inside of the image"):
        treated(tmp_path, builders.encode(screen()), pixel_rules=[rule])


def test_a_rule_that_blackens_nothing_does_not_unsay_that_text_is_burned_in(tmp_path: Path) -> None:
    image = builders.encode(screen(BurnedInAnnotation="YES"))
    rules = [{"Modality": "US"}]
    with pytest.raises(InstanceError, match="BurnedInAnnotation YES"):
        treated(tmp_path, image, pixel_rules=rules)
    found = treated(tmp_path, image, pixel_rules=rules, burned_in="accept")
    assert found.BurnedInAnnotation == "YES"
    assert "113101" not in [code.CodeValue for code in found.DeidentificationMethodCodeSequence]


def test_a_rule_that_blackens_lets_an_image_pass_that_says_it_has_text(tmp_path: Path) -> None:
    found = treated(tmp_path, builders.encode(screen(BurnedInAnnotation="YES")), pixel_rules=[BANNER])
    assert found.BurnedInAnnotation == "NO"
    assert (frames(found)[:, in_banner(found)] == 0).all()


REFUSED = [
    screen(),
    screen(US_MULTIFRAME, frames=2),
    screen(SECONDARY_CAPTURE, modality="CT"),
    screen("1.2.840.10008.5.1.4.1.1.7.4", modality="MR"),
    screen("1.2.840.10008.5.1.4.1.1.77.1.1", modality="ES"),
    screen(builders.CT_STORAGE, modality="CT", ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]),
    screen(builders.CT_STORAGE, modality="CT", BurnedInAnnotation="YES"),
    screen(builders.CT_STORAGE, modality="CT", ConversionType="WSD"),
]


@pytest.mark.parametrize("image", REFUSED)
def test_images_that_may_show_text_are_refused_unless_someone_says_more(image: FileDataset, tmp_path: Path) -> None:
    content = builders.encode(image)
    with pytest.raises(InstanceError, match="text"):
        treated(tmp_path, content)
    says_text = image.get("BurnedInAnnotation") == "YES"
    rule = {"Modality": image.Modality, **({"rectangles": [[0, 0, 32, 4]]} if says_text else {})}
    assert treated(tmp_path, content, pixel_rules=[rule]).BurnedInAnnotation == "NO"
    (tmp_path / "out.dcm").unlink()
    accepted = treated(tmp_path, content, burned_in="accept")
    assert accepted.get("BurnedInAnnotation") == image.get("BurnedInAnnotation")


def test_an_explicit_no_is_believed(tmp_path: Path) -> None:
    found = treated(tmp_path, builders.encode(screen(BurnedInAnnotation="NO")))
    assert found.BurnedInAnnotation == "NO"
    assert (frames(found) == 200).all()


def test_an_overlay_in_unused_bits_of_the_pixels_is_cleared(tmp_path: Path) -> None:
    image = builders.dataset("CT", BitsStored=12, HighBit=11, PixelRepresentation=0)
    image.PixelData = np.full((32, 32), 0x8123, dtype="<u2").tobytes()
    plant_overlay(image, 0x6000, "G")
    image[0x6000, 0x0100].value, image[0x6000, 0x0102].value = 16, 15
    del image[0x6000, 0x3000]
    found = treated(tmp_path, builders.encode(image))
    assert set(np.frombuffer(found.PixelData, dtype="<u2")) == {0x0123}


def test_what_follows_the_last_pixel_is_cut_off(tmp_path: Path) -> None:
    image = builders.dataset("CT")
    pixels = image.PixelData
    image.PixelData = pixels + b"ZQ hidden text"
    assert treated(tmp_path, builders.encode(image)).PixelData == pixels


def test_pixels_that_cannot_be_decoded_refuse_the_instance(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(builders.encode(screen(rows=64, columns=64), builders.JPEG_2000))
    image = pydicom.dcmread(path)
    image.PixelData = image.PixelData[:40] + bytes(len(image.PixelData) - 40)
    buffer = BytesIO()
    image.save_as(buffer)
    with pytest.raises(InstanceError, match="cannot be decoded"):
        treated(tmp_path, buffer.getvalue(), pixel_rules=[BANNER])


def test_rules_are_checked_before_any_image_is_read() -> None:
    with pytest.raises(SettingsError, match="pixel rule 2"):
        read_settings(task({"pixel_rules": [BANNER, {"Modality": "US", "rectangles": [[1, 2, 3]]}]}), {})


def commented(name: str, start: bytes, segment: bytes) -> tuple[bytes, bytes]:
    """A file whose first compressed frame holds a comment, and that frame before it did."""
    path = get_testdata_file(name)
    assert isinstance(path, str)
    image = pydicom.dcmread(path)
    count = int(image.get("NumberOfFrames") or 1)
    frames = list(generate_frames(image.PixelData, number_of_frames=count))
    assert frames[0].startswith(start)
    image.PixelData = encapsulate([start + segment + frames[0][2:], *frames[1:]])
    image["PixelData"].is_undefined_length = True
    buffer = BytesIO()
    image.save_as(buffer)
    return buffer.getvalue(), frames[0]


@pytest.mark.parametrize(
    ("name", "start", "marker"),
    [
        ("SC_rgb_jpeg_gdcm.dcm", b"\xff\xd8", b"\xff\xfe"),
        ("SC_rgb_jpeg_gdcm.dcm", b"\xff\xd8", b"\xff\xe1"),
        ("MR_small_jpeg_ls_lossless.dcm", b"\xff\xd8", b"\xff\xfe"),
    ],
)
def test_comments_in_compressed_images_are_removed(name: str, start: bytes, marker: bytes, tmp_path: Path) -> None:
    text = b"ZQ hidden text"
    content, frame = commented(name, start, marker + (len(text) + 2).to_bytes(2, "big") + text)
    assert text in content
    found = treated(tmp_path, content, burned_in="accept")
    assert text not in (tmp_path / "out.dcm").read_bytes()
    left = next(generate_frames(found.PixelData, number_of_frames=1))
    before = pydicom.dcmread(BytesIO(content))
    assert (found.pixel_array == before.pixel_array).all()
    assert left.rstrip(b"\0")[-200:] == frame.rstrip(b"\0")[-200:]


def test_comments_in_jpeg_2000_are_removed_from_its_main_header(tmp_path: Path) -> None:
    text = b"ZQ hidden text"
    image = screen(photometric="MONOCHROME2", modality="CT", kind=builders.CT_STORAGE, rows=64, columns=64)
    compressed = pydicom.dcmread(BytesIO(builders.encode(image, builders.JPEG_2000)))
    (frame,) = generate_frames(compressed.PixelData, number_of_frames=1)
    size_end = 4 + int.from_bytes(frame[4:6], "big")
    segment = b"\xff\x64" + (len(text) + 4).to_bytes(2, "big") + b"\0\1" + text
    compressed.PixelData = encapsulate([frame[:size_end] + segment + frame[size_end:]])
    compressed["PixelData"].is_undefined_length = True
    buffer = BytesIO()
    compressed.save_as(buffer)
    found = treated(tmp_path, buffer.getvalue())
    assert text not in (tmp_path / "out.dcm").read_bytes()
    assert (found.pixel_array == 200).all()


def test_a_frame_that_is_not_what_its_transfer_syntax_says_is_refused(tmp_path: Path) -> None:
    content, frame = commented("SC_rgb_jpeg_gdcm.dcm", b"\xff\xd8", b"")
    with pytest.raises(InstanceError, match="does not begin"):
        treated(tmp_path, content.replace(frame[:8], b"ZQhidden", 1), burned_in="accept")
