"""What hides inside of compressed images: comments, application data, bytes behind the end, and tables of offsets.

JPEG and JPEG-LS (ITU-T T.81 B.1.1, T.87 C.1), JPEG 2000 (ITU-T T.800 A.4 and A.9.2) and RLE (PS3.5 Annex G). Encoders
may write text there, and no data set shows it. No pixel changes.
"""

from collections.abc import Callable, Iterator

from pydicom.dataset import FileDataset

from mercure_anonymizer.encapsulation import drop_extended_tables, drop_tables, put_frames, take_frames
from mercure_anonymizer.errors import InstanceError
from mercure_anonymizer.rle import exact_rle

_SYNTAX = "1.2.840.10008.1.2.4."
_JPEG_LS = frozenset(f"{_SYNTAX}{number}" for number in (80, 81))
_JPEG = frozenset(f"{_SYNTAX}{number}" for number in (*range(50, 67), 70))
_JPEG_2000 = frozenset(f"{_SYNTAX}{number}" for number in (90, 91, 92, 93, 201, 202, 203))
_JPEG_XL = frozenset(f"{_SYNTAX}{number}" for number in (110, 111, 112))
_VIDEO = frozenset(f"{_SYNTAX}{number}" for number in range(100, 109))
_RLE = "1.2.840.10008.1.2.5"
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_JPEG_START, _JPEG_2000_START, _JPEG_XL_START = b"\xff\xd8", b"\xff\x4f", b"\xff\x0a"
_CODE_END = b"\xff\xd9"
_RESTARTS = range(0xD0, 0xD8)
_TABLES = frozenset({*range(0xC0, 0xD0), 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xF7, 0xF8}) - {0xC8}
"""Segments that decoders need: frames, tables, restart intervals, and those of JPEG-LS."""
_APPLICATION = {0xE0: (b"JFIF\0", 14), 0xE8: (b"mrfx", 5), 0xEE: (b"Adobe", 12)}
"""Application data that say how colours are coded: how they begin, and how long they are without anything else."""

_COMMENT_2000, _TILE, _TILE_DATA = 0x64, 0x90, b"\xff\x93"


