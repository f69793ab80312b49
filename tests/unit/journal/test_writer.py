import errno
import json
import logging
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mercure.core.events import Event, EventKind
from mercure.journal.writer import DETAIL_LENGTH, JournalWriter

NOON = datetime(2024, 5, 6, 12, tzinfo=UTC)


def event(**fields: Any) -> Event:
    return Event(EventKind.JOB_CREATED, NOON, **fields)


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_bytes().splitlines()]


def test_an_event_is_in_the_file_when_emit_returns(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "journal", "router")
    writer.emit(event(job_id="j-1"))
    (line,) = written(tmp_path / "journal")
    assert (line["kind"], line["job_id"]) == ("job_created", "j-1")
    (file,) = (tmp_path / "journal").iterdir()
    assert file.name.startswith(f"router-{os.getpid()}-")
    writer.close()


def test_nothing_is_made_before_the_first_event(tmp_path: Path) -> None:
    JournalWriter(tmp_path / "journal", "router").close()
    assert list(tmp_path.iterdir()) == []


def test_what_root_writes_belongs_to_the_owner_of_the_data_folder(tmp_path: Path) -> None:
    as_root = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    program = (
        "import os, sys\n"
        "from datetime import UTC, datetime\n"
        "from pathlib import Path\n"
        "from mercure.core.events import Event, EventKind\n"
        "from mercure.journal.writer import JournalWriter\n"
        "jobs = Path(sys.argv[1])\n"
        "os.mkdir(jobs)\n"
        "os.chown(jobs, 12345, 54321)\n"
        "writer = JournalWriter(jobs / 'journal', 'operator')\n"
        "writer.emit(Event(EventKind.JOB_CREATED, datetime.now(UTC)))\n"
        "for path in ('journal', *os.listdir(jobs / 'journal')):\n"
        "    found = os.stat(jobs / 'journal' if path == 'journal' else jobs / 'journal' / path)\n"
        "    print(found.st_uid, found.st_gid)\n"
    )
    command = [*as_root, sys.executable, "-c", program, str(tmp_path / "jobs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("12345 54321\n" * 2, "")


def test_the_writer_gives_each_event_an_id_of_its_own_and_keeps_one_that_is_there(tmp_path: Path) -> None:
    for service in ("router", "dispatcher"):
        writer = JournalWriter(tmp_path, service)
        for _ in range(50):
            writer.emit(event())
        writer.emit(event(id="mine"))
        writer.close()
    ids = Counter(line["id"] for line in written(tmp_path))
    assert ids.pop("mine") == 2
    assert len(ids) == ids.total() == 100


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "receiver", rotate_bytes=20_000)

    def work(name: int) -> None:
        for number in range(200):
            writer.emit(event(job_id=f"{name}-{number}", detail="x" * number))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert Counter(line["job_id"] for line in written(tmp_path)) == Counter(
        f"{name}-{number}" for name in range(6) for number in range(200)
    )
    assert writer.dropped == 0


def test_a_full_file_is_followed_by_another(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "router", rotate_bytes=1000)
    for number in range(50):
        writer.emit(event(count=number, detail="x" * 100))
    writer.close()
    sizes = [file.stat().st_size for file in tmp_path.glob("*.jsonl")]
    assert len(sizes) > 5
    assert max(sizes) <= 1000
    assert sorted(line["count"] for line in written(tmp_path)) == list(range(50))


def test_an_event_larger_than_a_file_still_has_its_place(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "router", rotate_bytes=10)
    writer.emit(event())
    writer.emit(event())
    writer.close()
    assert len(written(tmp_path)) == 2


def test_a_long_detail_is_cut(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "router")
    writer.emit(event(detail="é" * 1_000_000))
    writer.close()
    assert written(tmp_path)[0]["detail"] == "é" * DETAIL_LENGTH


def test_events_are_taken_again_after_close(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "router")
    writer.emit(event(count=1))
    writer.close()
    writer.close()
    writer.emit(event(count=2))
    writer.close()
    assert [line["count"] for line in written(tmp_path)] == [1, 2]


def test_a_folder_that_is_gone_costs_events_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tmp_path / "data"
    writer = JournalWriter(data / "journal", "router")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            writer.emit(event(detail="secret"))
    assert writer.dropped == 3
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text
    data.mkdir()
    writer.emit(event(count=4))
    assert [line["count"] for line in written(data / "journal")] == [4]
    assert (writer.dropped, len(caplog.records)) == (3, 2)
    writer.close()


def test_a_file_that_was_removed_is_replaced_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mercure.journal.writer._SYNC_SECONDS", 0.0)
    writer = JournalWriter(tmp_path / "journal", "router")
    writer.emit(event(count=1))
    shutil.rmtree(tmp_path / "journal")
    writer.emit(event(count=2))
    writer.emit(event(count=3))
    assert [line["count"] for line in written(tmp_path / "journal")] == [3]
    writer.close()


def test_what_is_no_event_is_dropped_without_an_exception(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "router")
    writer.emit(event(duration_seconds=float("nan")))
    writer.emit(event(detail=b"bytes"))
    writer.emit(event(count=1))
    writer.close()
    assert (writer.dropped, len(written(tmp_path))) == (2, 1)


def _fill(folder: Path) -> None:
    """Write until the limit of the file size, which cuts a line off as a full disk does; then go on without it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    writer = JournalWriter(folder, "router")
    for number in range(20):
        writer.emit(event(count=number))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for number in range(20, 25):
        writer.emit(event(count=number))
    writer.close()
    os._exit(0 if writer.dropped else 1)


def test_a_full_disk_drops_events_and_the_lines_after_it_are_whole(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_fill, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    (file,) = tmp_path.glob("*.jsonl")
    counts, pieces = [], 0
    for line in file.read_bytes().splitlines():
        try:
            counts.append(json.loads(line)["count"])
        except ValueError:
            pieces += 1
    assert counts[-5:] == [20, 21, 22, 23, 24]
    assert counts[:-5] == list(range(len(counts) - 5))
    assert pieces <= 1


FORK = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from mercure.core.events import Event, EventKind
from mercure.journal.writer import JournalWriter
writer = JournalWriter(Path(sys.argv[1]), "receiver")
writer.emit(Event(EventKind.RECOVERED, datetime.now(UTC)))
child = os.fork()
if not child:
    writer.close()
for _ in range(10):
    writer.emit(Event(EventKind.RECOVERED, datetime.now(UTC)))
writer.close()
if not child:
    os._exit(writer.dropped)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) + writer.dropped)
"""


def test_a_forked_child_has_a_file_and_ids_of_its_own(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", FORK, str(tmp_path)], check=False).returncode == 0
    assert sorted(len(file.read_bytes().splitlines()) for file in tmp_path.glob("*.jsonl")) == [10, 11]
    assert len({line["id"] for line in written(tmp_path)}) == 21


@pytest.mark.parametrize("service", ["", "a/b", "../x", ".hidden", "a b", "x" * 65])
def test_the_name_of_a_service_cannot_leave_the_folder(tmp_path: Path, service: str) -> None:
    with pytest.raises(ValueError, match="name of a service"):
        JournalWriter(tmp_path, service)


def test_the_writer_costs_a_receiver_worker_no_pydantic() -> None:
    code = "import sys, mercure.journal.writer; sys.exit('pydantic' in sys.modules or 'pydicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _refuse(*_arguments: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_file_system_without_locks_costs_events_and_leaves_no_drafts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", _refuse)
    writer = JournalWriter(tmp_path, "router")
    writer.emit(event())
    assert writer.dropped == 1
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_make_events_durable_is_reported_and_does_no_more_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mercure.journal.writer._SYNC_SECONDS", 0.0)
    monkeypatch.setattr("os.fsync", _refuse)
    writer = JournalWriter(tmp_path, "router")
    for number in range(3):
        writer.emit(event(count=number))
    writer.close()
    assert [line["count"] for line in written(tmp_path)] == [0, 1, 2]
    assert writer.dropped == 3
    assert ["cannot be written" in record.message or "durable" in record.message for record in caplog.records] == [
        True,
        True,
    ]
