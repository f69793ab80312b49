import errno
import os
from pathlib import Path

import pytest

from mercure.core.task import FailStage
from mercure.spool import quarantine as module
from mercure.spool.job_files import read_task
from mercure.spool.layout import Layout, Origin
from mercure.spool.quarantine import UNREADABLE, quarantine

ORIGIN = Origin("SENDER", "MERCURE", "10.0.0.1")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout.under(tmp_path / "data")
    made.create()
    return made


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


def test_each_file_becomes_a_job_of_its_own(layout: Layout, broken: Path) -> None:
    assert len({quarantine(layout, broken, ORIGIN, "reason") for _ in range(20)}) == 20
    assert len(list(layout.error.iterdir())) == 20


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
