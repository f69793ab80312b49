"""What the table of the standard leaves out: texts, numbers and bytes that no row names."""

import re
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from mercure_anonymizer.actions import Option, find_row
from mercure_anonymizer.instance import deidentify_file, quiet_pydicom
from mercure_anonymizer.profile import Profile, Step, beyond_table
from mercure_anonymizer.settings import read_settings
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset, FileDataset
from tests import builders
from tests.addons.anonymizer.samples import SECRET, task

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CT = builders.CT_STORAGE
TEXTS = {"LO", "SH", "ST", "LT", "UT", "UC"}
LONG_TEXTS = {"ST", "LT", "UT"}
BYTES = {"OB", "OW", "OF", "OD", "OL", "OV"}
TALKATIVE = re.compile("Comment|OrderNumber|Organi[sz]ation|Contact|Person|Physician|Operator|OwnerID|UserGroup")
IMAGE_DATA = re.compile("Data$|List$|Offset|Values|Curve|Waveform|Channel|Map$|Outline|Phase|ICCProfile|FillPattern")
NAMED_BY_HAND = (
    "PatientBirthDateInAlternativeCalendar PatientDeathDateInAlternativeCalendar PlacerOrderNumberProcedure"
    " FillerOrderNumberImagingServiceRequestRetired CommentsOnTheScheduledProcedureStep HL7InstanceIdentifier"
    " LocalNamespaceEntityID TreatmentStatusComment DoseComment SetupImageComment AcquisitionProtocolName"
    " CommentsOnPatientPerformanceOfVisualField InstructionPerformanceComment PotentialReasonsForProcedure"
    " AssertionComments SurfaceComments RTImageName RadiationMachineName TransactionStatusComment ContactDisplayName"
    " CodingSchemeResponsibleOrganization HangingProtocolUserGroupName"
).split()


def unlisted() -> list[tuple[int, set[str], str]]:
    """Tag, VRs and keyword of all that the dictionary knows, and the table does not."""
    return [
        (tag, set(entry[0].split()), entry[4])
        for tag, entry in DicomDictionary.items()
        if tag >> 16 > 4 and find_row(tag) is None
    ]


def treated(dataset: FileDataset, folder: Path, *options: str) -> FileDataset:
    source, target = folder / "in.dcm", folder / "out.dcm"
    source.write_bytes(builders.encode(dataset))
    with quiet_pydicom():
        settings = read_settings(task({"secret": SECRET, "options": list(options)}), {})
        deidentify_file(str(source), str(target), settings, NOW)
    return pydicom.dcmread(BytesIO(target.read_bytes()))


def test_no_text_of_a_talkative_kind_is_kept_in_the_whole_dictionary() -> None:
    profile = Profile()
    kept = [
        keyword
        for tag, vrs, keyword in unlisted()
        if (vrs & LONG_TEXTS or (vrs & TEXTS and (tag >> 16 == 0x0010 or TALKATIVE.search(keyword))))
        and any(profile.decide(tag, vr, CT).step is Step.KEEP for vr in vrs)
    ]
    assert kept == []


def test_no_bytes_are_kept_in_the_whole_dictionary_but_images_curves_and_tables() -> None:
    profile = Profile()
    kept = {
        keyword
        for tag, vrs, keyword in unlisted()
        for vr in vrs & BYTES
        if profile.decide(tag, vr, CT).step is Step.KEEP
    }
    assert kept == {row.keyword for row in beyond_table().values() if row.basic == "K"}
    assert {"PixelData", "FloatPixelData", "WaveformData", "SpectroscopyData", "LUTData", "ICCProfile"} <= kept
    assert not {keyword for keyword in kept if not IMAGE_DATA.search(keyword)}


def test_what_is_beyond_the_table_is_in_the_dictionary_and_not_in_the_table() -> None:
    for tag, row in beyond_table().items():
        assert keyword_for_tag(tag) == row.keyword
        assert find_row(tag) is None
        assert row.basic in {"D", "Z", "X", "K"}


@pytest.mark.parametrize("keyword", NAMED_BY_HAND)
def test_texts_that_no_row_names_do_not_stay(keyword: str, tmp_path: Path) -> None:
    image = builders.dataset("CT")
    with quiet_pydicom():
        setattr(image, keyword, "Smith Jane 4711")
    found = treated(image, tmp_path)
    assert "Smith" not in str(found.get(keyword, "")), keyword
    assert b"Smith" not in (tmp_path / "out.dcm").read_bytes()


def test_dates_of_another_calendar_go_with_its_name_in_every_option(tmp_path: Path) -> None:
    image = builders.dataset("CT")
    image.PatientBirthDateInAlternativeCalendar = "19550312"
    image.PatientDeathDateInAlternativeCalendar = "19990101"
    image.PatientAlternativeCalendar = "JAPANESE"
    options = [option for option in Option if option is not Option.MODIFIED_DATES]
    found = treated(image, tmp_path, *options)
    assert not [element.keyword for element in found if "AlternativeCalendar" in element.keyword]


def test_texts_beyond_the_table_are_cleaned_with_the_option_that_cleans_their_kind(tmp_path: Path) -> None:
    image = builders.dataset("CT")
    image.DoseComment, image.PatientSpeciesDescription = "chest of Smith Jane", "Smith"
    found = treated(image, tmp_path, Option.DESCRIPTORS)
    assert found.DoseComment == "chest of"
    assert found.PatientSpeciesDescription == "ANONYMIZED"


def test_what_must_have_a_value_has_one_and_bytes_that_nobody_knows_are_gone(tmp_path: Path) -> None:
    image = builders.dataset("CT")
    item = Dataset()
    item.TextValue, item.TrackingID = "Smith Jane", "Smith lesion"
    item.SelectorOWValue, item.Signature = b"Smith 01", b"Smith 02"
    item.RecordKey, item.ObjectBinaryIdentifierTrial = b"Smith 03", b"Smith 04"
    image.HPGLDocument, image.LUTData = b"Smith 05", b"\1\2\3\4"
    image["LUTData"].VR, image.LUTDescriptor = "OW", [2, 0, 16]
    image.ReferencedSeriesSequence = [item]
    found = treated(image, tmp_path)
    assert b"Smith" not in (tmp_path / "out.dcm").read_bytes()
    inner = found.ReferencedSeriesSequence[0]
    assert (inner.TextValue, inner.TrackingID) == ("ANONYMIZED", "ANONYMIZED")
    assert (inner.SelectorOWValue, "Signature" in inner) == (bytes(4), False)
    assert found.LUTData == b"\1\2\3\4"


def test_names_of_machines_stay_with_the_identity_of_devices(tmp_path: Path) -> None:
    assert tag_for_keyword("RadiationMachineName") in beyond_table()
    image = builders.dataset("CT")
    image.RadiationMachineName = "Linac 3"
    assert treated(image, tmp_path, Option.DEVICE).RadiationMachineName == "Linac 3"
    (tmp_path / "out.dcm").unlink()
    assert treated(image, tmp_path).RadiationMachineName == ""
