"""Whether a data set is whole: what is cut off, nested, deflated, or has something else behind it."""

import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import pydicom.data
import pytest
from tests import builders
from tests.builders import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, JPEG_2000, RLE

from mercure.core.errors import PermanentError
from mercure.dicom import data_set_bytes
from mercure.dicom.completeness import check_whole
from mercure.dicom.data_set_bytes import BrokenDataSetError
from mercure.dicom.part10 import FileMeta, NotDicomError, read_file_meta

ALL_SYNTAXES = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED, RLE, JPEG_2000)
UNDEFINED = 0xFFFFFFFF
NAME = struct.pack("<HH2sH", 0x0010, 0x0010, b"PN", 6) + b"secret"


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """An element of a VR with a length of 32 bits, explicit little endian."""
    size = len(value) if length is None else length
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, size) + value


def item(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value) if length is None else length) + value


ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def check(path: Path, content: bytes, transfer_syntax: str = EXPLICIT_LITTLE, **limits: int) -> None:
    """Check a data set that is all of a file."""
    path.write_bytes(content)
    check_file(path, FileMeta("", "", transfer_syntax, 0, len(content)), **limits)


def check_file(path: Path, meta: FileMeta | None = None, **limits: int) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        check_whole(descriptor, meta or read_file_meta(descriptor), **limits)
    finally:
        os.close(descriptor)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one.dcm"


@pytest.mark.parametrize("undefined_lengths", [False, True])
@pytest.mark.parametrize("transfer_syntax", ALL_SYNTAXES)
def test_a_whole_instance_is_taken_and_one_that_lacks_a_byte_is_not(
    path: Path, transfer_syntax: str, undefined_lengths: bool
) -> None:
    whole = builders.dicom_bytes(transfer_syntax=transfer_syntax, undefined_lengths=undefined_lengths)
    path.write_bytes(whole)
    check_file(path)
    for missing in (1, 2, 7, 9, 100, 1000):
        if transfer_syntax == DEFLATED and missing == 1:
            continue  # that byte may only make the length even
        path.write_bytes(whole[:-missing])
        with pytest.raises(BrokenDataSetError):
            check_file(path)


def test_what_other_software_writes_is_taken_but_for_what_is_cut_off_or_no_instance() -> None:
    refused, taken = set(), 0
    for file in Path(pydicom.data.__file__).parent.joinpath("test_files").rglob("*.dcm"):
        try:
            check_file(file)
            taken += 1
        except NotDicomError:
            continue
        except BrokenDataSetError:
            refused.add(file.name)
    assert refused == {
        "MR_truncated.dcm",
        "rtplan_truncated.dcm",
        "SC_rgb_jpeg.dcm",  # has no VRs, where its transfer syntax has them
        "DICOMDIR-empty.dcm",
    }
    assert taken > 50


def test_an_error_says_where_and_in_which_element_and_nothing_of_its_value(path: Path) -> None:
    with pytest.raises(BrokenDataSetError) as raised:
        check(path, element(0x00081080, b"UT", b"1234") + NAME[:-2])
    assert str(raised.value) == "the data set ends inside of element (0010,0010), which begins at 16"
    assert isinstance(raised.value, PermanentError)


@pytest.mark.parametrize("size", range(1, 20))
def test_a_data_set_that_ends_in_the_header_of_an_element_is_refused(path: Path, size: int) -> None:
    with pytest.raises(BrokenDataSetError):
        check(path, NAME + element(0x7FE00010, b"OW", b"12345678")[:size])


def test_trailing_padding_is_taken_and_what_is_no_element_is_not(path: Path) -> None:
    pixels = NAME + element(0x7FE00010, b"OW", b"1234")
    check(path, pixels + element(0xFFFCFFFC, b"OB", bytes(100)))
    for rest in (
        b"\0",
        b"\0" * 5000,
        bytes(8) + b"1",
        bytes(4095) + b"1",
        b"1" + bytes(7),
        b"\xff" * 64,
        NAME,
        pixels,
        SEQUENCE_END,
        ITEM_END,
        item(b""),
    ):
        with pytest.raises(BrokenDataSetError):
            check(path, pixels + rest)


@pytest.mark.parametrize("size", [2, 7, 8, 100, 512, 4096])
@pytest.mark.parametrize("syntax", [IMPLICIT_LITTLE, EXPLICIT_LITTLE])
def test_zeros_up_to_the_end_of_a_block_are_no_elements_and_harm_nothing(path: Path, syntax: str, size: int) -> None:
    data = struct.pack("<HHI", 0x0010, 0x0010, 4) + b"1234" if syntax == IMPLICIT_LITTLE else NAME
    check(path, data + bytes(size), syntax)
    with pytest.raises(BrokenDataSetError):
        check(path, data + bytes(size) + b"1", syntax)


def test_zeros_do_not_end_what_is_open(path: Path) -> None:
    with pytest.raises(BrokenDataSetError, match="ends inside of"):
        check(path, element(0x00081140, b"SQ", item(NAME, UNDEFINED) + bytes(64), UNDEFINED))


