from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from mercure_anonymizer.actions import Option
from mercure_anonymizer.instance import deidentify_file, quiet_pydicom
from mercure_anonymizer.settings import read_settings
from pydicom.dataset import Dataset, FileDataset
from tests import builders
from tests.addons.anonymizer import answer_key
from tests.addons.anonymizer.answer_key import AGE, DATE, MARK, NUMBERS, UID_ROOT

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def key() -> bytes:
    with quiet_pydicom():
        return answer_key.encoded(answer_key.instance())


def deidentified(key: bytes, folder: Path, *options: str) -> bytes:
    settings = read_settings({"process": {"settings": {"secret": "a secret for tests", "options": list(options)}}}, {})
    source, target = folder / "in.dcm", folder / "out.dcm"
    source.write_bytes(key)
    with quiet_pydicom():
        deidentify_file(str(source), str(target), settings, NOW)
    return target.read_bytes()


def read(content: bytes) -> FileDataset:
    with quiet_pydicom():
        read = pydicom.dcmread(BytesIO(content))
        for _ in answer_key.elements(read):
            pass
    return read


def marks(content: bytes) -> set[int]:
    return {int(mark, 16) for mark in MARK.findall(content.upper())}


def retained(option: Option, code: str) -> set[int]:
    return {tag for tag, row in answer_key.rows().items() if row.options.get(option) == code}


def test_the_key_holds_what_is_planted(key: bytes) -> None:
    found = marks(key)
    texts = {
        tag
        for tag, row in answer_key.rows().items()
        if answer_key.vr_of(tag, row) not in {"DA", "TM", "DT", "AS", "UI", "US", "FD", "DS", "IS"}
    }
    assert texts - {answer_key.OFFSET_FROM_UTC} <= found
    assert len(answer_key.rows()) > 640
    assert {0x00020102, 0x00000001, 0x50000022, 0x60020022, 0x6000_4000, 0x2001100C, 0x00211001, 0x00091001} <= found
    for value in (DATE, AGE, UID_ROOT, *NUMBERS.values()):
        assert key.count(value.encode()) >= 4


def test_the_basic_profile_leaves_nothing(key: bytes, tmp_path: Path) -> None:
    content = deidentified(key, tmp_path)
    assert marks(content) == set()
    assert b"ZQ" not in content.upper()
    for value in (DATE, AGE, UID_ROOT, *NUMBERS.values()):
        assert value.encode() not in content
    basic = {tag: row.basic for tag, row in answer_key.rows().items()}
    for element in answer_key.elements(read(content)):
        assert basic.get(int(element.tag)) != "X", element.tag


def test_the_basic_profile_leaves_nothing_where_files_do_not_say_what_values_are(tmp_path: Path) -> None:
    with quiet_pydicom():
        key = answer_key.encoded(answer_key.instance(), implicit=True)
    assert len(marks(key)) > 400
    content = deidentified(key, tmp_path)
    assert marks(content) == set()
    for value in (DATE, AGE, UID_ROOT, *NUMBERS.values()):
        assert value.encode() not in content


def test_elements_that_need_a_value_have_one(key: bytes, tmp_path: Path) -> None:
    found = read(deidentified(key, tmp_path))
    for tag, row in answer_key.rows().items():
        if row.basic in {"D", "U"}:
            assert tag in found, row.keyword
            assert found[tag].value not in (None, "", b""), row.keyword


@pytest.mark.parametrize("option", [option for option in Option if option is not Option.MODIFIED_DATES])
def test_an_option_keeps_what_it_says_and_nothing_else(option: Option, key: bytes, tmp_path: Path) -> None:
    content = deidentified(key, tmp_path, option)
    kept = retained(option, "K")
    assert marks(content) <= kept
    found = read(content)
    for level in levels(found):
        for tag in kept:
            vr = answer_key.vr_of(tag, answer_key.rows()[tag])
            assert tag in level, (option, hex(tag))
            if vr != "SQ":
                assert level[tag].value == answer_key.planted(tag, vr), hex(tag)
    for level in levels(found):
        for tag in set(answer_key.rows()) - kept - retained(option, "C"):
            if tag in level and level[tag].VR not in {"SQ", "US", "FD"}:
                assert level[tag].value != answer_key.planted(tag, level[tag].VR), hex(tag)


