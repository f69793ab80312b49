"""No text stays in tables of offsets, and no frame is lost by a table that lies."""

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from mercure_anonymizer.codestreams import clean_codestreams
from mercure_anonymizer.errors import InstanceError
from mercure_anonymizer.instance import deidentify_file, quiet_pydicom
from mercure_anonymizer.settings import read_settings
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_fragments, generate_frames
from pydicom.uid import UID
from tests import builders
from tests.addons.anonymizer.samples import SECRET, US_MULTIFRAME, screen, task

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TEXT = b"SMITH JANE 19550312 4711"
ITEM = b"\xfe\xff\x00\xe0"
JPEG, JPEG_2000, RLE = "SC_rgb_jpeg_gdcm.dcm", "MR_small_jp2klossless.dcm", "MR_small_RLE.dcm"
RLE_FRAMES, JPEG_FRAMES = "SC_rgb_rle_2frame.dcm", "examples_ybr_color.dcm"
ONE_FRAME = (JPEG, "MR_small_jpeg_ls_lossless.dcm", JPEG_2000, RLE)
MANY_FRAMES = (RLE_FRAMES, JPEG_FRAMES)
MPEG = "1.2.840.10008.1.2.4.102"


def image_of(name: str) -> FileDataset:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return pydicom.dcmread(path)


def frames_of(image: FileDataset) -> list[bytes]:
    return list(generate_frames(image.PixelData, number_of_frames=int(image.get("NumberOfFrames") or 1)))


def written(image: FileDataset) -> bytes:
    buffer = BytesIO()
    image.save_as(buffer)
    return buffer.getvalue()


def treated(folder: Path, image: FileDataset, **settings: Any) -> tuple[FileDataset, bytes]:
    source, target = folder / "in.dcm", folder / "out.dcm"
    source.write_bytes(written(image))
    accepted = {"secret": SECRET, "burned_in": "accept", **settings}
    with quiet_pydicom():
        deidentify_file(str(source), str(target), read_settings(task(accepted), {}), NOW)
    content = target.read_bytes()
    return pydicom.dcmread(BytesIO(content)), content


def item(content: bytes) -> bytes:
    return ITEM + len(content).to_bytes(4, "little") + content


def put(image: FileDataset, table: bytes, *fragments: bytes) -> FileDataset:
    image.PixelData = item(table) + b"".join(item(one + bytes(len(one) % 2)) for one in fragments)
    image["PixelData"].is_undefined_length = True
    return image


def table_of(image: FileDataset) -> bytes:
    return next(generate_fragments(image.PixelData))


def true_offsets(image: FileDataset) -> list[int]:
    """Where frames of one fragment each begin."""
    _, *fragments = generate_fragments(image.PixelData)
    return [sum(8 + len(one) for one in fragments[:number]) for number in range(len(fragments))]


def same_pixels(found: FileDataset, name: str) -> bool:
    return np.array_equal(found.pixel_array, image_of(name).pixel_array)


@pytest.mark.parametrize("name", ONE_FRAME + MANY_FRAMES)
@pytest.mark.parametrize("text", [TEXT, TEXT[:4], bytes(4) + TEXT[:4], b"\xff" * 400])
def test_a_basic_table_of_text_becomes_the_true_one(text: bytes, name: str, tmp_path: Path) -> None:
    image = put(image_of(name), text, *frames_of(image_of(name)))
    found, content = treated(tmp_path, image)
    assert text not in content
    assert same_pixels(found, name)
    assert table_of(found) == struct.pack(f"<{len(true_offsets(found))}L", *true_offsets(found))


@pytest.mark.parametrize("name", [RLE, JPEG, *MANY_FRAMES])
@pytest.mark.parametrize("has_table", [True, False])
def test_a_basic_table_that_is_true_or_empty_stays(name: str, has_table: bool) -> None:
    image = image_of(name)
    image.PixelData = before = encapsulate(frames_of(image), has_bot=has_table)
    clean_codestreams(image)
    assert image.PixelData == before


@pytest.mark.parametrize("has_table", [True, False])
def test_offsets_are_true_or_left_out_as_before_when_frames_lose_a_comment(has_table: bool) -> None:
    image = image_of(JPEG_FRAMES)
    comment = b"\xff\xfe" + (len(TEXT) + 2).to_bytes(2, "big") + TEXT
    image.PixelData = encapsulate([f[:2] + comment + f[2:] for f in frames_of(image)], has_bot=has_table)
    clean_codestreams(image)
    offsets = true_offsets(image)
    assert len(offsets) == image.NumberOfFrames
    assert table_of(image) == (struct.pack(f"<{len(offsets)}L", *offsets) if has_table else b"")
    assert TEXT not in image.PixelData


