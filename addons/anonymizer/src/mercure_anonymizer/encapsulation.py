"""Encapsulated pixels (PS3.5 A.4): their fragments, the frames that these make, and the tables that say where.

No viewer shows what stands in a table of offsets. So a table is believed only where each of its entries is the place
of a fragment, and what is written is the true one, or none. An extended table (PS3.3 C.7.6.3.1.8) belongs to
encapsulated pixels alone, and the basic one is empty beside it.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from struct import pack, unpack

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from mercure_anonymizer.elements import read_element
from mercure_anonymizer.errors import InstanceError

EXTENDED_TABLE, EXTENDED_LENGTHS = 0x7FE00001, 0x7FE00002
_ITEM = b"\xfe\xff\x00\xe0"
_HEAD_BYTES = 8
_END_OF_IMAGE = b"\xff\xd9"
_LARGEST_BASIC = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Taken:
    """Pixels taken apart."""

    table: bytes
    """The basic table, as it was."""
    pieces: list[bytes]
    """All fragments."""
    groups: list[list[bytes]]
    """The fragments of each frame; no more frames than the instance says it has."""

    @property
    def frames(self) -> list[bytes]:
        """Return the coded frames."""
        return [b"".join(group) for group in self.groups]


def drop_extended_tables(dataset: Dataset) -> None:
    """Remove the extended table and its lengths."""
    for tag in (EXTENDED_TABLE, EXTENDED_LENGTHS):
        if tag in dataset:
            del dataset[tag]


def drop_tables(dataset: Dataset) -> None:
    """Empty the basic table and remove the extended one. The basic one of a video may say that it begins at 0."""
    drop_extended_tables(dataset)
    table, _ = _pieces(dataset.PixelData)
    if any(table) or len(table) > 4:
        dataset.PixelData = _item(b"") + dataset.PixelData[_HEAD_BYTES + len(table) :]


def take_frames(dataset: Dataset) -> Taken:
    """Take the pixels apart. Raises `InstanceError` when there are fewer frames than the instance says."""
    table, pieces = _pieces(dataset.PixelData)
    count = max(1, int(dataset.get("NumberOfFrames") or 1))
    starts = _starts([[piece] for piece in pieces])
    extended = _bytes_of(dataset, EXTENDED_TABLE)
    offsets = _believed(_numbers(extended, "Q", 8), starts, count) or _believed(_numbers(table, "L", 4), starts, count)
    groups = _by_offsets(pieces, starts, offsets) if offsets else _by_ends(pieces, count)
    if len(groups) < count:
        raise InstanceError("the pixel data is cut off: there are fewer frames than the instance says")
    return Taken(table, pieces, groups[:count])


def put_frames(dataset: Dataset, taken: Taken, frames: list[bytes]) -> None:
    """Put frames in the place of those that were taken, with tables that are true where there were any.

    Pixels in which nothing changes stay byte for byte.
    """
    groups = taken.groups if frames == taken.frames else [[_even(frame)] for frame in frames]
    has_extended = EXTENDED_TABLE in dataset and EXTENDED_LENGTHS in dataset
    if has_extended:
        groups = [[b"".join(group)] for group in groups]  # one fragment for each frame
        _put_extended(dataset, groups)
    else:
        drop_extended_tables(dataset)
    starts = _starts(groups)
    fits = not has_extended and starts[-1] <= _LARGEST_BASIC
    table = pack(f"<{len(starts)}L", *starts) if taken.table and fits else b""
    pieces = [piece for group in groups for piece in group]
    if table != taken.table or pieces != taken.pieces:
        dataset.PixelData = b"".join((_item(table), *(_item(piece) for piece in pieces)))
        dataset["PixelData"].is_undefined_length = True


def settle_tables(dataset: Dataset) -> None:
    """Make tables true, and leave out what is behind the last frame."""
    taken = take_frames(dataset)
    put_frames(dataset, taken, taken.frames)


def _item(content: bytes) -> bytes:
    return _ITEM + len(content).to_bytes(4, "little") + content


def _even(frame: bytes) -> bytes:
    return frame + bytes(len(frame) % 2)


def _pieces(content: bytes) -> tuple[bytes, list[bytes]]:
    """Return the basic table and the fragments. Raises `InstanceError` for anything else between or behind them."""
    position, found = 0, []
    while content[position : position + 4] == _ITEM:
        begin = position + _HEAD_BYTES
        position = begin + int.from_bytes(content[position + 4 : begin], "little")
        found.append(content[begin:position])
    if position != len(content) or len(found) < 2:
        raise InstanceError("the pixel data is cut off, or holds what is no fragment")
    return found[0], found[1:]


def _starts(groups: list[list[bytes]]) -> list[int]:
    """Return where the first fragment of each frame begins, counted from behind the basic table."""
    sizes = [sum(_HEAD_BYTES + len(piece) for piece in group) for group in groups]
    return list(accumulate(sizes[:-1], initial=0))


def _bytes_of(dataset: Dataset, tag: int) -> bytes:
    element = read_element(dataset, BaseTag(tag)) if tag in dataset else None
    return element.value if element is not None and isinstance(element.value, bytes) else b""


def _numbers(table: bytes, kind: str, size: int) -> list[int]:
    return list(unpack(f"<{len(table) // size}{kind}", table)) if len(table) % size == 0 else []


def _believed(offsets: list[int], starts: list[int], count: int) -> list[int]:
    """Return the offsets if each is the place of a fragment, in order from the first, and no frame lacks; else none."""
    is_true = offsets[:1] == [0] and set(offsets) <= set(starts) and all(a < b for a, b in pairwise(offsets))
    return offsets if is_true and len(offsets) >= count else []


def _by_offsets(pieces: list[bytes], starts: list[int], offsets: list[int]) -> list[list[bytes]]:
    groups: list[list[bytes]] = []
    first = set(offsets)
    for start, piece in zip(starts, pieces, strict=True):
        if start in first:
            groups.append([])
        groups[-1].append(piece)
    return groups


def _by_ends(pieces: list[bytes], count: int) -> list[list[bytes]]:
    """Without a table: one fragment for each frame, all for one, or else each frame to the end of its image."""
    if count == 1:
        return [pieces]
    if len(pieces) <= count:
        return [[piece] for piece in pieces]
    groups: list[list[bytes]] = [[]]
    for piece in pieces:
        groups[-1].append(piece)
        if _END_OF_IMAGE in piece[-10:]:
            groups.append([])
    return [group for group in groups if group]


def _put_extended(dataset: Dataset, groups: list[list[bytes]]) -> None:
    """Write the extended table; lengths stay where they are true but for a byte that makes them even."""
    starts, sizes = _starts(groups), [len(group[0]) for group in groups]
    said = _numbers(_bytes_of(dataset, EXTENDED_LENGTHS), "Q", 8)
    if len(said) == len(sizes) and all(0 <= size - one <= 1 for one, size in zip(said, sizes, strict=True)):
        sizes = said
    dataset.add_new(EXTENDED_TABLE, "OV", pack(f"<{len(starts)}Q", *starts))
    dataset.add_new(EXTENDED_LENGTHS, "OV", pack(f"<{len(sizes)}Q", *sizes))
