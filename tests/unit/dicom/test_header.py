import struct
import zlib
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tests import builders
from tests.builders import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, JPEG_2000, RLE

from mercure.dicom import header
from mercure.dicom.header import HeaderError, Incomplete, Placing, read_elements, read_placing, read_placing_of

ALL_SYNTAXES = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED, RLE, JPEG_2000)
PLAIN_SYNTAXES = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG)
PATIENT_ID = 0x00100020


def explicit(tag: int, vr: bytes, value: bytes, order: str = "<") -> bytes:
    head = struct.pack(order + "HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return head + struct.pack(order + "HI", 0, len(value)) + value
    return head + struct.pack(order + "H", len(value)) + value


def undefined(tag: int, vr: bytes, content: bytes) -> bytes:
    head = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, 0xFFFFFFFF)
    return head + content + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def item(content: bytes, *, defined: bool = False) -> bytes:
    if defined:
        return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
    return struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + content + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)


SERIES = explicit(header.SERIES_INSTANCE_UID, b"UI", b"1.2.3\0")


def series_of(data: bytes, transfer_syntax: str = EXPLICIT_LITTLE) -> str:
    return read_placing(data, transfer_syntax).series_instance_uid


@pytest.mark.parametrize("undefined_lengths", [False, True])
@pytest.mark.parametrize("transfer_syntax", ALL_SYNTAXES)
def test_the_placing_is_read_in_every_transfer_syntax(transfer_syntax: str, undefined_lengths: bool) -> None:
    dataset = builders.dataset()
    uids: dict[str, Any] = {
        key: str(dataset[key].value) for key in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    }
    data = builders.dicom_bytes(
        transfer_syntax=transfer_syntax, part10=False, undefined_lengths=undefined_lengths, **uids
    )
    placing = read_placing(data, transfer_syntax)
    assert placing.study_instance_uid == uids["StudyInstanceUID"]
    assert placing.series_instance_uid == uids["SeriesInstanceUID"]
    assert placing.sop_instance_uid == uids["SOPInstanceUID"]
    assert placing.sop_class_uid == builders.CT_STORAGE
    assert placing.signature == b"CT\\" + builders.CT_STORAGE.encode() + b"\0\\ORIGINAL\\PRIMARY\\AXIAL"


@pytest.mark.parametrize("transfer_syntax", PLAIN_SYNTAXES)
def test_every_prefix_gives_the_same_answer_or_asks_for_more_bytes_than_it_has(transfer_syntax: str) -> None:
    data = builders.dicom_bytes(transfer_syntax=transfer_syntax, part10=False, undefined_lengths=True)
    whole = read_placing(data, transfer_syntax)
    asked = answered = 0
    for size in range(min(len(data), 2000)):
        needed = 0
        try:
            assert read_placing(data[:size], transfer_syntax) == whole
            answered += 1
        except Incomplete as incomplete:
            needed = incomplete.needed
            asked += 1
        assert not 0 < needed <= size
    assert asked
    assert answered


def test_a_deflated_prefix_asks_for_more() -> None:
    data = builders.dicom_bytes(transfer_syntax=DEFLATED, part10=False)
    with pytest.raises(Incomplete) as raised:
        read_placing(data[:40], DEFLATED)
    assert raised.value.needed == 41


@pytest.mark.parametrize("transfer_syntax", [*PLAIN_SYNTAXES, DEFLATED])
def test_a_header_of_any_size_is_read_by_taking_more_bytes(transfer_syntax: str) -> None:
    dataset = builders.dataset()
    block = dataset.private_block(0x0009, "LARGE", create=True)
    for number in range(20):
        block.add_new(number, "OB", bytes(range(256)) * 60)
    data = builders.encode(dataset, transfer_syntax, part10=False)
    sizes: list[int] = []

    def read(size: int) -> bytes:
        sizes.append(size)
        return data[:size]

    placing = read_placing_of(read, len(data), transfer_syntax)
    assert placing.series_instance_uid == dataset.SeriesInstanceUID
    assert sizes[0] <= 16 << 10
    assert len(sizes) <= 5


