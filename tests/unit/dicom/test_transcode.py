"""Transcoding keeps every bit: pixels, private elements, texts in any character set."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID
from tests import builders

from mercure.core.errors import PermanentError
from mercure.dicom import uids
from mercure.dicom.part10 import encode_file_meta, read_file_meta
from mercure.dicom.reencode import MalformedError, TranscodeError
from mercure.dicom.transcode import convert

UNCOMPRESSED = [builders.EXPLICIT_LITTLE, builders.IMPLICIT_LITTLE, builders.EXPLICIT_BIG, builders.DEFLATED]

COMPRESSED = [
    "MR_small_RLE.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "693_J2KI.dcm",
    "GDCMJ2K_TextGBR.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "JPEG2000.dcm",
    "JPEGLSNearLossless_08.dcm",
    "JPEGLSNearLossless_16.dcm",
    "SC_rgb_dcmtk_+eb+cr.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm",
    "SC_rgb_dcmtk_+eb+cy+s4.dcm",
    "SC_rgb_gdcm_KY.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_rle_2frame.dcm",
    "SC_rgb_rle_16bit_2frame.dcm",
    "SC_rgb_rle_32bit.dcm",
    "SC_rgb_small_odd_jpeg.dcm",
    "examples_jpeg2k.dcm",
    "examples_ybr_color.dcm",
    "rtdose_rle.dcm",
]


def shipped(name: str) -> str:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return path


def transcoded(path: str | Path, *accepted: str) -> tuple[pydicom.FileDataset, str]:
    """The result as pydicom reads it, and its transfer syntax."""
    sink = io.BytesIO()
    syntax = convert(str(path), accepted, sink)
    meta = read_file_meta(str(path))
    head = encode_file_meta(meta.sop_class_uid, meta.sop_instance_uid, syntax)
    return pydicom.dcmread(io.BytesIO(head + sink.getvalue())), syntax


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def rich(**elements: Any) -> Dataset:
    """A data set with what breaks naive converters."""
    dataset = builders.dataset(PixelRepresentation=0, **elements)
    del dataset.PixelPaddingValue  # as a signed number it would not fit
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.InstitutionName = "Größe 山田"
    dataset.SmallestImagePixelValue = 5
    dataset.add_new(0x00189810, "US", 3)
    block = dataset.private_block(0x0099, "OURS", create=True)
    block.add_new(1, "UN", b"\1\2\3\4")
    block.add_new(2, "FD", [1.5, -2.25])
    block.add_new(3, "AT", 0x00100020)
    inner = Dataset()
    inner.CodeValue = "A"
    inner.RealWorldValueLastValueMapped = 7
    middle = Dataset()
    middle.PurposeOfReferenceCodeSequence = DicomSequence([inner, inner])
    dataset.ReferencedImageSequence = DicomSequence([middle, Dataset()])
    return dataset


def comparable(dataset: Dataset) -> dict[int, Any]:
    return {
        int(element.tag): element.value for element in dataset if not element.tag.is_private and element.tag.element
    }


@pytest.mark.parametrize("source", UNCOMPRESSED)
@pytest.mark.parametrize("target", UNCOMPRESSED)
def test_between_uncompressed_syntaxes_every_value_stays(tmp_path: Path, source: str, target: str) -> None:
    path = written(tmp_path / "a.dcm", builders.encode(rich(), source))
    original = pydicom.dcmread(path)

    result, syntax = transcoded(path, target)

    assert syntax == target
    assert comparable(result).keys() == comparable(original).keys()
    for element in original:
        if element.tag != 0x7FE00010 and not element.tag.is_private:
            assert result[element.tag].value == element.value, element.keyword
    assert np.array_equal(result.pixel_array, original.pixel_array)


def test_there_and_back_again_is_the_same_data_set_byte_for_byte(tmp_path: Path) -> None:
    dataset = rich()
    builders._use_undefined_lengths(dataset)
    first = written(tmp_path / "explicit.dcm", builders.encode(dataset))
    big = io.BytesIO()
    convert(str(first), [builders.EXPLICIT_BIG], big)
    meta = read_file_meta(str(first))
    head = encode_file_meta(meta.sop_class_uid, meta.sop_instance_uid, builders.EXPLICIT_BIG)
    second = written(tmp_path / "big.dcm", head + big.getvalue())
    again = io.BytesIO()

    convert(str(second), [builders.EXPLICIT_LITTLE], again)

    assert again.getvalue() == first.read_bytes()[meta.data_set_offset :]


def test_private_elements_survive_the_way_through_implicit_vr_as_bytes(tmp_path: Path) -> None:
    path = written(tmp_path / "a.dcm", builders.encode(rich(), builders.IMPLICIT_LITTLE))

    result, _ = transcoded(path, builders.EXPLICIT_LITTLE)

    block = result.private_block(0x0099, "OURS")
    assert bytes(block[1].value) == b"\1\2\3\4"
    assert block[2].VR == "UN"
    assert struct.unpack("<2d", block[2].value) == (1.5, -2.25)


@pytest.mark.parametrize("signed", [0, 1])
def test_the_sign_of_pixels_decides_ambiguous_value_representations(tmp_path: Path, signed: int) -> None:
    dataset = builders.dataset(PixelRepresentation=signed)
    dataset.add_new(0x00280106, "SS" if signed else "US", -5 if signed else 65_000)
    path = written(tmp_path / "a.dcm", builders.encode(dataset, builders.IMPLICIT_LITTLE))

    result, _ = transcoded(path, builders.EXPLICIT_LITTLE)

    element = result[0x00280106]
    assert (element.VR, element.value) == (("SS", -5) if signed else ("US", 65_000))


@pytest.mark.filterwarnings("ignore:The value length")
def test_a_text_too_long_for_its_vr_becomes_unknown_as_the_standard_says(tmp_path: Path) -> None:
    dataset = builders.dataset(ImageComments="x" * 70_000)
    path = written(tmp_path / "a.dcm", builders.encode(dataset, builders.IMPLICIT_LITTLE))
    sink = io.BytesIO()

    convert(str(path), [builders.EXPLICIT_LITTLE], sink)

    assert b"\x20\x00\x00\x40UN\0\0" + struct.pack("<I", 70_000) + b"xxxx" in sink.getvalue()


def test_a_sequence_of_unknown_vr_and_undefined_length_is_read_as_implicit(tmp_path: Path) -> None:
    item = struct.pack("<HHI", 0x0008, 0x0100, 2) + b"C1" + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    value = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + item + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    element = struct.pack("<HH2sHI", 0x7777, 0x1001, b"UN", 0, 0xFFFFFFFF) + value
    path = written(tmp_path / "a.dcm", encode_file_meta("1.2", "1.3", builders.EXPLICIT_LITTLE) + element)

    result, _ = transcoded(path, builders.EXPLICIT_BIG)

    assert result[0x77771001].value[0].CodeValue == "C1"


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("target", [builders.EXPLICIT_LITTLE, builders.IMPLICIT_LITTLE])
@pytest.mark.filterwarnings("ignore")  # of pydicom, about these odd files
def test_compressed_images_have_the_same_pixels_when_decompressed(name: str, target: str) -> None:
    original = pydicom.dcmread(shipped(name))
    is_jpeg = original.file_meta.TransferSyntaxUID in ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")

    result, _ = transcoded(shipped(name), target)

    expected = pixel_array(original, raw=not is_jpeg)
    found = pixel_array(result, raw=True)
    assert np.array_equal(found, expected)
    assert result.get("LossyImageCompression") == original.get("LossyImageCompression")
    unchanged = set(comparable(original)) - {0x00280004, 0x00280006, 0x7FE00010, 0x7FE00001, 0x7FE00002, 0xFFFCFFFC}
    for tag in unchanged:
        assert result[tag].value == original[tag].value


@pytest.mark.parametrize(
    ("name", "interpretation"),
    [
        ("SC_rgb_dcmtk_+eb+cy+np.dcm", "RGB"),  # lossy JPEG, YBR_FULL_422 or the like
        ("SC_rgb_jpeg_dcmtk.dcm", "RGB"),
        ("SC_rgb_rle_2frame.dcm", "RGB"),
        ("examples_jpeg2k.dcm", "RGB"),  # YBR_RCT: the decoder undoes it without loss
        ("MR_small_RLE.dcm", "MONOCHROME2"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_the_photometric_interpretation_tells_what_the_pixels_are_now(name: str, interpretation: str) -> None:
    result, _ = transcoded(shipped(name), builders.EXPLICIT_LITTLE)

    assert result.PhotometricInterpretation == interpretation
    assert result.get("PlanarConfiguration", 0) == 0


def test_lossless_colour_differences_are_kept_as_they_are(tmp_path: Path) -> None:
    original = pydicom.dcmread(shipped("SC_rgb_rle_2frame.dcm"))
    original.PhotometricInterpretation = "YBR_FULL"
    original.save_as(tmp_path / "ybr.dcm")

    result, _ = transcoded(tmp_path / "ybr.dcm", builders.EXPLICIT_LITTLE)

    assert result.PhotometricInterpretation == "YBR_FULL"
    assert np.array_equal(pixel_array(result, raw=True), pixel_array(original, raw=True))


@pytest.mark.parametrize("syntax", [builders.RLE, builders.JPEG_2000])
def test_what_was_compressed_without_loss_comes_out_as_it_was(tmp_path: Path, syntax: str) -> None:
    dataset = rich()
    before = written(tmp_path / "before.dcm", builders.encode(dataset))
    compressed = written(tmp_path / "compressed.dcm", builders.encode(dataset, syntax))

    result, _ = transcoded(compressed, builders.EXPLICIT_LITTLE)

    assert np.array_equal(result.pixel_array, pydicom.dcmread(before).pixel_array)
    assert result[0x00990010].value == "OURS"


def test_elements_after_the_pixel_data_are_kept(tmp_path: Path) -> None:
    tail = struct.pack("<HH2sHI", 0x7FE1, 0x1010, b"OB", 0, 4) + b"tail"
    path = written(tmp_path / "a.dcm", builders.dicom_bytes(transfer_syntax=builders.RLE) + tail)

    result, _ = transcoded(path, builders.EXPLICIT_LITTLE)

    assert result[0x7FE11010].value == b"tail"


def test_the_extended_offset_table_goes_with_the_fragments_it_is_about(tmp_path: Path) -> None:
    data = builders.dicom_bytes(transfer_syntax=builders.RLE)
    meta = read_file_meta(str(written(tmp_path / "plain.dcm", data)))
    start = data.rindex(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OB"))
    table = struct.pack("<HH2sHIQ", 0x7FE0, 0x0001, b"OV", 0, 8, 0)
    fragment = struct.unpack_from("<I", data, start + 12 + 8 + struct.unpack_from("<I", data, start + 16)[0] + 4)[0]
    table += struct.pack("<HH2sHIQ", 0x7FE0, 0x0002, b"OV", 0, 8, fragment)
    path = written(tmp_path / "a.dcm", data[:start] + table + data[start:])
    assert meta.transfer_syntax_uid == builders.RLE

    result, _ = transcoded(path, builders.EXPLICIT_LITTLE)

    assert 0x7FE00001 not in result
    assert 0x7FE00002 not in result
    assert np.array_equal(result.pixel_array, pydicom.dcmread(tmp_path / "plain.dcm").pixel_array)


def test_explicit_little_endian_is_preferred() -> None:
    _, syntax = transcoded(shipped("MR_small_RLE.dcm"), builders.IMPLICIT_LITTLE, builders.EXPLICIT_LITTLE)

    assert syntax == builders.EXPLICIT_LITTLE


def test_a_peer_that_takes_nothing_uncompressed_is_named_in_the_reason() -> None:
    path = shipped("MR_small_RLE.dcm")

    with pytest.raises(TranscodeError, match=r"neither 1\.2\.840\.10008\.1\.2\.5 nor uncompressed for SOP class"):
        convert(path, [builders.JPEG_2000], io.BytesIO())


def test_a_video_cannot_be_transcoded_and_the_reason_says_so(tmp_path: Path) -> None:
    data = builders.dicom_bytes(transfer_syntax=builders.RLE)
    mpeg = "1.2.840.10008.1.2.4.102"
    meta = read_file_meta(str(written(tmp_path / "rle.dcm", data)))
    head = encode_file_meta(meta.sop_class_uid, meta.sop_instance_uid, mpeg)
    path = written(tmp_path / "a.dcm", head + data[meta.data_set_offset :])

    with pytest.raises(PermanentError, match=UID(mpeg).name.split(" /", maxsplit=1)[0]):
        convert(str(path), [builders.EXPLICIT_LITTLE], io.BytesIO())


def test_fewer_frames_than_the_header_says_are_an_error(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(shipped("SC_rgb_rle_2frame.dcm"))
    dataset.NumberOfFrames = 3
    dataset.save_as(tmp_path / "a.dcm")

    with pytest.raises(TranscodeError):
        convert(str(tmp_path / "a.dcm"), [builders.EXPLICIT_LITTLE], io.BytesIO())


def test_more_frames_than_the_header_says_are_an_error(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(shipped("SC_rgb_rle_2frame.dcm"))
    dataset.NumberOfFrames = 1
    dataset.save_as(tmp_path / "a.dcm")

    with pytest.raises(TranscodeError):
        convert(str(tmp_path / "a.dcm"), [builders.EXPLICIT_LITTLE], io.BytesIO())


def test_damaged_compressed_data_is_a_permanent_error(tmp_path: Path) -> None:
    data = bytearray(Path(shipped("MR_small_jpeg_ls_lossless.dcm")).read_bytes())
    start = data.index(b"\xff\xd8\xff")
    data[start : start + 200] = bytes(200)
    path = written(tmp_path / "a.dcm", bytes(data))

    with pytest.raises(TranscodeError, match="cannot be decompressed"):
        convert(str(path), [builders.EXPLICIT_LITTLE], io.BytesIO())


@pytest.mark.parametrize("syntax", UNCOMPRESSED)
def test_a_data_set_that_is_cut_off_is_a_permanent_error(tmp_path: Path, syntax: str) -> None:
    data = builders.dicom_bytes(transfer_syntax=syntax)
    path = written(tmp_path / "a.dcm", data[: len(data) - len(data) // 3])

    with pytest.raises(TranscodeError):
        convert(str(path), [next(each for each in UNCOMPRESSED if each != syntax)], io.BytesIO())


def test_what_is_not_deflated_cannot_be_inflated(tmp_path: Path) -> None:
    path = written(tmp_path / "a.dcm", encode_file_meta("1.2", "1.3", builders.DEFLATED) + b"\xff" * 500)

    with pytest.raises(TranscodeError, match="cannot be inflated"):
        convert(str(path), [builders.EXPLICIT_LITTLE], io.BytesIO())


def test_endless_nesting_is_refused(tmp_path: Path) -> None:
    opening = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    path = written(tmp_path / "a.dcm", encode_file_meta("1.2", "1.3", builders.EXPLICIT_LITTLE) + opening * 5000)

    with pytest.raises(MalformedError, match="nested too deeply"):
        convert(str(path), [builders.IMPLICIT_LITTLE], io.BytesIO())


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<HH2sH", 0x0010, 0x0010, b"\1\2", 2) + b"ab",  # no VR
        struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 8) + struct.pack("<HHI", 0x0008, 0x0100, 0),  # no item
        struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 8) + struct.pack("<HHI", 0xFFFE, 0xE000, 99),  # item too long
        struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 12) + struct.pack("<HHI", 0xFFFE, 0xE000, 0) + b"abcd",
        struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 16)
        + struct.pack("<HHI", 0xFFFE, 0xE000, 4)
        + struct.pack("<HH2sH", 8, 0x100, b"SH", 0),
        struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
        struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF),  # no end
        struct.pack("<HH2sH", 0x0010, 0x0010, b"PN", 200) + b"ab",
    ],
)
def test_malformed_data_sets_are_permanent_errors(tmp_path: Path, data: bytes) -> None:
    path = written(tmp_path / "a.dcm", encode_file_meta("1.2", "1.3", builders.EXPLICIT_LITTLE) + data)

    with pytest.raises(MalformedError):
        convert(str(path), [uids.IMPLICIT_VR_LITTLE_ENDIAN], io.BytesIO())
