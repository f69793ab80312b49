import logging
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import FileDataset
from tests import builders
from tests.builders import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, JPEG_2000, RLE

from mercure.dicom.attributes import STANDARD_ATTRIBUTES, UnknownAttributeError, find_attribute
from mercure.dicom.character_sets import codec_of
from mercure.dicom.header import HeaderError
from mercure.dicom.part10 import NotDicomError, encode_file_meta
from mercure.dicom.tags_reader import read_tags

ALL_SYNTAXES = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED, RLE, JPEG_2000)


def written(folder: Path, dataset: FileDataset, transfer_syntax: str = EXPLICIT_LITTLE) -> Path:
    path = folder / "one.dcm"
    path.write_bytes(builders.encode(dataset, transfer_syntax))
    return path


def with_raw(folder: Path, tag: int, vr: bytes, value: bytes, character_set: bytes = b"") -> Path:
    """A file with one element whose bytes are exactly these."""
    data = b""
    if character_set:
        data += struct.pack("<HH2sH", 8, 5, b"CS", len(character_set)) + character_set
    if vr in (b"UT", b"OB", b"UN", b"SQ", b"SV", b"UV"):
        data += struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, len(value)) + value
    else:
        data += struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value
    path = folder / "raw.dcm"
    path.write_bytes(encode_file_meta(builders.CT_STORAGE, "1.2.3", EXPLICIT_LITTLE) + data)
    return path


@pytest.mark.parametrize("transfer_syntax", ALL_SYNTAXES)
def test_tags_are_the_same_texts_in_every_transfer_syntax(tmp_path: Path, transfer_syntax: str) -> None:
    dataset = builders.dataset(
        SeriesDescription="Thorax 1.5", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], SliceThickness="2.50"
    )
    tags = read_tags(written(tmp_path, dataset, transfer_syntax))
    assert tags["Modality"] == "CT"
    assert tags["SeriesDescription"] == "Thorax 1.5"
    assert tags["ImageType"] == "ORIGINAL\\PRIMARY\\AXIAL"
    assert tags["SliceThickness"] == "2.50"
    assert tags["SeriesInstanceUID"] == dataset.SeriesInstanceUID
    assert tags["MediaStorageSOPClassUID"] == builders.CT_STORAGE


def test_the_table_agrees_with_the_dictionary_of_the_standard() -> None:
    for attribute in STANDARD_ATTRIBUTES:
        assert find_attribute(attribute.name) == attribute
    assert len(STANDARD_ATTRIBUTES) == 43


def test_an_absent_tag_is_absent_and_an_empty_one_is_empty(tmp_path: Path) -> None:
    tags = read_tags(written(tmp_path, builders.dataset(BodyPartExamined=None, PatientBirthDate="")))
    assert "BodyPartExamined" not in tags
    assert tags["PatientBirthDate"] == ""


def test_tags_inside_sequences_are_not_reached(tmp_path: Path) -> None:
    dataset = builders.dataset()
    assert dataset.ProcedureCodeSequence[0].CodeValue
    assert "CodeValue" not in read_tags(written(tmp_path, dataset))


def test_line_ends_and_double_quotes_are_replaced_as_existing_installations_do(tmp_path: Path) -> None:
    tags = read_tags(written(tmp_path, builders.dataset(ImageComments='a\r\nb "c"')))
    assert tags["ImageComments"] == "a; b 'c'"


@pytest.mark.parametrize(
    ("character_set", "text", "codec"),
    [
        ("ISO_IR 100", "Müller^Jörg", "latin-1"),
        ("ISO_IR 192", "山田^太郎", "utf-8"),
        ("ISO_IR 144", "Люкс", "iso8859_5"),
        ("GB18030", "王^小东", "gb18030"),
        ("ISO-IR 100", "Müller", "latin-1"),
        ("iso_ir 192", "Müller", "utf-8"),
        ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ", "shift_jis"),
    ],
)
def test_text_is_decoded_by_its_character_set(tmp_path: Path, character_set: str, text: str, codec: str) -> None:
    path = with_raw(tmp_path, 0x00100010, b"PN", text.encode(codec), character_set.encode())
    assert read_tags(path)["PatientName"] == text


