"""Hidden folders below `.sealed/`: those of the living are left alone."""

import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.arrivals import make_job
from tests.builders import small_series
from tests.small_disk import small_disk

from mercure.core.stages import Stage
from mercure.core.task import FailStage
from mercure.spool import controls, sealing
from mercure.spool import layout as names
from mercure.spool.layout import Layout
from mercure.spool.sealed_leftovers import sweep_leftover
from mercure.spool.trees import copy_tree

SEAL = ".20260101T120000-0000000001"


def test_a_seal_without_a_name_goes_once_its_router_is_dead(layout: Layout) -> None:
    folder = layout.sealed / SEAL
    folder.mkdir()
    with (folder / names.LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sweep_leftover(folder)
        assert os.listdir(folder) == [names.LOCK_FILE]
    sweep_leftover(folder)
    assert not folder.exists()


def test_a_copy_stays_until_it_is_abandoned(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = layout.sealed / f"{SEAL}-r.copy"
    (draft / names.RECEIVED).mkdir(parents=True)
    (draft / names.LOCK_FILE).touch()
    os.utime(draft, (0.0, 0.0))  # it has the time stamp of the job by now
    sweep_leftover(draft)
    assert sorted(os.listdir(draft)) == [names.LOCK_FILE, names.RECEIVED]
    monkeypatch.setattr("mercure.spool.durable._ABANDONED_SECONDS", -1.0)
    sweep_leftover(draft)
    assert not draft.exists()


def test_a_router_that_looks_meanwhile_does_not_disturb_a_retry_across_disks(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_while_a_router_looks(source: Path, target: Path) -> tuple[list[str], list[str]]:
        copied = copy_tree(source, target)
        assert list(sealing.open_sealed(layout)) == []
        return copied

    monkeypatch.setattr("mercure.spool.durable.copy_tree", copy_while_a_router_looks)
    with small_disk(layout.error):
        series = small_series(layout.error / "series", 2)
        job = make_job(layout, series, stage=Stage.ERROR, fail_stage=FailStage.ROUTING, reason="no such target")
        controls.retry(layout, job.id, datetime.now(UTC))
        assert not (layout.error / job.id).exists()
    assert {*job.instances} <= {*os.listdir(layout.sealed / f"{job.id}-r" / names.RECEIVED)}


def test_what_is_no_folder_is_left_alone(layout: Layout, tmp_path: Path) -> None:
    (layout.sealed / ".file").write_text("x")
    (layout.sealed / ".link").symlink_to(tmp_path)
    (tmp_path / names.LOCK_FILE).touch()
    for name in (".file", ".link", ".not there", ".not there.copy"):
        sweep_leftover(layout.sealed / name)
    assert (layout.sealed / ".file").read_text() == "x"
    assert (tmp_path / names.LOCK_FILE).exists()
