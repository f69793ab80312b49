"""What a sealed folder holds, and what is known of it when its own file does not say."""

from datetime import UTC, datetime
from pathlib import Path

from mercure.core.task import Job, SeriesInfo
from mercure.spool import layout as names
from mercure.spool.layout import Origin
from mercure.spool.sealed_contents import read_contents

JOB = Job(
    "20260101T120000-0000000003-1",
    "route",
    SeriesInfo("1.2", "1.9", "SCANNER", "MERCURE", "192.0.2.7"),
    datetime(2026, 3, 1, 12, tzinfo=UTC),
)


def test_the_job_that_it_was_says_where_it_came_from(tmp_path: Path) -> None:
    for name in ("1.2#1.2.10.dcm", "1.2#1.2.3#2.dcm", "1.2#1.2.3.dcm", f"{names.KIND_PREFIX}1", "other"):
        (tmp_path / name).touch()
    contents = read_contents(tmp_path, lambda: JOB)
    assert contents is not None
    assert (contents.study_uid, contents.series_uid) == ("1.9", "1.2")
    assert contents.origin == Origin("SCANNER", "MERCURE", "192.0.2.7")
    assert contents.instances == ("1.2#1.2.10.dcm", "1.2#1.2.3.dcm", "1.2#1.2.3#2.dcm")
    assert (contents.kinds, contents.problem) == (1, "")


def test_without_that_job_only_the_names_of_the_instances_are_known(tmp_path: Path) -> None:
    (tmp_path / "1.2#1.2.3.dcm").touch()
    contents = read_contents(tmp_path, lambda: None)
    assert contents is not None
    assert (contents.study_uid, contents.series_uid, contents.origin) == ("", "1.2", Origin("", "", ""))
    (tmp_path / names.RECEPTION_FILE).write_text("{")
    contents = read_contents(tmp_path, lambda: None)
    assert contents is not None
    assert "damaged" in contents.problem


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert read_contents(tmp_path / "received", lambda: JOB) is None
