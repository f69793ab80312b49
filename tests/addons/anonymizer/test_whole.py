"""A file that was cut off is refused wherever it ends, and so is an image without pixels."""

import struct
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from mercure_anonymizer.errors import InstanceError
from mercure_anonymizer.instance import deidentify_file, quiet_pydicom
from mercure_anonymizer.settings import read_settings
from mercure_anonymizer.whole import check_ending
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID
from tests import builders
from tests.addons.anonymizer.samples import SECRET, task

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SYNTAXES = [
    builders.EXPLICIT_LITTLE,
    builders.IMPLICIT_LITTLE,
    builders.EXPLICIT_BIG,
    builders.DEFLATED,
    builders.RLE,
    builders.JPEG_2000,
]
PIXELS_OF_CT_SMALL = 6288
RT_PLAN, SPECTRA, SEGMENTATION, PARAMETRIC_MAP = (
    f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("481.5", "4.2", "66.4", "30")
)


def shipped(name: str) -> bytes:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return Path(path).read_bytes()


def treated(folder: Path, content: bytes) -> FileDataset:
    source, target = folder / "in.dcm", folder / "out.dcm"
    source.write_bytes(content)
    settings = read_settings(task({"secret": SECRET, "burned_in": "accept"}), {})
    with quiet_pydicom():
        deidentify_file(str(source), str(target), settings, NOW)
    return pydicom.dcmread(BytesIO(target.read_bytes()))


def check(content: bytes) -> None:
    file = BytesIO(content)
    with quiet_pydicom():
        check_ending(file, pydicom.dcmread(file))


@pytest.mark.parametrize("size", [2, 7, 8, 12, 512, 4096])
@pytest.mark.parametrize("syntax", [builders.EXPLICIT_LITTLE, builders.IMPLICIT_LITTLE, builders.EXPLICIT_BIG])
def test_zeros_up_to_the_end_of_a_block_are_taken_and_do_not_stay(tmp_path: Path, syntax: str, size: int) -> None:
    made = BytesIO()
    dataset = builders.dataset("CT")
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dcmwrite(made, dataset, enforce_file_format=True)
    treated(tmp_path, made.getvalue() + bytes(size))
    padded = (tmp_path / "out.dcm").rename(tmp_path / "padded.dcm").read_bytes()
    treated(tmp_path, made.getvalue())
    assert len(padded) == len((tmp_path / "out.dcm").read_bytes())


def test_few_zeros_do_not_end_a_file_when_something_follows() -> None:
    with pytest.raises(InstanceError, match="cut off"):
        check(shipped("CT_small.dcm") + bytes(5) + b"1")


@pytest.mark.parametrize("size", [2500, 3000, 4000, 5000, 6000, 6285, 6288, 6294, 6300, 39_204])
def test_a_scan_that_was_cut_off_is_refused(size: int, tmp_path: Path) -> None:
    content = shipped("CT_small.dcm")
    assert content.index(b"\xe0\x7f\x10\x00OW") == PIXELS_OF_CT_SMALL
    assert size < len(content)
    with pytest.raises(InstanceError, match=r"cut off|without pixel data"):
        treated(tmp_path, content[:size])


def test_a_plan_that_was_cut_off_is_refused_and_a_whole_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(InstanceError, match=r"SOP instance [0-9.]+: the file is cut off"):
        treated(tmp_path, shipped("rtplan_truncated.dcm"))
    assert treated(tmp_path, shipped("rtplan.dcm")).Modality == "RTPLAN"


