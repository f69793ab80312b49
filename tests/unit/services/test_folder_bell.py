"""Folder notifications: what rings, what does not, and that nothing depends on them."""

import errno
import os
import threading
from pathlib import Path

import pytest
from tests.peers import wait_until

from mercure.services import folder_bell
from mercure.services.folder_bell import FolderBell


class Counter:
    def __init__(self) -> None:
        self.count = 0
        self.rang = threading.Event()

    def ring(self) -> None:
        self.count += 1
        self.rang.set()


def test_what_appears_in_a_folder_rings(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    rung = Counter()
    bell = FolderBell((first, second), rung.ring)
    (first / "folder").mkdir()
    assert rung.rang.wait(10)
    rung.rang.clear()
    (tmp_path / "file").touch()
    os.rename(tmp_path / "file", second / "file")
    assert rung.rang.wait(10)
    bell.close()


def test_drafts_and_what_goes_away_ring_nobody(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    rung = Counter()
    bell = FolderBell((tmp_path,), rung.ring)
    (tmp_path / ".draft").mkdir()
    (tmp_path / "old").unlink()
    (tmp_path / "last").touch()
    assert rung.rang.wait(10)
    bell.close()
    assert rung.count == 1


def test_changes_ring_when_they_are_wanted(tmp_path: Path) -> None:
    (tmp_path / "control").touch()
    rung = Counter()
    bell = FolderBell((tmp_path,), rung.ring, changes=True)
    (tmp_path / "control").touch()
    assert rung.rang.wait(10)
    bell.close()


def test_a_folder_that_is_not_there_is_left_to_the_scans(tmp_path: Path) -> None:
    rung = Counter()
    bell = FolderBell((tmp_path / "missing", tmp_path), rung.ring)
    (tmp_path / "new").touch()
    assert rung.rang.wait(10)
    bell.close()


def test_a_folder_that_is_removed_does_not_end_the_bell(tmp_path: Path) -> None:
    gone, stays = tmp_path / "gone", tmp_path / "stays"
    gone.mkdir()
    stays.mkdir()
    rung = Counter()
    bell = FolderBell((gone, stays), rung.ring)
    gone.rmdir()
    wait_until(lambda: rung.count, "the end of the folder is told")
    rung.rang.clear()
    (stays / "new").touch()
    assert rung.rang.wait(10)
    bell.close()


def test_a_system_without_notifications_is_said_once_and_works_by_scans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none_left(**_values: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(folder_bell, "INotify", none_left)
    bell = FolderBell((tmp_path,), Counter().ring)
    bell.close()
    assert "no folder notifications (Too many open files)" in caplog.text


def test_without_room_for_a_thread_nothing_rings_and_nothing_stays_open(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    stack = threading.stack_size(1 << 46)
    try:
        bell = FolderBell((tmp_path,), lambda: None)
    finally:
        threading.stack_size(stack)
    bell.close()
    assert "no folder notifications" in caplog.text
    assert len(os.listdir("/proc/self/fd")) == before