def clean_codestreams(dataset: FileDataset) -> None:
    """Take out of all frames of compressed pixel data what is not image, and out of tables of offsets what is not true.

    Pixel data without any is left as it is, byte for byte. Raises `InstanceError` when a frame is not what its transfer
    syntax says, or the syntax is not known here: then it may hold anything. Video stays as it is.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if "PixelData" not in dataset or not syntax.is_encapsulated:
        drop_extended_tables(dataset)
    elif str(syntax) in _VIDEO:
        drop_tables(dataset)
    else:
        clean = _cleaner(str(syntax), dataset)
        taken = take_frames(dataset)
        put_frames(dataset, taken, [_but_for_padding(frame, clean(frame)) for frame in taken.frames])


def _cleaner(syntax: str, dataset: FileDataset) -> Callable[[bytes], bytes]:
    if syntax in _JPEG | _JPEG_LS:
        return lambda frame: _clean_jpeg(frame, jpeg_ls=syntax in _JPEG_LS)
    if syntax in _JPEG_2000:
        return _clean_jpeg_2000
    if syntax in _JPEG_XL:
        return _clean_jpeg_xl
    if syntax == _RLE:
        pixels = int(dataset.Rows) * int(dataset.Columns)
        segments = int(dataset.SamplesPerPixel) * int(dataset.BitsAllocated) // 8
        return lambda frame: exact_rle(frame, pixels, segments)
    raise InstanceError("nobody knows what may hide in pixel data of this transfer syntax")


def _but_for_padding(frame: bytes, cleaned: bytes) -> bytes:
    """Return the frame itself where only the byte is missing that made its length even."""
    return frame if len(frame) - len(cleaned) == 1 and frame[:-1] == cleaned and frame[-1] in (0, 0xFF) else cleaned


def _check_start(frame: bytes, start: bytes) -> None:
    if not frame.startswith(start):
        raise InstanceError("a compressed frame does not begin as its transfer syntax says")


def _clean_jpeg_xl(frame: bytes) -> bytes:
    """Return the frame: without a container it has no place for text. What follows its end is not looked for."""
    _check_start(frame, _JPEG_XL_START)
    return frame


def _segment_end(frame: bytes, begin: int) -> int:
    """Return where the marker segment at `begin` ends. Raises `InstanceError` when that is behind the frame."""
    end = begin + 2 + int.from_bytes(frame[begin + 2 : begin + 4], "big")
    if end > len(frame) or end < begin + 4:
        raise InstanceError("a compressed frame is cut off")
    return end


# -- JPEG and JPEG-LS ------------------------------------------------------------------------------------------------


def _clean_jpeg(frame: bytes, *, jpeg_ls: bool) -> bytes:
    _check_start(frame, _JPEG_START)
    return b"".join((_JPEG_START, *_jpeg_parts(frame, jpeg_ls=jpeg_ls)))


def _jpeg_parts(frame: bytes, *, jpeg_ls: bool) -> Iterator[bytes]:
    """Yield what stays: needed segments, coded data, and the end; nothing that follows it."""
    position = 2
    while position + 2 <= len(frame):
        marker = frame[position + 1]
        if frame[position] != 0xFF:
            raise InstanceError("a compressed frame holds what is no segment")
        if marker == 0xFF:  # fill bytes may stand before any marker
            position += 1
            continue
        if marker == _END:
            yield _CODE_END
            return
        end = _segment_end(frame, position)
        if marker == _SCAN:
            end = _end_of_scan(frame, end, jpeg_ls=jpeg_ls)
            yield frame[position:end]
        elif marker in _TABLES:
            yield frame[position:end]
        elif marker in _APPLICATION:
            yield _application(marker, frame[position + 4 : end])
        elif marker != 0xFE and marker < 0xE0:
            raise InstanceError("a compressed frame holds a segment that nobody knows")
        position = end


def _end_of_scan(frame: bytes, position: int, *, jpeg_ls: bool) -> int:
    """Return where the coded data end: at a marker that is neither a restart nor a stuffed byte."""
    while (position := frame.find(b"\xff", position)) >= 0 and position + 1 < len(frame):
        following = frame[position + 1]
        if following == 0xFF:
            position += 1
        elif following in _RESTARTS or following == 0 or (jpeg_ls and following < 0x80):
            position += 2
        else:
            return position
    return len(frame)


def _application(marker: int, payload: bytes) -> bytes:
    start, length = _APPLICATION[marker]
    if not payload.startswith(start) or len(payload) < length:
        return b""
    payload = payload[:length]
    if marker == 0xE0:
        payload = payload[:-2] + b"\0\0"  # no thumbnail
    return bytes((0xFF, marker)) + (length + 2).to_bytes(2, "big") + payload


# -- JPEG 2000 -------------------------------------------------------------------------------------------------------


def _clean_jpeg_2000(frame: bytes) -> bytes:
    _check_start(frame, _JPEG_2000_START)
    position, parts = 2, [_JPEG_2000_START]
    while frame[position : position + 2] not in (bytes((0xFF, _TILE)), _CODE_END):
        if position + 4 > len(frame) or frame[position] != 0xFF:
            raise InstanceError("a compressed frame is cut off")
        end = _segment_end(frame, position)
        if frame[position + 1] != _COMMENT_2000:
            parts.append(frame[position:end])
        position = end
    while frame[position : position + 2] == bytes((0xFF, _TILE)):
        end = _end_of_tile(frame, position)
        parts.append(_without_tile_comments(frame[position:end]))
        position = end
    if frame[position : position + 2] not in (_CODE_END, b""):
        raise InstanceError("a compressed frame holds what is no tile")
    return b"".join((*parts, _CODE_END))


def _end_of_tile(frame: bytes, position: int) -> int:
    """Return where the part of a tile ends. The last may leave its length open: no coded data hold the end marker."""
    length = int.from_bytes(frame[position + 6 : position + 10], "big")
    if length == 0:
        data = frame.find(_TILE_DATA, position)
        end = frame.find(_CODE_END, data) if data >= 0 else -1
        return end if end >= 0 else len(frame)
    if length < 14 or position + length > len(frame):
        raise InstanceError("a compressed frame is cut off")
    return position + length


def _without_tile_comments(tile: bytes) -> bytes:
    """Return the part of a tile with empty comments: its length, which stands in other places too, does not change."""
    cleaned, position = bytearray(tile), _segment_end(tile, 0)
    while tile[position : position + 2] != _TILE_DATA:
        end = _segment_end(tile, position)
        if tile[position + 1] == _COMMENT_2000:
            cleaned[position + 6 : end] = bytes(end - position - 6)
        position = end
    return bytes(cleaned)
