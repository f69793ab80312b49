"""SIGKILL before every change on disk: of a receiver worker, of its recovery, of a dispatcher that sends over DICOM.

Router, operator controls and folder targets: `tests/integration/test_platform_kills.py`.
"""

import os
from collections import Counter
from pathlib import Path

import pytest
from tests.arrivals import arrive, census
from tests.builders import small_series
from tests.kill_points import route
from tests.peers import pynetdicom_scp
from tests.torture.installation import FULL
from tests.torture.killer import TARGET, Order, Outcome, kill_everywhere, recover, send
from tests.torture.senders import series

from mercure.core.delivery import Outcome as Delivered
from mercure.core.stages import Stage
from mercure.dicom import dimse, part10
from mercure.spool import layout as names
from mercure.spool.intake import Intake
from mercure.spool.job_files import read_ledger
from mercure.spool.layout import Layout, Origin

pytestmark = [pytest.mark.torture, pytest.mark.timeout(3600 if FULL else 300)]

STEP = 1 if FULL else 7
ORIGIN = Origin("SENDER", "MERCURE", "127.0.0.1")


def templates(tmp_path: Path) -> tuple[Path, Path, Layout]:
    layout = Layout.under(tmp_path / "template")
    layout.create()
    return tmp_path / "template", tmp_path / "copies", layout


def check_killed(outcomes: list[Outcome], least: int) -> None:
    assert not outcomes[-1].is_killed
    assert all(outcome.is_killed for outcome in outcomes[:-1])
    assert outcomes[-1].number > least


def stored_bytes(layout: Layout) -> dict[str, list[bytes]]:
    """What every visible place holds, by SOP Instance UID; each file once, however many jobs link it."""
    files = {path.stat().st_ino: path for stage in Stage for path in layout.stage(stage).glob("[!.]*/received/*.dcm")}
    files |= {path.stat().st_ino: path for path in layout.incoming.glob("[!.]*/*.dcm")}
    found: dict[str, list[bytes]] = {}
    for path in files.values():
        found.setdefault(names.sop_instance_uid_of(path.name), []).append(path.read_bytes())
    return found


def recover_later(layout: Layout) -> None:
    """Let a new worker start when those that may just be starting have had their time; nothing is left of the dead."""
    for folder in layout.drafts.iterdir():
        os.utime(folder, (0, 0))
    recover(layout)
    assert list(layout.drafts.iterdir()) == []


@pytest.mark.parametrize("hold_open", [False, True])
def test_a_worker_killed_before_any_change_has_stored_what_it_acknowledged_once(
    tmp_path: Path, *, hold_open: bool
) -> None:
    template, copies, _ = templates(tmp_path)
    first, second = series(2), series(1)
    one, two = first.instances
    (three,) = second.instances
    changed = first.data_set(one).replace(b"CS\x02\x00CT", b"CS\x02\x00MR")
    assert changed != first.data_set(one)
    messages = [
        (one, first.data_set(one)),
        (three, second.data_set(three)),
        (two, first.data_set(two)),
        (two, first.data_set(two)),  # the same again: identical
        (one, changed),  # the same UID with other content: both are kept
        ("1.2.3", b"\x08\x00\x05\x00no data set"),
    ]
    outcomes = kill_everywhere(Order("receive", template, copies, STEP, messages, hold_open=hold_open))
    check_killed(outcomes, 60)
    assert [status for _, status in outcomes[-1].statuses] == [0, 0, 0, 0, 0, dimse.CANNOT_UNDERSTAND]
    for outcome in outcomes:
        layout = Layout.under(copies / str(outcome.number))
        where = f"killed before change {outcome.number}"
        recover_later(layout)
        route(layout)
        found = stored_bytes(layout)
        answered = len(outcome.statuses)
        promised = messages[: min(answered, 5)]
        expected = {(uid, data) for uid, data in promised}
        held = {
            (uid, data) for uid, data in messages[: answered + 1] for file in found.get(uid, ()) if file.endswith(data)
        }
        assert expected <= held, where
        assert all(len(found[uid]) == len({d for u, d in held if u == uid}) for uid, _ in promised), where
        everything = census(layout)
        assert everything.loose == {}, where
        jobs = Counter(uid for uids in everything.jobs[Stage.OUTGOING].values() for uid in set(uids))
        assert all(jobs[uid] == 2 for uid, _ in promised), where  # of two targets, one job each
        unreadable = list(layout.error.glob("*/received/unreadable.dcm"))
        assert len(unreadable) in ((1,) if answered == 6 else (0, 1)), where
        assert list(layout.error.glob(".*")) == [], where


