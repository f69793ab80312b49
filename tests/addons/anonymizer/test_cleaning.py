from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
import pytest
from mercure_anonymizer.cleaning import Cleaner, harmless_words
from mercure_anonymizer.errors import InstanceError
from mercure_anonymizer.identity import Identity
from mercure_anonymizer.instance import deidentify, quiet_pydicom
from mercure_anonymizer.report import Tally
from mercure_anonymizer.settings import read_settings
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID
from tests import builders
from tests.addons.anonymizer.samples import SECRET, task

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("CT Abdomen w/o contrast, Sekret Paula", "CT Abdomen w/o contrast"),
        ("t2_tse_sag 3mm", "t2 tse sag 3mm"),
        ("Knee left 12/03/1970", "Knee left"),
        ("Chest MRN 4711223", "Chest"),
        ("phone 555 123 4567", ""),
        ("scan 12 03 70", "scan"),
        ("level 3", "level 3"),
        ("head-neck", "head-neck"),
        ("head-Sekret", ""),
        ("Dr. Mueller: brain", "brain"),
        ("dr@hospital.org", ""),
        ("", ""),
    ],
)
def test_only_harmless_words_are_left(text: str, left: str) -> None:
    cleaned = Cleaner(Identity.of_words({"dr"})).clean(text)
    assert cleaned == left


def test_harmless_words_are_not_left_when_a_person_is_called_so() -> None:
    assert Cleaner(Identity.of_words({"head", "chest"})).clean("Head of Mr Chest head-neck") == "of mr".replace(
        " mr", " Mr"
    )


def test_the_list_holds_words_only() -> None:
    assert len(harmless_words()) > 600
    assert all(word == word.lower() and len(word) < 24 for word in harmless_words())


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Table of SEKRET", "Table of"),
        ("sekret^paula", "ANONYMIZED"),
        ("Sekretary", "Sekretary"),
        ("a_sekret_b", "a__b"),
        ("nothing", "nothing"),
    ],
)
def test_a_name_is_taken_out_of_texts_that_no_table_names(text: str, left: str) -> None:
    assert Cleaner(Identity.of_words({"sekret", "paula"})).without_identity(text) == left


def treated(made: FileDataset, *options: str) -> FileDataset:
    made.file_meta.TransferSyntaxUID = UID(builders.EXPLICIT_LITTLE)
    settings = read_settings(task({"secret": SECRET, "options": list(options)}), {})
    with quiet_pydicom():
        deidentify(made, settings, NOW, Tally())
    return made


def test_descriptors_are_cleaned_or_treated_by_the_basic_profile() -> None:
    elements = {"SeriesDescription": "axial T1 for Dr Sekret", "StudyDescription": "Sekret", "ProtocolName": "Sekret"}
    found = treated(builders.dataset("CT", **elements), "clean_descriptors")
    assert found.SeriesDescription == "axial T1 for Dr".replace("for ", "")
    assert "StudyDescription" not in found
    assert "ProtocolName" not in found
    assert "SeriesDescription" not in treated(builders.dataset("CT", **elements))


def code(value: str, scheme: str, meaning: str) -> Dataset:
    made = Dataset()
    made.CodeValue, made.CodingSchemeDesignator, made.CodeMeaning = value, scheme, meaning
    return made


def test_codes_of_a_site_are_replaced_where_descriptors_are_cleaned() -> None:
    codes = [code("24982008", "SCT", "Chest pain of Sekret"), code("SEKRET", "99SITE", "Sekret")]
    made = builders.dataset("CT", AdmittingDiagnosesCodeSequence=Sequence(codes))
    found = treated(made, "clean_descriptors").AdmittingDiagnosesCodeSequence
    assert [one.CodeValue for one in found] == ["24982008", "ANON"]
    assert "Sekret" not in str(found)


def coded(**elements: Any) -> Dataset:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


@pytest.mark.parametrize(
    "local",
    [
        {"CodeValue": "MILLER4711", "CodingSchemeDesignator": "99SITE"},
        {"CodeValue": "MILLER4711"},
        {"LongCodeValue": "Smith Jane 4711", "CodingSchemeDesignator": "99SITE"},
        {"URNCodeValue": "urn:smith:4711"},
        {"CodingSchemeDesignator": "SMITH"},
        {"CodeValue": "MILLER.4711", "CodingSchemeDesignator": "DCM", "CodeMeaning": "Finding"},
        {"CodeValue": "SMITH^4711", "CodingSchemeDesignator": "DCM", "CodeMeaning": "Finding"},
    ],
)
def test_a_code_of_a_site_is_replaced_with_or_without_a_meaning(local: dict[str, str]) -> None:
    made = builders.dataset("CT", PatientName="Miller^Iso", AdmittingDiagnosesCodeSequence=Sequence([coded(**local)]))
    (found,) = treated(made, "clean_descriptors").AdmittingDiagnosesCodeSequence
    assert [str(element.value) for element in found] == ["ANON", "99ANON", "ANONYMIZED"]


