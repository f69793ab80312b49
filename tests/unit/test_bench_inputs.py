import pydicom
import pytest
from bench import inputs, workplace


def test_the_same_load_is_written_once_however_it_is_asked_for(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workplace, "FOLDER", tmp_path)
    monkeypatch.setattr(inputs, "FOLDER", tmp_path)
    first = inputs.small(2, 3)
    assert inputs.small(series=2, per_series=3) is first
    found = {(str(one.SeriesInstanceUID), str(one.SOPInstanceUID)) for one in map(pydicom.dcmread, first.files)}
    assert found == first.identities
