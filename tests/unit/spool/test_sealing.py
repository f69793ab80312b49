"""Sealing and making jobs: each step with real folders, and what a crash between two of them leaves."""

import fcntl
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.arrivals import ORIGIN, Sender, arrive, census
from tests.builders import BuiltSeries, small_series
from tests.small_disk import small_disk

from mercure.core.errors import SpoolError
from mercure.core.stages import Stage
from mercure.core.task import Delivery, Job, SeriesInfo
from mercure.spool import hints, sealing
from mercure.spool import layout as names
from mercure.spool.job_files import read_task
from mercure.spool.layout import Layout
from mercure.spool.sealing import Contents, PlacedJob, Sealed
from mercure.spool.trees import remove_tree

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def series(tmp_path: Path) -> BuiltSeries:
    return small_series(tmp_path / "series", 3)


def only_reception(layout: Layout) -> str:
    (name,) = sealing.receptions(layout)
    return name


def seal_only(layout: Layout) -> Sealed:
    sealed = sealing.seal(layout, only_reception(layout), NOW)
    assert isinstance(sealed, Sealed)
    return sealed


def placed(sealed: Sealed, number: int, stage: Stage = Stage.OUTGOING, target: str = "archive") -> PlacedJob:
    contents = sealed.contents()
    assert contents
    info = SeriesInfo(contents.series_uid, contents.study_uid)
    deliveries = (Delivery(target),) if stage is Stage.OUTGOING else ()
    job = Job(f"{sealed.id}-{number}", "route", info, NOW, contents.instances, deliveries=deliveries)
    return PlacedJob(job, stage)


def received(layout: Layout, stage: Stage, job_id: str) -> Path:
    return layout.stage(stage) / job_id / names.RECEIVED


def leftovers(layout: Layout) -> list[str]:
    """Drafts and sealed folders that nobody needs any more."""
    hidden = [path.name for stage in Stage for path in layout.stage(stage).iterdir() if path.name.startswith(".")]
    return hidden + [path.name for path in layout.sealed.iterdir()]


def test_a_seal_takes_the_folder_and_says_what_is_in_it(layout: Layout, series: BuiltSeries) -> None:
    arrive(layout, series)
    sealed = seal_only(layout)
    assert sealing.receptions(layout) == []
    assert sealed.contents() == Contents(
        series.study_instance_uid,
        series.series_instance_uid,
        ORIGIN,
        tuple(sorted(names.instance_name(series.series_instance_uid, uid) for uid in series.sop_instance_uids)),
        kinds=1,
    )
    assert sealed.read_plan() is None
    assert sealed.earlier_job() is None
    sealed.close()