def test_a_data_set_that_ends_too_early_is_an_error_of_the_header() -> None:
    data = explicit(header.MODALITY, b"CS", b"CT")
    with pytest.raises(HeaderError, match="ends before"):
        read_placing_of(lambda size: data[:size], len(data), EXPLICIT_LITTLE)


def test_absent_values_are_empty() -> None:
    assert read_placing(explicit(0x00280010, b"US", b"\1\0"), EXPLICIT_LITTLE) == Placing("", "", "", "", b"\\\\")


def test_sequences_of_undefined_length_are_stepped_over_however_they_are_nested() -> None:
    inner = undefined(0x00081111, b"SQ", item(explicit(0x00081150, b"UI", b"1.2\0")) + item(b"", defined=True))
    private = undefined(0x00091010, b"SQ", item(inner + explicit(0x00091011, b"OB", b"12"), defined=False))
    decoy = undefined(0x00081140, b"SQ", item(explicit(0x0020000E, b"UI", b"9.9.9\0"), defined=True))
    assert series_of(decoy + private + SERIES) == "1.2.3"


def test_a_value_of_vr_un_and_undefined_length_holds_implicit_items() -> None:
    implicit_element = struct.pack("<HHI", 0x0009, 0x1002, 4) + b"abcd"
    nested = struct.pack("<HHI", 0x0009, 0x1003, 0xFFFFFFFF) + item(implicit_element)
    nested += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    assert series_of(undefined(0x00091001, b"UN", item(nested + implicit_element)) + SERIES) == "1.2.3"


@pytest.mark.parametrize("element", [b"abcdef", b"US\4\0ab"], ids=["like no VR", "like a VR"])
def test_a_value_of_vr_un_and_undefined_length_holds_implicit_items_inside_a_sequence_too(element: bytes) -> None:
    implicit_element = struct.pack("<HHI", 0x0009, 0x1010, len(element)) + element
    unknown = undefined(0x00091001, b"UN", item(implicit_element))
    after = explicit(0x00091002, b"UI", b"1.9\0")
    assert series_of(undefined(0x00081140, b"SQ", item(unknown + after)) + SERIES) == "1.2.3"


