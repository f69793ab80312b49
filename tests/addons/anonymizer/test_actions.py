import json
import re
from importlib.resources import files

import pytest
from mercure_anonymizer.actions import BASIC_ACTIONS, Option, find_row, table
from mercure_anonymizer.profile import Profile, Step
from mercure_anonymizer.values import dummy
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_has_tag, keyword_for_tag
from pydicom.dataset import Dataset

CT, ENHANCED_CT, PET, SR = (f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in ("2", "2.1", "128", "88.11"))
FAMILIES = {"gggg,eeee", "50xx,xxxx", "60xx,3000", "60xx,4000"}
NEWER_THAN_THE_DICTIONARY = 26
NO_IMAGE_ATTRIBUTES = {0x0014, 0x4010, 0x0100}
"""Groups of testing of materials, of security screening and of authorization."""


def numbers() -> dict[int, str]:
    return {int(tag.replace(",", ""), 16): row.keyword for tag, row in table().items() if tag not in FAMILIES}


def test_every_tag_is_in_the_dictionary_under_the_same_keyword() -> None:
    unknown = [tag for tag in numbers() if not dictionary_has_tag(tag)]
    assert len(unknown) == NEWER_THAN_THE_DICTIONARY
    assert {tag: keyword_for_tag(tag) for tag in numbers() if tag not in unknown} == {
        tag: keyword for tag, keyword in numbers().items() if tag not in unknown
    }


def test_the_table_has_all_rows_of_the_standard() -> None:
    assert len(table()) == 657
    assert set(table()) >= FAMILIES
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9]+", row.keyword) for row in table().values())


def test_actions_are_those_of_the_standard() -> None:
    for row in table().values():
        assert row.basic in BASIC_ACTIONS, row
        assert set(row.options.values()) <= {"K", "C"}, row
        assert (Option.FULL_DATES in row.options) == (Option.MODIFIED_DATES in row.options), row
    columns = {option: sum(option in row.options for row in table().values()) for option in Option}
    assert columns[Option.SAFE_PRIVATE] == 1
    assert columns[Option.GRAPHICS] == 4
    assert columns[Option.STRUCTURED_CONTENT] == 4
    assert all(columns.values())


def test_every_name_date_and_address_of_patient_data_is_in_the_table() -> None:
    left = {
        entry[4]
        for tag, entry in DicomDictionary.items()
        if entry[0] in {"PN", "DA", "TM", "DT", "AS"} and find_row(tag) is None and tag >> 16 not in NO_IMAGE_ATTRIBUTES
    }
    # The inventory of an archive holds no patient; the retired author is treated as every name is.
    assert left == {"ItemInventoryDateTime", "ExpirationDateTime", "StudyUpdateDateTime", "DocumentAuthorTrial"}


def test_every_instance_uid_is_replaced_in_the_basic_profile_even_when_no_row_names_it() -> None:
    profile = Profile()
    for tag, entry in DicomDictionary.items():
        if entry[0] == "UI" and tag >> 16 > 4:
            assert profile.decide(tag, "UI", CT).step in {Step.NEW_UID, Step.REMOVE, Step.DUMMY}, entry[4]


def test_families_of_tags_are_found() -> None:
    assert [find_row(tag) is not None for tag in (0x00091001, 0x501E3000, 0x60103000, 0x60104000)] == [True] * 4
    assert find_row(0x60100010) is None
    assert find_row(0x00080060) is None


@pytest.mark.parametrize(
    ("keyword_tag", "vr", "sop_class", "step"),
    [
        (0x00080023, "DA", CT, Step.EMPTY),
        (0x00080023, "DA", ENHANCED_CT, Step.DUMMY),
        (0x00080023, "DA", SR, Step.DUMMY),
        (0x00080021, "DA", CT, Step.REMOVE),
        (0x00080021, "DA", PET, Step.DUMMY),
        (0x0008002A, "DT", CT, Step.REMOVE),
        (0x0008002A, "DT", ENHANCED_CT, Step.DUMMY),
        (0x00181000, "LO", CT, Step.EMPTY),
        (0x00181000, "LO", ENHANCED_CT, Step.DUMMY),
        (0x00081111, "SQ", CT, Step.REMOVE),
        (0x00081111, "SQ", SR, Step.EMPTY),
        (0x00081111, "SQ", ENHANCED_CT, Step.NEW_UID),
        (0x00081140, "SQ", CT, Step.NEW_UID),
        (0x00400555, "SQ", CT, Step.EMPTY),
    ],
)
def test_combined_actions_follow_the_type_in_the_sop_class(
    keyword_tag: int, vr: str, sop_class: str, step: Step
) -> None:
    assert Profile().decide(keyword_tag, vr, sop_class).step is step


def test_types_are_known_for_rows_with_a_choice_only() -> None:
    text = files("mercure_anonymizer").joinpath("data/required.json").read_text()
    for kind, letter in (("type 1", "D"), ("type 2", "Z")):
        for tag, classes in json.loads(text)[kind].items():
            assert letter in table()[tag].basic, tag
            assert classes


def test_every_sequence_that_needs_a_dummy_has_one() -> None:
    found = 0
    for tag, row in table().items():
        if tag in FAMILIES or not row.keyword.endswith("Sequence"):
            continue
        number = int(tag.replace(",", ""), 16)
        for kind in ("2", "481.10", "88.11"):
            if Profile().decide(number, "SQ", f"1.2.840.10008.5.1.4.1.1.{kind}").step is Step.DUMMY:
                found += 1
                assert len(dummy(number, "SQ", Dataset())) == 1, row.keyword
    assert found == 5 * 3 + 1