def test_a_reception_to_which_an_instance_is_being_added_is_busy(layout: Layout, series: BuiltSeries) -> None:
    arrive(layout, series)
    name = only_reception(layout)
    descriptor = os.open(layout.incoming / name / names.RECEPTION_FILE, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    assert sealing.seal(layout, name, NOW) == "busy"
    os.close(descriptor)
    assert isinstance(sealing.seal(layout, name, NOW), Sealed)


def test_a_reception_that_is_not_there_is_gone(layout: Layout) -> None:
    assert sealing.seal(layout, "1.2.3#abcdef", NOW) == "gone"
    (layout.incoming / "1.2.3#file").write_bytes(b"no folder")
    assert sealing.seal(layout, "1.2.3#file", NOW) == "gone"
    assert list(layout.sealed.iterdir()) == []


def test_a_reception_that_lost_its_file_is_sealed_all_the_same(layout: Layout, series: BuiltSeries) -> None:
    arrive(layout, series)
    (layout.incoming / only_reception(layout) / names.RECEPTION_FILE).unlink()
    contents = seal_only(layout).contents()
    assert contents is not None
    assert len(contents.instances) == 3
    assert contents.series_uid == series.series_instance_uid


def test_a_new_reception_of_the_same_name_is_not_sealed_by_the_lock_of_the_old_one(
    layout: Layout, series: BuiltSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrive(layout, series)
    name = only_reception(layout)
    lock = fcntl.flock
    others: list[Sealed] = []

    def another_router_is_faster(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        other = sealing.seal(layout, name, NOW)
        assert isinstance(other, Sealed)
        others.append(other)
        arrive(layout, series)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", another_router_is_faster)
    assert sealing.seal(layout, name, NOW) == "busy"
    assert only_reception(layout) == name
    assert [sealed.received.is_dir() for sealed in others] == [True]


def test_a_late_instance_makes_a_reception_of_its_own(layout: Layout, series: BuiltSeries) -> None:
    with Sender(layout) as sender:
        sender.send(series, slice(0, 2))
        sealed = seal_only(layout)
        sender.send(series, slice(2, 3))
    late = seal_only(layout)
    contents, late_contents = sealed.contents(), late.contents()
    assert contents is not None
    assert late_contents is not None
    assert len(contents.instances) == 2
    assert [names.sop_instance_uid_of(name) for name in late_contents.instances] == [series.sop_instance_uids[2]]


def test_jobs_share_the_instances_by_hard_links(layout: Layout, series: BuiltSeries) -> None:
    arrive(layout, series)
    sealed = seal_only(layout)
    jobs = [placed(sealed, 1), placed(sealed, 2, target="research"), placed(sealed, 3, Stage.DISCARD)]
    assert sealed.create_jobs(jobs, resumed=False) == jobs
    name = jobs[0].job.instances[0]
    inodes = {os.stat(received(layout, job.stage, job.job.id) / name).st_ino for job in jobs}
    assert len(inodes) == 1
    assert leftovers(layout) == []
    for job in jobs:
        assert read_task(layout.stage(job.stage) / job.job.id) == job.job
        assert (received(layout, job.stage, job.job.id) / names.RECEPTION_FILE).exists()


def test_a_second_call_makes_only_what_is_missing(layout: Layout, series: BuiltSeries) -> None:
    arrive(layout, series)
    sealed = seal_only(layout)
    jobs = [placed(sealed, 1), placed(sealed, 2, Stage.DISCARD)]
    layout.discard.rmdir()
    with pytest.raises(FileNotFoundError):
        sealed.create_jobs(jobs, resumed=False)
    layout.discard.mkdir()
    assert sealed.create_jobs(jobs, resumed=True) == jobs[1:]
    assert leftovers(layout) == []


def test_the_plan_is_there_before_any_job_and_is_read_back(layout: Layout, series: BuiltSeries) -> None:
    arrive(layout, series)
    sealed = seal_only(layout)
    sealed.write_plan({"jobs": [], "name": "Ümlaut \udcff"})
    assert sealed.read_plan() == {"jobs": [], "name": "Ümlaut \udcff"}
    sealed.close()
    (again,) = sealing.open_sealed(layout)
    assert again.id == sealed.id
    again.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_damaged_plan_is_an_error_that_says_so(layout: Layout, series: BuiltSeries, content: bytes) -> None:
    arrive(layout, series)
    sealed = seal_only(layout)
    (sealed.folder / names.PLAN_FILE).write_bytes(content)
    with pytest.raises(SpoolError, match=r"plan\.json"):
        sealed.read_plan()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"study_uid": "1.2"}', b"\xff", None])
def test_a_damaged_reception_file_costs_only_what_it_says(
    layout: Layout, series: BuiltSeries, content: bytes | None
) -> None:
    arrive(layout, series)
    sealed = seal_only(layout)
    path = sealed.received / names.RECEPTION_FILE
    path.unlink() if content is None else path.write_bytes(content)
    contents = sealed.contents()
    assert contents is not None
    assert contents.series_uid == series.series_instance_uid
    assert (contents.study_uid, contents.origin.calling_ae_title, len(contents.instances)) == ("", "", 3)


def test_an_open_sealed_reception_is_taken_over_only_when_nobody_works_on_it(
    layout: Layout, series: BuiltSeries
) -> None:
    arrive(layout, series)
    sealed = seal_only(layout)
    assert list(sealing.open_sealed(layout)) == []
    sealed.close()
    sealed.close()
    assert [again.id for again in sealing.open_sealed(layout)] == [sealed.id]


def test_what_is_no_sealed_reception_is_left_alone(layout: Layout) -> None:
    (layout.sealed / "file").write_bytes(b"")
    (layout.sealed / ".half-made").mkdir()
    (layout.sealed / ".not-ours").mkdir()
    (layout.sealed / ".not-ours" / "kept").write_bytes(b"")
    assert list(sealing.open_sealed(layout)) == []
    assert sorted(path.name for path in layout.sealed.iterdir()) == [".not-ours", "file"]


def test_a_seal_that_never_got_its_folder_has_no_contents_and_is_removed(layout: Layout) -> None:
    (layout.sealed / "20260301T120000-aa").mkdir()
    (sealed,) = sealing.open_sealed(layout)
    assert sealed.contents() is None
    sealed.remove()
    assert list(layout.sealed.iterdir()) == []


def test_removing_never_takes_an_instance(layout: Layout, series: BuiltSeries) -> None:
    arrive(layout, series)
    sealed = seal_only(layout)
    with pytest.raises(OSError, match="not empty"):
        sealed.remove()
    contents = sealed.contents()
    assert contents is not None
    assert len(contents.instances) == 3


def test_a_seal_that_the_disk_refuses_leaves_the_reception_where_it_is(
    layout: Layout, series: BuiltSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrive(layout, series)
    name = only_reception(layout)
    real = os.rename

    def refuse(source: Path, target: Path) -> None:
        if Path(source).name == name:
            raise OSError(28, os.strerror(28))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(OSError, match="No space"):
            sealing.seal(layout, name, NOW)
        patch.setattr(os, "rename", lambda *_: refuse(Path(name), Path(name)))
        with pytest.raises(OSError, match="No space"):
            sealing.seal(layout, name, NOW)
    assert only_reception(layout) == name
    list(sealing.open_sealed(layout))
    assert leftovers(layout) == []


def test_a_vanished_folder_of_seals_is_an_error_and_no_missing_reception(layout: Layout, series: BuiltSeries) -> None:
    arrive(layout, series)
    layout.sealed.rmdir()
    with pytest.raises(FileNotFoundError):
        sealing.seal(layout, only_reception(layout), NOW)
    sealing.make_folders(layout)
    assert isinstance(sealing.seal(layout, only_reception(layout), NOW), Sealed)


def test_folders_inside_incoming_are_made_but_never_incoming_itself(layout: Layout) -> None:
    layout.released.rmdir()
    sealing.make_folders(layout)
    assert layout.released.is_dir()
    for folder in (layout.released, layout.sealed, layout.drafts, layout.incoming):
        folder.rmdir()
    with pytest.raises(SpoolError, match=r"\.new cannot be used"):
        sealing.make_folders(layout)


def test_instances_that_vanished_since_the_plan_make_no_job_without_them(layout: Layout, series: BuiltSeries) -> None:
    arrive(layout, series)
    sealed = seal_only(layout)
    jobs = [placed(sealed, 1), placed(sealed, 2)]
    (sealed.received / jobs[0].job.instances[0]).unlink()
    with pytest.raises(SpoolError, match="1 instances of job"):
        sealed.create_jobs(jobs, resumed=False)
    assert census(layout).jobs[Stage.OUTGOING] == {}


def test_a_job_in_error_has_its_reason_for_a_person(layout: Layout, series: BuiltSeries) -> None:
    arrive(layout, series)
    sealed = seal_only(layout)
    contents = sealed.contents()
    assert contents
    job = Job("j-1", "none", SeriesInfo(), NOW, contents.instances, reason="target 'x' is not in the configuration")
    sealed.create_jobs([PlacedJob(job, Stage.ERROR)], resumed=False)
    assert (layout.error / "j-1" / names.ERROR_LOG).read_text() == (
        "2026-03-01T12:00:00Z target 'x' is not in the configuration\n"
    )


@pytest.mark.parametrize("stages", [("outgoing",), ("discard",), ("outgoing", "discard")])
def test_stages_on_other_file_systems_get_whole_copies(
    tmp_path: Path, series: BuiltSeries, stages: tuple[str, ...]
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        folders = Layout.under(tmp_path / "data").folders() | {name: disk / name for name in stages}
        layout = Layout(**folders)
        layout.create()
        arrive(layout, series)
        sealed = seal_only(layout)
        jobs = [placed(sealed, 1), placed(sealed, 2), placed(sealed, 3, Stage.DISCARD)]
        sealed.create_jobs(jobs, resumed=False)
        for job in jobs:
            files = {path.name: path.read_bytes() for path in received(layout, job.stage, job.job.id).glob("*.dcm")}
            assert sorted(files.values()) == sorted(path.read_bytes() for path in series.files)
        assert leftovers(layout) == []


def test_a_copy_that_was_cut_off_is_made_again(tmp_path: Path, series: BuiltSeries) -> None:
    with small_disk(tmp_path / "disk") as disk:
        layout = Layout(**Layout.under(tmp_path / "data").folders() | {"outgoing": disk / "outgoing"})
        layout.create()
        arrive(layout, series)
        sealed = seal_only(layout)
        jobs = [placed(sealed, 1), placed(sealed, 2, Stage.DISCARD)]
        draft = layout.outgoing / f".{jobs[0].job.id}" / names.RECEIVED
        draft.mkdir(parents=True)
        (draft / jobs[0].job.instances[0]).write_bytes(b"DI")
        sealed.create_jobs(jobs, resumed=True)
        sizes = {path.stat().st_size for path in received(layout, Stage.OUTGOING, jobs[0].job.id).glob("*.dcm")}
        assert sizes == {path.stat().st_size for path in series.files}


def test_jobs_that_a_full_disk_does_not_take_hold_none_of_its_space(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        layout = Layout(**Layout.under(tmp_path / "data").folders() | {"outgoing": disk / "outgoing"})
        layout.create()
        arrive(layout, small_series(tmp_path / "series", 4, size_bytes=400_000))
        sealed = seal_only(layout)
        jobs = [placed(sealed, 1), placed(sealed, 2)]
        for resumed in (False, True):
            with pytest.raises(OSError, match="No space left"):
                sealed.create_jobs(jobs, resumed=resumed)
            assert list(layout.outgoing.iterdir()) == []
        with pytest.raises(OSError, match="No space left"):
            sealed.create_jobs(jobs[:1], resumed=False)
        assert sum(path.stat().st_size for path in layout.outgoing.rglob("*") if path.is_file()) < 4096
        assert len(list(sealed.received.glob("*.dcm"))) == 4
        jobs = [placed(sealed, 1, Stage.DISCARD)]
        sealed.create_jobs(jobs, resumed=False)
        assert {*jobs[0].job.instances} <= {*os.listdir(received(layout, Stage.DISCARD, jobs[0].job.id))}


def test_hints_and_releases_of_associations(layout: Layout, series: BuiltSeries) -> None:
    first = Sender(layout, hold_open=True)
    second = Sender(layout, hold_open=True)
    first.send(series, slice(0, 1))
    second.send(series, slice(1, 2))
    name = only_reception(layout)
    assert not hints.is_released(layout, name)
    assert hints.released_hints(layout) == {}
    first.release()
    assert list(hints.released_hints(layout)) == [name]
    assert not hints.is_released(layout, name)
    second.release()
    assert hints.is_released(layout, name)
    hints.forget_hint(layout, name)
    hints.forget_hint(layout, name)
    assert hints.released_hints(layout) == {}
    assert not hints.is_released(layout, "1.2#none")
    first.close()
    second.close()


def test_the_last_arrival_is_that_of_the_newest_instance(layout: Layout, series: BuiltSeries) -> None:
    arrive(layout, series)
    name = only_reception(layout)
    os.utime(layout.incoming / name, (5.0, 5.0))
    assert sealing.last_arrival(layout, name) == 5.0
    assert sealing.last_arrival(layout, "1.2#none") is None


def test_ids_of_seals_sort_by_time_and_are_job_ids() -> None:
    first = sealing.new_seal_id(NOW)
    assert names.check_job_id(first) == first
    assert first < sealing.new_seal_id(NOW.replace(year=2027))
    assert first != sealing.new_seal_id(NOW)


def test_a_sealed_folder_that_cannot_be_taken_stops_no_other(layout: Layout) -> None:
    for name in ("20260101T120000-0000000001", "20260101T120000-0000000002"):
        (layout.sealed / name).mkdir()
    (layout.sealed / "20260101T120000-0000000001" / names.LOCK_FILE).symlink_to(names.LOCK_FILE)
    troubles: list[str] = []
    taken = list(sealing.open_sealed(layout, lambda name, _error: troubles.append(name)))
    assert [sealed.id for sealed in taken] == ["20260101T120000-0000000002"]
    assert troubles == ["20260101T120000-0000000001"]
    with pytest.raises(OSError, match="symbolic links"):
        list(sealing.open_sealed(layout))


def test_a_damaged_reception_file_is_a_problem_and_no_unknown_sender(layout: Layout) -> None:
    folder = layout.sealed / "20260101T120000-0000000003"
    (folder / names.RECEIVED).mkdir(parents=True)
    (folder / names.RECEIVED / "1.2#1.2.3.dcm").touch()
    (folder / names.RECEIVED / names.RECEPTION_FILE).write_text("{")
    (sealed,) = sealing.open_sealed(layout)
    contents = sealed.contents()
    assert contents is not None
    assert "damaged" in contents.problem
    sealed.close()


def test_loose_files_of_existing_installations_are_no_receptions(layout: Layout) -> None:
    for name in ("1.2#1.2.3.dcm", "1.2#1.2.3.tags", "error", ".hidden#x"):
        (layout.incoming / name).touch()
    (layout.incoming / "1.2#0123456789").mkdir()
    assert sealing.receptions(layout) == ["1.2#0123456789"]


def test_while_a_job_stands_in_memory_only_the_sealed_originals_stay(layout: Layout, series: BuiltSeries) -> None:
    with small_disk(layout.processing) as memory:
        arrive(layout, series)
        sealed = seal_only(layout)
        jobs = [placed(sealed, 1, Stage.PROCESSING), placed(sealed, 2, Stage.OUTGOING)]
        assert sealed.create_jobs(jobs, resumed=False) == jobs
        assert len(os.listdir(received(layout, Stage.PROCESSING, jobs[0].job.id))) == 4
        for path in memory.iterdir():  # the machine is restarted
            remove_tree(path)
        (again,) = sealing.open_sealed(layout)
        assert again.create_jobs(jobs, resumed=True) == jobs[:1]
        assert read_task(layout.processing / jobs[0].job.id) == jobs[0].job
        (again,) = sealing.open_sealed(layout)
        assert again.create_jobs(jobs, resumed=True) == []
        shutil.move(memory / jobs[0].job.id, layout.success / jobs[0].job.id)
        (again,) = sealing.open_sealed(layout)
        assert again.create_jobs(jobs, resumed=True) == []
        assert list(sealing.open_sealed(layout)) == []
        assert len(os.listdir(received(layout, Stage.OUTGOING, jobs[1].job.id))) == 4
