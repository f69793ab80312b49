import copy
import pickle

import pytest

from mercure.core.tags import FILE_TAGS, RECEPTION_TAGS, STANDARD_TAGS, Tags, is_valid_ae_title, is_valid_uid
from mercure.dicom.attributes import MEDIA_STORAGE_SOP_CLASS_UID, STANDARD_ATTRIBUTES


def test_items_are_found_by_their_exact_name_only() -> None:
    tags = Tags({"Modality": "CT"})
    assert tags["Modality"] == "CT"
    assert "Modality" in tags
    assert "modality" not in tags
    with pytest.raises(KeyError):
        tags["modality"]


def test_find_ignores_case_and_gives_none_for_a_missing_tag() -> None:
    tags = Tags({"Modality": "CT", "Empty": ""})
    assert tags.find("Modality") == tags.find("MODALITY") == "CT"
    assert tags.find("empty") == ""
    assert tags.find("Mod") is None


def test_the_exact_name_wins_then_the_first_one() -> None:
    tags = Tags({"Tag": "1", "TAG": "2"})
    assert tags.find("TAG") == "2"
    assert tags.find("tag") == "1"
    assert tags.exact_name("tag") == "Tag"


def test_tags_do_not_follow_changes_of_what_they_were_made_from() -> None:
    values = {"Modality": "CT"}
    tags = Tags(values)
    values["Modality"] = "MR"
    assert dict(tags) == {"Modality": "CT"}
    assert (len(tags), list(tags)) == (1, ["Modality"])
    with pytest.raises(TypeError):
        tags["Modality"] = "MR"  # type: ignore[index]


@pytest.mark.parametrize("values", [{"SeriesNumber": 4}, {4: "SeriesNumber"}, {"PatientName": None}])
def test_what_is_not_text_is_refused_without_telling_the_value(values: dict[str, str]) -> None:
    with pytest.raises(TypeError):
        Tags(values)


def test_the_representation_has_no_names_and_no_values() -> None:
    assert repr(Tags({"PatientName": "Doe^Jane"})) == "Tags(1 names)"


def test_tags_can_be_sent_to_another_process() -> None:
    tags = Tags({"Modality": "CT"})
    tags.find("modality")
    assert pickle.loads(pickle.dumps(tags)) == copy.deepcopy(tags) == tags


def test_what_was_looked_for_is_there_and_empty_and_known_to_be_lacking() -> None:
    tags = Tags({"Modality": "CT", "ImageType": "", "Filename": "f"}, ["SequenceName", "Modality", "ImageType"])
    assert dict(tags) == {"SequenceName": "", "Modality": "CT", "ImageType": "", "Filename": "f"}
    assert [name for name in tags if tags.lacks(name)] == ["SequenceName"]
    copied = pickle.loads(pickle.dumps(tags))
    assert (list(copied), copied.lacks("SequenceName"), copied.lacks("ImageType")) == (list(tags), True, False)


@pytest.mark.parametrize("uid", ["1", "1.2.840.10008.1.2", "0.0", "1.02.3", "1." * 31 + "11"])
def test_uids_of_digits_and_dots_are_valid(uid: str) -> None:
    assert is_valid_uid(uid)


@pytest.mark.parametrize(
    "uid", ["", ".", "1.", ".1", "1..2", "1.2.x", " 1.2", "1.2\n", "1.2\x00", "../../x", "1.2/3", "٣.1", "1" * 65]
)
def test_other_texts_are_no_uids(uid: str) -> None:
    assert not is_valid_uid(uid)


@pytest.mark.parametrize("title", ["A", "STORE-SCP_1", "SIXTEEN CHARS XX", " PADDED ", "a.b#c"])
def test_ae_titles_of_one_to_sixteen_characters_are_valid(title: str) -> None:
    assert is_valid_ae_title(title)


@pytest.mark.parametrize("title", ["", " ", " " * 16, "SEVENTEEN CHARS X", "A\\B", "A\nB", "A\x7f", "A\x00", "ÄÖ"])
def test_other_texts_are_no_ae_titles(title: str) -> None:
    assert not is_valid_ae_title(title)


def test_the_standard_tags_are_those_that_are_read_and_those_of_the_reception() -> None:
    assert {"Filename", MEDIA_STORAGE_SOP_CLASS_UID, *(one.name for one in STANDARD_ATTRIBUTES)} == FILE_TAGS
    assert FILE_TAGS | RECEPTION_TAGS == STANDARD_TAGS
