"""The folder target: complete or not visible, one copy, instances only."""

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.ledger import Ledger

from mercure.core.delivery import InstanceResult, Outcome, Parcel
from mercure.core.errors import PermanentError, TransientError
from mercure.targets.folder import COMPLETE, FolderTarget


@pytest.fixture
def there(tmp_path: Path) -> Path:
    folder = tmp_path / "there"
    folder.mkdir()
    return folder


@pytest.fixture
def parcel(tmp_path: Path) -> Parcel:
    return parcel_of(tmp_path, "a.dcm", "b.dcm", "c.dcm")


def parcel_of(tmp_path: Path, *names: str) -> Parcel:
    (tmp_path / "job").mkdir(exist_ok=True)
    for name in names:
        (tmp_path / "job" / name).write_bytes(name.encode() * 1000)
    return Parcel("job-1", str(tmp_path / "job"), names)


class Watcher(Ledger):
    """A ledger that looks at the target whenever something happens."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.seen: list[tuple[str, set[str]]] = []

    def _look(self, what: str) -> None:
        self.seen.append((what, {path.name for path in self._folder.rglob("*") if path.is_file()}))

    def check(self) -> None:
        super().check()
        self._look("check")

    def record(self, result: InstanceResult) -> None:
        super().record(result)
        self._look("record")


def test_the_folder_has_the_instances_and_the_marker_and_nothing_else(there: Path, parcel: Parcel) -> None:
    FolderTarget(str(there)).send(parcel, Ledger())

    assert os.listdir(there) == ["job-1"]
    assert sorted(os.listdir(there / "job-1")) == [COMPLETE, "a.dcm", "b.dcm", "c.dcm"]
    assert (there / "job-1" / "b.dcm").read_bytes() == b"b.dcm" * 1000


def test_nothing_is_visible_before_everything_is_there_and_nothing_recorded_before_that(
    there: Path, parcel: Parcel
) -> None:
    watcher = Watcher(there)
    visible: list[list[str]] = []
    real_check = watcher.check

    def check() -> None:
        real_check()
        visible.append([name for name in os.listdir(there) if not name.startswith(".")])

    watcher.check = check  # type: ignore[method-assign]

    FolderTarget(str(there)).send(parcel, watcher)

    assert visible == [[], [], []]
    assert [what for what, _ in watcher.seen] == ["check"] * 3 + ["record"] * 3
    assert all(COMPLETE in files for what, files in watcher.seen if what == "record")


def test_copies_share_no_inode_with_the_job(there: Path, parcel: Parcel) -> None:
    FolderTarget(str(there)).send(parcel, Ledger())

    source = Path(parcel.folder) / "a.dcm"
    assert (there / "job-1" / "a.dcm").stat().st_ino != source.stat().st_ino
    (there / "job-1" / "a.dcm").write_bytes(b"changed by the consumer")
    assert source.read_bytes() == b"a.dcm" * 1000


@pytest.mark.requirement("D10")
def test_a_retry_goes_on_where_the_last_attempt_ended(there: Path, parcel: Parcel) -> None:
    target = FolderTarget(str(there))

    class Unplugged(Ledger):
        def check(self) -> None:
            super().check()
            if self.checks == 3:
                self.close()

    first = Unplugged()
    with pytest.raises(TransientError, match="broken off"):
        target.send(parcel, first)
    copied = {path.name: path.stat().st_ino for path in (there / ".job-1").iterdir()}
    ledger = Ledger()

    target.send(parcel, ledger)

    assert first.results == []
    assert set(copied) == {"a.dcm", "b.dcm"}
    assert {name: (there / "job-1" / name).stat().st_ino for name in copied} == copied
    assert os.listdir(there) == ["job-1"]
    assert len(ledger.names(Outcome.DELIVERED)) == 3


def test_what_a_dead_attempt_left_half_written_is_written_anew(there: Path, parcel: Parcel) -> None:
    (there / ".job-1").mkdir()
    (there / ".job-1" / ".a.dcm.part").write_bytes(b"x" * 10_000)
    (there / ".job-1" / "b.dcm").write_bytes(b"short")

    FolderTarget(str(there)).send(parcel, Ledger())

    assert sorted(os.listdir(there / "job-1")) == [COMPLETE, "a.dcm", "b.dcm", "c.dcm"]
    assert (there / "job-1" / "a.dcm").read_bytes() == b"a.dcm" * 1000
    assert (there / "job-1" / "b.dcm").read_bytes() == b"b.dcm" * 1000


def test_an_attempt_that_died_between_rename_and_marker_is_finished(there: Path, parcel: Parcel) -> None:
    target = FolderTarget(str(there))
    target.send(parcel, Ledger())
    (there / "job-1" / COMPLETE).unlink()

    target.send(parcel, Ledger())

    assert (there / "job-1" / COMPLETE).exists()
    assert len(os.listdir(there)) == 1


def test_more_instances_of_a_delivered_job_come_into_its_folder(there: Path, tmp_path: Path, parcel: Parcel) -> None:
    target = FolderTarget(str(there))
    target.send(parcel, Ledger())
    watcher = Watcher(there)

    target.send(parcel_of(tmp_path, "d.dcm"), watcher)

    assert watcher.seen[0] == ("check", {"a.dcm", "b.dcm", "c.dcm"})  # no marker while something is missing
    assert sorted(os.listdir(there / "job-1")) == [COMPLETE, "a.dcm", "b.dcm", "c.dcm", "d.dcm"]


@pytest.mark.requirement("X8")
def test_task_files_and_other_files_are_never_copied(there: Path, tmp_path: Path) -> None:
    ledger = Ledger()

    FolderTarget(str(there)).send(parcel_of(tmp_path, "a.dcm", "task.json", "result.json"), ledger)

    assert sorted(os.listdir(there / "job-1")) == [COMPLETE, "a.dcm"]
    assert ledger.detail("task.json") == "left out: no instance"
    assert ledger.outcomes["task.json"] is Outcome.DELIVERED


def test_the_filter_leaves_out_what_it_names(there: Path, tmp_path: Path) -> None:
    ledger = Ledger()

    FolderTarget(str(there), ("loc*.dcm", "*#3.dcm")).send(
        parcel_of(tmp_path, "localizer.dcm", "1#2.dcm", "1#3.dcm"), ledger
    )

    assert sorted(os.listdir(there / "job-1")) == [COMPLETE, "1#2.dcm"]
    assert ledger.detail("1#3.dcm") == "left out by the target's filter"


def test_an_instance_that_cannot_be_read_is_refused_and_the_others_delivered(there: Path, parcel: Parcel) -> None:
    (Path(parcel.folder) / "b.dcm").unlink()
    ledger = Ledger()

    FolderTarget(str(there)).send(parcel, ledger)

    assert ledger.outcomes == {
        "a.dcm": Outcome.DELIVERED,
        "b.dcm": Outcome.REFUSED,
        "c.dcm": Outcome.DELIVERED,
    }
    assert "cannot be read: No such file" in ledger.detail("b.dcm")


def test_a_job_of_which_nothing_can_be_read_makes_no_folder_for_consumers(there: Path) -> None:
    ledger = Ledger()

    FolderTarget(str(there)).send(Parcel("job-1", "/nowhere", ["a.dcm"]), ledger)

    assert ledger.names(Outcome.REFUSED) == ["a.dcm"]
    assert not (there / "job-1").exists()


@pytest.mark.parametrize("name", ["../a.dcm", ".hidden.dcm", "", "a/b.dcm", "a\0.dcm"])
def test_names_that_are_no_plain_names_are_refused_before_anything_is_written(there: Path, name: str) -> None:
    with pytest.raises(PermanentError, match="file name"):
        FolderTarget(str(there)).send(Parcel("job-1", "/nowhere", [name]), Ledger())
    with pytest.raises(PermanentError, match="file name"):
        FolderTarget(str(there)).send(Parcel(name.removesuffix(".dcm") + "/..", "/nowhere", ["a.dcm"]), Ledger())

    assert not [path for path in there.rglob("*") if path.is_file()]


def test_a_link_in_place_of_a_copy_is_not_written_through(there: Path, parcel: Parcel, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    (there / ".job-1").mkdir()
    (there / ".job-1" / ".a.dcm.part").symlink_to(victim)

    with pytest.raises(TransientError):
        FolderTarget(str(there)).send(parcel, Ledger())

    assert victim.read_bytes() == b"untouched"


@pytest.fixture
def large_parcel(tmp_path: Path) -> Parcel:
    """Made before the kernel refuses large files."""
    return parcel_of(tmp_path, "a.dcm", "longer.dcm")


@pytest.fixture
def no_room() -> Iterator[Callable[[], None]]:
    """The kernel refuses files of more than 7 kB until the test calls what it is given."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (7_000, hard))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_target_without_room_is_transient_and_the_retry_goes_on(
    there: Path, large_parcel: Parcel, no_room: Callable[[], None]
) -> None:
    parcel = large_parcel
    target = FolderTarget(str(there))
    with pytest.raises(TransientError, match="File too large"):
        target.send(parcel, Ledger())
    assert os.listdir(there) == [".job-1"]

    no_room()
    ledger = Ledger()
    target.send(parcel, ledger)

    assert len(ledger.names(Outcome.DELIVERED)) == 2
    assert (there / "job-1" / "longer.dcm").read_bytes() == b"longer.dcm" * 1000


def test_a_file_is_copied_by_reading_where_the_kernel_cannot_copy(
    there: Path, parcel: Parcel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)

    FolderTarget(str(there)).send(parcel, Ledger())

    assert (there / "job-1" / "c.dcm").read_bytes() == b"c.dcm" * 1000


def test_the_test_names_the_folder_and_its_space(there: Path) -> None:
    found = FolderTarget(str(there)).test()

    assert found.reachable
    assert "GB free" in found.detail
    assert os.listdir(there) == []
    missing = FolderTarget(str(there / "missing")).test()
    assert not missing.reachable
    assert "is no folder" in missing.detail
