import errno
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import builders
from tests.builders import CT_STORAGE, DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, JPEG_2000, RLE
from tests.no_hard_links import WITHOUT_HARD_LINKS
from tests.peers import wait_until
from tests.receiver import receiver
from tests.sender import VERIFICATION_CONTEXT, Caller, associate_rq, called, data_pdus, store
from tests.small_disk import fill, small_disk, take_inodes

from mercure.core.task import FailStage
from mercure.dicom import dimse, header, part10, uids
from mercure.dicom.negotiation import AcceptancePolicy
from mercure.dicom.storage_scp import StorageHandler
from mercure.dicom.wire import ConnectionEndedError
from mercure.spool import intake as intake_module
from mercure.spool.drafts import Draft
from mercure.spool.job_files import read_task
from mercure.spool.layout import Origin

ALL_SYNTAXES = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED, RLE, JPEG_2000)


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def data_set_with(*, sop: bytes = b"1.2.3", study: bytes | None = b"1.2", series: bytes | None = b"1.2.9") -> bytes:
    data = element(0x00080016, b"UI", CT_STORAGE.encode()) + element(0x00080018, b"UI", sop)
    data += element(0x00080060, b"CS", b"CT")
    if study is not None:
        data += element(0x0020000D, b"UI", study)
    if series is not None:
        data += element(0x0020000E, b"UI", series)
    return data + element(0x00280010, b"US", b"\1\0")


