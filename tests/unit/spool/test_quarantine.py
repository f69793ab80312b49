import errno
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mercure.core.task import FailStage
from mercure.spool import quarantine as module
from mercure.spool.job_files import read_task
from mercure.spool.layout import Layout, Origin
from mercure.spool.quarantine import UNREADABLE, quarantine

ORIGIN = Origin("SENDER", "MERCURE", "10.0.0.1")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "draft"
    path.write_bytes(b"not understood")
    return path


@pytest.mark.parametrize("fsync", [True, False])
def test_what_cannot_be_placed_becomes_a_job_in_error(layout: Layout, broken: Path, fsync: bool) -> None:
    job_id = quarantine(layout, broken, ORIGIN, "no SeriesInstanceUID", fsync=fsync)
    folder = layout.error / job_id
    assert {path.name for path in folder.iterdir()} == {"received", "task.json", "error.log"}
    assert (folder / "received" / UNREADABLE).read_bytes() == b"not understood"
    job = read_task(folder)
    assert (job.id, job.action, job.reason) == (job_id, "none", "no SeriesInstanceUID")
    assert job.fail_stage is FailStage.RECEIVING
    assert job.settled_at == job.created_at
    assert (job.series.calling_ae_title, job.series.called_ae_title, job.series.peer_address) == (
        "SENDER",
        "MERCURE",
        "10.0.0.1",
    )
    assert broken.exists()


def test_other_bytes_and_other_origins_become_jobs_of_their_own(layout: Layout, broken: Path) -> None:
    origins = [ORIGIN, Origin("OTHER", "MERCURE", "10.0.0.1"), Origin("SENDER", "OTHER", "10.0.0.1")]
    origins.append(Origin("SENDER", "MERCURE", "10.0.0.2"))
    made = {quarantine(layout, broken, origin, "reason") for origin in origins}
    for number in range(20):
        broken.write_bytes(b"not understood %d" % number)
        made.add(quarantine(layout, broken, ORIGIN, "reason"))
    assert len(made) == 24
    assert {path.name for path in layout.error.iterdir()} == made


def test_what_comes_again_is_found_kept_and_noted_up_to_a_limit(layout: Layout, broken: Path) -> None:
    first = quarantine(layout, broken, ORIGIN, "no SeriesInstanceUID")
    folder = layout.error / first
    inode = (folder / "received" / UNREADABLE).stat().st_ino
    assert quarantine(layout, broken, ORIGIN, "no SeriesInstanceUID") == first
    reason, again = (folder / "error.log").read_text().splitlines()
    assert "no SeriesInstanceUID" in reason
    assert "came again" in again
    other_name = broken.with_name("another draft")
    other_name.write_bytes(broken.read_bytes())
    assert {quarantine(layout, other_name, ORIGIN, "reason", fsync=False) for _ in range(1000)} == {first}
    assert [path.name for path in layout.error.iterdir()] == [first]
    assert (folder / "received" / UNREADABLE).stat().st_ino == inode
    assert read_task(folder).reason == "no SeriesInstanceUID"
    assert (folder / "error.log").stat().st_size < 17 << 10


def test_a_repeat_gives_the_draft_no_second_name(layout: Layout, broken: Path) -> None:
    quarantine(layout, broken, ORIGIN, "reason")
    again = broken.with_name("again")
    again.write_bytes(broken.read_bytes())
    quarantine(layout, again, ORIGIN, "reason")
    assert again.stat().st_nlink == 1, "recovery would take it for one that is published"


@pytest.mark.parametrize("damage", ["removed", "cut off"])
def test_a_job_without_its_file_is_left_alone_and_the_bytes_are_kept_beside_it(
    layout: Layout, broken: Path, damage: str
) -> None:
    first = quarantine(layout, broken, ORIGIN, "reason")
    file = layout.error / first / "received" / UNREADABLE
    file.unlink()
    if damage == "cut off":
        file.write_bytes(b"not")
    second = quarantine(layout, broken, ORIGIN, "reason")
    assert second != first
    assert (layout.error / second / "received" / UNREADABLE).read_bytes() == b"not understood"
    assert quarantine(layout, broken, ORIGIN, "reason") == second
    assert len(list(layout.error.iterdir())) == 2


def test_once_its_job_is_removed_the_same_is_kept_anew(layout: Layout, broken: Path) -> None:
    first = quarantine(layout, broken, ORIGIN, "reason")
    shutil.rmtree(layout.error / first)
    assert quarantine(layout, broken, ORIGIN, "another reason") == first
    assert read_task(layout.error / first).reason == "another reason"


def test_many_at_the_same_time_make_one_job(layout: Layout, tmp_path: Path) -> None:
    drafts = [tmp_path / f"draft {number}" for number in range(16)]
    for draft in drafts:
        draft.write_bytes(b"not understood")
    together = threading.Barrier(len(drafts))

    def keep(draft: Path) -> str:
        together.wait(30)
        return quarantine(layout, draft, ORIGIN, "reason")

    with ThreadPoolExecutor(len(drafts)) as pool:
        made = set(pool.map(keep, drafts))
    assert [path.name for path in layout.error.iterdir()] == list(made)


@pytest.mark.parametrize("step", ["link_or_copy", "write_error_log", "fsync_file", "write_task"])
def test_a_disk_that_fails_on_the_way_leaves_nothing_behind(
    layout: Layout, broken: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, step, full)
    with pytest.raises(OSError, match="No space"):
        quarantine(layout, broken, ORIGIN, "reason")
    assert list(layout.error.iterdir()) == []
    assert broken.exists()
