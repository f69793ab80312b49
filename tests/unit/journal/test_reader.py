import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercure.core.errors import SpoolError
from mercure.core.events import Event, EventKind
from mercure.journal.reader import Batch, JournalReader
from mercure.journal.writer import JournalWriter

NOON = datetime(2024, 5, 6, 12, tzinfo=UTC)
DEADLINE_SECONDS = 60


def event(count: int, **fields: Any) -> Event:
    return Event(EventKind.JOB_CREATED, NOON, count=count, **fields)


def counts(batch: Batch) -> list[int | None]:
    return [one.count for one in batch.events]


def the_file(folder: Path) -> Path:
    (file,) = folder.glob("*.jsonl")
    return file


def dead_file(folder: Path, content: bytes, name: str = "router-1-5.jsonl") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def line(count: int) -> bytes:
    return b'{"kind":"job_created","at":"2024-05-06T12:00:00+00:00","count":%d}\n' % count


def test_a_folder_that_is_not_there_has_no_events(tmp_path: Path) -> None:
    reader = JournalReader(tmp_path / "journal", {"router-1-5.jsonl": 7})
    assert reader.read() == Batch((), {"router-1-5.jsonl": 7})
    assert reader.removable() == []


def test_what_is_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="cannot be listed"):
        JournalReader(dead_file(tmp_path, b"")).read()


def test_each_event_is_read_once_while_the_writer_goes_on(tmp_path: Path) -> None:
    writer, reader = JournalWriter(tmp_path, "router"), JournalReader(tmp_path)
    seen = []
    for number in range(5):
        writer.emit(event(number))
        seen += counts(reader.read())
        assert reader.read().events == ()
    assert seen == [0, 1, 2, 3, 4]
    writer.close()


def test_a_new_reader_goes_on_at_the_saved_positions(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "router")
    for number in range(4):
        writer.emit(event(number))
    writer.close()
    first = JournalReader(tmp_path).read(limit=3)
    assert counts(first) == [0, 1, 2]
    assert counts(JournalReader(tmp_path, first.positions).read()) == [3]
    assert counts(JournalReader(tmp_path).read()) == [0, 1, 2, 3]


def test_rotation_and_new_services_are_followed_in_the_order_of_their_files(tmp_path: Path) -> None:
    reader = JournalReader(tmp_path)
    first = JournalWriter(tmp_path, "router", rotate_bytes=300)
    for number in range(10):
        first.emit(event(number))
    second = JournalWriter(tmp_path, "dispatcher")
    second.emit(event(10))
    assert counts(reader.read()) == list(range(11))
    first.emit(event(11))
    second.emit(event(12))
    assert sorted(counts(reader.read()), key=str) == [11, 12]
    first.close()
    second.close()


def test_a_line_that_is_cut_off_waits_for_its_rest_while_the_writer_lives(tmp_path: Path) -> None:
    writer, reader = JournalWriter(tmp_path, "router"), JournalReader(tmp_path)
    writer.emit(event(0))
    with the_file(tmp_path).open("ab", buffering=0) as file:
        file.write(line(1)[:30])
        assert counts(reader.read()) == [0]
        assert reader.read() == Batch((), reader.read().positions)
        file.write(line(1)[30:])
    assert counts(reader.read()) == [1]
    writer.close()


def test_a_line_that_a_dead_writer_cut_off_is_one_corrupted_line(tmp_path: Path) -> None:
    file = dead_file(tmp_path, line(0) + line(1)[:30])
    reader = JournalReader(tmp_path)
    batch = reader.read()
    assert (counts(batch), batch.corrupted) == ([0], 1)
    assert reader.removable() == [file]


@pytest.mark.parametrize(
    "bad",
    [b"", b"{", b"\xff\xfe", b"null", b'{"kind":"unheard_of","at":"2024-05-06T12:00:00+00:00"}', b"[" * 50_000],
    ids=["empty", "half", "binary", "null", "kind", "nested"],
)
def test_a_corrupted_line_is_counted_and_the_next_one_read(tmp_path: Path, bad: bytes) -> None:
    dead_file(tmp_path, line(0) + bad + b"\n" + line(1))
    batch = JournalReader(tmp_path).read()
    assert (counts(batch), batch.corrupted) == ([0, 1], 1)


@pytest.mark.parametrize("length", [64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 128 * 1024, 1_000_000])
def test_a_line_of_any_length_is_one_corrupted_line(tmp_path: Path, length: int) -> None:
    dead_file(tmp_path, b"x" * (length - 1) + b"\n" + line(0))
    batch = JournalReader(tmp_path).read()
    assert (counts(batch), batch.corrupted) == ([0], 1)
    dead_file(tmp_path, b"x" * length, "router-1-6.jsonl")
    assert JournalReader(tmp_path, batch.positions).read().corrupted == 1


def test_other_files_and_links_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(line(0))
    (tmp_path / ".router-1-5.jsonl").write_bytes(line(0))
    (tmp_path / "router-1-7.jsonl").mkdir()
    (tmp_path / "router-1-8.jsonl").symlink_to(tmp_path / "notes.txt")
    reader = JournalReader(tmp_path)
    assert reader.read() == Batch((), {})
    assert reader.removable() == []


def test_a_file_may_go_when_its_writer_has_gone_and_all_of_it_was_read(tmp_path: Path) -> None:
    writer, reader = JournalWriter(tmp_path, "router"), JournalReader(tmp_path)
    writer.emit(event(0))
    reader.read()
    assert reader.removable() == []
    writer.emit(event(1))
    writer.close()
    assert reader.removable() == []
    reader.read()
    (file,) = reader.removable()
    file.unlink()
    other = dead_file(tmp_path, line(2), f"router-1-{time.time_ns()}.jsonl")
    assert dict(reader.read().positions) == {other.name: len(line(2))}


