import json
import os
from pathlib import Path
from typing import Any

import pydicom
import pytest
from mercure_anonymizer.__main__ import run as run_here
from mercure_anonymizer.instance import quiet_pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tests import builders
from tests.addons.anonymizer import samples
from tests.addons.anonymizer.samples import SECRET, folders, instances, put, run

ID = "MRN-4711-X"


def series(folder: Path, count: int = 3, **elements: Any) -> list[pydicom.FileDataset]:
    """Instances of one series that refer to one another."""
    study, uid = builders.new_uid(), builders.new_uid()
    keys = {"StudyInstanceUID": study, "SeriesInstanceUID": uid, "PatientID": ID, "PatientName": "Sekret^Paula"}
    made = [builders.dataset("CT", **keys, **elements) for _ in range(count)]
    for number, one in enumerate(made):
        one.ReferencedImageSequence[0].ReferencedSOPInstanceUID = made[number - 1].SOPInstanceUID
        deep = Dataset()
        deep.ReferencedSOPInstanceUID = made[number - 1].SOPInstanceUID
        one.ProcedureCodeSequence[0].ReferencedInstanceSequence = Sequence([deep])
        put(folder, one)
    return made


def read_all(folder: Path) -> list[pydicom.FileDataset]:
    return [pydicom.dcmread(path) for path in instances(folder)]


def test_a_job_is_done_as_the_platform_runs_it(tmp_path: Path) -> None:
    taken, made = folders(tmp_path)
    before = series(taken)
    done = run(taken, made, {"secret": SECRET})
    assert (done.returncode, done.stderr) == (0, "")
    found = read_all(made)
    assert [path.name for path in instances(made)] == sorted(
        f"{one.SeriesInstanceUID}#{one.SOPInstanceUID}.dcm" for one in found
    )
    assert len({one.SOPInstanceUID for one in found}) == 3
    assert not {one.SOPInstanceUID for one in found} & {one.SOPInstanceUID for one in before}
    assert {str(one.PatientName) for one in found} == {found[0].PatientID}
    summary = json.loads((made / "result.json").read_text())["anonymizer"]
    assert summary["series"] == [
        {
            "series_instance_uid": found[0].SeriesInstanceUID,
            "instances": 3,
            "report": f"deidentification-{found[0].SeriesInstanceUID}.json",
        }
    ]
    assert {path.suffix for path in made.iterdir()} == {".dcm", ".json"}


def test_references_between_instances_stay_right_on_every_level(tmp_path: Path) -> None:
    taken, made = folders(tmp_path)
    before = {one.InstanceNumber: one for one in series(taken, count=4)}
    assert before
    assert run(taken, made, {"secret": SECRET}).returncode == 0
    found = read_all(made)
    names = {one.SOPInstanceUID for one in found}
    assert {one.ReferencedImageSequence[0].ReferencedSOPInstanceUID for one in found} == names
    deep = {one.ProcedureCodeSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID for one in found}
    assert deep == names
    assert {one.ReferencedImageSequence[0].ReferencedSOPClassUID for one in found} == {builders.CT_STORAGE}


def test_a_second_run_and_another_series_get_the_same_identities(tmp_path: Path) -> None:
    study = builders.new_uid()
    made = []
    for name in ("first", "second"):
        taken, out = folders(tmp_path / name)
        put(taken, builders.dataset("CT", StudyInstanceUID=study, PatientID=ID))
        settings = {"secret": SECRET, "options": ["retain_longitudinal_modified_dates"]}
        assert run(taken, out, settings).returncode == 0
        made.append(read_all(out)[0])
        again = tmp_path / name / "again"
        again.mkdir()
        assert run(taken, again, settings).returncode == 0
        assert [path.name for path in instances(again)] == [path.name for path in instances(out)]
    first, second = made
    assert first.StudyInstanceUID == second.StudyInstanceUID != study
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    assert first.PatientID == second.PatientID
    assert first.StudyDate == second.StudyDate


def test_the_secret_of_the_environment_does_the_same_and_is_written_nowhere(tmp_path: Path) -> None:
    taken, made = folders(tmp_path)
    series(taken, count=1)
    done = run(taken, made, {"options": ["retain_device_identity"]}, ANONYMIZER_SECRET=SECRET)
    assert done.returncode == 0
    written = b"".join(path.read_bytes() for path in made.iterdir()) + (done.stdout + done.stderr).encode()
    assert SECRET.encode() not in written
    other = tmp_path / "other"
    other.mkdir()
    assert run(taken, other, {"secret": SECRET, "options": ["retain_device_identity"]}).returncode == 0
    assert [path.name for path in instances(other)] == [path.name for path in instances(made)]