@pytest.mark.parametrize(
    ("character_set", "value", "text"),
    [
        # The examples of PS3.5 annexes H.3.1, H.3.2 and I.2.
        (
            rb"\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
        ),
        (
            rb"ISO 2022 IR 13\ISO 2022 IR 87",
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J",
            "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎",
        ),
        (
            rb"\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7",
            "Hong^Gildong=洪^吉洞",
        ),
        (rb"ISO 2022 IR 100\ISO 2022 IR 144", b"J\xf6rg=\x1b-L\xbb\xee^J\xf6rg", "Jörg=Лю^Jörg"),
        (b"ISO 2022 IR 100", b"a\x1bQb", "aQb"),
        (b"ISO 2022 IR 87", b"Yamada", "Yamada"),
    ],
)
def test_code_extensions_are_followed(tmp_path: Path, character_set: bytes, value: bytes, text: str) -> None:
    name = read_tags(with_raw(tmp_path, 0x00100010, b"PN", value, character_set))["PatientName"]
    assert name == text


@pytest.mark.parametrize(
    ("character_set", "value", "text"),
    [
        (b"ISO_IR 192", b"M\xfcller", "M\ufffdller"),
        (b"", b"M\xfcller", "Müller"),
        (b"", "Müller".encode(), "Müller"),
        (b"NO SUCH SET", b"M\xfcller", "Müller"),
        (b"ISO_IR 127", b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_text_that_does_not_fit_its_character_set_is_replaced_and_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, character_set: bytes, value: bytes, text: str
) -> None:
    caplog.set_level(logging.INFO)
    assert read_tags(with_raw(tmp_path, 0x00100020, b"LO", value, character_set))["PatientID"] == text
    assert "PatientID" in caplog.text
    assert "ller" not in caplog.text


def test_spellings_of_character_sets_that_are_found_in_the_field_are_understood() -> None:
    assert {codec_of(name) for name in (b"ISO_IR 100", b"ISO 2022 IR 100", b"ISO-IR 100", b"iso_ir_100")} == {"latin-1"}
    assert codec_of(b"\\ISO 2022 IR 149") == "ascii"


@pytest.mark.parametrize(
    ("tag", "vr", "value", "text"),
    [
        (0x00280010, b"US", struct.pack("<H", 512), "512"),
        (0x00189461, b"US", struct.pack("<2H", 1, 65535), "1\\65535"),
        (0x00280106, b"SS", struct.pack("<h", -1024), "-1024"),
        (0x00186012, b"UL", struct.pack("<I", 4_000_000_000), "4000000000"),
        (0x00186020, b"SL", struct.pack("<i", -7), "-7"),
        (0x00180089, b"FL", struct.pack("<f", 0.1), "0.1"),
        (0x00180089, b"FL", struct.pack("<f", 1000.64215), "1000.64215"),
        (0x00189073, b"FD", struct.pack("<d", 0.1), "0.1"),
        (0x00280009, b"AT", struct.pack("<HH", 0x0018, 0x1063), "(0018,1063)"),
        (0x00080301, b"UV", struct.pack("<Q", 2**63), str(2**63)),
        (0x00080301, b"SV", struct.pack("<q", -(2**63)), str(-(2**63))),
        (0x00280010, b"US", b"\1\2\3", "513"),
        (0x00280010, b"US", b"", ""),
    ],
)
def test_binary_numbers_become_decimal_text(tmp_path: Path, tag: int, vr: bytes, value: bytes, text: str) -> None:
    name = f"{tag >> 16:04x},{tag & 0xFFFF:04x}"
    assert read_tags(with_raw(tmp_path, tag, vr, value), [name])[name] == text


@pytest.mark.parametrize("transfer_syntax", ALL_SYNTAXES)
def test_additional_tags_are_given_by_keyword_or_number(tmp_path: Path, transfer_syntax: str) -> None:
    dataset = builders.dataset(KVP="120", Rows=32)
    path = written(tmp_path, dataset, transfer_syntax)
    tags = read_tags(path, ["KVP", "0028,0010", "(0028,0011)", "TransferSyntaxUID", "0051,1001"])
    assert tags["KVP"] == "120"
    assert tags["0028,0010"] == "32"
    assert tags["(0028,0011)"] == "32"
    assert tags["TransferSyntaxUID"] == transfer_syntax
    assert tags["0051,1001"] == "synthetic"


def test_an_additional_name_that_no_dictionary_knows_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_tags(written(tmp_path, builders.dataset()), ["NoSuchKeyword"])["Modality"] == "CT"
    assert "NoSuchKeyword" in caplog.text
    with pytest.raises(UnknownAttributeError):
        find_attribute("NoSuchKeyword")


def test_sequences_bulk_data_and_what_follows_the_pixels_have_no_text(tmp_path: Path) -> None:
    names = [
        "ReferencedImageSequence",
        "PixelData",
        "0051,1003",
        "DataSetTrailingPadding",
        "FileMetaInformationVersion",
    ]
    assert not set(names) & set(read_tags(written(tmp_path, builders.dataset()), names))


def test_very_long_values_are_cut(tmp_path: Path) -> None:
    path = with_raw(tmp_path, 0x00204000, b"UT", b"x" * 200_000)
    assert len(read_tags(path)["ImageComments"]) == 64 << 10


def test_values_are_stripped_of_their_padding_one_by_one(tmp_path: Path) -> None:
    assert read_tags(with_raw(tmp_path, 0x00080060, b"CS", b" CT \0"))["Modality"] == "CT"
    assert read_tags(with_raw(tmp_path, 0x00080008, b"CS", b" A \\B \\ C\0"))["ImageType"] == "A\\B\\C"
    assert read_tags(with_raw(tmp_path, 0x00204000, b"LT", b" a\\ b  "))["ImageComments"] == " a\\ b"


def test_a_header_larger_than_the_first_read_is_read(tmp_path: Path) -> None:
    dataset = builders.dataset(ImageComments="at the end")
    block = dataset.private_block(0x0019, "LARGE", create=True)
    block.add_new(1, "OB", bytes(300_000))
    assert read_tags(written(tmp_path, dataset))["ImageComments"] == "at the end"


def test_a_header_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    path = with_raw(tmp_path, 0x00190010, b"OB", bytes(17 << 20))
    with path.open("ab") as file:
        file.write(struct.pack("<HH2sH", 0x0020, 0x0013, b"IS", 2) + b"1 ")
    with pytest.raises(HeaderError, match="too long"):
        read_tags(path)


def test_a_file_that_is_cut_off_in_its_header_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, builders.dataset())
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(HeaderError, match="cut off"):
        read_tags(path)


def test_a_file_that_is_cut_off_in_its_pixels_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, builders.dataset())
    path.write_bytes(path.read_bytes()[:-100])
    assert read_tags(path)["Modality"] == "CT"


def test_a_short_data_set_that_ends_before_the_last_wanted_tag_is_read(tmp_path: Path) -> None:
    assert read_tags(with_raw(tmp_path, 0x00080060, b"CS", b"CT"))["Modality"] == "CT"


def test_what_is_no_dicom_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"no image" * 100)
    with pytest.raises(NotDicomError):
        read_tags(path)
    with pytest.raises(FileNotFoundError):
        read_tags(tmp_path / "absent")


def test_values_of_vr_un_are_read_by_the_vr_of_the_dictionary(tmp_path: Path) -> None:
    assert read_tags(with_raw(tmp_path, 0x00080060, b"UN", b"MR"))["Modality"] == "MR"


def test_reading_is_fast_enough_for_a_router(tmp_path: Path) -> None:
    path = builders.ct_series(tmp_path, 1).files[0]
    read_tags(path)
    best = min(_seconds(path) for _ in range(20))
    assert best < 0.001  # 0.00006 on a quiet machine


def _seconds(path: Path, **_: Any) -> float:
    started = time.perf_counter()
    read_tags(path)
    return time.perf_counter() - started