def test_a_reading_that_fails_forgets_what_it_has_read(tmp_path: Path) -> None:
    dead_file(tmp_path, line(0))
    second = dead_file(tmp_path, line(1), "router-1-6.jsonl")
    reader = JournalReader(tmp_path, {second.name: -5})
    with pytest.raises(SpoolError, match="cannot be read"):
        reader.read()
    assert reader.read(limit=0) == Batch((), {second.name: -5})


READ_WITH_ONE_CLOSED = """
import logging, os, sys
from pathlib import Path
from mercure.journal.reader import JournalReader
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
folder = Path(sys.argv[1])
closed, half, opened = (folder / f"router-1-{number}.jsonl" for number in (5, 6, 7))
def write(path, *numbers):
    with path.open("a") as file:
        for number in numbers:
            print('{"kind":"job_created","at":"2024-05-06T12:00:00+00:00","count":%d}' % number, file=file)
def read():
    batch = reader.read()
    print([event.count for event in batch.events], sorted(name[9] for name in batch.positions), len(reader.removable()))
write(closed, 1)
write(half, 2)
write(opened, 3)
reader = JournalReader(folder)
closed.chmod(0)
read()
write(half, 4)
half.chmod(0)
write(opened, 5)
read()
write(opened, 6)
read()
closed.chmod(0o600)
half.chmod(0o600)
read()
closed.chmod(0)
read()
"""


def test_a_file_that_may_not_be_read_is_passed_over_and_read_from_its_place_when_it_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)  # another user may not write there
    with tempfile.TemporaryDirectory() as folder:  # the folders of pytest are closed to others
        os.chmod(folder, 0o777)
        command = [sys.executable, "-c", READ_WITH_ONE_CLOSED, folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
        said = f"in {folder} may not be read by this user: their events are missing here; `mercure doctor` says more"
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f"WARNING router-1-5.jsonl {said}",
        "[2, 3] ['6', '7'] 2",
        f"WARNING router-1-6.jsonl {said}",
        "[5] ['6', '7'] 1",
        "[6] ['6', '7'] 1",
        "[1, 4] ['5', '6', '7'] 3",
        f"WARNING router-1-5.jsonl {said}",
        "[] ['5', '6', '7'] 2",
    ]


WRITE = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from mercure.core.events import Event, EventKind
from mercure.journal.writer import JournalWriter
writer = JournalWriter(Path(sys.argv[1]), sys.argv[2], rotate_bytes=50_000)
for number in range(int(sys.argv[3])):
    writer.emit(Event(EventKind.JOB_CREATED, datetime.now(UTC), job_id=sys.argv[2], count=number))
    if number % 100 == 0:
        print(number, flush=True)
"""


def start_writer(folder: Path, service: str, number: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WRITE, str(folder), service, str(number)], stdout=subprocess.PIPE, text=True
    )


def test_two_processes_write_while_a_third_reads_and_every_event_comes_once(tmp_path: Path) -> None:
    processes = [start_writer(tmp_path, service, 3000) for service in ("router", "dispatcher")]
    reader, seen = JournalReader(tmp_path), list[Event]()
    deadline = time.monotonic() + DEADLINE_SECONDS
    drains = [threading.Thread(target=process.communicate) for process in processes]
    for drain in drains:
        drain.start()
    while len(seen) < 6000 and time.monotonic() < deadline:
        batch = reader.read(limit=700)
        assert batch.corrupted == 0
        seen += batch.events
        if len(seen) % 3 == 0:
            reader = JournalReader(tmp_path, batch.positions)
    for drain in drains:
        drain.join()
    for service in ("router", "dispatcher"):
        assert [one.count for one in seen if one.job_id == service] == list(range(3000))
    assert len({one.id for one in seen}) == 6000
    assert len(reader.removable()) == len(list(tmp_path.iterdir()))


def test_a_killed_writer_leaves_every_event_it_has_emitted_and_its_file_is_known_as_dead(tmp_path: Path) -> None:
    process = start_writer(tmp_path, "router", 10_000_000)
    assert process.stdout is not None
    said = [int(process.stdout.readline()) for _ in range(20)]
    reader = JournalReader(tmp_path)
    newest = max(tmp_path.glob("router-*.jsonl"))
    assert newest not in reader.removable()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    seen: list[int | None] = []
    while found := counts(reader.read()):
        seen += found
    assert seen == list(range(len(seen)))
    assert len(seen) > said[-1]
    assert set(reader.removable()) == set(tmp_path.glob("*.jsonl"))


@given(st.lists(st.binary(max_size=40) | st.integers(0, 9).map(line), max_size=8), st.integers(1, 5))
def test_any_content_is_read_to_its_end_with_every_event_in_it(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], limit: int
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    content = b"".join(parts)
    file = dead_file(folder, content)
    reader, found, corrupted = JournalReader(folder), Counter[int | None](), 0
    for _ in range(len(content) + 1):
        batch = reader.read(limit)
        found.update(counts(batch))
        corrupted += batch.corrupted
    assert batch.positions.get(file.name, 0) == len(content)
    assert reader.removable() == [file]
    lines = content.split(b"\n")
    whole = [one for one in lines if one + b"\n" in {line(number) for number in range(10)}]
    assert found.total() == len(whole)
    assert corrupted == len(lines) - (not lines[-1]) - len(whole)
