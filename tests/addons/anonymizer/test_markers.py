from datetime import UTC, datetime

import pytest
from mercure_anonymizer.instance import deidentify, quiet_pydicom
from mercure_anonymizer.report import Tally
from mercure_anonymizer.settings import read_settings
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID
from tests import builders
from tests.addons.anonymizer.samples import SECRET, task

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def marked_before() -> FileDataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "113100", "DCM", "Basic"
    made = builders.dataset("CT", DeidentificationMethodCodeSequence=Sequence([code]))
    made.PatientIdentityRemoved, made.DeidentificationMethod = "YES", "by hand of Sekret"
    made.LongitudinalTemporalInformationModified = "UNMODIFIED"
    made.file_meta.TransferSyntaxUID = UID(builders.EXPLICIT_LITTLE)
    return made


def treated(**settings: str) -> FileDataset:
    made = marked_before()
    with quiet_pydicom():
        deidentify(made, read_settings(task({"secret": SECRET, **settings}), {}), NOW, Tally())
    return made


@pytest.mark.parametrize("settings", [{"(0010,0010)": "keep"}, {"(0010,0010)": "keep", "(0012,0064)": "keep"}])
def test_an_earlier_claim_does_not_stay_when_this_run_makes_none(settings: dict[str, str]) -> None:
    found = treated(**settings)
    assert "DeidentificationMethodCodeSequence" not in found
    assert found.PatientIdentityRemoved == "NO"
    assert found.LongitudinalTemporalInformationModified == "REMOVED"
    assert "Sekret" not in str(found.DeidentificationMethod)


def test_an_earlier_claim_does_not_stay_where_the_rules_of_the_site_alone_count() -> None:
    found = treated(preset="none")
    assert "DeidentificationMethodCodeSequence" not in found
    assert "LongitudinalTemporalInformationModified" not in found
    assert found.PatientIdentityRemoved == "NO"


def test_an_earlier_claim_is_replaced_by_that_of_this_run() -> None:
    found = treated()
    assert [code.CodeMeaning for code in found.DeidentificationMethodCodeSequence] == [
        "Basic Application Confidentiality Profile"
    ]
    assert found.PatientIdentityRemoved == "YES"


def test_what_the_settings_set_is_left() -> None:
    assert treated(**{"(0012,0063)": "set(ours)"}).DeidentificationMethod == "ours"
    assert "DeidentificationMethod" not in treated(**{"(0012,0063)": "remove"})
