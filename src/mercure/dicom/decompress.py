"""Decompression of pixel data, frame by frame: what becomes of the element and of those that describe it.

Only pydicom with GDCM and OpenJPEG is used here, and it is imported only when something has to be decompressed.
"""

import itertools
import struct
from collections.abc import Generator
from typing import Any, BinaryIO

from mercure.dicom.reencode import UNDEFINED, PixelPlan, Sink, TranscodeError

_PHOTOMETRIC_INTERPRETATION = 0x00280004
_PLANAR_CONFIGURATION = 0x00280006
_DESCRIPTION = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
_MOST_PIXEL_BYTES = 0xFFFFFFFE
_JPEG = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"})
"""Lossy JPEG keeps colours as YCbCr, and every reader makes RGB of it. Lossless data keeps its colour space."""


def pixel_format(path: str) -> tuple[int, bool]:
    """Return bits allocated and whether pixels are signed, as the data set says; (16, False) when it says nothing."""
    with open(path, "rb") as file:
        found = _read_description(file)
    try:
        return int(found.get("BitsAllocated") or 16), found.get("PixelRepresentation") == 1
    except (TypeError, ValueError):
        raise TranscodeError("the image pixel module cannot be read") from None


def plan_decompression(path: str, transfer_syntax_uid: str) -> PixelPlan:
    """Decode the first frame and say what the uncompressed element will be; further frames follow while it is written.

    Raises `TranscodeError` when there is no decoder, or the decoder fails.
    """
    decoded = _decoded(path, transfer_syntax_uid)
    count, bits_allocated, photometric_interpretation = next(decoded)
    width = bits_allocated // 8
    first, properties = next(decoded)
    size = first.size * width * count
    if first.itemsize > width or size > _MOST_PIXEL_BYTES:
        raise TranscodeError(f"{count} frames of {first.size} pixels do not fit into uncompressed pixel data")

    def write(sink: Sink) -> None:
        for frame in itertools.chain([first], (frame for frame, _ in decoded)):
            sink.write(frame.astype(f"<{frame.dtype.kind}{width}", copy=False).tobytes())
        sink.write(bytes(size % 2))

    values = _described_by(properties, photometric_interpretation)
    return PixelPlan(values, "OB" if width == 1 else "OW", size + size % 2, write)


def _decoded(path: str, transfer_syntax_uid: str) -> Generator[Any, None, None]:
    """Yield number of frames, bits allocated and photometric interpretation; then each frame with its properties."""
    try:
        with open(path, "rb") as file:
            yield from _decode(file, transfer_syntax_uid)
    except (TranscodeError, OSError, GeneratorExit):
        raise
    except Exception as error:  # noqa: BLE001  # decoders raise what they like
        raise _failure(transfer_syntax_uid, error) from None


def _decode(file: BinaryIO, transfer_syntax_uid: str) -> Generator[Any, None, None]:
    from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415  # heavy, see above
    from pydicom.pixels.utils import as_pixel_options  # noqa: PLC0415
    from pydicom.uid import UID  # noqa: PLC0415

    syntax = UID(transfer_syntax_uid)
    description = _read_description(file)
    decoder = get_decoder(syntax)
    options = as_pixel_options(description, transfer_syntax_uid=syntax, pixel_keyword="PixelData", pixel_vr="OB")
    count = max(1, int(description.get("NumberOfFrames") or 1))
    yield count, int(description.BitsAllocated), str(description.get("PhotometricInterpretation", ""))
    _enter_pixel_data(file)
    _check_frame_count(file, count)
    # With indices each frame has memory of its own; without, pydicom tries to correct signs in read-only memory.
    yield from decoder.iter_array(file, indices=range(count), as_rgb=transfer_syntax_uid in _JPEG, **options)


def _check_frame_count(file: BinaryIO, count: int) -> None:
    """Refuse to lose frames that stand in the basic offset table, but not in Number of Frames."""
    start = file.tell()
    length = struct.unpack("<4xI", file.read(8))[0]
    file.seek(start)
    if length // 4 > count:
        raise TranscodeError(f"there are {length // 4} compressed frames, but {count} in the header")


def _described_by(properties: dict[str, Any], photometric_interpretation: str) -> dict[int, bytes]:
    """Return the values of elements that have to change with the pixels."""
    values = {}
    interpretation = str(properties["photometric_interpretation"])
    if interpretation == "YBR_FULL_422":
        interpretation = "YBR_FULL"  # decoders give every pixel its colour
    if interpretation != photometric_interpretation:
        text = interpretation.encode("ascii")
        values[_PHOTOMETRIC_INTERPRETATION] = text + b" " * (len(text) % 2)
    if properties["samples_per_pixel"] > 1:
        values[_PLANAR_CONFIGURATION] = b"\0\0"
    return values


def _read_description(file: BinaryIO) -> Any:
    """Read what describes the pixels; the file stands before the pixel data, if there is any, then."""
    from pydicom import dcmread  # noqa: PLC0415

    file.seek(0)
    try:
        return dcmread(file, stop_before_pixels=True, specific_tags=list(_DESCRIPTION))
    except Exception as error:  # noqa: BLE001  # the file is a stranger's: pydicom raises what it likes
        raise TranscodeError(f"the data set cannot be read ({type(error).__name__})") from None


def _enter_pixel_data(file: BinaryIO) -> None:
    header = file.read(12)
    if len(header) < 12 or header[:4] != b"\xe0\x7f\x10\0" or struct.unpack_from("<I", header, 8)[0] != UNDEFINED:
        raise TranscodeError("the data set has no compressed pixel data")


def _failure(transfer_syntax_uid: str, error: Exception) -> TranscodeError:
    from pydicom.uid import UID  # noqa: PLC0415

    why = " ".join(str(error).split())[:300]
    return TranscodeError(f"{UID(transfer_syntax_uid).name} cannot be decompressed: {why}")
