import os
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.builders import dicom_bytes, small_series

from mercure.core.errors import PermanentError
from mercure.services.module_output import identify
from mercure.spool import module_results
from mercure.spool.module_results import is_dicom, open_up, output_bytes, output_files, store_results
from mercure.spool.trees import remove_tree


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path


def stored(job: Path) -> list[str]:
    results = job / "results"
    return sorted(str(path.relative_to(results)) for path in results.rglob("*") if path.is_file())


def test_instances_are_named_by_their_uids_and_everything_else_is_an_attachment(job: Path) -> None:
    series = small_series(job / "made", 2)
    (job / "out" / "deep").mkdir()
    os.rename(series.files[0], job / "out" / "deep" / "first.DCM")
    os.rename(series.files[1], job / "out" / "without-suffix")
    (job / "out" / "result.json").write_text("{}")
    (job / "out" / "deep" / "report.pdf").write_bytes(b"%PDF")
    (job / "out" / "task.json").write_text("{}")
    (job / "out" / "a.tags").write_text("{}")
    names = store_results(job, job / "out", identify)
    uid = series.series_instance_uid
    assert names == tuple(sorted(f"{uid}#{one}.dcm" for one in series.sop_instance_uids))
    assert stored(job) == sorted([*names, "attachments/deep/report.pdf", "result.json"])


def test_two_files_of_one_instance_are_both_kept(job: Path) -> None:
    content = dicom_bytes()
    for name in ("a.dcm", "b.dcm"):
        (job / "out" / name).write_bytes(content)
    first, second = store_results(job, job / "out", identify)
    assert second == first.replace(".dcm", "#2.dcm") or first == second.replace(".dcm", "#2.dcm")


def test_received_instances_are_added_unless_a_module_made_one_of_that_name(job: Path) -> None:
    series = small_series(job / "made", 2)
    received = job / "received"
    received.mkdir()
    names = [f"{series.series_instance_uid}#{uid}.dcm" for uid in series.sop_instance_uids]
    for name, file in zip(names, series.files, strict=True):
        os.link(file, received / name)
    changed = series.files[0].read_bytes() + b"\xfc\xff\xfc\xffOB\0\0\2\0\0\0\0\0"  # Data Set Trailing Padding
    (job / "out" / "again.dcm").write_bytes(changed)
    assert store_results(job, job / "out", identify, [received / name for name in names]) == tuple(sorted(names))
    assert (job / "results" / names[0]).read_bytes() == changed
    assert (job / "results" / names[1]).samefile(received / names[1])


def test_a_result_never_shares_its_bytes_with_a_file_of_the_input(job: Path) -> None:
    (job / "in.dcm").write_bytes(dicom_bytes())
    os.chmod(job / "in.dcm", 0o440)
    os.link(job / "in.dcm", job / "out" / "same.dcm")
    (name,) = store_results(job, job / "out", identify)
    assert not (job / "results" / name).samefile(job / "in.dcm")
    assert (job / "in.dcm").stat().st_mode & 0o777 == 0o440


def make_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_device(path: Path) -> None:
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [(make_link, "a symbolic link"), (make_pipe, "a pipe"), (make_device, "a device"), (make_socket, "a socket")],
)
def test_what_is_no_plain_file_is_refused(job: Path, make: object, kind: str) -> None:
    (job / "out" / "sub").mkdir()
    make(job / "out" / "sub" / "odd.dcm")  # type: ignore[operator]
    with pytest.raises(PermanentError, match=kind):
        store_results(job, job / "out", identify)
    assert not (job / "results").exists()


def test_a_link_to_a_folder_is_not_entered(job: Path) -> None:
    (job / "out" / "etc").symlink_to("/etc")
    with pytest.raises(PermanentError, match="a symbolic link"):
        output_files(job / "out")


@pytest.mark.parametrize(
    "content",
    [b"", b"no DICOM", b"\0" * 128 + b"DICM", *(dicom_bytes()[:size] for size in (400, -2048, -1000, -1))],
)
def test_a_broken_instance_is_refused(job: Path, content: bytes) -> None:
    (job / "out" / "broken.dcm").write_bytes(content)
    with pytest.raises(PermanentError, match="cannot be read"):
        store_results(job, job / "out", identify)