def test_a_value_of_vr_un_is_little_endian_inside_a_big_endian_data_set_too() -> None:
    unknown = struct.pack(">HH2sHI", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF)
    unknown += item(struct.pack("<HHI", 0x0009, 0x1010, 6) + b"abcdef") + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    series = explicit(header.SERIES_INSTANCE_UID, b"UI", b"1.2.3\0", ">")
    assert series_of(unknown + series, EXPLICIT_BIG) == "1.2.3"
    opening = struct.pack(">HH2sHIHHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    closing = struct.pack(">HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    assert series_of(opening + unknown + closing + series, EXPLICIT_BIG) == "1.2.3"


def test_an_item_with_a_long_element_of_an_unknown_vr_is_stepped_over() -> None:
    strange = struct.pack("<HH2sHI", 0x0009, 0x1001, b"XY", 0, 4) + b"abcd"
    assert series_of(undefined(0x00091000, b"SQ", item(strange)) + SERIES) == "1.2.3"


@pytest.mark.parametrize(
    "strange",
    [
        struct.pack("<HH2sHI", 0x0009, 0x1001, b"ZZ", 0, 6) + b"abcdef",
        struct.pack("<HH2sH", 0x0009, 0x1001, b"ZZ", 6) + b"abcdef",
        struct.pack("<HH2sHI", 0x0009, 0x1001, b"??", 0, 6) + b"abcdef",
    ],
    ids=["32 bits", "16 bits", "question marks"],
)
def test_a_vr_that_is_not_known_yet_is_stepped_over(strange: bytes) -> None:
    assert series_of(strange + SERIES) == "1.2.3"


@pytest.mark.parametrize("vr", [b"\0\0", b"a1", b"lo", b"\xff\xff"])
def test_what_cannot_be_a_vr_is_an_error(vr: bytes) -> None:
    with pytest.raises(HeaderError, match="VR"):
        series_of(struct.pack("<HH2sH", 0x0009, 0x1001, vr, 0) + SERIES)


@pytest.mark.parametrize("vr", [b"\0\0", b"a1"])
def test_what_cannot_be_a_vr_is_an_error_in_a_sequence_too(vr: bytes) -> None:
    with pytest.raises(HeaderError, match="VR"):
        series_of(undefined(0x00081140, b"SQ", item(struct.pack("<HH2sH", 0x0009, 0x1001, vr, 2) + b"ab")) + SERIES)


def test_something_that_is_no_item_in_a_sequence_is_an_error() -> None:
    with pytest.raises(HeaderError, match="no item"):
        series_of(undefined(0x00081140, b"SQ", explicit(0x00081150, b"UI", b"1.2\0")) + SERIES)


def test_endless_nesting_is_an_error_and_no_recursion() -> None:
    opening = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    with pytest.raises(HeaderError, match="deeply"):
        series_of(opening * 1000)


def test_elements_are_read_up_to_the_last_wanted_tag_only() -> None:
    data = explicit(PATIENT_ID, b"LO", b"P1") + SERIES + b"\xff" * 20
    found = read_elements(data, EXPLICIT_LITTLE, frozenset({PATIENT_ID}), header.SERIES_INSTANCE_UID - 1)
    assert found == {PATIENT_ID: (b"LO", b"P1")}


@pytest.mark.parametrize("transfer_syntax", [*PLAIN_SYNTAXES, DEFLATED])
def test_a_whole_data_set_may_end_before_the_last_wanted_tag(transfer_syntax: str) -> None:
    dataset = Dataset()
    dataset.PatientID = "P1"
    dataset.SOPInstanceUID = "1.2"
    data = builders.encode(builders.dataset(), transfer_syntax, part10=False)  # warms the builder's template
    data = {
        EXPLICIT_LITTLE: explicit(PATIENT_ID, b"LO", b"P1"),
        EXPLICIT_BIG: explicit(PATIENT_ID, b"LO", b"P1", ">"),
        IMPLICIT_LITTLE: struct.pack("<HHI", 0x10, 0x20, 2) + b"P1",
        DEFLATED: _deflated(explicit(PATIENT_ID, b"LO", b"P1")),
    }[transfer_syntax]
    found = read_elements(data, transfer_syntax, frozenset({PATIENT_ID}), 0x00204000, whole=True)
    assert found[PATIENT_ID][1] == b"P1"
    with pytest.raises(Incomplete):
        read_elements(data[:-1], transfer_syntax, frozenset({PATIENT_ID}), 0x00204000, whole=True)


def _deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


def test_a_deflated_data_set_cannot_grow_without_end() -> None:
    bomb = _deflated(explicit(0x00090010, b"LO", bytes(2000)) * 40_000)
    assert len(bomb) < 1 << 20
    with pytest.raises(HeaderError, match="too long"):
        read_placing(bomb, DEFLATED)


def test_what_cannot_be_inflated_is_an_error() -> None:
    with pytest.raises(HeaderError, match="inflated"):
        read_placing(b"\xff" * 100, DEFLATED)


def test_a_header_beyond_all_measure_is_refused() -> None:
    data = explicit(0x00090010, b"OB", bytes(header.MAXIMUM_HEADER_BYTES)) + SERIES
    with pytest.raises(HeaderError):
        read_placing_of(lambda size: data[:size], len(data), EXPLICIT_LITTLE)


def test_a_sequence_with_items_of_all_kinds_from_pydicom_is_stepped_over() -> None:
    inner = Dataset()
    inner.CodeMeaning = "inside"
    outer = Dataset()
    outer.ProcedureCodeSequence = Sequence([inner, inner])
    dataset = builders.dataset()
    dataset.ReferencedStudySequence = Sequence([outer])
    data = builders.encode(dataset, IMPLICIT_LITTLE, part10=False)
    assert series_of(data, IMPLICIT_LITTLE) == dataset.SeriesInstanceUID


def test_a_uid_is_returned_without_padding() -> None:
    assert header.uid_text(b"1.2.3\0") == "1.2.3"
    assert header.uid_text(b"1.2.3 ") == "1.2.3"