def test_the_report_names_tags_and_no_values(tmp_path: Path) -> None:
    taken, made = folders(tmp_path)
    before = series(taken, InstitutionName="Sekret Clinic")
    done = run(taken, made, {"secret": SECRET, "print_assignment": "true", "(0008,103e)": "set(Sekret)"})
    (path,) = made.glob("deidentification-*.json")
    report = json.loads(path.read_text())
    assert report["instances"] == 3
    assert "(0010,0010)" in report["changed"]
    assert "(0008,1140)>(0008,1155)" in report["changed"]
    assert "(0051,1001)" in report["removed"]
    assert "(7FE0,0010)" in report["kept"]
    for text in (path.read_text(), (made / "result.json").read_text(), done.stdout, done.stderr):
        assert "Sekret" not in text
        assert ID not in text
        assert before[0].StudyInstanceUID not in text


def test_instances_are_taken_by_name_in_any_case_and_by_content_in_all_folders(tmp_path: Path) -> None:
    taken, made = folders(tmp_path)
    places = ["CT1.dcm", "CT2.DCM", "CT3", "sub/x.dcm", "sub/deeper/y", ".hidden"]
    for one, place in zip(series(taken, count=len(places)), places, strict=True):
        target = taken / place
        target.parent.mkdir(parents=True, exist_ok=True)
        (taken / f"{one.SeriesInstanceUID}#{one.SOPInstanceUID}.dcm").rename(target)
    (taken / "sub" / "readme").write_text("no image" * 100)
    (tmp_path / "elsewhere").mkdir()
    put(tmp_path / "elsewhere", builders.dataset("CT"))
    (taken / "link").symlink_to(tmp_path / "elsewhere")
    (taken / "other").symlink_to(instances(tmp_path / "elsewhere")[0])
    os.mkfifo(taken / "pipe")
    done = run(taken, made, {"secret": SECRET})
    assert (done.returncode, done.stderr) == (0, "")
    assert len(read_all(made)) == len(places)


def test_an_output_folder_inside_of_the_input_is_not_taken(tmp_path: Path) -> None:
    taken, _ = folders(tmp_path)
    series(taken)
    (taken / "out").mkdir()
    for _ in range(2):
        assert run(taken, taken / "out", {"secret": SECRET}).returncode == 0
        assert len(instances(taken / "out")) == 3


def bad_pixels(folder: Path) -> None:
    put(folder, samples.screen(BurnedInAnnotation="YES"))


def no_dicom(folder: Path) -> None:
    (folder / "Sekret.dcm").write_bytes(b"Sekret" * 100)


def link(folder: Path) -> None:
    (folder / "Sekret.dcm").symlink_to(instances(folder)[0])


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "Sekret.dcm")


def no_uid(folder: Path) -> None:
    put(folder, builders.dataset("CT", StudyInstanceUID="Sekret"))


def cut(folder: Path) -> None:
    path = put(folder, builders.dataset("CT", Rows=32))
    path.write_bytes(path.read_bytes()[:400])


def cut_in_a_sequence(folder: Path) -> None:
    path = put(folder, builders.dataset("CT"))
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"CTHEAD") + 2])


def without_last_pixels(folder: Path) -> None:
    path = put(folder, builders.dataset("CT"))
    path.write_bytes(path.read_bytes()[:-10])


def no_dicom_in_a_folder(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "Sekret.DCM").write_bytes(b"Sekret" * 100)


BAD = [bad_pixels, no_dicom, no_dicom_in_a_folder, link, pipe, no_uid, cut, cut_in_a_sequence, without_last_pixels]


@pytest.mark.parametrize("spoil", BAD)
def test_one_bad_instance_refuses_the_job_and_leaves_nothing(spoil: Any, tmp_path: Path) -> None:
    taken, made = folders(tmp_path)
    series(taken)
    with quiet_pydicom():
        spoil(taken)
    done = run(taken, made, {"secret": SECRET})
    assert done.returncode == 1
    assert done.stderr.startswith("refused: ")
    assert len(done.stderr.splitlines()) == 1
    assert "Sekret" not in done.stderr + done.stdout
    assert list(made.iterdir()) == []


def test_an_instance_that_is_refused_is_named_by_its_uid(tmp_path: Path) -> None:
    taken, made = folders(tmp_path)
    image = samples.screen()
    put(taken, image)
    assert image.SOPInstanceUID in run(taken, made, {"secret": SECRET}).stderr


@pytest.mark.parametrize("task", ["{", '{"process": 3}', "[" * 100_000, "\xff"])
def test_a_task_that_cannot_be_read_refuses_the_job(task: str, tmp_path: Path) -> None:
    taken, made = folders(tmp_path)
    series(taken, count=1)
    (taken / "task.json").write_text(task, encoding="latin-1")
    assert run_here([str(taken), str(made)], {}) == 1
    assert list(made.iterdir()) == []


def test_a_folder_without_a_task_is_done_by_the_basic_profile(tmp_path: Path) -> None:
    taken, made = folders(tmp_path)
    series(taken, count=1)
    assert run_here([str(taken), str(made)], {}) == 0
    assert read_all(made)[0].DeidentificationMethodCodeSequence[0].CodeValue == "113100"


