"""Frames of RLE (PS3.5 Annex G), cut to what decodes to pixels."""

import struct

from mercure_anonymizer.errors import InstanceError

_HEADER = struct.Struct("<16L")
_MOST_SEGMENTS = 15
_PADDING = b"\0\x80"
"""Bytes that encoders append to make a length even: nothing, and a code that does nothing."""


def exact_rle(frame: bytes, pixels: int, segments: int) -> bytes:
    """Return the frame without bytes between and behind its segments.

    `pixels` is the number of bytes that each of the `segments` decodes to. The frame itself is returned when there is
    nothing but padding. Raises `InstanceError` when it is not what its header says.
    """
    if len(frame) < _HEADER.size:
        raise InstanceError("a compressed frame is cut off")
    count, *offsets = _HEADER.unpack_from(frame)
    if count != segments or not 1 <= count <= _MOST_SEGMENTS:
        raise InstanceError("a compressed frame does not begin as its transfer syntax says")
    starts = offsets[:count]
    if starts[0] != _HEADER.size or starts != sorted(starts) or starts[-1] >= len(frame):
        raise InstanceError("a compressed frame does not begin as its transfer syntax says")
    ends = [*starts[1:], len(frame)]
    coded = [frame[start : _end_of_segment(frame, start, end, pixels)] for start, end in zip(starts, ends, strict=True)]
    rest = [frame[start + len(one) : end] for start, end, one in zip(starts, ends, coded, strict=True)]
    if not any(offsets[count:]) and not any(_hides(one) for one in rest):
        return frame
    return _joined([one + bytes(len(one) % 2) for one in coded])


def _hides(rest: bytes) -> bool:
    return len(rest) > 1 or not set(rest) <= set(_PADDING)


def _end_of_segment(frame: bytes, position: int, end: int, pixels: int) -> int:
    """Return where the codes end that make so many bytes (Annex G.3.2)."""
    made = 0
    while made < pixels:
        if position >= end:
            raise InstanceError("a compressed frame is cut off")
        code = frame[position]
        if code < 128:
            made += code + 1
            position += code + 2
        elif code > 128:
            made += 257 - code
            position += 2
        else:
            position += 1
    if position > end:
        raise InstanceError("a compressed frame is cut off")
    return position


def _joined(segments: list[bytes]) -> bytes:
    offsets, position = [], _HEADER.size
    for one in segments:
        offsets.append(position)
        position += len(one)
    unused = [0] * (_MOST_SEGMENTS - len(offsets))
    return b"".join((_HEADER.pack(len(offsets), *offsets, *unused), *segments))
