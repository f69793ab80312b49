import logging
from pathlib import Path

import pytest

from mercure.core.errors import SpoolError
from mercure.core.stages import Stage
from mercure.spool import layout as names
from mercure.spool.layout import Layout, Origin

ORIGIN = Origin("SENDER", "MERCURE", "10.0.0.1")
BAD_UIDS = [
    "",
    "../../x",
    "/x",
    "1..2",
    ".1",
    "1.",
    "1.2\n",
    "1.2\0",
    "1" * 65,
    "1.2/3",
    "a",
    "\u0661.\u0662",
    "1.2#3",
    " 1.2",
]


def test_create_makes_every_folder_and_may_be_repeated(tmp_path: Path) -> None:
    layout = Layout.under(tmp_path / "deep" / "data")
    layout.create()
    layout.create()
    assert {path.name for path in (tmp_path / "deep" / "data").iterdir()} == set(layout.folders())
    for folder in (layout.drafts, layout.sealed, layout.released, layout.journal):
        assert folder.is_dir()


def test_a_data_folder_that_was_made_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    layout = Layout.under(tmp_path / "mount" / "data")
    layout.create()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"not there: {tmp_path / 'mount'};" in record.getMessage(), "what is in it is new anyway"
    caplog.clear()
    layout.create()
    assert caplog.records == [], "nothing was missing"


def test_the_empty_folder_below_a_disk_that_is_not_mounted_is_seen_by_what_is_missing_in_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout = Layout.under(tmp_path)
    layout.create()
    folders = layout.folders().values()
    assert f"not there: {', '.join(map(str, folders))};" in caplog.text, "the disk of all of them"
    caplog.clear()
    for path in (layout.drafts, layout.sealed, layout.released):
        path.rmdir()
    layout.create()
    assert f"not there: {layout.drafts}, {layout.sealed}, {layout.released};" in caplog.text, "that of one of them"


def test_folders_that_were_made_before_one_cannot_be_are_named_as_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "studies").write_text("a file in the way")
    with pytest.raises(SpoolError, match="studies"):
        Layout.under(tmp_path).create()
    assert f"not there: {tmp_path / 'incoming'};" in caplog.text


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "outgoing").write_text("a file in the way")
    with pytest.raises(SpoolError, match="outgoing"):
        Layout.under(tmp_path).create()


def test_each_stage_has_its_folder(tmp_path: Path) -> None:
    layout = Layout.under(tmp_path)
    assert {layout.stage(stage) for stage in Stage} == {tmp_path / stage.value for stage in Stage}


def test_a_reception_is_named_by_series_and_a_mark_for_study_and_origin() -> None:
    name = names.reception_name("1.2", "1.2.9", ORIGIN)
    assert name.startswith("1.2.9#")
    others = [
        names.reception_name("1.3", "1.2.9", ORIGIN),
        names.reception_name("1.2", "1.2.9", Origin("OTHER", "MERCURE", "10.0.0.1")),
        names.reception_name("1.2", "1.2.9", Origin("SENDER", "OTHER", "10.0.0.1")),
        names.reception_name("1.2", "1.2.9", Origin("SENDER", "MERCURE", "10.0.0.2")),
    ]
    assert len({name, *others}) == 5
    assert names.reception_name("1.2", "1.2.9", ORIGIN) == name


@pytest.mark.parametrize("uid", BAD_UIDS)
def test_an_impossible_uid_never_becomes_a_name_and_is_not_repeated(uid: str) -> None:
    for study, series in ((uid, "1.2"), ("1.2", uid)):
        with pytest.raises(SpoolError) as raised:
            names.reception_name(study, series, ORIGIN)
        assert len(uid) < 3 or uid not in str(raised.value)


def test_the_name_of_an_instance_carries_its_uid() -> None:
    assert names.instance_name("1.2", "1.3") == "1.2#1.3.dcm"
    assert names.instance_name("1.2", "1.3", 2) == "1.2#1.3#2.dcm"
    assert names.sop_instance_uid_of("1.2#1.3.dcm") == "1.3"
    assert names.sop_instance_uid_of("1.2#1.3#2.dcm") == "1.3"
    assert names.sop_instance_uid_of("unreadable.dcm") == ""
    assert names.sop_instance_uid_of("a#b.dcm") == ""


@pytest.mark.parametrize(
    "origin",
    [
        ORIGIN,
        Origin("", "", ""),
        Origin("../../x", "A#B%C", "fe80::1%eth0"),
        Origin("Ä" * 16, "É" * 16, "2001:0db8:85a3:0000:0000:8a2e:0370:7334"),
    ],
)
def test_a_draft_name_gives_back_what_went_into_it_and_is_a_file_name(origin: Origin) -> None:
    name = names.draft_name(7, 1234, origin)
    assert names.parse_draft_name(name) == (1234, origin)
    assert "/" not in name
    assert len(name.encode()) < 255


@pytest.mark.parametrize(
    "name", ["7.part", "r0123", ".lock", "1#2#3.dcm", "1#x#A#B#C.dcm", "1#2#A#B#C", "1#²#A#B#C.dcm", "1##A#B#C.dcm"]
)
def test_other_names_are_no_complete_drafts(name: str) -> None:
    assert names.parse_draft_name(name) is None


def test_a_job_id_is_a_safe_folder_name() -> None:
    assert names.check_job_id("20240101T000000-abc_1.2") == "20240101T000000-abc_1.2"
    for bad in ("", ".", "..", ".hidden", "a/b", "a\0b", "ä", "x" * 101, "a b"):
        with pytest.raises(SpoolError):
            names.check_job_id(bad)


def test_an_instance_that_came_again_stands_after_the_one_before() -> None:
    came = ["1.2#7#10.dcm", "1.2#7#2.dcm", "1.2#7.dcm", "1.2#70.dcm", "1.2#6.dcm"]
    assert names.in_order(came) == ["1.2#6.dcm", "1.2#7.dcm", "1.2#7#2.dcm", "1.2#7#10.dcm", "1.2#70.dcm"]