def test_an_empty_job_is_refused(tmp_path: Path) -> None:
    taken, made = folders(tmp_path)
    done = run(taken, made, {})
    assert (done.returncode, done.stderr) == (1, "refused: there are no instances\n")


def test_an_output_folder_that_is_missing_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken, _ = folders(tmp_path)
    series(taken)
    assert run_here([str(taken), str(tmp_path / "new")], {}) == 0
    assert len(instances(tmp_path / "new")) == 3
    assert run_here([str(taken), f"{tmp_path}/slash/"], {}) == 0
    assert "3 instances" in capsys.readouterr().out


def test_wrong_use_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    here, file, missing, below = (str(tmp_path / name) for name in (".", "file", "missing", "not/there"))
    wrong = {
        (here,): "usage: ",
        (here, ""): "usage: ",
        (missing, here): f"the input folder {missing!r} is not there",
        (file, here): f"the input folder {file!r} is not there, or no folder",
        (here, file): f"the output {file!r} is no folder",
        (here, below): f"the output folder {below!r} cannot be made: No such file or directory",
    }
    for folders_given, said in wrong.items():
        assert run_here(folders_given, {}) == 2
        assert capsys.readouterr().err.startswith(said)
    assert run_here((), {}) == 2
    assert capsys.readouterr().err.startswith("usage: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_a_secret_a_job_is_done_and_says_what_that_means(tmp_path: Path) -> None:
    taken, made = folders(tmp_path)
    series(taken)
    done = run(taken, made, {})
    assert done.returncode == 0
    assert "this job only" in done.stdout
    assert json.loads((made / "result.json").read_text())["anonymizer"]["consistent_by"] == "this job"
    assert len({one.StudyInstanceUID for one in read_all(made)}) == 1


def test_two_instances_with_one_uid_are_both_delivered(tmp_path: Path) -> None:
    taken, made = folders(tmp_path)
    (one,) = series(taken, count=1)
    one.InstanceNumber = 99
    (taken / f"{one.SeriesInstanceUID}#{one.SOPInstanceUID}#2.dcm").write_bytes(builders.encode(one))
    assert run(taken, made, {"secret": SECRET}).returncode == 0
    names = [path.stem.split("#") for path in instances(made)]
    assert sorted(map(len, names)) == [2, 3]


@pytest.mark.parametrize(
    "transfer_syntax",
    [builders.IMPLICIT_LITTLE, builders.EXPLICIT_BIG, builders.DEFLATED, builders.RLE, builders.JPEG_2000],
)
def test_the_transfer_syntax_and_the_pixels_stay_as_they_are(transfer_syntax: str, tmp_path: Path) -> None:
    taken, made = folders(tmp_path)
    before = builders.dataset("CT", PatientName="Sekret^Paula")
    path = put(taken, before, transfer_syntax)
    assert run(taken, made, {"secret": SECRET}).returncode == 0
    (found,) = read_all(made)
    assert found.file_meta.TransferSyntaxUID == transfer_syntax
    read = pydicom.dcmread(path)
    if transfer_syntax == builders.JPEG_2000:  # the encoder leaves a comment in the stream
        assert (found.pixel_array == read.pixel_array).all()
    else:
        assert found.PixelData == read.PixelData
    assert b"Sekret" not in instances(made)[0].read_bytes()


def test_text_in_other_character_sets_is_removed_and_what_stays_is_readable(tmp_path: Path) -> None:
    taken, made = folders(tmp_path)
    elements = {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Müller^Jürg", "ManufacturerModelName": "Größe 3"}
    put(taken, builders.dataset("CT", **elements))
    assert run(taken, made, {"secret": SECRET}).returncode == 0
    (found,) = read_all(made)
    assert found.ManufacturerModelName == "Größe 3"
    assert "Müller".encode() not in instances(made)[0].read_bytes()


def test_a_look_up_table_names_the_patients(tmp_path: Path) -> None:
    taken, made = folders(tmp_path)
    before = series(taken, StudyDate="20240301")
    table = tmp_path / "table.csv"
    table.write_text(f"patient_id,pseudonym,date_shift_days\n{ID},TRIAL-007,-10\n")
    settings = {"secret": SECRET, "lookup_table": str(table), "options": ["retain_longitudinal_modified_dates"]}
    assert run(taken, made, settings).returncode == 0
    assert {(one.PatientID, str(one.PatientName), one.StudyDate) for one in read_all(made)} == {
        ("TRIAL-007", "TRIAL-007", "20240220")
    }
    assert before[0].StudyDate == "20240301"
    table.write_text("patient_id,pseudonym\nother,TRIAL-007\n")
    again = tmp_path / "again"
    again.mkdir()
    done = run(taken, again, settings)
    assert done.returncode == 1
    assert ID not in done.stderr
    assert list(again.iterdir()) == []
