"""Nothing hides inside of compressed frames: not behind their end, not between scans, tiles or segments."""

import struct
from collections.abc import Callable
from io import BytesIO

import pydicom
import pytest
from mercure_anonymizer.codestreams import clean_codestreams
from mercure_anonymizer.errors import InstanceError
from mercure_anonymizer.rle import exact_rle
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID

TEXT = b"SMITH JANE"
COMMENT = b"\xff\xfe" + (len(TEXT) + 2).to_bytes(2, "big") + TEXT
COMMENT_2000 = b"\xff\x64" + (len(TEXT) + 4).to_bytes(2, "big") + b"\0\1" + TEXT
LOSSY, LOSSLESS, LS = "SC_rgb_dcmtk_+eb+cy+n1.dcm", "SC_rgb_jpeg_gdcm.dcm", "MR_small_jpeg_ls_lossless.dcm"
JPEG_2000, RLE = "MR_small_jp2klossless.dcm", "MR_small_RLE.dcm"


def image_of(name: str) -> FileDataset:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return pydicom.dcmread(path)


def frame_of(image: FileDataset) -> bytes:
    return next(generate_frames(image.PixelData, number_of_frames=1))


def with_frame(image: FileDataset, frame: bytes) -> FileDataset:
    image.PixelData = encapsulate([frame])
    image["PixelData"].is_undefined_length = True
    return image


def before_end(frame: bytes) -> bytes:
    at = frame.rindex(b"\xff\xd9")
    return frame[:at] + COMMENT + frame[at:]


def behind_end(frame: bytes) -> bytes:
    return frame[: frame.rindex(b"\xff\xd9") + 2] + TEXT


def in_jfif(frame: bytes) -> bytes:
    payload = b"JFIF\0\1\1\0\0\1\0\1\1\3" + TEXT[:9]
    return frame[:2] + b"\xff\xe0" + (len(payload) + 2).to_bytes(2, "big") + payload + frame[2:]


def in_other_application(frame: bytes) -> bytes:
    return b"".join(
        (
            frame[:2],
            *(bytes((0xFF, marker)) + COMMENT[2:] for marker in (0xE0, 0xE8, 0xEE, 0xF0)),
            frame[2:],
        )
    )


@pytest.mark.parametrize(
    ("name", "hide"),
    [
        *((name, hide) for name in (LOSSY, LOSSLESS, LS) for hide in (before_end, behind_end, in_other_application)),
        *((name, in_jfif) for name in (LOSSY, LS)),  # it says that colours are YBR: those of the other are not
    ],
)
def test_jpeg_keeps_no_text_wherever_it_stands(name: str, hide: Callable[[bytes], bytes]) -> None:
    before = image_of(name).pixel_array
    image = with_frame(image_of(name), hide(frame_of(image_of(name))))
    assert TEXT[:9] in image.PixelData
    clean_codestreams(image)
    assert TEXT[:9] not in image.PixelData
    assert (pydicom.dcmread(_written(image)).pixel_array == before).all()


def _written(image: FileDataset) -> BytesIO:
    buffer = BytesIO()
    image.save_as(buffer)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("number", [*range(50, 67), 70])
def test_all_processes_of_jpeg_are_cleaned(number: int) -> None:
    image = with_frame(image_of(LOSSLESS), behind_end(frame_of(image_of(LOSSLESS))))
    image.file_meta.TransferSyntaxUID = UID(f"1.2.840.10008.1.2.4.{number}")
    clean_codestreams(image)
    assert TEXT not in image.PixelData


@pytest.mark.parametrize("name", [LOSSY, LOSSLESS, LS, RLE, "SC_rgb_rle_16bit_2frame.dcm", "examples_ybr_color.dcm"])
def test_images_in_which_nothing_hides_stay_byte_for_byte(name: str) -> None:
    image = image_of(name)
    before = image.PixelData
    clean_codestreams(image)
    assert image.PixelData == before


def in_header_of_tile(frame: bytes) -> bytes:
    tile = frame.index(b"\xff\x90\x00\x0a")
    data = frame.index(b"\xff\x93", tile)
    length = int.from_bytes(frame[tile + 6 : tile + 10], "big") + len(COMMENT_2000)
    return frame[: tile + 6] + length.to_bytes(4, "big") + frame[tile + 10 : data] + COMMENT_2000 + frame[data:]