@pytest.mark.parametrize("option", list(Option))
def test_only_the_options_for_it_keep_dates_and_uids(option: Option, key: bytes, tmp_path: Path) -> None:
    content = deidentified(key, tmp_path, option)
    with_dates = {Option.FULL_DATES, Option.DEVICE}
    assert (DATE.encode() in content) == (option in with_dates)
    assert (UID_ROOT.encode() in content) == (option in {Option.UIDS, Option.DEVICE})
    assert (AGE.encode() in content) == (option is Option.PATIENT)


def levels(found: FileDataset) -> list[Dataset]:
    """The data set, and the item of each level below."""
    items: list[Dataset] = [found]
    for tag in answer_key.LEVELS:
        items.append(items[-1][tag].value[0])
    return items


def test_modified_dates_are_moved_by_the_same_days_everywhere(key: bytes, tmp_path: Path) -> None:
    content = deidentified(key, tmp_path, "retain_longitudinal_modified_dates")
    assert marks(content) == set()
    assert DATE.encode() not in content
    moved = {str(level.StudyDate) for level in levels(read(content))}
    assert len(moved) == 1
    days = datetime.strptime(DATE, "%Y%m%d").date() - datetime.strptime(moved.pop(), "%Y%m%d").date()  # noqa: DTZ007
    assert 1 <= days.days <= 365
    for level in levels(read(content)):
        assert level.AcquisitionDateTime[:8] == level.SeriesDate == level.StudyDate
        assert level.AcquisitionTime == answer_key.TIME


def test_all_options_together_leave_only_what_they_keep(key: bytes, tmp_path: Path) -> None:
    options = [option for option in Option if option is not Option.FULL_DATES]
    content = deidentified(key, tmp_path, *options)
    kept = set().union(*(retained(option, "K") for option in options))
    assert marks(content) <= kept
    assert DATE.encode() not in content


def test_clean_graphics_keeps_regions_without_their_text(key: bytes, tmp_path: Path) -> None:
    found = read(deidentified(key, tmp_path, "clean_graphics"))
    assert found[0x6000, 0x3000].value.startswith(b"region")
    assert {tag.group for tag in found.keys() if tag.group >> 8 in (0x50, 0x60)} == {0x6000}  # noqa: SIM118
    assert not {(0x6000, element) for element in (0x0022, 0x1500, 0x4000)} & {
        (tag.group, tag.element)
        for tag in found.keys()  # noqa: SIM118
    }


def test_safe_private_elements_stay_with_their_creator_only_with_the_option(tmp_path: Path) -> None:
    made = builders.dataset("MR")
    made.remove_private_tags()
    block = made.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "1000")
    block.add_new(0x0E, "FD", [0.0, 0.6, 0.8])
    block.add_new(0x08, "IS", "7")
    made.private_block(0x0021, "SOMEONE ELSE", create=True).add_new(0x0C, "IS", "1000")
    key = answer_key.encoded(made)
    kept = read(deidentified(key, tmp_path, "retain_safe_private"))
    private = {(tag.group, tag.element) for tag in kept.keys() if tag.is_private}  # noqa: SIM118
    assert private == {(0x0019, 0x0010), (0x0019, 0x100C), (0x0019, 0x100E)}
    (tmp_path / "out.dcm").unlink()
    gone = read(deidentified(key, tmp_path))
    assert not any(tag.is_private for tag in gone.keys())  # noqa: SIM118


def test_the_file_says_what_was_done_to_it(key: bytes, tmp_path: Path) -> None:
    found = read(deidentified(key, tmp_path, "retain_uids", "retain_longitudinal_modified_dates"))
    codes = [(code.CodeValue, code.CodingSchemeDesignator) for code in found.DeidentificationMethodCodeSequence]
    assert codes == [("113100", "DCM"), ("113110", "DCM"), ("113107", "DCM")]
    assert found.PatientIdentityRemoved == "YES"
    assert found.LongitudinalTemporalInformationModified == "MODIFIED"
    assert "Basic Profile" in found.DeidentificationMethod[1]


def test_file_meta_and_preamble_say_nothing_of_where_the_file_came_from(key: bytes, tmp_path: Path) -> None:
    found = read(deidentified(key, tmp_path))
    assert found.preamble == bytes(128)
    assert found.file_meta.MediaStorageSOPInstanceUID == found.SOPInstanceUID
    assert {element.keyword for element in found.file_meta} == {
        "FileMetaInformationGroupLength",
        "FileMetaInformationVersion",
        "MediaStorageSOPClassUID",
        "MediaStorageSOPInstanceUID",
        "TransferSyntaxUID",
        "ImplementationClassUID",
        "ImplementationVersionName",
    }
