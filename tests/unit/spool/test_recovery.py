import fcntl
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests import builders
from tests.builders import CT_STORAGE, EXPLICIT_LITTLE

from mercure.core.stages import Stage
from mercure.core.task import Job, SeriesInfo
from mercure.dicom import part10
from mercure.dicom.recovery import recover_drafts
from mercure.spool import layout as names
from mercure.spool.intake import Intake
from mercure.spool.job_files import read_task, write_task
from mercure.spool.layout import Layout, Origin
from mercure.spool.recovery import abandoned_drafts

ORIGIN = Origin("SENDER", "MERCURE", "10.0.0.1")


@pytest.fixture
def dead(layout: Layout) -> Path:
    """The folder of a worker that is no more: its lock file is there, and free."""
    folder = layout.drafts / "4711-deadbeef"
    folder.mkdir()
    (folder / ".lock").touch()
    return folder


def instance(uid: str, **elements: str) -> bytes:
    data_set = builders.dicom_bytes(part10=False, SOPInstanceUID=uid, **elements)  # type: ignore[arg-type]
    return part10.encode_file_meta(CT_STORAGE, uid, EXPLICIT_LITTLE, "SENDER") + data_set


def leave(folder: Path, content: bytes, number: int = 1) -> Path:
    path = folder / names.draft_name(number, len(content), ORIGIN)
    path.write_bytes(content)
    return path


def placed(layout: Layout) -> list[str]:
    return sorted(path.name.partition("#")[2] for path in layout.incoming.glob("*#*/*.dcm"))


def test_a_complete_draft_is_given_out_and_everything_else_removed(layout: Layout, dead: Path) -> None:
    complete = leave(dead, b"whole")
    (dead / "2.part").write_bytes(b"cut off")
    (dead / "3#100#A#B#C.dcm").write_bytes(b"power failed before its bytes were written")
    (dead / "rabcdef").mkdir()
    (dead / "rabcdef" / "reception.json").write_text("{}")
    (dead / "stray").write_text("of nobody")
    found = []
    for abandoned in abandoned_drafts(layout):
        found.append(abandoned)
        os.unlink(abandoned.path)
    assert [(one.path, one.origin) for one in found] == [(str(complete), ORIGIN)]
    assert os.listdir(layout.drafts) == []


def test_what_the_caller_leaves_stays_for_the_next_recovery(layout: Layout, dead: Path) -> None:
    leave(dead, b"whole")
    assert len(list(abandoned_drafts(layout))) == 1
    assert len(list(abandoned_drafts(layout))) == 1


def test_a_draft_that_was_published_already_is_only_removed(layout: Layout, dead: Path, tmp_path: Path) -> None:
    draft = leave(dead, b"whole")
    os.link(draft, tmp_path / "published")
    assert list(abandoned_drafts(layout)) == []
    assert os.listdir(layout.drafts) == []
    assert (tmp_path / "published").exists()


def test_the_folder_of_a_living_worker_is_left_alone(layout: Layout) -> None:
    intake = Intake(layout)
    draft = intake.draft()
    draft.write([b"half"])
    assert list(abandoned_drafts(layout)) == []
    assert Path(draft.path).exists()


def test_two_recoveries_do_not_meet_in_one_folder(layout: Layout, dead: Path) -> None:
    leave(dead, b"whole")
    first = abandoned_drafts(layout)
    assert next(first).origin == ORIGIN
    assert list(abandoned_drafts(layout)) == []
    first.close()  # type: ignore[attr-defined]
    assert len(list(abandoned_drafts(layout))) == 1


def test_a_folder_without_lock_is_taken_only_when_it_is_old(layout: Layout) -> None:
    for name in (".1-starting", "2-unlocked"):
        (layout.drafts / name).mkdir()
    leave(layout.drafts / "2-unlocked", b"whole")
    assert list(abandoned_drafts(layout)) == []
    for name in (".1-starting", "2-unlocked"):
        os.utime(layout.drafts / name, (1, 1))
    for abandoned in abandoned_drafts(layout):
        os.unlink(abandoned.path)
    assert os.listdir(layout.drafts) == []


def test_files_and_links_among_the_folders_are_stepped_over(layout: Layout, tmp_path: Path) -> None:
    (layout.drafts / "a file").write_text("")
    (layout.drafts / "dangling").symlink_to("nowhere")
    (tmp_path / "elsewhere").mkdir()
    assert list(abandoned_drafts(layout)) == []


def test_a_folder_that_another_recovery_removed_meanwhile_is_stepped_over(
    layout: Layout, dead: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock

    def removed_first(descriptor: int, operation: int) -> None:
        (dead / ".lock").unlink()
        dead.rmdir()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    assert list(abandoned_drafts(layout)) == []


def test_recovery_publishes_what_was_complete(layout: Layout, dead: Path) -> None:
    series = builders.new_uid()
    for number in range(3):
        leave(dead, instance(f"1.2.{number}", SeriesInstanceUID=series, StudyInstanceUID="1.2"), number)
    (dead / "9.part").write_bytes(b"cut off")
    assert recover_drafts(layout, Intake(layout)) == 3
    assert placed(layout) == ["1.2.0.dcm", "1.2.1.dcm", "1.2.2.dcm"]
    assert not dead.exists()
    assert recover_drafts(layout, Intake(layout)) == 0


@pytest.mark.parametrize("fsync", [True, False])
def test_an_instance_that_is_there_already_vanishes_as_identical(layout: Layout, dead: Path, fsync: bool) -> None:
    content = instance("1.2.3", SeriesInstanceUID="1.2.9", StudyInstanceUID="1.2")
    leave(dead, content, 1)
    leave(dead, content, 2)
    assert recover_drafts(layout, Intake(layout, fsync=fsync)) == 2
    assert placed(layout) == ["1.2.3.dcm"]
    assert not dead.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"no DICOM at all",
        instance("1.2.3", SeriesInstanceUID="1.2.9")[:400],
        instance("1.2.3").replace(b"1.2.3\0", b"1.2.4\0", 1),
    ],
    ids=["no DICOM", "cut off", "other UID"],
)
def test_what_cannot_be_placed_goes_to_error(layout: Layout, dead: Path, content: bytes) -> None:
    leave(dead, content)
    assert recover_drafts(layout, Intake(layout)) == 1
    (job,) = layout.error.iterdir()
    assert (job / "received" / "unreadable.dcm").read_bytes() == content
    assert read_task(job).reason
    assert placed(layout) == []
    assert not dead.exists()