def extended(image: FileDataset, offsets: bytes | None, lengths: bytes | None, table: bytes = b"") -> FileDataset:
    put(image, table, *frames_of(image))
    for tag, value in ((0x7FE00001, offsets), (0x7FE00002, lengths)):
        if value is not None:
            image.add_new(tag, "OV", value)
    return image


@pytest.mark.parametrize("name", ONE_FRAME + MANY_FRAMES)
@pytest.mark.parametrize("table", [b"", TEXT])
def test_an_extended_table_of_text_becomes_the_true_one_and_the_basic_one_empty(
    table: bytes, name: str, tmp_path: Path
) -> None:
    found, content = treated(tmp_path, extended(image_of(name), TEXT, TEXT[::-1], table))
    assert TEXT not in content
    assert TEXT[::-1] not in content
    assert table_of(found) == b""
    _, *fragments = generate_fragments(found.PixelData)
    assert found.ExtendedOffsetTable == struct.pack(f"<{len(fragments)}Q", *true_offsets(found))
    assert found.ExtendedOffsetTableLengths == struct.pack(f"<{len(fragments)}Q", *map(len, fragments))
    assert same_pixels(found, name)


@pytest.mark.parametrize(("offsets", "lengths"), [(TEXT, None), (None, TEXT)])
@pytest.mark.parametrize("name", [RLE, JPEG_FRAMES])
def test_half_an_extended_table_goes(name: str, offsets: bytes | None, lengths: bytes | None, tmp_path: Path) -> None:
    found, content = treated(tmp_path, extended(image_of(name), offsets, lengths))
    assert "ExtendedOffsetTable" not in found
    assert "ExtendedOffsetTableLengths" not in found
    assert TEXT not in content
    assert same_pixels(found, name)


@pytest.mark.parametrize("name", [RLE, *MANY_FRAMES])
@pytest.mark.parametrize("padded", [True, False])
def test_an_extended_table_that_is_true_stays(name: str, padded: bool, tmp_path: Path) -> None:
    image = image_of(name)
    content, offsets, lengths = encapsulate_extended(frames_of(image))
    if not padded:  # the byte that makes the length even may be counted or not
        (first,) = struct.unpack_from("<Q", lengths)
        lengths = struct.pack("<Q", first - 1) + lengths[8:]
    image.PixelData, image.ExtendedOffsetTable, image.ExtendedOffsetTableLengths = content, offsets, lengths
    image["PixelData"].is_undefined_length = True
    found, _ = treated(tmp_path, image)
    assert (found.PixelData, found.ExtendedOffsetTable) == (content, offsets)
    assert found.ExtendedOffsetTableLengths == lengths


@pytest.mark.parametrize("transfer_syntax", [builders.EXPLICIT_LITTLE, builders.IMPLICIT_LITTLE, builders.DEFLATED])
@pytest.mark.parametrize("pixels", ["PixelData", "FloatPixelData"])
def test_an_image_that_is_not_compressed_has_no_extended_table(
    pixels: str, transfer_syntax: str, tmp_path: Path
) -> None:
    image = builders.dataset("CT", ExtendedOffsetTable=TEXT, ExtendedOffsetTableLengths=TEXT)
    if pixels != "PixelData":
        del image.PixelData
        setattr(image, pixels, bytes(image.Rows * image.Columns * 4))
    found, content = treated(tmp_path, pydicom.dcmread(BytesIO(builders.encode(image, transfer_syntax))))
    assert "ExtendedOffsetTable" not in found
    assert "ExtendedOffsetTableLengths" not in found
    assert TEXT not in content


def by_extended(image: FileDataset, frames: list[bytes]) -> FileDataset:
    put(image, b"", *frames)
    image.ExtendedOffsetTable = image.ExtendedOffsetTableLengths = TEXT
    return image


def by_basic(image: FileDataset, frames: list[bytes]) -> FileDataset:
    return put(image, TEXT, *frames)


