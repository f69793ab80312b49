import errno
import fcntl
import itertools
import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.small_disk import fill, small_disk, take_inodes

from mercure.core.errors import SpoolError
from mercure.spool import intake as intake_module
from mercure.spool.drafts import Draft, Sync
from mercure.spool.hints import is_released
from mercure.spool.intake import Intake, Published, Session, shortage
from mercure.spool.layout import Layout, Origin
from mercure.spool.sealing import Sealed, seal

ORIGIN = Origin("SENDER", "MERCURE", "10.0.0.1")
NOW = datetime(2024, 5, 17, tzinfo=UTC)


@pytest.fixture
def intake(layout: Layout) -> Intake:
    return Intake(layout)


def publish(
    session: Session,
    sop: str = "1.2.3",
    content: bytes = b"content",
    *,
    study: str = "1.2",
    series: str = "1.2.9",
    kind: bytes = b"CT",
) -> Published:
    draft = session._intake.draft()
    draft.write([content])
    try:
        return session.publish(draft, study, series, sop, kind)
    finally:
        draft.discard()


def instances(layout: Layout) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in layout.incoming.glob("*#*/*.dcm")}


def drafts(intake: Intake) -> list[str]:
    return sorted(name for name in os.listdir(intake.folder) if name != ".lock")


def sealed(layout: Layout, reception: str) -> Sealed:
    outcome = seal(layout, reception, NOW)
    assert isinstance(outcome, Sealed)
    return outcome


def test_an_instance_gets_its_name_in_its_reception(layout: Layout, intake: Intake) -> None:
    published = publish(intake.session(ORIGIN))
    assert published.kind == "new"
    assert published.name == "1.2.9#1.2.3.dcm"
    assert (layout.incoming / published.reception / published.name).read_bytes() == b"content"
    assert drafts(intake) == []
    content = json.loads((layout.incoming / published.reception / "reception.json").read_text())
    assert content["series_uid"] == "1.2.9"
    assert content["sender_aet"] == "SENDER"


@pytest.mark.parametrize("which", ["sop", "series", "study"])
@pytest.mark.parametrize("uid", ["", "../../x", "1" * 65, "1..2", "1.2\0"])
def test_an_impossible_uid_is_refused_and_the_draft_stays_the_callers(
    layout: Layout, intake: Intake, which: str, uid: str
) -> None:
    with pytest.raises(SpoolError):
        publish(intake.session(ORIGIN), **{"sop": "1.2.3", "study": "1.2", "series": "1.2.9", which: uid})  # type: ignore[arg-type]
    assert instances(layout) == {}
    assert drafts(intake) == []


def test_identical_bytes_are_one_instance_and_count_as_life_of_the_series(layout: Layout, intake: Intake) -> None:
    reception = layout.incoming / publish(intake.session(ORIGIN)).reception
    os.utime(reception, (1, 1))
    assert publish(intake.session(ORIGIN)).kind == "identical"
    assert reception.stat().st_mtime > 1
    assert len(instances(layout)) == 1


def test_different_bytes_with_one_uid_are_all_kept(layout: Layout, intake: Intake) -> None:
    session = intake.session(ORIGIN)
    kinds = [publish(session, content=content).kind for content in (b"a", b"b", b"c", b"b", b"a")]
    assert kinds == ["new", "different", "different", "identical", "identical"]
    assert instances(layout) == {
        "1.2.9#1.2.3.dcm": b"a",
        "1.2.9#1.2.3#2.dcm": b"b",
        "1.2.9#1.2.3#3.dcm": b"c",
    }


def test_there_is_an_end_to_different_copies(layout: Layout, intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "_MAXIMUM_COPIES", 3)
    session = intake.session(ORIGIN)
    for content in (b"a", b"b"):
        publish(session, content=content)
    with pytest.raises(SpoolError, match="too many"):
        publish(session, content=b"c")
    assert len(instances(layout)) == 2


def test_a_late_instance_makes_a_new_reception(layout: Layout, intake: Intake) -> None:
    session = intake.session(ORIGIN)
    first = publish(session)
    taken = sealed(layout, first.reception)
    second = publish(session, "1.2.4")
    assert second.reception == first.reception
    assert [path.name for path in taken.received.glob("*.dcm")] == ["1.2.9#1.2.3.dcm"]
    assert list(instances(layout)) == ["1.2.9#1.2.4.dcm"]