@pytest.mark.parametrize("uid", ["../../x", "1.2/3", "", "x" * 70])
def test_an_instance_with_an_impossible_uid_is_refused(job: Path, uid: str) -> None:
    content = dicom_bytes(SeriesInstanceUID="1.2.3.4.5.6.7.8.9.10.11")
    padded = uid.encode().ljust(23, b"\0")[:23] if len(uid) < 23 else uid.encode()[:23]
    (job / "out" / "odd.dcm").write_bytes(content.replace(b"1.2.3.4.5.6.7.8.9.10.11", padded))
    with pytest.raises(PermanentError, match="no valid Series or SOP Instance UID"):
        store_results(job, job / "out", identify)
    assert not list(job.parent.glob("x*"))


def test_ten_thousand_files_are_taken(job: Path) -> None:
    for number in range(10_000):
        (job / "out" / f"{number}.txt").write_bytes(b"x")
    assert store_results(job, job / "out", identify) == ()
    assert len(stored(job)) == 10_000


@pytest.mark.parametrize("depth", [100, 3000])
def test_folders_within_folders_end_somewhere(job: Path, depth: int) -> None:
    here = os.open(job / "out", os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    for look in (open_up, output_files, output_bytes):
        with pytest.raises(PermanentError, match="too deep"):
            look(job / "out")
    remove_tree(job / "out")


def test_what_is_not_too_deep_for_one_is_not_too_deep_for_another(job: Path) -> None:
    deepest = job / "out" / "/".join(["d"] * 65)
    deepest.mkdir(parents=True)
    (deepest / "file").write_bytes(b"x")
    os.chmod(deepest, 0o500)
    open_up(job / "out")
    assert os.stat(deepest).st_mode & 0o700 == 0o700
    assert [made.path for made in output_files(job / "out")] == ["d/" * 65 + "file"]
    assert output_bytes(job / "out") >= 1
    (deepest / "d").mkdir()
    for look in (open_up, output_files, output_bytes):
        with pytest.raises(PermanentError, match="too deep"):
            look(job / "out")


def test_a_folder_that_vanishes_while_the_output_is_measured_hides_nothing_else(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (job / "out" / name).mkdir()
        (job / "out" / name / "file").write_bytes(b"x" * 100_000)
    scandir = os.scandir

    def vanishes(path: str) -> Any:
        if str(path).endswith("/b"):
            remove_tree(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanishes)
    assert output_bytes(job / "out") >= 200_000


def test_the_size_of_an_output_is_what_it_takes_on_the_disk_or_where_it_is_copied_to(job: Path) -> None:
    assert output_bytes(job / "nowhere") == 0
    (job / "out" / "sub").mkdir()
    (job / "out" / "sub" / "file").write_bytes(b"x" * 100_000)
    assert 100_000 <= output_bytes(job / "out") < 200_000
    with (job / "out" / "sparse").open("wb") as file:
        file.truncate(1 << 32)
    assert (1 << 32) + 100_000 <= output_bytes(job / "out") < (1 << 32) + 200_000


def test_empty_files_and_folders_take_room_too(job: Path) -> None:
    for number in range(100):
        (job / "out" / f"folder-{number}").mkdir()
        (job / "out" / f"folder-{number}" / "empty").touch()
    assert output_bytes(job / "out") >= 200 * 4096


@pytest.mark.parametrize("kind", ["files", "folders", "folders within folders"])
def test_there_is_a_number_of_files_and_folders_that_is_too_many(
    job: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(module_results, "MAXIMUM_ENTRIES", 100)

    def make(number: int) -> None:
        if kind == "files":
            (job / "out" / str(number)).touch()
        elif kind == "folders":
            (job / "out" / str(number)).mkdir()
        else:
            (job / "out" / f"{number // 50}" / f"{number // 10 % 5}" / str(number)).mkdir(parents=True)

    for number in range(1, 88 if "within" in kind else 101):  # eleven hold the others
        make(number)
    for look in (open_up, output_files, output_bytes):
        look(job / "out")
    make(101)
    for look in (open_up, output_files, output_bytes):
        with pytest.raises(PermanentError, match="more than 100 files and folders"):
            look(job / "out")


def test_a_measure_that_is_given_up_ends_soon(job: Path) -> None:
    for number in range(3000):
        (job / "out" / str(number)).touch()
    asked = []

    def is_given_up() -> bool:
        asked.append(True)
        return len(asked) == 2

    assert output_bytes(job / "out", is_given_up) == 2000 * 4096


def test_dicom_is_known_by_name_or_prefix(tmp_path: Path) -> None:
    (tmp_path / "a.DCM").write_bytes(b"")
    (tmp_path / "b").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "c").write_bytes(b"\0" * 128 + b"DIC")
    assert [is_dicom(str(tmp_path / name)) for name in ("a.DCM", "b", "c")] == [True, True, False]
