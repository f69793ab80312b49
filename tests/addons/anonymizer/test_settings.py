from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from mercure_anonymizer.actions import Option
from mercure_anonymizer.errors import InstanceError, SettingsError
from mercure_anonymizer.instance import deidentify, quiet_pydicom
from mercure_anonymizer.report import Tally
from mercure_anonymizer.settings import Settings, read_settings
from pydicom.dataset import FileDataset
from pydicom.uid import UID
from tests import builders
from tests.addons.anonymizer.samples import SECRET, task

NOW = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)


def settings(called: str = "ANON", environment: dict[str, str] | None = None, **sections: Any) -> Settings:
    return read_settings(task({"secret": SECRET, **sections}, called), environment or {})


def treated(called: str = "ANON", sections: dict[str, Any] | None = None, **elements: Any) -> FileDataset:
    made = builders.dataset("CT", **elements)
    made.file_meta.TransferSyntaxUID = UID(builders.EXPLICIT_LITTLE)
    with quiet_pydicom():
        deidentify(made, settings(called, **(sections or {})), NOW, Tally())
    return made


@pytest.mark.parametrize("called", ["TRIAL", "AZ_TRIAL", "az_trial", " Trial "])
def test_the_called_ae_title_chooses_the_project(called: str) -> None:
    sections = {"general": {"(0010,1010)": "keep"}, "Trial": {"name": "T", "(0010,1010)": "remove"}}
    found = settings(called, **sections)
    assert found.project.name == "T"
    assert found.assignments[0x00101010].command == "remove"
    assert settings("OTHER", **sections).assignments[0x00101010].command == "keep"


def test_a_project_overrides_a_general_command_however_the_tag_is_written() -> None:
    found = settings("T", general={"(0008,103E)": "keep"}, t={"(0008,103e)": "clear"})
    assert [one.command for one in found.assignments.values()] == ["clear"]


def test_commands_do_what_they_did() -> None:
    commands = {
        "(0008,103e)": "keep",
        "(0008,1030)": "safe",
        "(0010,0040)": "remove",
        "(0018,0015)": "clear",
        "(0010,0030)": "truncdate",
        "(0010,0010)": "set(Project^X)",
        "(0009,1001)": "keep",
    }
    values = {"SeriesDescription": "s", "StudyDescription": "t", "BodyPartExamined": "HEAD", "PatientSex": "F"}
    found = treated(sections={"general": commands}, PatientBirthDate="19700523", **values)
    assert (found.SeriesDescription, found.StudyDescription) == ("s", "t")
    assert "PatientSex" not in found
    assert found.BodyPartExamined in (None, "")
    assert found.PatientBirthDate == "19700101"
    assert found.PatientName == "Project^X"
    assert (0x0009, 0x0010) in found
    assert (0x0009, 0x1001) in found
    assert (0x0009, 0x1002) not in found


def test_safe_tags_can_be_removed_and_values_may_be_given_as_text() -> None:
    general = {"(0008,103e)": "keep", "(0008,1030)": "safe", "remove_safe_tags": "true"}
    found = treated(sections={"general": general}, SeriesDescription="s", StudyDescription="t")
    assert "SeriesDescription" in found
    assert "StudyDescription" not in found


def test_macros_are_filled() -> None:
    texts = {
        "(0010,0010)": "set(@fake_name@)",
        "(0010,0020)": "set(@project_prefix@-@fake_mrn@)",
        "(0008,0050)": "set(@fake_acc@)",
        "(0032,1060)": "set(@project_name@/@project_owner@ @process_date@ @process_time@)",
        "(0020,0010)": "set(@value(0008,0060)@ @value(0010,0020)@)",
        "(0008,103e)": "set([@value@])",
        "(0008,1155)": "set(@random_uid@)",
    }
    trial = {"name": "N", "owner": "O", "prefix": "P", **texts}
    found = treated("AZ_TRIAL", {"trial": trial}, PatientID="4711", SeriesDescription="axial")
    again = treated("AZ_TRIAL", {"trial": trial}, PatientID="4711", SeriesDescription="axial")
    assert found.PatientName == again.PatientName != builders.PATIENT
    assert found.PatientID.startswith("P-")
    assert len(found.PatientID) == 16
    assert len(found.AccessionNumber) == 14
    assert found.RequestedProcedureDescription == "N/O 03042026 050607089"
    assert found.StudyID == "CT 4711"
    assert found.SeriesDescription == "[axial]"
    assert found.ReferencedImageSequence[0].ReferencedSOPInstanceUID.startswith("2.25.")
    assert found.SOPClassUID == builders.CT_STORAGE