def sample() -> FileDataset:
    """A small instance that is no image, with sequences in sequences of either kind of length."""
    image = builders.dataset("CT")
    for tag in [tag for tag in image.keys() if tag.group in (0x0028, 0x7FE0)]:  # noqa: SIM118
        del image[tag]
    image.SOPClassUID = UID(RT_PLAN)
    for undefined in (True, False):
        inner, outer = Dataset(), Dataset()
        inner.CodeValue = "T"
        outer.ProcedureCodeSequence = [inner, inner]
        outer["ProcedureCodeSequence"].is_undefined_length = not undefined
        outer.is_undefined_length_sequence_item = undefined
        keyword = "RequestAttributesSequence" if undefined else "ReferencedStudySequence"
        setattr(image, keyword, [outer, outer])
        image[keyword].is_undefined_length = undefined
    return image


def is_taken(content: bytes) -> bool:
    """Whether a file is read and found whole: pydicom refuses some that are not."""
    try:
        check(content)
    except (InstanceError, OSError, struct.error, zlib.error):
        return False
    return True


@pytest.mark.parametrize("transfer_syntax", SYNTAXES[:4])
def test_no_cut_is_overlooked_but_one_behind_an_element(transfer_syntax: str) -> None:
    image = sample()
    content = builders.encode(image, transfer_syntax)
    ends = []
    for tag in sorted((tag for tag in image.keys() if tag > 0x00080018), reverse=True):  # noqa: SIM118
        ends.append(len(builders.encode(image, transfer_syntax)))
        del image[tag]
    assert ends[0] == len(content)
    assert len(ends) > 40
    taken = {size for size in range(ends[-1], len(content) + 1) if is_taken(content[:size])}
    if transfer_syntax == builders.DEFLATED:  # a byte may follow that makes the length even
        assert taken - {len(content) - 1} == {len(content)}
    else:
        assert taken == set(ends)


@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
def test_whole_files_are_taken_in_every_syntax_and_cut_ones_are_not(transfer_syntax: str, tmp_path: Path) -> None:
    content = builders.encode(builders.dataset("CT"), transfer_syntax)
    treated(tmp_path, content)
    (tmp_path / "out.dcm").unlink()
    for missing in (2, 8, 9, 100):
        with pytest.raises(InstanceError):
            treated(tmp_path, content[:-missing])
        assert not (tmp_path / "out.dcm").exists()


def item(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(content) if length is None else length) + content


def sequence(content: bytes, length: int | None = None) -> bytes:
    """Referenced Study Sequence."""
    return struct.pack("<HH2sHL", 0x0008, 0x1110, b"SQ", 0, len(content) if length is None else length) + content


UNDEFINED = 0xFFFFFFFF
ELEMENT = struct.pack("<HH2sH2s", 0x0008, 0x0100, b"SH", 2, b"T ")
END_OF_ITEM, END_OF_SEQUENCE = (struct.pack("<HHL", 0xFFFE, tag, 0) for tag in (0xE00D, 0xE0DD))
IMPLICIT = struct.pack("<HHL2s", 0x0008, 0x0100, 2, b"T ")


def with_tail(tail: bytes) -> bytes:
    """A file whose last elements are given."""
    image = FileDataset("", {}, preamble=bytes(128))
    image.file_meta = builders.dataset("CT").file_meta
    image.SOPClassUID, image.SOPInstanceUID = UID(RT_PLAN), UID("2.25.1")
    image.file_meta.TransferSyntaxUID = UID(builders.EXPLICIT_LITTLE)
    buffer = BytesIO()
    dcmwrite(buffer, image, enforce_file_format=True)
    return buffer.getvalue() + tail


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        ELEMENT,
        sequence(b""),
        sequence(item(b"")),
        sequence(item(ELEMENT) + item(ELEMENT)),
        sequence(item(IMPLICIT)),
        sequence(item(ELEMENT + END_OF_ITEM, UNDEFINED) + item(ELEMENT)),
        sequence(item(ELEMENT + END_OF_ITEM, UNDEFINED) + END_OF_SEQUENCE, UNDEFINED),
        sequence(item(ELEMENT + END_OF_ITEM) + END_OF_SEQUENCE),
        sequence(item(sequence(item(ELEMENT)))),
        sequence(item(ELEMENT)).replace(b"SQ", b"UN"),
        sequence(item(IMPLICIT) + END_OF_SEQUENCE, UNDEFINED).replace(b"SQ", b"UN"),
    ],
)
def test_lengths_that_fit_are_taken(tail: bytes) -> None:
    check(with_tail(tail))


