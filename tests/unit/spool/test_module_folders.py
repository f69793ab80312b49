import json
import os
import stat
from pathlib import Path

import pytest
from tests.builders import small_series

from mercure.spool.module_folders import lay_out_input, write_task_of_step


def tags(path: Path) -> dict[str, str]:
    return {"Filename": path.name, "Modality": "CT"}


def test_the_input_holds_links_that_nobody_may_write_and_tags_and_the_task(tmp_path: Path) -> None:
    series = small_series(tmp_path / "received", 3)
    taken = tmp_path / "in"
    lay_out_input(taken, series.files, {"id": "j"}, copy=False, tags=tags)
    assert sorted(os.listdir(taken)) == sorted(
        [file.name for file in series.files] + [f"{file.stem}.tags" for file in series.files] + ["task.json"]
    )
    for file in series.files:
        laid = taken / file.name
        assert laid.samefile(file)
        assert stat.S_IMODE(laid.stat().st_mode) == 0o440
        assert json.loads((taken / f"{file.stem}.tags").read_text()) == {"Filename": file.name, "Modality": "CT"}
    assert json.loads((taken / "task.json").read_text()) == {"id": "j"}


def test_a_module_that_changes_its_input_gets_copies(tmp_path: Path) -> None:
    series = small_series(tmp_path / "received", 2)
    before = [file.read_bytes() for file in series.files]
    lay_out_input(tmp_path / "in", series.files, {}, copy=True, tags=tags)
    for file, content in zip(series.files, before, strict=True):
        laid = tmp_path / "in" / file.name
        assert laid.read_bytes() == content
        laid.write_bytes(b"changed")
        assert file.read_bytes() == content


def test_the_task_of_the_next_step_replaces_that_of_the_last(tmp_path: Path) -> None:
    write_task_of_step(tmp_path, {"step": 1})
    (tmp_path / "task.json").unlink()
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / "task.json").symlink_to(tmp_path / "elsewhere")
    write_task_of_step(tmp_path, {"step": 2})
    assert json.loads((tmp_path / "task.json").read_text()) == {"step": 2}
    assert (tmp_path / "elsewhere").read_text() == "kept"


def test_what_a_module_reads_of_its_task_is_whole_although_the_system_stops_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    write_task_of_step(tmp_path, {"id": "a job with more than seven bytes"})
    monkeypatch.undo()
    assert json.loads((tmp_path / "task.json").read_text()) == {"id": "a job with more than seven bytes"}


@pytest.mark.parametrize("writable", [True, False])
def test_nothing_is_laid_out_over_an_input_that_is_there(tmp_path: Path, *, writable: bool) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(FileExistsError):
        lay_out_input(tmp_path / "in", [], {}, copy=writable, tags=tags)
