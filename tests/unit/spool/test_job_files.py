import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mercure.core.delivery import InstanceResult, Outcome
from mercure.core.errors import SpoolError
from mercure.core.task import Job, SeriesInfo
from mercure.spool import job_files
from mercure.spool.job_files import Ledger, read_ledger, read_task, write_error_log, write_task

NOW = datetime(2024, 5, 17, 12, 30, tzinfo=UTC)


def job(**changes: str) -> Job:
    return Job(
        id="20240517T123000-0123456789", action="route", series=SeriesInfo("1.2.9", "1.2", **changes), created_at=NOW
    )


@pytest.mark.parametrize("fsync", [True, False])
def test_a_task_is_read_back_as_it_was_written(tmp_path: Path, fsync: bool) -> None:
    written = job(patient_name="Müller^山田\ud800", calling_ae_title="CT1")
    write_task(tmp_path, written, fsync=fsync)
    assert read_task(tmp_path) == written
    assert [path.name for path in tmp_path.iterdir()] == ["task.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"id": 1}'])
def test_a_task_that_is_not_valid_is_an_error_of_the_spool(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "task.json").write_bytes(content)
    with pytest.raises(SpoolError):
        read_task(tmp_path)


def test_a_task_that_is_not_there_or_too_long_is_an_error_of_the_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpoolError, match=r"there is no task\.json"):
        read_task(tmp_path)
    write_task(tmp_path, job())
    monkeypatch.setattr(job_files, "_MAXIMUM_TASK_BYTES", 10)
    with pytest.raises(SpoolError, match="too long"):
        read_task(tmp_path)


def test_a_task_that_cannot_be_read_just_now_says_nothing_about_the_job(tmp_path: Path) -> None:
    (tmp_path / "task.json").symlink_to("task.json")  # the kernel answers ELOOP: an error that is not "no such file"
    with pytest.raises(OSError, match="symbolic links"):
        read_task(tmp_path)


def test_reasons_are_added_to_the_error_log_one_line_each(tmp_path: Path) -> None:
    write_error_log(tmp_path, "first\nreason \ud800", NOW)
    write_error_log(tmp_path, "second", NOW)
    assert (tmp_path / "error.log").read_text().splitlines() == [
        "2024-05-17T12:30:00Z first reason ?",
        "2024-05-17T12:30:00Z second",
    ]


def test_the_ledger_gives_the_latest_result_of_each_instance_and_target(tmp_path: Path) -> None:
    for results in (
        [
            ("pacs", InstanceResult("a.dcm", Outcome.DEFERRED, "0xA700")),
            ("pacs", InstanceResult("b.dcm", Outcome.DELIVERED)),
        ],
        [
            ("pacs", InstanceResult("a.dcm", Outcome.DELIVERED)),
            ("folder", InstanceResult("a.dcm", Outcome.REFUSED, "ü\ud800")),
        ],
    ):
        ledger = Ledger(tmp_path)
        for target, result in results:
            ledger.record(target, result)
        ledger.close()
    assert read_ledger(tmp_path) == {
        ("pacs", "a.dcm"): InstanceResult("a.dcm", Outcome.DELIVERED),
        ("pacs", "b.dcm"): InstanceResult("b.dcm", Outcome.DELIVERED),
        ("folder", "a.dcm"): InstanceResult("a.dcm", Outcome.REFUSED, "ü?"),
    }


def test_a_line_that_a_crash_cut_off_does_not_count(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.record("pacs", InstanceResult("a.dcm", Outcome.DELIVERED))
    ledger.close()
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write(
            '["pacs", "x.dcm", "no such outcome", ""]\n[1]\n["pacs", [], "delivered", ""]\n["pacs", "b.dcm", "deli'
        )
    assert [key for key in read_ledger(tmp_path) if key[1] in ("a.dcm", "b.dcm", "x.dcm")] == [("pacs", "a.dcm")]


def test_a_ledger_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read_ledger(tmp_path) == {}


def test_a_line_after_a_cut_off_line_still_counts(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_text('["pacs", "b.dcm", "deli')
    ledger = Ledger(tmp_path)
    ledger.record("pacs", InstanceResult("a.dcm", Outcome.DELIVERED))
    ledger.close()
    assert ("pacs", "a.dcm") in read_ledger(tmp_path)


def test_the_task_is_json_that_existing_tools_read(tmp_path: Path) -> None:
    write_task(tmp_path, job(patient_id="42"))
    assert json.loads((tmp_path / "task.json").read_text())["info"]["mrn"] == "42"