def test_a_recovery_killed_before_any_change_is_finished_by_the_next_one(tmp_path: Path) -> None:
    template, copies, layout = templates(tmp_path)
    batch = series(3)
    dead = layout.drafts / "4711-deadbeef"
    dead.mkdir()
    (dead / names.LOCK_FILE).touch()
    contents = {}
    for number, uid in enumerate(batch.instances, start=1):
        contents[uid] = part10.encode_file_meta("1.2.840.10008.5.1.4.1.1.2", uid, "1.2.840.10008.1.2.1")
        contents[uid] += batch.data_set(uid)
        (dead / names.draft_name(number, len(contents[uid]), ORIGIN)).write_bytes(contents[uid])
    broken = contents[batch.instances[0]][:600]
    (dead / names.draft_name(8, len(broken), ORIGIN)).write_bytes(broken)
    (dead / "9.part").write_bytes(b"cut off")
    intake = Intake(layout)  # the first one is in its reception already
    draft = intake.draft()
    draft.write([contents[batch.instances[0]]])
    intake.session(ORIGIN).publish(draft, batch.study_uid, batch.uid, batch.instances[0], b"CT")
    intake.close()
    outcomes = kill_everywhere(Order("recover", template, copies, STEP))
    check_killed(outcomes, 40)
    for outcome in outcomes:
        layout = Layout.under(copies / str(outcome.number))
        recover_later(layout)
        where = f"killed before change {outcome.number}"
        (reception,) = census(layout).loose.values()
        assert reception == sorted(batch.instances), where
        found = stored_bytes(layout)
        assert {uid: [contents[uid]] for uid in batch.instances} == {uid: found[uid] for uid in batch.instances}, where
        kept = [path.read_bytes() for path in layout.error.glob("[!.]*/received/*.dcm")]
        assert set(kept) == {broken}, where
        assert len(kept) == 1, where
        assert list(layout.error.glob(".*")) == [], where


def test_a_dispatcher_killed_before_any_change_sends_again_only_what_it_had_not_written_down(tmp_path: Path) -> None:
    template, copies, layout = templates(tmp_path)
    built = small_series(tmp_path / "series", 4)
    arrive(layout, built)
    route(layout)
    (job,) = [one for one in layout.outgoing.iterdir() if TARGET in (one / names.TASK_FILE).read_text()]
    for other in [*layout.outgoing.iterdir(), *layout.error.iterdir()]:
        if other != job:
            other.rename(tmp_path / other.name)
    with pynetdicom_scp() as archive:
        outcomes = kill_everywhere(Order("send", template, copies, STEP, port=archive.port))
        check_killed(outcomes, 20)
        sent = Counter(archive.received)
        assert all(sent[uid] <= len(outcomes) for uid in built.sop_instance_uids)
        for outcome in outcomes:
            layout = Layout.under(copies / str(outcome.number))
            where = f"killed before change {outcome.number}"
            confirmed = {
                names.sop_instance_uid_of(name)
                for stage in (Stage.OUTGOING, Stage.SUCCESS)
                for (_, name), result in read_ledger(layout.stage(stage) / job.name).items()
                if result.outcome is Delivered.DELIVERED
            }
            archive.received.clear()
            send(layout, archive.port)
            assert sorted(archive.received) == sorted(set(built.sop_instance_uids) - confirmed), where
            found = census(layout).jobs
            assert found[Stage.SUCCESS] == {job.name: sorted(built.sop_instance_uids)}, where
            assert found[Stage.OUTGOING] == found[Stage.ERROR] == {}, where
            hidden = [path for stage in Stage for path in layout.stage(stage).iterdir() if path.name.startswith(".")]
            assert hidden == [], where
