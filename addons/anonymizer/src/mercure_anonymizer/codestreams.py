"""Comments inside of compressed images: JPEG, JPEG-LS (ITU-T T.81 B.2.4, T.87) and JPEG 2000 (ITU-T T.800 A.9.2).

Encoders may write text there, and no data set shows it. Whole marker segments are taken out; no pixel changes.
"""

from collections.abc import Iterator

from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames

from mercure_anonymizer.errors import InstanceError

_SYNTAX = "1.2.840.10008.1.2.4."
_JPEG = frozenset(f"{_SYNTAX}{number}" for number in (50, 51, 57, 70, 80, 81))
_JPEG_2000 = frozenset(f"{_SYNTAX}{number}" for number in (90, 91, 92, 93, 201, 202, 203))
_JPEG_START, _JPEG_2000_START = b"\xff\xd8", b"\xff\x4f"
_JPEG_TEXT = frozenset({0xFE, *range(0xE1, 0xEE), 0xEF})
"""Comments and application data, but for JFIF (APP0) and Adobe's colour transform (APP14)."""

_JPEG_2000_TEXT = frozenset({0x64})
_SCAN, _FIRST_TILE = 0xDA, 0x90


def clean_codestreams(dataset: FileDataset) -> None:
    """Take comments out of all frames of compressed pixel data.

    Pixel data without any is left as it is, byte for byte. Raises `InstanceError` when a frame does not begin as its
    transfer syntax says: then it may hold anything.
    """
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if "PixelData" not in dataset or syntax not in _JPEG | _JPEG_2000:
        return
    count = max(1, int(dataset.get("NumberOfFrames") or 1))
    extended = None
    if "ExtendedOffsetTable" in dataset:
        extended = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=extended))
    cleaned = [_without_text(frame, jpeg_2000=syntax in _JPEG_2000) for frame in frames]
    if cleaned == frames:
        return
    if extended:
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(
            cleaned
        )
    else:
        dataset.PixelData = encapsulate(cleaned)
    dataset["PixelData"].is_undefined_length = True


def _without_text(frame: bytes, *, jpeg_2000: bool) -> bytes:
    start = _JPEG_2000_START if jpeg_2000 else _JPEG_START
    if not frame.startswith(start):
        raise InstanceError("a compressed frame does not begin as its transfer syntax says")
    unwanted = _JPEG_2000_TEXT if jpeg_2000 else _JPEG_TEXT
    parts, rest = [start], 2
    for marker, begin, end in _segments(frame):
        if marker not in unwanted:
            parts.append(frame[begin:end])
        rest = end
    return b"".join((*parts, frame[rest:]))


def _segments(frame: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, begin and end of the segments before the first scan or tile."""
    position = 2
    while position + 4 <= len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker in (_SCAN, _FIRST_TILE):
            return
        if marker == 0xFF:  # fill bytes may stand before any marker
            yield 0, position, position + 1
            position += 1
            continue
        end = position + 2 + int.from_bytes(frame[position + 2 : position + 4], "big")
        if end > len(frame):
            raise InstanceError("a compressed frame is cut off")
        yield marker, position, end
        position = end