def all_paths(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("undefined_lengths", [False, True])
@pytest.mark.parametrize("transfer_syntax", ALL_SYNTAXES)
def test_the_bytes_of_the_data_set_are_stored_exactly_as_sent(
    tmp_path: Path, transfer_syntax: str, undefined_lengths: bool
) -> None:
    uid = builders.new_uid()
    data_set = builders.dicom_bytes(
        transfer_syntax=transfer_syntax, part10=False, undefined_lengths=undefined_lengths, SOPInstanceUID=uid
    )
    request = associate_rq([(CT_STORAGE, (transfer_syntax,))])
    with (
        receiver(tmp_path / "data", policy=AcceptancePolicy(accept_compressed=True)) as running,
        called(running.port, request) as caller,
    ):
        caller.send(store(data_set, uid))
        response = caller.response()
        assert response.status == 0
        assert response.uid(dimse.AFFECTED_SOP_INSTANCE_UID) == uid
        (stored,) = running.instances()
        meta = part10.read_file_meta(str(stored))
        assert stored.read_bytes()[meta.data_set_offset :] == data_set
        assert (meta.sop_class_uid, meta.sop_instance_uid) == (CT_STORAGE, uid)
        assert meta.transfer_syntax_uid == transfer_syntax
        assert stored.name.endswith(f"#{uid}.dcm")
        assert running.drafts() == []


@pytest.mark.parametrize("transfer_syntax", [EXPLICIT_LITTLE, DEFLATED])
def test_a_header_larger_than_the_part_that_is_kept_in_memory_is_read_from_the_draft(
    tmp_path: Path, transfer_syntax: str
) -> None:
    dataset = builders.dataset()
    block = dataset.private_block(0x0009, "LARGE", create=True)
    for number in range(10):
        block.add_new(number, "OB", os.urandom(20_000))
    data_set = builders.encode(dataset, transfer_syntax, part10=False)
    request = associate_rq([(CT_STORAGE, (transfer_syntax,))])
    with (
        receiver(tmp_path / "data", policy=AcceptancePolicy(accept_compressed=True)) as running,
        called(running.port, request) as caller,
    ):
        caller.send(store(data_set, str(dataset.SOPInstanceUID)))
        assert caller.status() == 0
        assert running.instances()[0].name.startswith(str(dataset.SeriesInstanceUID))


@pytest.mark.parametrize("sop_class", ["1.2.840.10008.5.1.4.1.1.999", "1.3.12.2.1107.5.9.1", "2.25.1234567"])
def test_storage_classes_that_nobody_knows_are_stored(tmp_path: Path, sop_class: str) -> None:
    uid = builders.new_uid()
    data_set = builders.dicom_bytes(part10=False, SOPInstanceUID=uid, SOPClassUID=sop_class)
    request = associate_rq([(sop_class, (EXPLICIT_LITTLE,))])
    with receiver(tmp_path / "data") as running, called(running.port, request) as caller:
        caller.send(store(data_set, uid, sop_class_uid=sop_class))
        assert caller.status() == 0
        assert part10.read_file_meta(str(running.instances()[0])).sop_class_uid == sop_class


@pytest.mark.parametrize(
    "character_set", [b"ISO_IR 100", b"NO SUCH SET", b"\xff\xfe\xfd\xfc", b"\\\\\\ISO 2022 IR 999"]
)
def test_a_character_set_never_stops_an_instance(tmp_path: Path, character_set: bytes) -> None:
    data_set = element(0x00080005, b"CS", character_set) + data_set_with()
    data_set = data_set.replace(
        element(0x0020000D, b"UI", b"1.2"),
        element(0x00100010, b"PN", b"\xc3\x28\xe4") + element(0x0020000D, b"UI", b"1.2"),
    )
    with receiver(tmp_path / "data") as running, called(running.port) as caller:
        caller.send(store(data_set, "1.2.3"))
        assert caller.status() == 0
        assert running.instances()[0].read_bytes().endswith(data_set)


IMPOSSIBLE = [
    b"../../x",
    b"/etc/passwd",
    b"1." * 32 + b"1",
    b"1..2",
    b".1",
    b"1.2\0../x",
    b"1.2 3",
    b"a.b",
    b"",
    b"1.2#3",
    b"\xff\xff",
]


@pytest.mark.parametrize("bad", [None, *IMPOSSIBLE])
@pytest.mark.parametrize("which", ["study", "series"])
def test_an_instance_with_an_impossible_uid_is_refused_and_kept_in_error(
    tmp_path: Path, which: str, bad: bytes | None
) -> None:
    data_set = data_set_with(study=bad) if which == "study" else data_set_with(series=bad)
    outside = tmp_path / "outside"
    outside.mkdir()
    with receiver(outside / "data") as running, called(running.port) as caller:
        caller.send(store(data_set, "1.2.3"))
        assert caller.status() == dimse.CANNOT_UNDERSTAND
        (job_folder,) = running.broken()
        job = read_task(job_folder)
        assert job.id == job_folder.name
        assert job.fail_stage is FailStage.RECEIVING
        assert job.series.calling_ae_title == "SENDER"
        assert job.instances == ("unreadable.dcm",)
        assert job.reason
        assert job.reason in (job_folder / "error.log").read_text()
        assert (job_folder / "received" / "unreadable.dcm").read_bytes().endswith(data_set)
        assert running.instances() == []
        assert running.drafts() == []
        caller.release()
        running.wait_for_ends()
        assert running.tallies[0].refused == 1
    assert set(tmp_path.iterdir()) == {outside}
    assert set(outside.iterdir()) == {outside / "data"}
    assert all("passwd" not in path.name for path in all_paths(tmp_path))


@pytest.mark.parametrize(
    ("data_set", "command_uid", "status"),
    [
        (data_set_with(sop=b"1.2.3"), "1.2.4", dimse.DATA_SET_MISMATCH),
        (data_set_with(sop=b"../../x"), "../../x", dimse.CANNOT_UNDERSTAND),
        (data_set_with(sop=b""), "", dimse.CANNOT_UNDERSTAND),
        (b"", "1.2.3", dimse.CANNOT_UNDERSTAND),
        (b"this is no data set at all", "1.2.3", dimse.CANNOT_UNDERSTAND),
        (data_set_with()[:40], "1.2.3", dimse.CANNOT_UNDERSTAND),
    ],
    ids=["other uid", "path", "no uid", "empty", "text", "cut off"],
)
def test_what_cannot_be_understood_is_refused_and_kept(
    tmp_path: Path, data_set: bytes, command_uid: str, status: int
) -> None:
    with receiver(tmp_path / "data") as running, called(running.port) as caller:
        caller.send(store(data_set, command_uid))
        assert caller.status() == status
        (job_folder,) = running.broken()
        assert (job_folder / "received" / "unreadable.dcm").read_bytes().endswith(data_set)
        caller.send(store(data_set_with(sop=b"1.2.77"), "1.2.77", message_id=2))
        assert caller.status() == 0
        assert len(running.instances()) == 1


@pytest.mark.parametrize(
    ("sop_class", "status", "reason"),
    [
        ("", dimse.CANNOT_UNDERSTAND, "Affected SOP Class UID"),
        ("no UID", dimse.CANNOT_UNDERSTAND, "Affected SOP Class UID"),
        ("1.2.840.10008.5.1.4.1.1.4", dimse.DATA_SET_MISMATCH, "SOPClassUID of the data set"),
    ],
)
def test_a_sop_class_that_is_none_or_another_one_than_that_of_the_data_set_is_refused_and_kept(
    tmp_path: Path, sop_class: str, status: int, reason: str
) -> None:
    with receiver(tmp_path / "data") as running, called(running.port) as caller:
        caller.send(store(data_set_with(), "1.2.3", sop_class_uid=sop_class))
        assert caller.status() == status
        (job_folder,) = running.broken()
        assert reason in read_task(job_folder).reason
        assert running.instances() == []
        caller.release()
        running.wait_for_ends()
        (tally,) = running.tallies
        assert tally.refused == 1
        assert reason in tally.last_refusal
        assert tally.last_refused_job == job_folder.name


def test_a_data_set_without_a_sop_class_is_stored_under_that_of_the_request(tmp_path: Path) -> None:
    data_set = data_set_with().removeprefix(element(0x00080016, b"UI", CT_STORAGE.encode()))
    with receiver(tmp_path / "data") as running, called(running.port) as caller:
        caller.send(store(data_set, "1.2.3"))
        assert caller.status() == 0
        assert part10.read_file_meta(str(running.instances()[0])).sop_class_uid == CT_STORAGE


@pytest.mark.parametrize("abstract_syntax", [uids.VERIFICATION, uids.STORAGE_COMMITMENT_PUSH_MODEL])
def test_an_instance_on_a_context_of_another_service_is_refused(tmp_path: Path, abstract_syntax: str) -> None:
    request = associate_rq([(abstract_syntax, (EXPLICIT_LITTLE,))])
    with receiver(tmp_path / "data") as running, called(running.port, request) as caller:
        caller.send(store(data_set_with(), "1.2.3"))
        assert caller.status() == dimse.SOP_CLASS_NOT_SUPPORTED
        caller.release()
        running.wait_for_ends()
        assert running.instances() == running.broken() == running.drafts() == []
        assert running.tallies[0].refused == 1
        assert "not for storage" in running.tallies[0].last_refusal


def test_a_header_that_does_not_fit_into_the_part_that_is_kept_is_tried_early_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []
    real = header.read_placing

    def counted(data: bytes, transfer_syntax: str) -> header.Placing:
        tries.append(len(data))
        return real(data, transfer_syntax)

    monkeypatch.setattr("mercure.dicom.storage_scp.read_placing", counted)
    dataset = builders.dataset()
    dataset.private_block(0x0009, "LARGE", create=True).add_new(1, "OB", bytes(200_000))
    message = store(builders.encode(dataset, EXPLICIT_LITTLE, part10=False), str(dataset.SOPInstanceUID), size=2_000)
    with receiver(tmp_path / "data") as running, called(running.port) as caller:
        for start in range(0, len(message), 2_000):
            caller.send(message[start : start + 2_000])
        assert caller.status() == 0
    assert tries == [16 << 10]


def test_a_data_set_in_another_transfer_syntax_than_negotiated_is_refused_and_kept(tmp_path: Path) -> None:
    data_set = builders.dicom_bytes(transfer_syntax=IMPLICIT_LITTLE, part10=False)
    with receiver(tmp_path / "data") as running, called(running.port) as caller:
        caller.send(store(data_set, "1.2.3"))
        assert caller.status() == dimse.CANNOT_UNDERSTAND
        assert len(running.broken()) == 1


def test_a_duplicate_is_counted_when_identical_and_kept_when_it_differs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, other = data_set_with(), data_set_with().replace(b"CT", b"MR")
    with receiver(tmp_path / "data") as running, called(running.port) as caller:
        for number, data_set in enumerate((first, first, other, other, first), start=1):
            caller.send(store(data_set, "1.2.3", message_id=number))
            assert caller.status() == 0
        assert [path.name for path in running.instances()] == ["1.2.9#1.2.3#2.dcm", "1.2.9#1.2.3.dcm"]
        assert running.instances()[0].read_bytes().endswith(other)
        caller.release()
        running.wait_for_ends()
        assert running.tallies[0].stored == 5
        assert (running.tallies[0].identical, running.tallies[0].different) == (3, 1)
    assert "both are kept" in caplog.text


def test_the_reception_says_who_sent_what_to_whom(tmp_path: Path) -> None:
    with receiver(tmp_path / "data") as running, called(running.port, associate_rq(calling="CT1")) as caller:
        caller.send(store(data_set_with(), "1.2.3"))
        assert caller.status() == 0
        content = json.loads((running.instances()[0].parent / "reception.json").read_text())
        assert content == {
            "study_uid": "1.2",
            "series_uid": "1.2.9",
            "sender_aet": "CT1",
            "receiver_aet": "MERCURE",
            "sender_address": "127.0.0.1",
        }
        caller.release()
        running.wait_for_ends()
        assert running.origins == [Origin("CT1", "MERCURE", "127.0.0.1")]


def test_the_same_series_from_another_sender_or_to_another_title_is_another_reception(tmp_path: Path) -> None:
    with receiver(tmp_path / "data") as running:
        for request in (associate_rq(), associate_rq(calling="OTHER"), associate_rq(called="OTHER")):
            with called(running.port, request) as caller:
                caller.send(store(data_set_with(), "1.2.3"))
                assert caller.status() == 0
        assert len({path.parent for path in running.instances()}) == 3


def test_ae_titles_of_sixteen_strange_characters_stop_nothing(tmp_path: Path) -> None:
    request = associate_rq(calling="ÄÖÜ/..\\#%*?<>|\x01\xa0é"[:16], called="É" * 16)
    with receiver(tmp_path / "data") as running, called(running.port, request) as caller:
        caller.send(store(data_set_with(), "1.2.3"))
        assert caller.status() == 0
        assert len(running.instances()) == 1


def test_verification_is_answered(tmp_path: Path) -> None:
    with receiver(tmp_path / "data") as running, called(running.port, associate_rq([VERIFICATION_CONTEXT])) as caller:
        caller.send(data_pdus(1, 1, dimse.echo_request(5)))
        assert caller.status() == 0
        caller.release()


@pytest.mark.parametrize("with_data", [False, True])
def test_a_command_that_is_not_offered_is_refused_and_the_association_goes_on(tmp_path: Path, with_data: bool) -> None:
    command = dimse.encode(
        {
            dimse.AFFECTED_SOP_CLASS_UID: CT_STORAGE,
            dimse.COMMAND_FIELD: dimse.Command.C_FIND_RQ,
            dimse.MESSAGE_ID: 9,
            dimse.DATA_SET_TYPE: 1 if with_data else dimse.NO_DATA_SET,
        }
    )
    with receiver(tmp_path / "data") as running, called(running.port) as caller:
        caller.send(data_pdus(1, 1, command) + (data_pdus(1, 0, b"query") if with_data else b""))
        assert caller.status() == dimse.UNRECOGNIZED_OPERATION
        caller.send(store(data_set_with(), "1.2.3"))
        assert caller.status() == 0


@pytest.mark.parametrize("with_data", [False, True])
def test_responses_and_cancels_are_read_past(tmp_path: Path, with_data: bool) -> None:
    data_set_type = 1 if with_data else dimse.NO_DATA_SET
    stray = dimse.encode(
        {dimse.COMMAND_FIELD: 0x8020, dimse.MESSAGE_ID_RESPONDED_TO: 1, dimse.DATA_SET_TYPE: data_set_type}
    )
    cancel = dimse.encode(
        {dimse.COMMAND_FIELD: 0x0FFF, dimse.MESSAGE_ID_RESPONDED_TO: 1, dimse.DATA_SET_TYPE: dimse.NO_DATA_SET}
    )
    with receiver(tmp_path / "data") as running, called(running.port) as caller:
        caller.send(data_pdus(1, 1, stray) + (data_pdus(1, 0, b"data") if with_data else b"") + data_pdus(1, 1, cancel))
        caller.send(store(data_set_with(), "1.2.3"))
        assert caller.status() == 0


def cut_off(port: int, sent: bytes) -> None:
    caller = Caller(port)
    caller.send(associate_rq())
    caller.pdu()
    caller.send(sent)
    caller.socket.close()


@pytest.mark.parametrize("command", [0x8020, dimse.Command.C_FIND_RQ])
def test_a_data_set_of_another_message_that_is_cut_off_leaves_nothing(tmp_path: Path, command: int) -> None:
    encoded = dimse.encode({dimse.COMMAND_FIELD: command, dimse.MESSAGE_ID: 1, dimse.DATA_SET_TYPE: 1})
    with receiver(tmp_path / "data") as running:
        cut_off(running.port, data_pdus(1, 1, encoded) + struct.pack(">BxIIBB", 4, 106, 102, 1, 0) + b"half")
        assert running.wait_for_ends()[0].startswith("connection lost")
        assert running.drafts() == []


def test_a_data_set_of_another_message_is_not_gathered_without_end(tmp_path: Path) -> None:
    encoded = dimse.encode({dimse.COMMAND_FIELD: 0x20, dimse.MESSAGE_ID: 1, dimse.DATA_SET_TYPE: 1})
    with receiver(tmp_path / "data") as running, called(running.port) as caller:
        part = struct.pack(">BxIIBB", 4, 200_006, 200_002, 1, 0) + bytes(200_000)
        caller.send(data_pdus(1, 1, encoded))
        for _ in range(100):
            try:
                caller.send(part)
            except OSError:
                break
        assert "too long" in running.wait_for_ends()[0]


def test_below_the_reserve_an_instance_is_refused_and_accepted_when_space_is_back(
    tmp_path: Path,
) -> None:
    with (
        small_disk(tmp_path / "data") as disk,
        receiver(disk, min_free_bytes=1 << 20) as running,
        called(running.port) as caller,
    ):
        ballast = fill(disk)
        caller.send(store(data_set_with(), "1.2.3"))
        assert caller.status() == dimse.OUT_OF_RESOURCES
        assert running.instances() == []
        ballast.unlink()
        caller.send(store(data_set_with(), "1.2.3", message_id=2))
        assert caller.status() == 0
        caller.release()
        running.wait_for_ends()
        assert (running.tallies[0].refused, running.tallies[0].stored) == (1, 1)


def test_instances_are_refused_while_inodes_are_left_for_the_router_and_the_log_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        small_disk(tmp_path / "data", inodes=400) as disk,
        receiver(disk, min_free_bytes=1) as running,
        called(running.port) as caller,
    ):
        taken = take_inodes(disk, left=19)
        for number in range(1, 6):
            caller.send(store(data_set_with(), "1.2.3", message_id=number))
            assert caller.status() == dimse.OUT_OF_RESOURCES
        with pytest.raises(AssertionError, match="00020301"), called(running.port):
            pass
        assert os.statvfs(disk).f_favail == 19
        assert said(caplog) == ["ERROR instances are refused: fewer than 20 inodes are free"]
        for file in taken:
            file.unlink()
        for number in range(1, 4):
            caller.send(store(data_set_with(sop=b"1.2.%d" % number), f"1.2.{number}", message_id=number))
            assert caller.status() == 0
        assert said(caplog)[1:] == ["WARNING instances are stored again"]
        caller.release()
        running.wait_for_ends(2)
        assert sorted((tally.refused, tally.stored) for tally in running.tallies) == [(5, 3)]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in caplog.records if record.name.startswith("mercure.dicom.")]
    return [f"{record.levelname} {record.getMessage()}" for record in records]


