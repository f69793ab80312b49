"""Many senders at once, the same series twice, late instances; folders that fill up, turn read-only, or vanish."""

import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.arrivals import census
from tests.peers import wait_until
from tests.sender import Caller, associate_rq, store
from tests.small_disk import small_disk
from tests.torture.installation import FULL, Installation, installation
from tests.torture.senders import Record, Sender, Series, check, series

from mercure.core.stages import Stage
from mercure.dicom import dimse, pdu
from mercure.spool.layout import sop_instance_uid_of

pytestmark = [pytest.mark.torture, pytest.mark.timeout(3600 if FULL else 300)]

DEADLINE_SECONDS = 900 if FULL else 120
REPEATS = 20 if FULL else 1
FILLING = 4000 if FULL else 600
RULE = {"name": "everything", "condition": "True", "target": "folder"}


@contextmanager
def site_with_folder(tmp_path: Path, *, data: Path | None = None, **sections: object) -> Iterator[Installation]:
    """A whole platform in one process that delivers everything to `tmp_path/target`."""
    (tmp_path / "target").mkdir(exist_ok=True)
    targets = {"folder": {"target_type": "folder", "folder": str(tmp_path / "target")}}
    with installation(tmp_path / "site", "all", data=data, rules=[RULE], targets=targets, **sections) as site:
        yield site
        site.check_alive()


def delivered(tmp_path: Path) -> Counter[str]:
    """How often each instance is in a finished job folder of the target."""
    return Counter(sop_instance_uid_of(path.name) for path in (tmp_path / "target").glob("[!.]*/*.dcm"))


def finish(senders: Sequence[Sender]) -> None:
    for sender in senders:
        sender.join(DEADLINE_SECONDS)
        assert not sender.is_alive(), "a sender never got everything acknowledged"
    check(senders)


PAIRS = (
    (("SCANNER", "MERCURE"), ("SCANNER", "MERCURE")),
    (("SCANNER", "MERCURE"), ("PACS", "MERCURE")),
    (("SCANNER", "MERCURE"), ("SCANNER", "RESEARCH")),
    (("SCANNER", "MERCURE"), ("PACS", "RESEARCH")),
)
"""Calling and called AE titles of two senders that send the same series at once."""


def test_the_same_series_sent_twice_at_once_is_complete_in_each_reception_and_doubled_in_none(tmp_path: Path) -> None:
    batches = {pair: [series(40) for _ in range(REPEATS)] for pair in PAIRS}
    expected = {uid: len(set(pair)) for pair in PAIRS for batch in batches[pair] for uid in batch.instances}
    record = Record()
    with site_with_folder(tmp_path, mercure={"series_complete_trigger": 5.0}) as site:
        senders = [
            Sender(site.port, batches[pair], record, calling=calling, called=called)
            for pair in PAIRS
            for calling, called in pair
        ]
        for sender in senders:
            sender.start()
        finish(senders)
        wait_until(lambda: delivered(tmp_path) == expected, "all is delivered, once for each reception", seconds=120)
        site.wait_until_quiet(60)
    assert record.acknowledged == dict.fromkeys(expected, 2)
    whole = [sorted(batch.instances) for pair in PAIRS for batch in batches[pair] * len(set(pair))]
    assert sorted(census(site.layout).jobs[Stage.SUCCESS].values()) == sorted(whole)


def test_instances_that_come_after_the_seal_make_a_second_job_and_change_nothing_of_the_first(tmp_path: Path) -> None:
    whole = series(40)
    early = Series(whole.study_uid, whole.uid, whole.instances[:30])
    late = Series(whole.study_uid, whole.uid, whole.instances[29:])  # and one that was there before
    record = Record()
    with site_with_folder(tmp_path) as site:
        first = Sender(site.port, [early], record)
        first.start()
        finish([first])
        site.wait_until_quiet(60)
        before = {path: os.stat(path).st_mtime_ns for path in site.layout.success.glob("*/received/*.dcm")}
        second = Sender(site.port, [late], record)
        second.start()
        finish([second])
        wait_until(lambda: len(delivered(tmp_path)) == 40, "the late ones are delivered")
        site.wait_until_quiet(60)
    assert len(before) == 30
    assert {path: os.stat(path).st_mtime_ns for path in before} == before
    found = census(site.layout).jobs[Stage.SUCCESS]
    assert sorted(uid for uids in found.values() for uid in uids) == sorted([*early.instances, *late.instances])
    assert delivered(tmp_path)[whole.instances[29]] == len(
        [uids for uids in found.values() if whole.instances[29] in uids]
    )


