"""The head of a DICOM file: read from whatever passes for one, written as the standard wants it."""

import io
import os
import struct
from pathlib import Path

import pydicom
import pydicom.data
import pytest
from tests import builders

from mercure.dicom import uids
from mercure.dicom.part10 import NotDicomError, encode_file_meta, read_file_meta

PREFIX = bytes(128) + b"DICM"


def element(number: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value


SOP_CLASS = element(2, b"UI", b"1.2.3\0")
SOP_INSTANCE = element(3, b"UI", b"1.2.34")
SYNTAX = element(0x10, b"UI", b"1.2.840.10008.1.2\0")


def file_of(tmp_path: Path, *parts: bytes) -> str:
    path = tmp_path / "file.dcm"
    path.write_bytes(b"".join(parts))
    return str(path)


FOLDER = Path(pydicom.data.__file__).parent / "test_files"
WITHOUT_UIDS = ["empty_charset_LEI.dcm", "meta_missing_tsyntax.dcm", "nested_priv_SQ.dcm"]
SHIPPED = [
    str(path)
    for path in sorted(FOLDER.glob("*.dcm"))
    if path.name not in WITHOUT_UIDS and path.read_bytes()[128:132] == b"DICM"
]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: Path(path).name)
@pytest.mark.filterwarnings("ignore")  # of pydicom, about odd files
def test_what_pydicom_reads_is_what_we_read(path: str) -> None:
    theirs = pydicom.filereader.read_file_meta_info(path)
    found = read_file_meta(path)

    uids_found = [found.sop_class_uid, found.sop_instance_uid, found.transfer_syntax_uid]
    needed = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
    assert [theirs.get(each, own) for each, own in zip(needed, uids_found, strict=True)] == uids_found
    assert found.size == os.path.getsize(path)
    assert found.data_set_size == found.size - found.data_set_offset
    with open(path, "rb") as file:
        head = file.read(found.data_set_offset)
    assert len(head) == found.data_set_offset
    assert pydicom.dcmread(io.BytesIO(head)).file_meta == theirs


@pytest.mark.parametrize("name", WITHOUT_UIDS)
def test_a_file_without_the_uids_that_are_needed_cannot_be_sent(name: str) -> None:
    with pytest.raises(NotDicomError, match="no valid"):
        read_file_meta(str(FOLDER / name))


def test_a_file_can_be_given_by_its_descriptor(tmp_path: Path) -> None:
    path = file_of(tmp_path, builders.dicom_bytes())
    with open(path, "rb") as file:
        assert read_file_meta(file.fileno()) == read_file_meta(path)


def test_a_meta_group_without_group_length_is_read(tmp_path: Path) -> None:
    found = read_file_meta(file_of(tmp_path, PREFIX, SOP_CLASS, SOP_INSTANCE, SYNTAX, b"\x08\0\x05\0CS\0\0"))

    assert found.sop_class_uid == "1.2.3"
    assert found.data_set_size == 8


def test_a_wrong_group_length_is_not_believed(tmp_path: Path) -> None:
    length = element(0, b"UL", struct.pack("<I", 3))

    found = read_file_meta(file_of(tmp_path, PREFIX, length, SOP_INSTANCE, SOP_CLASS, SYNTAX, b"\x08\0\x05\0CS\0\0"))

    assert (found.sop_instance_uid, found.data_set_size) == ("1.2.34", 8)


def test_a_meta_group_in_implicit_vr_is_read(tmp_path: Path) -> None:
    parts = [
        struct.pack("<HHI", 2, number, len(value)) + value
        for number, value in ((2, b"1.2.3\0"), (3, b"1.2.34"), (0x10, b"1.2.840.10008.1.2\0"))
    ]

    assert read_file_meta(file_of(tmp_path, PREFIX, *parts, bytes(16))).transfer_syntax_uid == "1.2.840.10008.1.2"


@pytest.mark.parametrize("size", [500, 5_000, 100_000])
def test_private_information_in_the_meta_group_is_passed_over(tmp_path: Path, size: int) -> None:
    private = struct.pack("<HH2sHI", 2, 0x0102, b"OB", 0, size) + bytes(size)

    found = read_file_meta(file_of(tmp_path, PREFIX, SOP_CLASS, SOP_INSTANCE, SYNTAX, private, b"\x08\0\x05\0CS\0\0"))

    assert found.data_set_size == 8