def test_a_folder_of_drafts_that_is_gone_is_said_once_for_all_instances(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with receiver(tmp_path / "data") as running, called(running.port) as caller:
        running.intake.folder.rename(tmp_path / "away")
        for number in range(1, 6):
            caller.send(store(data_set_with(), "1.2.3", message_id=number))
            assert caller.status() == dimse.OUT_OF_RESOURCES
        (tmp_path / "away").rename(running.intake.folder)
    reason = "the folder of drafts cannot be written: No such file or directory"
    assert said(caplog) == [f"ERROR instances are refused: {reason}"]


def test_a_disk_that_takes_no_instance_is_said_once_for_all_of_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        small_disk(tmp_path / "data") as disk,
        receiver(disk) as running,
        called(running.port) as caller,
    ):
        fill(disk)
        for number in range(1, 6):
            caller.send(store(data_set_with(), "1.2.3", message_id=number))
            assert caller.status() == dimse.OUT_OF_RESOURCES
    assert said(caplog) == ["ERROR instances are refused: No space left on device"]


def test_a_vanished_folder_refuses_and_does_not_crash(tmp_path: Path) -> None:
    with receiver(tmp_path / "data", min_free_bytes=1) as running, called(running.port) as caller:
        (tmp_path / "data" / "incoming").rename(tmp_path / "away")
        caller.send(store(data_set_with(), "1.2.3"))
        assert caller.status() == dimse.OUT_OF_RESOURCES
        (tmp_path / "away").rename(tmp_path / "data" / "incoming")
        caller.send(store(data_set_with(), "1.2.3", message_id=2))
        assert caller.status() == 0
        running.intake.folder.rename(tmp_path / "away")
        caller.send(store(data_set_with(), "1.2.3", message_id=3))
        assert caller.status() == dimse.OUT_OF_RESOURCES
        (tmp_path / "away").rename(running.intake.folder)