@pytest.mark.parametrize(("version", "stays"), [("2024-09.1a", True), ("JANE SMITH", False), ("MILLER", False)])
def test_the_version_of_a_coding_scheme_stays_if_it_is_one(version: str, stays: bool) -> None:
    codes = [code("109021", "DCM", "Finding"), Dataset()]
    for one in codes:
        one.CodingSchemeVersion = version
    made = builders.dataset("CT", PatientName="Miller^Iso", AdmittingDiagnosesCodeSequence=Sequence(codes))
    found = treated(made, "clean_descriptors").AdmittingDiagnosesCodeSequence
    assert [one.get("CodingSchemeVersion") for one in found] == [version if stays else None] * 2
    assert found[0].CodeValue == "109021"


def test_units_and_modalities_stay_when_a_patient_is_called_so() -> None:
    codes = [code("mm", "UCUM", "mm"), code("MR", "DCM", "Magnetic")]
    made = builders.dataset("CT", PatientName="Mm^Mr", AdmittingDiagnosesCodeSequence=Sequence(codes))
    found = treated(made, "clean_descriptors").AdmittingDiagnosesCodeSequence
    assert [one.CodeValue for one in found] == ["mm", "MR"]


def report() -> FileDataset:
    made = builders.dataset("CT")
    for tag in [tag for tag in made.keys() if tag.group in (0x0018, 0x0028, 0x7FE0)]:  # noqa: SIM118
        del made[tag]
    made.SOPClassUID, made.Modality = UID(COMPREHENSIVE_SR), "SR"
    made.ContentSequence = Sequence(
        [
            content("TEXT", TextValue="Normal chest of Sekret Paula"),
            content("PNAME", PersonName="Sekret^Paula"),
            content("DATE", Date="20240301"),
            content("UIDREF", UID=builders.new_uid()),
            content("NUM", MeasuredValueSequence=Sequence([measured("17.5")])),
            content("CODE", ConceptCodeSequence=Sequence([code("X", "99SITE", "Sekret")])),
        ]
    )
    return made


def content(kind: str, **elements: Any) -> Dataset:
    made = Dataset()
    made.RelationshipType, made.ValueType = "CONTAINS", kind
    made.ConceptNameCodeSequence = Sequence([code("121071", "DCM", "Finding")])
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def measured(value: str) -> Dataset:
    made = Dataset()
    made.NumericValue = value
    made.MeasurementUnitsCodeSequence = Sequence([code("mm", "UCUM", "mm")])
    return made


def test_the_content_of_a_report_is_a_dummy_in_the_basic_profile() -> None:
    found = treated(report()).ContentSequence
    assert [(item.ValueType, item.TextValue) for item in found] == [("TEXT", "ANONYMIZED")]


def test_the_content_of_a_report_is_cleaned_with_the_option() -> None:
    before = report()
    uid = str(before.ContentSequence[3].UID)
    found = treated(before, "clean_structured_content").ContentSequence
    assert found[0].TextValue == "Normal chest of"
    assert found[1].PersonName == "ANONYMIZED"
    assert found[2].Date == "19000101"
    assert found[3].UID.startswith("2.25.")
    assert uid != found[3].UID
    assert found[4].MeasuredValueSequence[0].NumericValue == 17.5
    assert found[5].ConceptCodeSequence[0].CodeValue == "ANON"
    assert "Sekret" not in str(found)


def test_a_document_is_replaced_by_an_empty_page_and_its_length_is_said() -> None:
    made = builders.dataset("CT", MIMETypeOfEncapsulatedDocument="application/pdf", EncapsulatedDocument=b"%PDF Sekret")
    made.EncapsulatedDocumentLength = 11
    changed = treated(made)
    found = changed.EncapsulatedDocument
    assert found.startswith(b"%PDF-")
    assert b"Sekret" not in found
    assert changed.EncapsulatedDocumentLength == len(found)
    assert len(found) % 2 == 0