def test_an_instance_waits_while_a_router_holds_the_reception(layout: Layout, intake: Intake) -> None:
    session = intake.session(ORIGIN)
    reception = layout.incoming / publish(session).reception
    descriptor = os.open(reception / "reception.json", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    thread = threading.Thread(target=publish, args=(session, "1.2.4"))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    reception.rename(layout.sealed / "taken")
    os.close(descriptor)
    thread.join(30)
    assert len(list((layout.sealed / "taken").glob("*.dcm"))) == 1
    assert list(instances(layout)) == ["1.2.9#1.2.4.dcm"]


def test_two_sessions_add_to_one_reception(layout: Layout, intake: Intake) -> None:
    sessions = [intake.session(ORIGIN), Intake(layout).session(ORIGIN)]
    assert len({publish(session, f"1.2.{n}").reception for n, session in enumerate(sessions)}) == 1
    assert len(instances(layout)) == 2


def test_the_kinds_of_instances_are_marked_once_each(layout: Layout, intake: Intake) -> None:
    session = intake.session(ORIGIN)
    for number, kind in enumerate((b"CT", b"CT", b"SR")):
        published = publish(session, f"1.2.{number}", kind=kind)
    marks = [path for path in (layout.incoming / published.reception).iterdir() if path.name.startswith(".kind-")]
    assert len(marks) == 2


def test_many_series_on_one_association_keep_few_descriptors(layout: Layout, intake: Intake) -> None:
    session = intake.session(ORIGIN)
    publish(session, series="1.9.0")
    before = len(os.listdir("/proc/self/fd"))
    for number in range(100):
        publish(session, series=f"1.9.{number}")
    assert len(os.listdir("/proc/self/fd")) - before < 20
    session.close()
    assert len(os.listdir("/proc/self/fd")) < before
    assert len(instances(layout)) == 100


def test_a_folder_in_the_way_that_is_no_reception_is_an_error_and_no_endless_loop(
    layout: Layout, intake: Intake
) -> None:
    reception = layout.incoming / publish(intake.session(ORIGIN)).reception
    (reception / "reception.json").unlink()
    with pytest.raises(SpoolError, match="in the way"):
        publish(intake.session(ORIGIN), "1.2.4")
    assert drafts(intake) == []


def test_an_empty_folder_in_the_way_is_replaced(layout: Layout, intake: Intake) -> None:
    reception = layout.incoming / publish(intake.session(ORIGIN)).reception
    sealed(layout, reception.name)
    reception.mkdir()
    publish(intake.session(ORIGIN), "1.2.4")
    assert (reception / "reception.json").exists()


def test_a_file_in_the_way_is_an_error_and_leaves_no_hidden_folder(layout: Layout, intake: Intake) -> None:
    reception = layout.incoming / publish(intake.session(ORIGIN)).reception
    sealed(layout, reception.name)
    reception.write_text("in the way")
    with pytest.raises(OSError, match="Not a directory"):
        publish(intake.session(ORIGIN), "1.2.4")
    assert drafts(intake) == []


def test_a_full_disk_on_the_way_to_a_reception_leaves_nothing(
    layout: Layout, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(intake_module, "write_all", full)
        with pytest.raises(OSError, match="No space"):
            publish(intake.session(ORIGIN))
    assert drafts(intake) == []
    assert instances(layout) == {}
    assert publish(intake.session(ORIGIN)).kind == "new"


def test_the_router_learns_when_no_association_holds_a_reception(layout: Layout) -> None:
    intake = Intake(layout, hold_open=True)
    one, two = intake.session(ORIGIN), intake.session(ORIGIN)
    reception = publish(one).reception
    publish(two, "1.2.4")
    one.close()
    assert not is_released(layout, reception)
    two.close()
    assert is_released(layout, reception)
    assert os.listdir(layout.released) == [reception]


def test_a_reception_that_a_session_has_not_at_hand_any_more_is_announced_at_its_end_only(layout: Layout) -> None:
    before = len(os.listdir("/proc/self/fd"))
    intake = Intake(layout, hold_open=True)
    session = intake.session(ORIGIN)
    first = publish(session, series="1.9.0").reception
    for number in range(1, 40):
        publish(session, series=f"1.9.{number}")
    assert os.listdir(layout.released) == []
    assert not is_released(layout, first)
    publish(session, "1.2.4", series="1.9.0")
    publish(session, "1.2.4", series="1.9.1")
    session.close()
    assert is_released(layout, first)
    assert len(os.listdir(layout.released)) == 40
    intake.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_locks_that_one_association_holds_are_limited(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "_HELD_OPEN", 3)
    session = Intake(layout, hold_open=True).session(ORIGIN)
    receptions = [publish(session, series=f"1.9.{number}").reception for number in range(20)]
    assert os.listdir(layout.released) == receptions[:1]
    session.close()
    assert sorted(os.listdir(layout.released)) == sorted(receptions)


def test_an_association_that_holds_nothing_open_keeps_few_descriptors(layout: Layout) -> None:
    intake = Intake(layout)
    session = intake.session(ORIGIN)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(40):
        publish(session, series=f"1.9.{number}")
    assert len(os.listdir("/proc/self/fd")) == before + 16
    session.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_hold_that_fails_closes_what_it_opened(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    intake = Intake(layout, hold_open=True)
    publish(intake.session(ORIGIN))
    before = len(os.listdir("/proc/self/fd"))
    real = os.open

    def refusing(path: str, flags: int, mode: int = 0o777) -> int:
        if str(path).endswith("/.open"):
            raise PermissionError(errno.EACCES, "no")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(PermissionError):
        publish(intake.session(ORIGIN), "1.2.4")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_worker_takes_its_folder_away_unless_something_is_left(layout: Layout) -> None:
    clean, busy = Intake(layout), Intake(layout)
    busy.draft().write([b"half"])
    clean.close()
    busy.close()
    assert os.listdir(layout.drafts) == [busy.folder.name]


def test_the_lock_of_a_worker_is_held_while_it_lives(intake: Intake) -> None:
    descriptor = os.open(intake.folder / ".lock", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    intake.close()
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_a_draft_is_written_whole_although_the_system_stops_early(
    intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write, real_writev = os.write, os.writev
    monkeypatch.setattr(os, "write", lambda descriptor, data: real_write(descriptor, bytes(data)[:5]))
    monkeypatch.setattr(os, "writev", lambda descriptor, chunks: real_writev(descriptor, [bytes(chunks[0])[:2]]))
    draft = intake.draft()
    draft.write([b"0123456789"])
    draft.write([b"abc", memoryview(b"def"), b""])
    assert draft.read(100, 0) == b"0123456789abcdef"
    assert draft.size == 16
    draft.discard()
    draft.discard()
    assert drafts(intake) == []


def test_more_chunks_than_the_system_takes_at_once_are_written(intake: Intake) -> None:
    draft = intake.draft()
    draft.write([bytes([n % 256]) for n in range(5000)])
    assert draft.size == 5000
    assert draft.read(3, 4999) == bytes([4999 % 256])
    draft.discard()


def test_a_complete_draft_says_its_size_and_its_origin(intake: Intake) -> None:
    draft = intake.draft()
    draft.write([b"12345"])
    draft.complete(ORIGIN)
    draft.complete(ORIGIN)
    assert drafts(intake) == ["1#5#SENDER#MERCURE#10.0.0.1.dcm"]
    draft.discard()


def test_drafts_never_share_a_name(intake: Intake) -> None:
    made = [intake.draft() for _ in range(50)]
    assert len({draft.path for draft in made}) == 50
    for draft in made:
        draft.discard()


def test_a_draft_follows_no_link_when_it_is_adopted(intake: Intake, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (intake.folder / "1#6#A#B#C.dcm").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        Draft(intake.prefix, 1, str(intake.folder / "1#6#A#B#C.dcm"), sync=Sync.NEVER)


def test_there_is_room_above_the_reserve_and_none_below(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4 << 20) as disk:
        assert shortage(disk, 2 << 20) == ""
        assert shortage(disk, 1 << 60) == "less than receiver.min_free_space_gb is free"
        fill(disk)
        assert shortage(disk, 1) == "less than receiver.min_free_space_gb is free"
        assert shortage(disk, 0) == ""
    with pytest.raises(FileNotFoundError):
        shortage(tmp_path / "absent", 0)


@pytest.mark.parametrize(("inodes", "kept"), [(400, 20), (30_000, 1_000)])
def test_inodes_are_kept_with_the_space_but_few_of_a_small_disk(tmp_path: Path, inodes: int, kept: int) -> None:
    with small_disk(tmp_path / "disk", inodes=inodes) as disk:
        left = take_inodes(disk, left=kept)
        assert shortage(disk, 1) == ""
        one_more = take_inodes(disk, left=kept - 1)
        assert shortage(disk, 1) == f"fewer than {kept:,} inodes are free"
        assert shortage(disk, 0) == "", "without a reserve of bytes nothing is kept"
        for file in (*one_more, *left[:1]):
            file.unlink(missing_ok=True)
        assert shortage(disk, 1) == ""


def test_a_file_system_that_sets_no_limit_on_files_is_never_short_of_them(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", inodes=0) as disk:
        assert (os.statvfs(disk).f_files, os.statvfs(disk).f_favail) == (0, 0)
        assert shortage(disk, 1) == ""


def test_every_instance_is_in_one_place_whatever_is_sealed_between(layout: Layout, intake: Intake) -> None:
    sessions = itertools.cycle([intake.session(ORIGIN), intake.session(ORIGIN)])
    for number in range(40):
        reception = publish(next(sessions), f"1.2.{number}").reception
        if number % 7 == 0:
            sealed(layout, reception)
    places = [path.name for path in layout.incoming.rglob("*.dcm")]
    assert len(places) == len(set(places)) == 40