_AS_ORDINARY_USER = """
import os, sys
from pathlib import Path
from tests.receiver import receiver
from tests.sender import called, store
from tests.unit.dicom.test_storage_scp import data_set_with
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
with receiver(Path(sys.argv[1]) / "data") as running, called(running.port) as caller:
    running.layout.incoming.chmod(int(sys.argv[2], 8))
    for number in (1, 2):
        caller.send(store(data_set_with(), "1.2.3", message_id=number))
        print(f"{caller.status():04X}", len(running.instances()), len(running.drafts()))
    running.layout.incoming.chmod(0o770)
    caller.send(store(data_set_with(), "1.2.3", message_id=3))
    print(f"{caller.status():04X}")
    caller.release()
    print(running.wait_for_ends() and running.tallies[0].last_refusal)
"""


@pytest.mark.parametrize(
    ("wrapper", "mode", "last", "reason"),
    [
        ((), "550", "0000", "Permission denied"),
        (WITHOUT_HARD_LINKS, "770", "A700", "Operation not permitted"),
    ],
)
def test_a_folder_that_may_not_be_written_to_gives_out_of_resources(
    monkeypatch: pytest.MonkeyPatch, wrapper: tuple[str, ...], mode: str, last: str, reason: str
) -> None:
    monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)  # that user may not write there
    with tempfile.TemporaryDirectory() as place:  # the folders of pytest are closed to others
        os.chmod(place, 0o777)  # whoever the program becomes
        command = [*wrapper, sys.executable, "-W", "error", "-c", _AS_ORDINARY_USER, place, mode]
        root = Path(__file__).parents[3]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["A700 0 0", "A700 0 0", last, reason]


