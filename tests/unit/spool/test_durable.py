import errno
import os
from contextlib import closing
from pathlib import Path

import pytest
from tests.no_descriptors import no_descriptor_left
from tests.small_disk import small_disk

from mercure.core.errors import SpoolError
from mercure.spool import durable
from mercure.spool.durable import (
    copy_folder,
    fsync_file,
    fsync_folder,
    link_or_copy,
    move_folder,
    write_all,
    write_durably,
)
from mercure.spool.intake import Intake
from mercure.spool.layout import Layout, Origin


def folder_with_files(path: Path) -> Path:
    (path / "received").mkdir(parents=True)
    (path / "task.json").write_text("{}")
    (path / "received" / "one.dcm").write_bytes(b"one")
    (path / "link").symlink_to("received/one.dcm")
    (path / "dangling").symlink_to("nowhere")
    return path


def crosses_file_systems(*_: object) -> None:
    raise OSError(errno.EXDEV, "other file system")


@pytest.mark.parametrize("fsync", [True, False])
def test_a_file_is_replaced_whole_and_leaves_no_draft(tmp_path: Path, fsync: bool) -> None:
    path = tmp_path / "task.json"
    path.write_bytes(b"old content that is longer")
    write_durably(path, b"new", fsync=fsync)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "task.json"
    path.write_bytes(b"old")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="full"):
            write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    write_durably(path, b"new")
    assert path.read_bytes() == b"new"


def test_everything_is_written_although_the_system_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    descriptor = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    write_all(descriptor, b"0123456789")
    os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_a_folder_is_moved_by_a_rename(tmp_path: Path) -> None:
    source = folder_with_files(tmp_path / "source")
    inode = source.stat().st_ino
    move_folder(source, tmp_path / "target")
    assert (tmp_path / "target").stat().st_ino == inode
    assert not source.exists()


def test_a_folder_is_copied_where_a_rename_is_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_with_files(tmp_path / "source")
    (tmp_path / ".target.copy").mkdir()
    (tmp_path / ".target.copy" / "of an interrupted try").write_text("old")
    renames: list[str] = []
    real = os.rename

    def rename(old: Path, new: Path) -> None:
        renames.append(str(new))
        if len(renames) == 1:
            crosses_file_systems()
        real(old, new)

    monkeypatch.setattr(os, "rename", rename)
    move_folder(source, tmp_path / "target")
    assert {path.name for path in (tmp_path / "target").iterdir()} == {"received", "task.json", "link", "dangling"}
    assert (tmp_path / "target" / "received" / "one.dcm").read_bytes() == b"one"
    assert (tmp_path / "target" / "link").is_symlink()
    assert set(tmp_path.iterdir()) == {tmp_path / "target"}


def test_a_move_that_fails_for_another_reason_is_an_error_and_moves_nothing(tmp_path: Path) -> None:
    source = folder_with_files(tmp_path / "source")
    with pytest.raises(FileNotFoundError):
        move_folder(source, tmp_path / "absent" / "target")
    assert source.exists()


def test_a_copy_appears_only_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_with_files(tmp_path / "source")
    monkeypatch.setattr(durable, "fsync_file", crosses_file_systems)
    with pytest.raises(OSError, match="other file system"):
        copy_folder(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_second_name_costs_no_copy_where_links_work(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"one")
    link_or_copy(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "one").stat().st_nlink == 2


def test_a_second_name_is_a_copy_where_links_do_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").write_bytes(b"one")
    monkeypatch.setattr(os, "link", crosses_file_systems)
    link_or_copy(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two").read_bytes() == b"one"
    assert (tmp_path / "one").stat().st_nlink == 1


def test_a_second_name_that_is_taken_is_an_error(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    with pytest.raises(FileExistsError):
        link_or_copy(tmp_path / "one", tmp_path / "two")


def test_fsync_follows_no_link_and_reports_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    fsync_file(tmp_path / "dangling")
    fsync_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        fsync_file(tmp_path / "absent")
    with pytest.raises(FileNotFoundError):
        fsync_folder(tmp_path / "absent")


def test_a_file_system_that_is_known_orders_names_and_an_unknown_mount_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert durable.orders_names(tmp_path), "tests run on ext4, xfs, btrfs, zfs, f2fs or tmpfs"
    monkeypatch.setattr(durable, "_ORDERS_NAMES", frozenset({"no-such-file-system"}))
    assert not durable.orders_names(tmp_path)


def test_a_folder_in_memory_is_known_even_when_nothing_can_be_opened(tmp_path: Path) -> None:
    with small_disk(tmp_path / "memory") as memory:
        (memory / "below").mkdir()
        with no_descriptor_left():
            assert durable.is_volatile(memory / "below")
    assert durable.is_volatile(Path("/proc")) is False


def test_whether_a_folder_lies_in_memory_is_never_guessed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        durable.is_volatile(tmp_path / "not there")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        durable.is_volatile(tmp_path / "file" / "below")


def test_on_an_unknown_file_system_the_folder_of_drafts_is_made_durable_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout.under(tmp_path)
    layout.create()
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(durable, "_ORDERS_NAMES", frozenset())
    with closing(Intake(layout)) as intake:
        draft = intake.draft()
        draft.write([b"x" * 600_000])
        monkeypatch.setattr(os, "fsync", fsync)
        draft.complete(Origin("A", "B", "127.0.0.1"))
        assert synced == [draft.path, str(intake.folder)]
        draft.discard()


def test_what_cannot_be_copied_stays_where_it_is_and_leaves_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_with_files(tmp_path / "source")
    os.mkfifo(source / "pipe")
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", crosses_file_systems)
        with pytest.raises(SpoolError, match="cannot be copied"):
            move_folder(source, tmp_path / "target")
    assert (source / "received" / "one.dcm").read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [source]


def test_a_copy_that_a_full_disk_cuts_off_gives_its_space_back(tmp_path: Path) -> None:
    source = folder_with_files(tmp_path / "source")
    (source / "received" / "big.dcm").write_bytes(bytes(3 << 20))
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        with pytest.raises(OSError, match="No space left"):
            move_folder(source, disk / "target")
        assert list(disk.iterdir()) == []
        with pytest.raises(OSError, match="No space left"):
            link_or_copy(source / "received" / "big.dcm", disk / "big.dcm")
        assert list(disk.iterdir()) == []
    assert (source / "received" / "big.dcm").stat().st_size == 3 << 20
    assert (source / "received" / "one.dcm").read_bytes() == b"one"


def test_a_copy_that_cannot_be_made_durable_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_with_files(tmp_path / "source")

    def fails(_descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="broken"):
            copy_folder(source, tmp_path / "target")
    assert list(tmp_path.iterdir()) == [source]