@pytest.mark.parametrize(
    "tail",
    [
        ELEMENT[:-1],
        ELEMENT[:7],
        ELEMENT + b"\0",
        sequence(item(ELEMENT), 100),
        sequence(item(ELEMENT, 12)),
        sequence(item(ELEMENT[:-2])),
        sequence(item(sequence(item(ELEMENT), 22))),
        sequence(item(ELEMENT), UNDEFINED),
        sequence(item(ELEMENT, UNDEFINED) + END_OF_SEQUENCE, UNDEFINED),
        sequence(item(ELEMENT, UNDEFINED)),
        sequence(ELEMENT),
        END_OF_ITEM + ELEMENT,
        item(ELEMENT),
        struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, UNDEFINED) + item(b"abcd"),
        struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, UNDEFINED) + item(b"abcd", 20) + END_OF_SEQUENCE,
        struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, UNDEFINED) + item(END_OF_ITEM, UNDEFINED) + END_OF_SEQUENCE,
    ],
)
def test_lengths_that_do_not_fit_are_refused(tail: bytes) -> None:
    file = BytesIO(with_tail(tail))
    with quiet_pydicom():
        before = pydicom.dcmread(BytesIO(with_tail(b"")))
    with pytest.raises(InstanceError):
        check_ending(file, before)


def test_sequences_without_end_are_refused() -> None:
    file = BytesIO(with_tail(sequence(item(b"", UNDEFINED), UNDEFINED) * 5000))
    with pytest.raises(InstanceError, match="too deep"):
        check_ending(file, pydicom.dcmread(BytesIO(with_tail(b""))))


def without_pixels(sop_class: str, **elements: Any) -> bytes:
    image = builders.dataset("CT", **elements)
    del image.PixelData
    image.SOPClassUID = UID(sop_class)
    return builders.encode(image)


@pytest.mark.parametrize("sop_class", [builders.CT_STORAGE, SEGMENTATION, PARAMETRIC_MAP])
@pytest.mark.parametrize("size", [{}, {"Rows": None, "Columns": None}])
def test_an_image_without_pixels_is_refused(sop_class: str, size: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InstanceError, match="without pixel data"):
        treated(tmp_path, without_pixels(sop_class, **size))


def test_what_has_the_size_of_an_image_and_no_pixels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InstanceError, match="without pixel data"):
        treated(tmp_path, without_pixels(RT_PLAN))


def spectra(image: FileDataset) -> None:
    image.SOPClassUID, image.SpectroscopyData = UID(SPECTRA), bytes(8)


def floats(image: FileDataset) -> None:
    image.SOPClassUID, image.FloatPixelData = UID(PARAMETRIC_MAP), bytes(image.Rows * image.Columns * 4)


def plan(image: FileDataset) -> None:
    image.SOPClassUID = UID(RT_PLAN)
    del image.Rows, image.Columns


@pytest.mark.parametrize("make", [spectra, floats, plan])
def test_what_has_other_data_or_is_no_image_needs_no_pixels(
    make: Callable[[FileDataset], None], tmp_path: Path
) -> None:
    image = builders.dataset("CT")
    del image.PixelData
    make(image)
    assert "PixelData" not in treated(tmp_path, builders.encode(image))


@pytest.mark.parametrize("keyword", ["PixelData", "FloatPixelData"])
def test_empty_pixels_are_none(keyword: str, tmp_path: Path) -> None:
    image = builders.dataset("CT")
    del image.PixelData
    setattr(image, keyword, b"")
    with pytest.raises(InstanceError, match="without pixel data"):
        treated(tmp_path, builders.encode(image))