def behind_open_tile(frame: bytes) -> bytes:
    tile = frame.index(b"\xff\x90\x00\x0a")
    return behind_end(frame[: tile + 6] + bytes(4) + frame[tile + 10 :])


@pytest.mark.parametrize("hide", [in_header_of_tile, behind_end, behind_open_tile])
def test_jpeg_2000_keeps_no_text_wherever_it_stands(hide: Callable[[bytes], bytes]) -> None:
    before = image_of(JPEG_2000).pixel_array
    image = with_frame(image_of(JPEG_2000), hide(frame_of(image_of(JPEG_2000))))
    assert TEXT in image.PixelData
    clean_codestreams(image)
    assert TEXT not in image.PixelData
    assert (pydicom.dcmread(_written(image)).pixel_array == before).all()


def between_segments(frame: bytes) -> bytes:
    second = struct.unpack_from("<L", frame, 8)[0]
    header = frame[:8] + struct.pack("<L", second + len(TEXT)) + frame[12:64]
    return header + frame[64:second] + TEXT + frame[second:]


@pytest.mark.parametrize(
    "hide", [between_segments, lambda frame: frame + TEXT, lambda frame: frame[:44] + TEXT + frame[54:]]
)
def test_rle_keeps_no_text_wherever_it_stands(hide: Callable[[bytes], bytes]) -> None:
    before = image_of(RLE).pixel_array
    image = with_frame(image_of(RLE), hide(frame_of(image_of(RLE))))
    assert TEXT in image.PixelData
    clean_codestreams(image)
    assert TEXT not in image.PixelData
    assert (pydicom.dcmread(_written(image)).pixel_array == before).all()


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        TEXT,
        struct.pack("<16L", 1, 64, *[0] * 14),
        struct.pack("<16L", 1, 64, *[0] * 14) + b"\x7f" + TEXT,
        struct.pack("<16L", 1, 60, *[0] * 14) + TEXT * 20,
        struct.pack("<16L", 2, 64, 70, *[0] * 13) + TEXT * 20,
    ],
)
def test_rle_that_is_not_what_its_header_says_is_refused(frame: bytes) -> None:
    with pytest.raises(InstanceError):
        exact_rle(frame, 100, 1)


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        (LOSSY, b"\xff\xd8" + TEXT),
        (LOSSY, b"\xff\xd8\xff\x4f\x00\x0c" + TEXT),
        (LOSSY, b"\xff\xd8\xff\xdb\x00\x00" + TEXT),
        (LOSSY, b"\xff\xd8\xff\xdb\x7f\x00" + TEXT),
        (JPEG_2000, b"\xff\x4f" + TEXT),
        (JPEG_2000, b"\xff\x4f\xff\x90\x00\x0a\x00\x00\x00\x00\x7f\x00" + TEXT),
        (JPEG_2000, b"\xff\x4f\xff\x90\x00\x0a\x00\x00\x00\x00\x00\x0e\x00\x01\xff\x93" + TEXT),
    ],
)
def test_frames_that_nobody_understands_are_refused(name: str, frame: bytes) -> None:
    with pytest.raises(InstanceError):
        clean_codestreams(with_frame(image_of(name), frame))


def test_jpeg_xl_is_refused_in_a_container_which_may_hold_text() -> None:
    image = with_frame(image_of(LOSSY), b"\xff\x0a" + bytes(10))
    image.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.110")
    clean_codestreams(image)
    with pytest.raises(InstanceError, match="does not begin"):
        clean_codestreams(with_frame(image, b"\0\0\0\x0cJXL " + TEXT))


def test_frames_of_an_unknown_syntax_are_refused() -> None:
    image = image_of(LOSSY)
    image.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1.98")
    with pytest.raises(InstanceError, match="transfer syntax"):
        clean_codestreams(image)


def test_fragments_behind_the_last_frame_go() -> None:
    image = image_of(LOSSY)
    frame = frame_of(image)
    image.PixelData = encapsulate([frame, b"\xff\xd8" + TEXT + b"\xff\xd9", frame])
    image["PixelData"].is_undefined_length = True
    image.NumberOfFrames = 1
    clean_codestreams(image)
    assert TEXT not in image.PixelData
