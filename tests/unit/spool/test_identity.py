from pathlib import Path

import pytest

from mercure.core.errors import SpoolError
from mercure.spool.identity import data_id
from mercure.spool.layout import Layout


def test_a_data_folder_has_one_identity_for_good_and_no_other_has_it(tmp_path: Path) -> None:
    first, second = Layout.under(tmp_path / "a"), Layout.under(tmp_path / "b")
    for layout in (first, second):
        layout.create()
    assert data_id(first) == data_id(first)
    assert data_id(first) != data_id(second)
    assert [path.name for path in first.jobs.glob("*data*")] == ["data.id"]


def test_a_damaged_identity_and_a_folder_that_is_not_there_are_said(tmp_path: Path) -> None:
    layout = Layout.under(tmp_path)
    with pytest.raises(SpoolError, match="cannot be used"):
        data_id(layout)
    layout.create()
    (layout.jobs / "data.id").write_text("../x")
    with pytest.raises(SpoolError, match="damaged"):
        data_id(layout)