def test_an_error_folder_that_is_gone_still_gives_a_failure_status(tmp_path: Path) -> None:
    with receiver(tmp_path / "data") as running, called(running.port) as caller:
        (tmp_path / "data" / "error").rename(tmp_path / "away")
        (tmp_path / "data" / "error").write_bytes(b"a file in the way")
        caller.send(store(b"no data set", "1.2.3"))
        assert caller.status() == dimse.PROCESSING_FAILURE
        assert running.drafts() == []


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.ENOSPC, dimse.OUT_OF_RESOURCES),
        (errno.EDQUOT, dimse.OUT_OF_RESOURCES),
        (errno.EMFILE, dimse.OUT_OF_RESOURCES),
        (errno.ENFILE, dimse.OUT_OF_RESOURCES),
        (errno.EIO, dimse.PROCESSING_FAILURE),
    ],
)
@pytest.mark.parametrize("step", ["write", "complete"])
def test_a_disk_that_fails_gives_the_right_status_and_leaves_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int, status: int
) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with receiver(tmp_path / "data") as running, called(running.port) as caller:
        with monkeypatch.context() as patched:
            patched.setattr(Draft, step, fails)
            caller.send(store(data_set_with(), "1.2.3", size=100))
            assert caller.status() == status
        assert running.instances() == []
        assert running.drafts() == []
        caller.send(store(data_set_with(), "1.2.3", message_id=2))
        assert caller.status() == 0