def test_what_the_disk_does_not_take_stays_where_it_is(
    layout: Layout, dead: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draft = leave(dead, instance("1.2.3"))
    intake = Intake(layout)
    intake.folder.rename(layout.drafts.parent / "away")
    assert recover_drafts(layout, intake) == 0
    assert draft.exists()
    assert "stays where it is" in caplog.text
    assert recover_drafts(layout, Intake(layout)) == 1
    assert placed(layout) == ["1.2.3.dcm"]


def job_with(layout: Layout, stage: Stage, content: bytes, origin: Origin, *, copy: int = 1) -> None:
    """A job whose series was copied from another file system: its instances are files of their own."""
    folder = layout.stage(stage) / "20250101T000000-aaaaaaaaaa-1"
    (folder / names.RECEIVED).mkdir(parents=True)
    for number in range(1, copy + 1):
        path = folder / names.RECEIVED / names.instance_name("1.2.9", "1.2.3", number)
        path.write_bytes(content if number == copy else b"other bytes")
    series = SeriesInfo("1.2.9", "1.2", origin.calling_ae_title, origin.called_ae_title, origin.peer_address)
    write_task(folder, Job(folder.name, "route", series, datetime(2025, 1, 1, tzinfo=UTC)))


@pytest.mark.parametrize("copy", [1, 3])
@pytest.mark.parametrize("stage", list(Stage))
def test_what_is_in_a_job_on_another_file_system_is_not_published_again(
    layout: Layout, dead: Path, caplog: pytest.LogCaptureFixture, stage: Stage, copy: int
) -> None:
    caplog.set_level("INFO")
    content = instance("1.2.3", SeriesInstanceUID="1.2.9", StudyInstanceUID="1.2")
    leave(dead, content)
    job_with(layout, stage, content, ORIGIN, copy=copy)
    assert recover_drafts(layout, Intake(layout)) == 0
    assert placed(layout) == []
    assert not dead.exists()
    assert "1.2.3 of a dead worker is in a job already" in caplog.text


def test_what_is_in_a_sealed_reception_is_not_published_again(layout: Layout, dead: Path) -> None:
    content = instance("1.2.3", SeriesInstanceUID="1.2.9", StudyInstanceUID="1.2")
    session = Intake(layout).session(ORIGIN)
    leave(dead, content)
    assert recover_drafts(layout, Intake(layout)) == 1
    session.close()
    (reception,) = layout.incoming.glob("*#*")
    (layout.sealed / "seal").mkdir()
    reception.rename(layout.sealed / "seal" / names.RECEIVED)
    dead.mkdir()
    (dead / names.LOCK_FILE).touch()
    leave(dead, content)
    assert recover_drafts(layout, Intake(layout)) == 0
    assert placed(layout) == []
    assert not dead.exists()


@pytest.mark.parametrize("difference", ["sender", "called", "address", "bytes", "no task"])
def test_what_is_in_a_job_of_another_reception_or_with_other_bytes_is_published(
    layout: Layout, dead: Path, difference: str
) -> None:
    content = instance("1.2.3", SeriesInstanceUID="1.2.9", StudyInstanceUID="1.2")
    leave(dead, content)
    origin = {
        "sender": replace(ORIGIN, calling_ae_title="OTHER"),
        "called": replace(ORIGIN, called_ae_title="OTHER"),
        "address": replace(ORIGIN, peer_address="10.0.0.2"),
    }.get(difference, ORIGIN)
    job_with(layout, Stage.OUTGOING, content[:-1] if difference == "bytes" else content, origin)
    if difference == "no task":
        next(layout.outgoing.glob("*/task.json")).unlink()
    assert recover_drafts(layout, Intake(layout)) == 1
    assert placed(layout) == ["1.2.3.dcm"]


def test_the_lock_of_a_process_that_was_killed_is_free(layout: Layout) -> None:
    code = (
        "import sys, os, signal; from pathlib import Path; from mercure.spool.intake import Intake;"
        "from mercure.spool.layout import Layout, Origin;"
        "intake = Intake(Layout.under(Path(sys.argv[1]))); draft = intake.draft();"
        "draft.write([sys.stdin.buffer.read()]); draft.complete(Origin('SENDER', 'MERCURE', '10.0.0.1'));"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    data_folder = layout.incoming.parent
    subprocess.run([sys.executable, "-c", code, str(data_folder)], input=instance("1.2.3"), check=False)
    assert len(os.listdir(layout.drafts)) == 1
    assert recover_drafts(layout, Intake(layout)) == 1
    assert placed(layout) == ["1.2.3.dcm"]