@contextmanager
def under_load(tmp_path: Path, site: Installation, count: int) -> Iterator[Record]:
    """Two senders that go on all the time; afterwards everything that they sent is delivered, and nothing is twice."""
    batches = [series(20) for _ in range(count // 20)]
    record = Record()
    senders = [Sender(site.port, batches[n::2], record) for n in range(2)]
    for sender in senders:
        sender.start()
    try:
        yield record
        finish(senders)
    finally:
        for sender in senders:
            sender.give_up()
    site.wait_until_quiet(DEADLINE_SECONDS)
    everything = {uid for batch in batches for uid in batch.instances}
    found = delivered(tmp_path)
    assert set(record.acknowledged) == set(found) == everything
    assert all(found[uid] <= record.attempts[uid] for uid in everything)
    assert site.jobs(Stage.ERROR) == site.jobs(Stage.DISCARD) == []
    assert "Traceback" not in site.log(), site.log()[-4000:]


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@pytest.mark.parametrize("reserve_gb", [0, 0.002], ids=["no reserve", "a reserve"])
def test_a_small_disk_that_fills_up_under_load_refuses_and_goes_on_when_it_has_space(
    tmp_path: Path, reserve_gb: float
) -> None:
    with small_disk(tmp_path / "disk", 1 << 21 if reserve_gb == 0 else 1 << 22) as disk:
        receiver = {"min_free_space_gb": reserve_gb}
        with (
            site_with_folder(tmp_path, data=disk / "data", receiver=receiver) as site,
            under_load(tmp_path, site, FILLING) as record,
        ):
            wait_until(
                lambda: record.refused[dimse.OUT_OF_RESOURCES] + record.rejected > 20, "the disk is full", seconds=60
            )
            assert record.refused[dimse.OUT_OF_RESOURCES] or reserve_gb
            assert set(record.acknowledged), "there was space at first"
            site.check_alive()
            mount("-o", f"remount,size={1 << 28}", "tmpfs", str(disk))


@contextmanager
def read_only(folder: Path, stage: Path) -> Iterator[None]:
    """Have a folder read-only for everybody who comes by its path; who has a file open keeps it."""
    stage.mkdir()
    mount("--bind", str(folder), str(stage))
    mount("-o", "remount,bind,ro", str(stage))
    mount("--bind", str(stage), str(folder))
    try:
        yield
    finally:
        for mounted in (folder, stage):
            subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def refusals(record: Record) -> int:
    return record.refused.total() + record.rejected


def test_a_data_folder_that_turns_read_only_under_load_refuses_and_goes_on_afterwards(tmp_path: Path) -> None:
    with site_with_folder(tmp_path) as site, under_load(tmp_path, site, FILLING) as record:
        wait_until(lambda: len(record.acknowledged) > 40, "instances are coming in")
        with read_only(site.layout.incoming.parent, tmp_path / "stage"):
            before = refusals(record)
            wait_until(lambda: refusals(record) > before + 20, "nothing is taken any more")
            stored = len(record.acknowledged)
            wait_until(lambda: refusals(record) > before + 40, "and stays so")
            assert len(record.acknowledged) == stored
            site.check_alive()


def test_a_data_folder_that_vanishes_under_load_is_not_made_anew_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    with site_with_folder(tmp_path) as site, under_load(tmp_path, site, FILLING) as record:
        data, aside = site.layout.incoming.parent, tmp_path / "aside"
        wait_until(lambda: len(record.acknowledged) > 40, "instances are coming in")
        os.rename(data, aside)
        before = refusals(record)
        wait_until(lambda: refusals(record) > before + 20, "nothing is taken any more")
        stored = len(record.acknowledged)
        wait_until(lambda: refusals(record) > before + 40, "and stays so")
        assert len(record.acknowledged) == stored
        assert not data.exists(), f"somebody made {sorted(data.rglob('*'))}"
        site.check_alive()
        os.rename(aside, data)


def answer(caller: Caller, request: bytes) -> str:
    """What becomes of an association request. Beyond the limits some are told so, and more are just closed."""
    try:
        caller.send(request)
        kind, _ = caller.pdu()
    except ConnectionError:
        return "closed"
    return {pdu.PDUType.ASSOCIATE_AC: "accepted", pdu.PDUType.ASSOCIATE_RJ: "rejected", 0: "closed"}[kind]


def test_150_associations_against_a_limit_of_100_leave_those_100_at_work_and_all_get_in_later(tmp_path: Path) -> None:
    settings = {"maximum_associations": 100, "maximum_associations_per_peer": 1000}
    batch = series(150)
    request = associate_rq()

    def stored(caller: Caller, uid: str) -> int:
        caller.send(store(batch.data_set(uid), uid))
        return caller.status()

    def got_in(uid: str) -> bool:
        caller = Caller(site.port)
        with caller.socket:
            return answer(caller, request) == "accepted" and stored(caller, uid) == dimse.SUCCESS

    with site_with_folder(tmp_path, receiver=settings) as site, ExitStack() as stack:
        callers = [Caller(site.port) for _ in batch.instances]
        for caller in callers:
            stack.enter_context(caller.socket)
        answers = [answer(caller, request) for caller in callers]
        opened = [caller for caller, told in zip(callers, answers, strict=True) if told == "accepted"]
        assert len(opened) == 100
        assert "rejected" in answers
        statuses = [stored(caller, uid) for caller, uid in zip(opened, batch.instances, strict=False)]
        assert statuses == [dimse.SUCCESS] * 100
        assert not got_in(batch.instances[100])
        for caller in opened:
            caller.release()
        for uid in batch.instances[100:]:
            wait_until(lambda wanted=uid: got_in(wanted), "there is a place again")  # type: ignore[misc]
        wait_until(lambda: set(delivered(tmp_path)) == set(batch.instances), "everything is delivered")
    assert "Traceback" not in site.log()