@pytest.mark.parametrize("cut", [136, 140, 145, 1022, 1026])
def test_a_long_element_at_the_end_of_what_was_read_first_is_read_on(tmp_path: Path, cut: int) -> None:
    filler = cut - len(PREFIX) - len(SOP_CLASS) - 8
    first = SOP_CLASS if filler >= 0 else b""
    padding = element(0x13, b"SH", bytes(filler)) if filler >= 0 else b""
    private = struct.pack("<HH2sHI", 2, 0x0102, b"OB", 0, 2_000) + bytes(2_000)
    rest = (b"" if first else SOP_CLASS) + SOP_INSTANCE + SYNTAX

    assert read_file_meta(file_of(tmp_path, PREFIX, first, padding, private, rest, bytes(8))).sop_class_uid == "1.2.3"


def test_uids_that_the_meta_group_lacks_are_taken_from_the_data_set(tmp_path: Path) -> None:
    data = builders.dicom_bytes(part10=False)
    syntax = element(0x10, b"UI", b"1.2.840.10008.1.2.1\0")

    found = read_file_meta(file_of(tmp_path, PREFIX, syntax, data))

    assert found.sop_class_uid == builders.CT_STORAGE
    assert found.sop_instance_uid.startswith("2.25.")
    assert found.data_set_size == len(data)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([b""], "no DICOM prefix"),
        ([b"x" * 4000], "no DICOM prefix"),
        ([PREFIX], "cut off"),
        ([PREFIX, SOP_CLASS[:-2]], "cut off"),
        ([PREFIX, SOP_CLASS, SOP_INSTANCE, SYNTAX], "cut off"),
        ([PREFIX, b"\2\0\2\1OB\0\0\0\0"], "cut off"),
        ([PREFIX, SOP_CLASS, SOP_INSTANCE, bytes(8)], "no valid transfer syntax UID"),
        ([PREFIX, SYNTAX, bytes(8)], "no valid SOP class UID"),
        ([PREFIX, SOP_CLASS, SYNTAX, element(3, b"UI", b"../../etc/x\0"), bytes(8)], "no valid SOP instance UID"),
        ([PREFIX, SOP_CLASS, SYNTAX, element(3, b"UI", b"1" * 66), bytes(8)], "no valid SOP instance UID"),
        ([PREFIX, SOP_CLASS, SOP_INSTANCE, element(0x10, b"UI", "1.2é".encode()), bytes(8)], "transfer syntax"),
        ([PREFIX, SYNTAX, b"\x08\0\x16\0UI\xff\x00", b"1.2"], "data set cannot be read"),
        ([PREFIX, struct.pack("<HH2sHI", 2, 0x0102, b"OB", 0, 1 << 30), bytes(9 << 20)], "too long"),
    ],
)
def test_what_is_no_dicom_file_is_a_permanent_error_with_its_reason(
    tmp_path: Path, parts: list[bytes], reason: str
) -> None:
    with pytest.raises(NotDicomError, match=reason) as caught:
        read_file_meta(file_of(tmp_path, *parts))

    assert caught.value.code == "not_dicom"


def test_a_data_set_that_pydicom_cannot_read_is_a_permanent_error(tmp_path: Path) -> None:
    deflated = element(0x10, b"UI", b"1.2.840.10008.1.2.1.99")

    with pytest.raises(NotDicomError, match="cannot be read"):
        read_file_meta(file_of(tmp_path, PREFIX, deflated, b"\xff" * 50))


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_file_meta(str(tmp_path / "missing.dcm"))


@pytest.mark.parametrize("ae_title", ["", "SCANNER", "ODD"])
@pytest.mark.parametrize("uid", ["1.2", "1.2.3", "2.25." + "9" * 39])
def test_a_head_that_we_write_is_read_by_pydicom_and_by_us(tmp_path: Path, ae_title: str, uid: str) -> None:
    head = encode_file_meta(builders.CT_STORAGE, uid, builders.EXPLICIT_LITTLE, ae_title)
    path = file_of(tmp_path, head, builders.dicom_bytes(part10=False))

    theirs = pydicom.dcmread(path).file_meta
    ours = read_file_meta(path)

    assert theirs.FileMetaInformationGroupLength == len(head) - 144
    assert theirs.FileMetaInformationVersion == b"\0\1"
    assert theirs.MediaStorageSOPInstanceUID == uid == ours.sop_instance_uid
    assert theirs.TransferSyntaxUID == builders.EXPLICIT_LITTLE
    assert theirs.ImplementationClassUID == uids.IMPLEMENTATION_CLASS
    assert theirs.ImplementationVersionName == uids.IMPLEMENTATION_VERSION
    assert theirs.get("SourceApplicationEntityTitle", "") == ae_title
    assert ours.data_set_offset == len(head)