def test_what_is_kept_by_command_is_not_claimed_to_be_the_basic_profile() -> None:
    kept = treated(sections={"general": {"(0010,0010)": "keep"}})
    assert kept.PatientIdentityRemoved == "NO"
    assert "DeidentificationMethodCodeSequence" not in kept
    replaced = treated(sections={"general": {"(0010,0010)": "set(X)"}})
    assert replaced.PatientIdentityRemoved == "YES"
    assert replaced.DeidentificationMethodCodeSequence[0].CodeValue == "113100"


@pytest.mark.parametrize(
    "general",
    [
        {"(0010,0033)": "keep"},  # only in the table of what the standard leaves out
        {"(0014,2006)": "keep"},  # a name, a kind that goes wherever it stands
        {"(0009,1001)": "keep"},  # nobody knows what it is
        {"(0018,0015)": "set(@value(0010,1040)@)"},  # harmless itself, but for what it is given
    ],
)
def test_what_only_the_addon_protects_is_not_claimed_to_be_the_basic_profile_either(general: dict[str, str]) -> None:
    assert "DeidentificationMethodCodeSequence" not in treated(sections={"general": general})


def test_what_is_kept_though_the_profile_would_keep_it_too_is_the_basic_profile() -> None:
    general = {"(0028,0010)": "keep", "(0018,0015)": "set(@value(0018,0050)@)"}
    assert treated(sections={"general": general}).DeidentificationMethodCodeSequence[0].CodeValue == "113100"


def test_a_name_that_is_copied_elsewhere_is_not_claimed_to_be_removed() -> None:
    copied = treated(sections={"general": {"(0018,0015)": "set(@value(0010,0010)@)"}})
    assert copied.PatientIdentityRemoved == "NO"


def test_the_preset_none_changes_only_what_has_a_command() -> None:
    general = {"preset": "none", "remove_unknown_tags": "false", "(0010,0010)": "set(X)", "(0010,0020)": "clear"}
    before = builders.dataset("CT")
    found = treated(sections={"general": general}, SeriesDescription="s")
    assert (found.PatientName, found.PatientID, found.SeriesDescription) == ("X", "", "s")
    assert found.InstitutionName == before.InstitutionName
    assert (0x0009, 0x1001) in found
    assert found.PatientIdentityRemoved == "NO"
    assert "DeidentificationMethodCodeSequence" not in found


def test_the_preset_none_with_unknown_tags_removed_keeps_what_makes_an_image() -> None:
    found = treated(sections={"general": {"preset": "none", "(0008,103e)": "keep"}}, SeriesDescription="s")
    groups = {tag.group for tag in found.keys()}  # noqa: SIM118
    assert found.SeriesDescription == "s"
    assert not {"PatientName", "PatientID", "StudyDate"} & {element.keyword for element in found}
    assert groups == {0x0008, 0x0012, 0x0020, 0x0028, 0x7FE0}


def test_unknown_tags_stay_when_the_settings_say_so() -> None:
    def unknown(**general: Any) -> FileDataset:
        made = builders.dataset("CT")
        made.add_new(0x00089FF0, "LO", "x")
        made.file_meta.TransferSyntaxUID = UID(builders.EXPLICIT_LITTLE)
        with quiet_pydicom():
            deidentify(made, settings(general=general), NOW, Tally())
        return made

    removed, kept = unknown(), unknown(remove_unknown_tags="false")
    assert (0x0008, 0x9FF0) not in removed
    assert removed.PatientIdentityRemoved == "YES"
    assert removed.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert (0x0008, 0x9FF0) in kept
    assert kept.PatientIdentityRemoved == "NO"
    assert "DeidentificationMethodCodeSequence" not in kept


