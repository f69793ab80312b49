import time
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from tests import builders

SYNTAXES = [
    builders.EXPLICIT_LITTLE,
    builders.IMPLICIT_LITTLE,
    builders.EXPLICIT_BIG,
    builders.DEFLATED,
    builders.RLE,
    builders.JPEG_2000,
]


def test_a_ct_series_has_the_size_and_identity_asked_for(tmp_path: Path) -> None:
    series = builders.ct_series(tmp_path, 5, StudyInstanceUID="1.2.3", SeriesDescription="CHEST", AccessionNumber=None)
    read = [pydicom.dcmread(file) for file in series.files]
    assert [str(one.SOPInstanceUID) for one in read] == list(series.sop_instance_uids)
    assert [one.file_meta.MediaStorageSOPInstanceUID for one in read] == [one.SOPInstanceUID for one in read]
    assert {one.SeriesInstanceUID for one in read} == {series.series_instance_uid}
    assert {one.StudyInstanceUID for one in read} == {"1.2.3"} == {series.study_instance_uid}
    assert [one.InstanceNumber for one in read] == [1, 2, 3, 4, 5]
    assert len({one.ImagePositionPatient[2] for one in read}) == 5
    assert [one.SliceLocation for one in read] == [one.ImagePositionPatient[2] for one in read]
    assert {one.SeriesDescription for one in read} == {"CHEST"}
    assert all("AccessionNumber" not in one and one.PatientName == builders.PATIENT for one in read)
    assert all(520_000 < file.stat().st_size < 535_000 for file in series.files)
    assert read[0].pixel_array.shape == (512, 512)


def test_the_digits_of_a_uid_are_never_taken_for_a_value_to_patch() -> None:
    dataset = builders.dataset()
    patch = builders._patcher(dataset, builders.EXPLICIT_LITTLE)
    uid = "2.25." + "9182737777888888".ljust(39, "1")
    read = pydicom.dcmread(BytesIO(b"".join(patch(1, uid))))
    assert (read.file_meta.MediaStorageSOPInstanceUID, read.SOPInstanceUID) == (uid, uid)
    assert (read.InstanceNumber, read.SliceLocation) == (1, -998.75)


def test_an_mr_series_has_the_size_asked_for(tmp_path: Path) -> None:
    series = builders.mr_series(tmp_path, 2)
    assert all(125_000 < file.stat().st_size < 135_000 for file in series.files)
    assert pydicom.dcmread(series.files[1]).Modality == "MR"


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_headers_look_like_those_of_scanners(modality: builders.Modality) -> None:
    made = builders.dataset(modality)
    assert 75 <= len(made) <= 130
    assert any(element.tag.is_private for element in made)
    assert sum(element.VR == "SQ" for element in made) >= 3


@pytest.mark.parametrize("size_bytes", [2_500, 4_000, 10_000])
def test_small_instances_are_small(tmp_path: Path, size_bytes: int) -> None:
    series = builders.small_series(tmp_path, 3, size_bytes=size_bytes)
    assert all(abs(file.stat().st_size - size_bytes) < 1_500 for file in series.files)
    assert [pydicom.dcmread(file).InstanceNumber for file in series.files] == [1, 2, 3]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_series_can_be_written_in_each_transfer_syntax(tmp_path: Path, syntax: str) -> None:
    series = builders.small_series(tmp_path, 3, transfer_syntax=syntax)
    read = [pydicom.dcmread(file) for file in series.files]
    assert [str(one.SOPInstanceUID) for one in read] == list(series.sop_instance_uids)
    assert [one.InstanceNumber for one in read] == [1, 2, 3]
    assert {str(one.file_meta.TransferSyntaxUID) for one in read} == {syntax}


def test_two_series_never_share_an_identity(tmp_path: Path) -> None:
    one, two = builders.small_series(tmp_path / "1", 2), builders.small_series(tmp_path / "2", 2)
    assert one.series_instance_uid != two.series_instance_uid
    assert not set(one.sop_instance_uids) & set(two.sop_instance_uids)


def test_uids_are_valid_and_of_one_length() -> None:
    uids = [pydicom.uid.UID(builders.new_uid()) for _ in range(200)]
    assert {len(uid) for uid in uids} == {44}
    assert all(uid.is_valid for uid in uids)
    assert len(set(uids)) == 200


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [False, True])
def test_the_same_elements_and_pixels_come_back_from_each_transfer_syntax(syntax: str, *, undefined: bool) -> None:
    plain = _read(builders.dicom_bytes())
    read = _read(builders.dicom_bytes(transfer_syntax=syntax, undefined_lengths=undefined, StudyInstanceUID="1.2.3"))
    assert str(read.file_meta.TransferSyntaxUID) == syntax
    assert set(plain.keys()) <= set(read.keys())
    assert read.StudyInstanceUID == "1.2.3"
    assert read.RequestAttributesSequence[0].ScheduledProtocolCodeSequence[0].CodeValue == "CTHEAD"
    assert (read.pixel_array == plain.pixel_array).all()


def test_undefined_lengths_reach_the_wire() -> None:
    plain = builders.dicom_bytes(part10=False, transfer_syntax=builders.IMPLICIT_LITTLE)
    undefined = builders.dicom_bytes(part10=False, transfer_syntax=builders.IMPLICIT_LITTLE, undefined_lengths=True)
    item_delimiter = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00"
    assert undefined.count(item_delimiter) > plain.count(item_delimiter)


def test_one_sequence_has_undefined_length_unless_told_otherwise() -> None:
    undefined = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff"
    assert undefined in builders.dicom_bytes()


def test_the_data_set_alone_has_no_file_meta() -> None:
    assert builders.dicom_bytes(part10=False)[:2] == b"\x08\x00"


def test_a_multi_frame_file_holds_all_its_frames(tmp_path: Path) -> None:
    series = builders.multiframe_file(tmp_path / "multi.dcm", frames=7, rows=64, columns=32)
    read = pydicom.dcmread(series.files[0])
    assert read.pixel_array.shape == (7, 64, 32)
    assert read.SOPInstanceUID == series.sop_instance_uids[0]


def test_a_multi_frame_file_beyond_the_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        builders.multiframe_file(tmp_path / "multi.dcm", frames=2048)


def test_many_large_files_are_written_quickly(tmp_path: Path) -> None:
    started = time.process_time()
    builders.ct_series(tmp_path, 200)
    assert time.process_time() - started < 5


def _read(encoded: bytes) -> Dataset:
    return pydicom.dcmread(BytesIO(encoded))