def test_the_empty_page_names_the_places_of_its_objects() -> None:
    made = builders.dataset("CT", MIMETypeOfEncapsulatedDocument="application/pdf", EncapsulatedDocument=b"%PDF Sekret")
    found = treated(made).EncapsulatedDocument
    table = int(found.split(b"startxref\n")[1].split()[0])
    assert found[table:].startswith(b"xref\n0 4\n")
    places = [int(line.split()[0]) for line in found[table:].split(b"\n")[3:6]]
    assert [found[place:].split(b" ")[0] for place in places] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("kind", ["text/XML", "model/stl", "pdf of Miller"])
def test_a_document_of_another_kind_refuses_the_instance_without_showing_it(kind: str) -> None:
    made = builders.dataset("CT", MIMETypeOfEncapsulatedDocument=kind, EncapsulatedDocument=b"<a>Sekret</a>")
    with pytest.raises(InstanceError, match="encapsulated document of this kind") as refused:
        treated(made)
    assert kind not in str(refused.value)


@pytest.mark.parametrize(
    ("tag", "vr"), [(0x00180050, b"DS"), (0x00200013, b"IS"), (0x00081155, b"UI"), (0x0008002A, b"DT")]
)
def test_text_that_hides_in_a_number_a_date_or_a_uid_is_removed(tag: int, vr: bytes, tmp_path: Path) -> None:
    made = builders.dataset("CT")
    made.add_new(tag, "LO", "Sekretxx")
    content = builders.encode(made)
    where = content.index(b"Sekretxx") - 4
    path = tmp_path / "in.dcm"
    path.write_bytes(content[:where] + vr + content[where + 2 :])
    with quiet_pydicom():
        read = pydicom.dcmread(path)
    assert vr.decode() == read.get_item(tag).VR
    assert tag not in treated(read, "retain_uids", "retain_longitudinal_full_dates")


@pytest.mark.parametrize(
    ("tag", "vr"),
    [
        (0x00180050, "CS"),
        (0x00180050, "LO"),
        (0x00081090, "OB"),
        (0x00080060, "OB"),
        (0x00400260, "LT"),
        (0x00280030, "UT"),
    ],
)
def test_a_value_under_a_vr_that_is_not_its_own_is_removed(tag: int, vr: str) -> None:
    made = builders.dataset("CT")
    made[tag] = DataElement(tag, vr, b"SEKRET" if vr == "OB" else "SEKRET")
    assert tag not in treated(made)


def test_a_text_under_the_vr_of_another_text_stays() -> None:
    made = builders.dataset("CT")
    made[0x00081090] = DataElement(0x00081090, "SH", "Scan 7")
    assert treated(made).ManufacturerModelName == "Scan 7"


@pytest.mark.parametrize(
    ("vr", "text", "left"),
    [
        ("PN", "MILLER^JOHN", ""),
        ("AE", "SCAN MILLER", "SCAN"),
        ("UR", "http://miller", None),
        ("DA", "19550312", ""),
        ("DT", "19550312", ""),
    ],
)
def test_a_text_under_the_vr_of_a_name_an_address_or_a_date_is_treated_as_one(
    vr: str, text: str, left: str | None
) -> None:
    made = builders.dataset("CT", PatientName="MILLER^JOHN")
    made[0x00081090] = DataElement(0x00081090, vr, text)
    found = treated(made)
    assert (str(found.ManufacturerModelName or "") if "ManufacturerModelName" in found else None) == left


def test_a_uid_under_a_text_is_replaced() -> None:
    made = builders.dataset("CT")
    made[0x00081090] = DataElement(0x00081090, "UI", "1.2.19550312.5550199")
    assert treated(made).ManufacturerModelName.startswith("2.25.")


def test_a_name_is_taken_out_of_codes_that_no_row_names_and_the_rest_stays() -> None:
    kind = ["ORIGINAL", "PRIMARY", "MILLER"]
    made = builders.dataset("CT", PatientName="Miller^Iso", BodyPartExamined="MILLER 5550199", ImageType=kind)
    made.SpecificCharacterSet = "ISO_IR 100"
    found = treated(made)
    assert found.BodyPartExamined == "5550199"
    assert list(found.ImageType) == ["ORIGINAL", "PRIMARY", "ANONYMIZED"]
    assert (found.SpecificCharacterSet, found.Modality) == ("ISO_IR 100", "CT")


def test_the_kinds_of_report_content_stay_when_a_patient_is_called_so() -> None:
    before = report()
    before.PatientName = "Text^Num"
    before.ContentSequence[1].ValueType = "TEXT NUM"
    found = treated(before, "clean_structured_content").ContentSequence
    assert [item.ValueType for item in found] == ["TEXT", "ANONYMIZED", "DATE", "UIDREF", "NUM", "CODE"]
    assert {item.RelationshipType for item in found} == {"CONTAINS"}