def test_the_secret_may_come_from_the_environment() -> None:
    by_setting = read_settings(task({"secret": SECRET}), {})
    by_environment = read_settings(task({}), {"ANONYMIZER_SECRET": SECRET})
    assert by_setting.mapping.uid("1.2") == by_environment.mapping.uid("1.2")
    assert by_environment.linked == "secret"
    assert read_settings(task({}), {}).linked == "this job"


def test_a_look_up_table_is_found_in_the_persistence_folder(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("patient_id,pseudonym\n4711,TRIAL-1\n")
    found = settings(environment={"MODULE_PERSISTENCE_DIR": str(tmp_path)}, lookup_table="table.csv")
    assert found.mapping.pseudonym("4711") == "TRIAL-1"


def test_options_may_be_a_list_or_a_text() -> None:
    wanted = {Option.UIDS, Option.DEVICE}
    assert settings(options=["retain_uids", "retain_device_identity"]).options == wanted
    assert settings(options="retain_uids, retain_device_identity").options == wanted


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ({"secret": "PHI"}, "secret"),
        ({"optoins": []}, "optoins"),
        ({"options": ["retain_PHI"]}, "options"),
        ({"options": 3}, "options"),
        ({"options": ["retain_longitudinal_full_dates", "retain_longitudinal_modified_dates"]}, "not both"),
        ({"general": {"(0010,0010)": "erase"}}, "(0010,0010)"),
        ({"general": {"(0010,001)": "keep"}}, "(0010,001)"),
        ({"general": {"(0010,0010)": "set(@value@"}}, "(0010,0010)"),
        ({"general": {"(0010,0010)": "set(@phi@)"}}, "@phi@"),
        ({"general": {"(0010,0010)": "set(@fake_name(0010,0010)@)"}}, "@fake_name@"),
        ({"general": {"(0008,0018)": "remove"}}, "(0008,0018)"),
        ({"general": {"(0010,0010)": 3}}, "(0010,0010)"),
        ({"preset": "PHI"}, "preset"),
        ({"remove_curves": "perhaps"}, "remove_curves"),
        ({"date_shift_days": 0}, "date_shift_days"),
        ({"date_shift_days": True}, "date_shift_days"),
        ({"burned_in": "PHI"}, "burned_in"),
        ({"pixel_rules": [{"Modality": "US", "rectangles": [[0, 0, 0, 1]]}]}, "rule 1"),
        ({"pixel_rules": [{"Manufacturer": "x"}]}, "Modality is missing"),
        ({"pixel_rules": [{"Modality": "US", "rectangle": []}]}, "rule 1"),
        ({"name": 3}, "name"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(broken: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(task({"secret": SECRET, **broken}), {})
    assert named in str(caught.value)
    assert "PHI" not in str(caught.value)


def test_a_task_without_settings_means_the_basic_profile() -> None:
    tasks: tuple[Any, ...] = ({}, [], {"process": {}})
    assert [read_settings(one, {}).preset for one in tasks] == ["default"] * 3


@pytest.mark.parametrize("broken", [{"process": []}, {"process": {"settings": [1]}}])
def test_a_task_of_another_form_is_refused(broken: Any) -> None:
    with pytest.raises(SettingsError):
        read_settings(broken, {})


def test_a_value_that_a_tag_cannot_hold_refuses_the_job_without_showing_it() -> None:
    with pytest.raises(InstanceError, match=r"\(0028,0010\) cannot hold") as caught:
        treated(sections={"general": {"(0028,0010)": "set(@value(0010,0020)@)"}}, PatientID="PHI")
    assert "PHI" not in str(caught.value)