def test_nothing_is_acknowledged_before_it_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    def noted(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            steps.append(step)
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(Draft, "complete", noted("fsync", Draft.complete))
    monkeypatch.setattr(intake_module, "_link", noted("link", intake_module._link))
    monkeypatch.setattr(dimse, "response_to", noted("status", dimse.response_to))
    with receiver(tmp_path / "data") as running, called(running.port) as caller:
        caller.send(store(data_set_with(), "1.2.3"))
        assert caller.status() == 0
    assert steps == ["fsync", "link", "status"]


def test_an_action_without_storage_commitment_is_refused(tmp_path: Path) -> None:
    command = dimse.encode(
        {
            dimse.REQUESTED_SOP_CLASS_UID: uids.STORAGE_COMMITMENT_PUSH_MODEL,
            dimse.COMMAND_FIELD: dimse.Command.N_ACTION_RQ,
            dimse.MESSAGE_ID: 1,
            dimse.DATA_SET_TYPE: 1,
            dimse.REQUESTED_SOP_INSTANCE_UID: uids.STORAGE_COMMITMENT_INSTANCE,
            dimse.ACTION_TYPE_ID: 1,
        }
    )
    with receiver(tmp_path / "data") as running, called(running.port) as caller:
        caller.send(data_pdus(1, 1, command) + data_pdus(1, 0, b"data"))
        assert caller.status() == dimse.UNRECOGNIZED_OPERATION


def test_without_fsync_instances_are_placed_all_the_same(tmp_path: Path) -> None:
    with receiver(tmp_path / "data", fsync=False) as running, called(running.port) as caller:
        caller.send(store(data_set_with(), "1.2.3"))
        assert caller.status() == 0
        assert len(running.instances()) == 1
        assert running.drafts() == []


def test_the_end_of_an_association_is_a_hint_to_the_router_when_it_is_wanted(tmp_path: Path) -> None:
    with receiver(tmp_path / "data", hold_open=True) as running:
        with called(running.port) as caller:
            caller.send(store(data_set_with(), "1.2.3"))
            assert caller.status() == 0
            reception = running.instances()[0].parent
            assert list(running.layout.released.iterdir()) == []
            caller.release()
        running.wait_for_ends()
        assert [path.name for path in running.layout.released.iterdir()] == [reception.name]


def test_a_sender_that_is_gone_before_its_answer_leaves_no_draft_and_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise ConnectionEndedError("reset")

    with receiver(tmp_path / "data") as running:
        before = len(os.listdir("/proc/self/fd"))
        for number in range(1, 4):
            with called(running.port) as caller, monkeypatch.context() as patched:
                patched.setattr(StorageHandler, "answer", gone)
                caller.send(store(data_set_with(sop=b"1.2.%d" % number), f"1.2.{number}"))
                running.wait_for_ends(number)
        assert len(running.instances()) == 3
        assert running.drafts() == []
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "no descriptor is left behind")


def test_an_instance_whose_placing_fails_by_an_error_of_ours_leaves_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("mercure.spool.intake.Session.publish", fails)
    with receiver(tmp_path / "data") as running, called(running.port) as caller:
        caller.send(store(data_set_with(), "1.2.3"))
        running.wait_for_ends()
        assert running.drafts() == []
        assert isinstance(running.errors.pop(), ZeroDivisionError)