@pytest.mark.parametrize("lie", [by_basic, by_extended])
@pytest.mark.parametrize("transfer_syntax", [builders.RLE, builders.JPEG_2000])
def test_all_frames_are_blackened_whatever_the_tables_say(
    transfer_syntax: str, lie: Callable[[FileDataset, list[bytes]], FileDataset], tmp_path: Path
) -> None:
    made = screen(US_MULTIFRAME, photometric="MONOCHROME2", frames=3, rows=64, columns=64)
    compressed = pydicom.dcmread(BytesIO(builders.encode(made, transfer_syntax)))
    image = lie(compressed, frames_of(compressed))
    found, content = treated(tmp_path, image, pixel_rules=[{"Modality": "US", "rectangles": [[0, 0, 64, 10]]}])
    assert found.pixel_array.shape == (3, 64, 64)
    assert (found.pixel_array[:, :10] == 0).all()
    assert (found.pixel_array[:, 10:] == 200).all()
    assert TEXT not in content
    assert "ExtendedOffsetTable" not in found


def halves(frame: bytes) -> tuple[bytes, bytes]:
    middle = len(frame) // 4 * 2
    return frame[:middle], frame[middle:]


def test_frames_of_more_than_one_fragment_stay_byte_for_byte() -> None:
    image = image_of(JPEG_FRAMES)
    fragments = [half for frame in frames_of(image) for half in halves(frame)]
    put(image, b"", *fragments)
    table = struct.pack(f"<{len(fragments) // 2}L", *true_offsets(image)[::2])
    for basic in (b"", table):
        before = put(image, basic, *fragments).PixelData
        clean_codestreams(image)
        assert image.PixelData == before
        assert same_pixels(pydicom.dcmread(BytesIO(written(image))), JPEG_FRAMES)


def test_a_table_that_lies_does_not_take_fragments_from_their_frames() -> None:
    image = image_of(JPEG_FRAMES)
    fragments = [half for frame in frames_of(image) for half in halves(frame)]
    put(image, TEXT, *fragments)
    clean_codestreams(image)
    assert TEXT not in image.PixelData
    assert table_of(image) == struct.pack(f"<{len(fragments) // 2}L", *true_offsets(image)[::2])
    assert same_pixels(pydicom.dcmread(BytesIO(written(image))), JPEG_FRAMES)


@pytest.mark.parametrize(("name", "table"), [(RLE_FRAMES, True), (JPEG_FRAMES, True), (JPEG_FRAMES, False)])
def test_frames_behind_the_last_one_go(name: str, table: bool) -> None:
    image = image_of(name)
    image.PixelData = encapsulate([*frames_of(image), b"\xff\xd8" + TEXT + b"\xff\xd9"], has_bot=table)
    clean_codestreams(image)
    assert same_pixels(pydicom.dcmread(BytesIO(written(image))), name)
    assert TEXT not in image.PixelData


def test_fragments_of_which_nothing_says_where_frames_end_are_refused() -> None:
    image = image_of(RLE_FRAMES)
    image.PixelData = encapsulate([*frames_of(image), TEXT], has_bot=False)
    with pytest.raises(InstanceError, match="fewer frames"):
        clean_codestreams(image)


@pytest.mark.parametrize("name", MANY_FRAMES)
@pytest.mark.parametrize("table", [True, False])
def test_fewer_frames_than_an_instance_says_are_refused(name: str, table: bool) -> None:
    image = image_of(name)
    image.PixelData = encapsulate(frames_of(image)[:-1], has_bot=table)
    with pytest.raises(InstanceError, match="fewer frames"):
        clean_codestreams(image)


@pytest.mark.parametrize(
    "content", [b"", TEXT, item(b""), item(b"") + item(b"ab") + TEXT, item(b"") + item(b"abcd")[:-1], ITEM]
)
def test_what_is_no_row_of_fragments_is_refused(content: bytes) -> None:
    image = image_of(RLE)
    image.PixelData = content
    with pytest.raises(InstanceError):
        clean_codestreams(image)


@pytest.mark.parametrize(("table", "left"), [(TEXT, b""), (b"\0\0\0\1", b""), (bytes(4), bytes(4)), (b"", b"")])
def test_a_video_keeps_no_table_but_one_that_says_where_it_begins(table: bytes, left: bytes) -> None:
    image = put(image_of(JPEG), table, b"a video", b"in fragments")
    image.file_meta.TransferSyntaxUID, image.NumberOfFrames = UID(MPEG), 500
    image.ExtendedOffsetTable = image.ExtendedOffsetTableLengths = TEXT
    clean_codestreams(image)
    assert list(generate_fragments(image.PixelData)) == [left, b"a video\0", b"in fragments"]
    assert "ExtendedOffsetTable" not in image
    assert "ExtendedOffsetTableLengths" not in image
