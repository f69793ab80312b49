"""Data sets of every shape: whole ones are taken, cut ones are not, and mutated ones get an answer."""

import struct
import tempfile
import zlib
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercure.dicom import uids
from mercure.dicom.completeness import check_whole
from mercure.dicom.data_set_bytes import BrokenDataSetError
from mercure.dicom.part10 import FileMeta

PLAIN = {
    uids.EXPLICIT_VR_LITTLE_ENDIAN: ("<", True),
    uids.IMPLICIT_VR_LITTLE_ENDIAN: ("<", False),
    uids.EXPLICIT_VR_BIG_ENDIAN: (">", True),
}
UNDEFINED = 0xFFFFFFFF
SHORT, LONG = (b"UI", b"LO", b"US", b"ZZ"), (b"OB", b"UT", b"UN", b"OV", b"ZY")


@dataclass(frozen=True)
class Leaf:
    vr: bytes
    value: bytes


@dataclass(frozen=True)
class Group:
    """A sequence: its items, each a data set, and whether lengths are defined, of itself and of each item."""

    items: tuple[tuple["DataSet", bool], ...]
    is_defined: bool
    is_unknown: bool


@dataclass(frozen=True)
class Fragments:
    parts: tuple[bytes, ...]


Value = Leaf | Group | Fragments
DataSet = dict[int, Value]

TAGS = st.integers(0x00080000, 0x7FDFFFFF)
LEAVES = st.builds(Leaf, st.sampled_from(SHORT), st.binary(min_size=1, max_size=40)) | st.builds(
    Leaf, st.sampled_from(LONG), st.binary(max_size=40)
)


def _groups(inner: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    items = st.tuples(st.dictionaries(TAGS, inner, max_size=3), st.booleans())
    return st.builds(Group, st.lists(items, max_size=3).map(tuple), st.booleans(), st.booleans())


DATA_SETS = st.builds(
    lambda elements, pixels: {**elements, **({} if pixels is None else {0x7FE00010: pixels})},
    st.dictionaries(TAGS, st.recursive(LEAVES, _groups, max_leaves=6), min_size=1, max_size=5),
    st.none()
    | st.builds(Leaf, st.just(b"OW"), st.binary(max_size=5000))
    | st.builds(Fragments, st.lists(st.binary(max_size=60), max_size=4).map(tuple)),
)


def encoded(elements: DataSet, order: str, explicit: bool) -> list[bytes]:
    """The elements of a data set, in order of their tags."""
    return [_element(tag, elements[tag], order, explicit) for tag in sorted(elements)]


def _element(tag: int, value: Value, order: str, explicit: bool) -> bytes:
    if isinstance(value, Leaf):
        return _header(tag, value.vr, len(value.value), order, explicit) + value.value
    if isinstance(value, Fragments):
        content = b"".join(_plain(0xFFFEE000, len(part), order) + part for part in value.parts)
        return _header(tag, b"OB", UNDEFINED, order, explicit) + content + _plain(0xFFFEE0DD, 0, order)
    vr, within = b"SQ", (order, explicit)
    if value.is_unknown:
        vr, within = b"UN", ("<", False)
    content = b"".join(_item(*one, *within) for one in value.items)
    if value.is_defined:
        return _header(tag, vr, len(content), order, explicit) + content
    return _header(tag, vr, UNDEFINED, order, explicit) + content + _plain(0xFFFEE0DD, 0, within[0])


def _item(elements: DataSet, is_defined: bool, order: str, explicit: bool) -> bytes:
    content = b"".join(encoded(elements, order, explicit))
    if is_defined:
        return _plain(0xFFFEE000, len(content), order) + content
    return _plain(0xFFFEE000, UNDEFINED, order) + content + _plain(0xFFFEE00D, 0, order)


def _header(tag: int, vr: bytes, length: int, order: str, explicit: bool) -> bytes:
    if not explicit:
        return _plain(tag, length, order)
    if vr in SHORT:
        return struct.pack(order + "HH2sH", tag >> 16, tag & 0xFFFF, vr, length)
    return struct.pack(order + "HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, length)


def _plain(tag: int, length: int, order: str) -> bytes:
    return struct.pack(order + "HHI", tag >> 16, tag & 0xFFFF, length)


def check(data: bytes, transfer_syntax: str) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        check_whole(file.fileno(), FileMeta("", "", transfer_syntax, 0, len(data)))


def deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


@pytest.mark.parametrize("transfer_syntax", PLAIN)
@given(elements=DATA_SETS, cut=st.floats(0, 1, exclude_max=True))
def test_a_data_set_is_taken_whole_and_refused_when_it_ends_inside_of_an_element(
    transfer_syntax: str, elements: DataSet, cut: float
) -> None:
    parts = encoded(elements, *PLAIN[transfer_syntax])
    data = b"".join(parts)
    check(data, transfer_syntax)
    boundaries = {sum(map(len, parts[:count])) for count in range(len(parts) + 1)}
    for size in {int(len(data) * cut), len(data) - 1, len(data) - 4, len(data) - 8} - boundaries:
        if size > 0:
            with pytest.raises(BrokenDataSetError):
                check(data[:size], transfer_syntax)


@given(elements=DATA_SETS, cut=st.floats(0, 1, exclude_max=True))
def test_a_deflated_data_set_is_taken_whole_and_refused_when_it_ends_too_early(elements: DataSet, cut: float) -> None:
    parts = encoded(elements, "<", explicit=True)
    whole = deflated(b"".join(parts))
    check(whole, uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
    with pytest.raises(BrokenDataSetError):
        check(whole[: int(len(whole) * cut)], uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
    with pytest.raises(BrokenDataSetError):
        check(deflated(b"".join(parts)[:-1]), uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)


@pytest.mark.parametrize("transfer_syntax", [*PLAIN, uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN])
@given(
    elements=DATA_SETS,
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_mutated_bytes_get_an_answer(transfer_syntax: str, elements: DataSet, changes: list[tuple[int, int]]) -> None:
    data = bytearray(b"".join(encoded(elements, *PLAIN.get(transfer_syntax, ("<", True)))))
    if transfer_syntax not in PLAIN:
        data = bytearray(deflated(bytes(data)))
    for position, value in changes:
        data[position % len(data)] = value
    with suppress(BrokenDataSetError):
        check(bytes(data), transfer_syntax)


@pytest.mark.parametrize("transfer_syntax", [*PLAIN, uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN])
@given(data=st.binary(max_size=3000))
def test_random_bytes_get_an_answer(transfer_syntax: str, data: bytes) -> None:
    with suppress(BrokenDataSetError):
        check(data, transfer_syntax)
