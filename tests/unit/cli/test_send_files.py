"""Which files are sent."""

from pathlib import Path

from tests.builders import dicom_bytes, small_series

from mercure.cli.send_files import find_instances


def test_folders_are_searched_to_the_bottom_in_order_of_names(tmp_path: Path) -> None:
    series = [small_series(tmp_path / name, 2) for name in ("b/c", "a")]
    found = find_instances([tmp_path])
    assert [one.path for one in found.instances] == [str(file) for one in reversed(series) for file in one.files]
    assert found.instances[0].size_bytes == series[1].files[0].stat().st_size
    assert not found.others


def test_what_is_no_dicom_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "cut.dcm").write_bytes(dicom_bytes()[:140])
    found = find_instances([tmp_path])
    assert not found.instances
    assert dict(found.others) == {
        str(tmp_path / "notes.txt"): "no DICOM file: the file has no DICOM prefix",
        str(tmp_path / "cut.dcm"): "no DICOM file: the File Meta Information is cut off",
    }
    assert not found.named_others
    assert find_instances([tmp_path / "notes.txt"]).named_others


def test_a_dicomdir_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "DICOMDIR").write_bytes(dicom_bytes(SOPClassUID="1.2.840.10008.1.3.10"))
    found = find_instances([tmp_path])
    assert not found.instances
    assert "DICOMDIR" in found.others[0][1]


def test_a_file_that_is_reached_twice_is_sent_once(tmp_path: Path) -> None:
    (file,) = small_series(tmp_path / "a", 1).files
    (tmp_path / "link.dcm").symlink_to(file)
    assert len(find_instances([tmp_path, file, tmp_path / "a"]).instances) == 1


def test_what_cannot_be_read_stops_nothing(tmp_path: Path) -> None:
    small_series(tmp_path / "a", 1)
    (tmp_path / "gone.dcm").symlink_to(tmp_path / "nowhere")
    found = find_instances([tmp_path])
    assert len(found.instances) == 1
    assert dict(found.others) == {str(tmp_path / "gone.dcm"): "no regular file"}