def test_sequences_of_undefined_length_are_entered_also_without_vrs_in_what_is_unknown(path: Path) -> None:
    implicit = struct.pack("<HHI", 0x0009, 0x1010, 2) + b"ab"
    unknown = element(0x00091000, b"UN", item(implicit + ITEM_END, UNDEFINED) + SEQUENCE_END, UNDEFINED)
    inner = element(0x00081140, b"SQ", item(b"") + item(unknown + ITEM_END, UNDEFINED) + SEQUENCE_END, UNDEFINED)
    outer = element(0x00081140, b"SQ", item(inner + ITEM_END, UNDEFINED) + SEQUENCE_END, UNDEFINED)
    check(path, outer + NAME)
    for size in range(1, len(outer)):
        with pytest.raises(BrokenDataSetError):
            check(path, outer[:size])


def test_a_sequence_that_holds_no_items_or_never_ends_is_refused(path: Path) -> None:
    for value in (NAME, item(b"", 100), item(NAME, UNDEFINED), ITEM_END, b""):
        with pytest.raises(BrokenDataSetError):
            check(path, element(0x00081140, b"SQ", value, UNDEFINED))


def test_fragments_have_lengths_of_their_own(path: Path) -> None:
    check(path, element(0x7FE00010, b"OB", item(b"") + item(b"1234") + SEQUENCE_END, UNDEFINED))
    with pytest.raises(BrokenDataSetError, match="no item"):
        check(path, element(0x7FE00010, b"OB", item(ITEM_END, UNDEFINED) + SEQUENCE_END, UNDEFINED))


@pytest.mark.parametrize(("depth", "is_taken"), [(64, True), (65, False), (100_000, False)])
def test_sequences_within_sequences_end_somewhere(path: Path, depth: int, is_taken: bool) -> None:
    begin = element(0x00081140, b"SQ", item(b"", UNDEFINED), UNDEFINED)
    data = begin * depth + (ITEM_END + SEQUENCE_END) * depth
    if is_taken:
        check(path, data)
    else:
        with pytest.raises(BrokenDataSetError, match="nested too deeply"):
            check(path, data)


@pytest.mark.parametrize("tag", [0x00091010, 0x7FE10010])
def test_no_more_elements_than_allowed_are_stepped_over(path: Path, tag: int) -> None:
    many = struct.pack("<HHI", tag >> 16, tag & 0xFFFF, 0) * 1000
    check(path, many, IMPLICIT_LITTLE, most_elements=1000)
    with pytest.raises(BrokenDataSetError, match="more than 999 elements"):
        check(path, many, IMPLICIT_LITTLE, most_elements=999)


def deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


@pytest.mark.parametrize("size", [0, 1 << 16, (1 << 16) * 3 - 12, 5_000_000])
def test_a_deflated_data_set_is_followed_to_its_end(path: Path, size: int) -> None:
    whole = deflated(NAME + element(0x7FE00010, b"OW", bytes(size)))
    for rest in (b"", b"\0", b"checksum"):
        check(path, whole + rest, DEFLATED)
    refused = [
        whole[:-1],
        whole + bytes(10),
        whole + bytes(100_000),
        deflated(NAME + element(0x7FE00010, b"OW", bytes(size), size + 2)),
        deflated(NAME + element(0x7FE00010, b"OW", bytes(size)) + b"\1\0"),
        b"\xff" * 100,
        b"",
    ]
    for data in refused:
        with pytest.raises(BrokenDataSetError):
            check(path, data, DEFLATED)


def test_a_deflated_data_set_does_not_grow_without_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_set_bytes, "MAXIMUM_INFLATED_BYTES", 20_000_000)
    bomb = deflated(element(0x7FE00010, b"OW", bytes(30_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(BrokenDataSetError, match="too long"):
            check(path, bomb, DEFLATED)
        with pytest.raises(BrokenDataSetError, match="ends inside"):
            check(path, deflated(element(0x7FE00010, b"OW", bytes(15_000_000), 16_000_000)), DEFLATED)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40_000_000  # the test's own bytes, and little more


def test_two_gigabytes_in_ten_thousand_fragments_are_not_read(path: Path) -> None:
    fragment = 200_000
    with path.open("wb") as file:
        file.write(element(0x7FE00010, b"OB", item(b""), UNDEFINED))
        for _ in range(10_000):
            file.write(item(b"", fragment))
            file.seek(fragment, os.SEEK_CUR)
        file.write(SEQUENCE_END)
        size = file.tell()
    before = read_bytes()
    check_file(path, FileMeta("", "", EXPLICIT_LITTLE, 0, size))
    assert read_bytes() - before < 50_000_000
    os.truncate(path, size - 1)
    with pytest.raises(BrokenDataSetError, match=r"\(7FE0,0010\), which begins at 0"):
        check_file(path, FileMeta("", "", EXPLICIT_LITTLE, 0, size - 1))


def read_bytes() -> int:
    """How many bytes this process has read by system calls."""
    return int(Path("/proc/self/io").read_text().split()[1])
