from datetime import UTC, datetime
from typing import Any

import pytest
from mercure_anonymizer.errors import InstanceError
from mercure_anonymizer.instance import deidentify, quiet_pydicom
from mercure_anonymizer.report import Tally
from mercure_anonymizer.settings import read_settings
from mercure_anonymizer.terms import as_code, decoding_values
from pydicom.charset import python_encoding
from pydicom.dataset import FileDataset
from pydicom.uid import UID
from tests import builders
from tests.addons.anonymizer.samples import SECRET, task

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHARACTER_SET, MODALITY, PHOTOMETRIC = 0x00080005, 0x00080060, 0x00280004


def treated(*options: str, **elements: Any) -> FileDataset:
    with quiet_pydicom():
        made = builders.dataset("CT", **elements)
        made.file_meta.TransferSyntaxUID = UID(builders.EXPLICIT_LITTLE)
        settings = read_settings(task({"secret": SECRET, "options": list(options)}), {})
        deidentify(made, settings, NOW, Tally())
    return made


@pytest.mark.parametrize(
    ("text", "code"),
    [("CHEST", "CHEST"), ("Chest", "CHEST"), ("", ""), ("SMITH^J", "ANONYMIZED"), ("A" * 17, "ANONYMIZED")],
)
def test_a_code_has_the_form_of_one(text: str, code: str) -> None:
    assert as_code(text) == code


def test_every_character_set_that_can_be_read_is_known() -> None:
    assert decoding_values(CHARACTER_SET, list(python_encoding)) == list(python_encoding)
    assert decoding_values(CHARACTER_SET, ["", "ISO 2022 IR 87"]) == ["", "ISO 2022 IR 87"]
    assert decoding_values(CHARACTER_SET, ["ISO IR 100"]) == ["ISO IR 100"]


@pytest.mark.parametrize(("tag", "text"), [(CHARACTER_SET, "MILLER"), (PHOTOMETRIC, "MILLER")])
def test_what_tells_how_to_read_an_instance_is_of_the_standard_or_the_instance_is_refused(tag: int, text: str) -> None:
    with pytest.raises(InstanceError) as refused:
        decoding_values(tag, [text])
    assert text not in str(refused.value)


def test_an_instance_with_an_unknown_character_set_is_refused() -> None:
    with pytest.raises(InstanceError, match="not known to the standard"):
        treated(SpecificCharacterSet="MILLER")


@pytest.mark.parametrize(("before", "after"), [("MILLER JOHN", "OT"), ("CT", "CT"), ("mr", "MR"), ("", "")])
def test_a_modality_is_one_of_the_standard(before: str, after: str) -> None:
    assert decoding_values(MODALITY, [before]) == [after]
    assert (treated(Modality=before).Modality or "") == after


@pytest.mark.parametrize("options", [(), ("retain_patient_characteristics",)])
def test_codes_that_stay_have_the_form_of_codes(options: tuple[str, ...]) -> None:
    found = treated(*options, BodyPartExamined="Jones^Ann", PatientSex="Jones^Ann")
    assert found.BodyPartExamined == "ANONYMIZED"
    assert found.PatientSex in ("ANONYMIZED", "", None)


def test_short_terms_stay_when_a_patient_is_called_so() -> None:
    found = treated(PatientName="HU^LA", RescaleType="HU", PatientOrientation=["LA", "F"], ManufacturerModelName="Hu 7")
    assert (found.RescaleType, list(found.PatientOrientation)) == ("HU", ["LA", "F"])
    assert found.ManufacturerModelName == "7"


@pytest.mark.parametrize("option", ["retain_longitudinal_full_dates", "retain_longitudinal_modified_dates"])
@pytest.mark.parametrize(("offset", "stays"), [("+0245", True), ("Smith", False), ("+4711", False)])
def test_an_offset_from_utc_stays_if_it_is_one(offset: str, stays: bool, option: str) -> None:
    assert (treated(option, TimezoneOffsetFromUTC=offset).get("TimezoneOffsetFromUTC") == offset) is stays
