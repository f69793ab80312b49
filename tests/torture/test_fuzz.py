"""Damaged input by the ten thousand: never a crash, a hang, memory without bounds or a file outside the spool."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from tests.arrivals import census
from tests.peers import DEADLINE_SECONDS, wait_until
from tests.sender import associate_rq, called, store
from tests.torture.associations import conversation, hold
from tests.torture.installation import FULL, Installation, installation, resident_bytes
from tests.torture.senders import series

from mercure.core.stages import Stage
from mercure.dicom import dimse
from mercure.spool import layout as names

pytestmark = [pytest.mark.torture, pytest.mark.timeout(3600 if FULL else 300)]

DECODER_CASES = 80_000 if FULL else 2_400
SOCKET_CASES = 20_000 if FULL else 600
WARM_UP_CASES = 200
LONGEST_CASE_SECONDS = 10.0
GROWTH_BYTES = 48 << 20

_ENDS = (Stage.SUCCESS, Stage.ERROR, Stage.DISCARD)
"""A rule that misses one of its tags does not match, so a damaged header may well end in discard/."""

_UID = r"[0-9.]{1,64}"
_JOB = r"([0-9]{8}T[0-9]{6}-[0-9a-f]{10}|broken-[0-9a-f]{20})(-[0-9]+)?"
_INSTANCE = rf"({_UID}#{_UID}(#[0-9]+)?|unreadable)\.dcm"
_PLACES = re.compile(
    rf"incoming/\.(new|sealed|released)(/.*)?"
    rf"|incoming/{_UID}#[0-9a-f]{{10}}(/({_INSTANCE}|reception\.json|\.kind-[0-9a-f]{{8}}|\.open))?"
    rf"|(outgoing|success|error|discard|processing)(/{_JOB}(/(received(/({_INSTANCE}|reception\.json|\.kind-[0-9a-f]{{8}}))?"
    rf"|[a-z.]+))?)?"
    rf"|studies|jobs(/.*)?|incoming|persistence"
)


def test_damaged_bytes_end_in_a_value_or_a_named_error_in_bounded_time_and_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture.decoders", "20240701", str(DECODER_CASES), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert report["failures"] == []
    assert sum(report["cases"].values()) == DECODER_CASES
    assert report["slowest"][0] < LONGEST_CASE_SECONDS, report["slowest"]


def play(site: Installation, numbers: range) -> set[str]:
    """Play so many conversations, four at a time; return the instances that were acknowledged."""

    def one(number: int) -> set[str]:
        try:
            return hold(site.port, conversation(Random(f"association-{number}")))
        except TimeoutError:
            raise AssertionError(f"conversation {number} hangs") from None

    with ThreadPoolExecutor(4) as pool:
        return set().union(*pool.map(one, numbers))


def store_one(site: Installation, calling: str) -> str:
    """A good C-STORE; return the UID."""
    batch = series(1)
    (uid,) = batch.instances
    with called(site.port, associate_rq(calling=calling)) as caller:
        caller.send(store(batch.data_set(uid), uid))
        assert caller.status() == dimse.SUCCESS
        caller.release()
    return uid


def outside(root: Path, data: Path) -> set[Path]:
    """Every path below `root` and beside it that is not in the data folder."""
    found = {path for path in root.rglob("*") if data not in (path, *path.parents)}
    return found | set(root.parent.iterdir()) | set(Path("/tmp").glob("x*")) | set(Path("/").glob("x*"))


def test_damaged_associations_do_no_harm_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    data, target = tmp_path / "a" / "b" / "c" / "data", tmp_path / "target"
    target.mkdir()
    rules = [{"name": "CT", "condition": "'' in @SeriesDescription@ and @Rows@ != '7'", "target": "folder"}]
    targets = {"folder": {"target_type": "folder", "folder": str(target)}}
    receiver = {"accept_compressed_images": True, "dimse_timeout": 20, "idle_timeout": 20, "acse_timeout": 20}
    with installation(tmp_path / "site", "all", data=data, rules=rules, targets=targets, receiver=receiver) as site:
        known = store_one(site, "GOOD")
        acknowledged = {known} | play(site, range(WARM_UP_CASES))
        workers, before = site.workers(), outside(tmp_path, data)
        sizes = {pid: resident_bytes(pid) for pid in (*workers, site.pid("all"))}
        acknowledged |= play(site, range(WARM_UP_CASES, WARM_UP_CASES + SOCKET_CASES))
        acknowledged.add(store_one(site, "GOOD"))
        assert site.workers() == workers, site.log()[-3000:]
        growth = {pid: resident_bytes(pid) - size for pid, size in sizes.items()}
        assert max(growth.values()) < GROWTH_BYTES, growth
        site.check_alive()
        site.wait_until_quiet(300)
        new = {path for path in outside(tmp_path, data) - before if target not in path.parents}
        assert new == set()
        strangers = [p for p in data.rglob("*") if not _PLACES.fullmatch(os.fspath(p.relative_to(data)))]
        assert strangers == []
        listed = {job["job"]: job for job in site.command("queue", "list", "--stage", "error")["jobs"]}
    assert "Traceback" not in site.log(), site.log()[-5000:]
    kept = {uid for stage in _ENDS for uids in census(site.layout).jobs[stage].values() for uid in uids}
    assert acknowledged - kept == set()
    assert len(acknowledged) > SOCKET_CASES // 20
    broken = {path.parent.parent.name for path in site.layout.error.glob("*/received/unreadable.dcm")}
    assert len(broken) > SOCKET_CASES // 20
    assert broken <= set(listed)
    assert all(listed[job]["reason"] for job in broken)
    assert all((site.layout.error / job / names.ERROR_LOG).read_text().strip() for job in broken)


def test_peers_that_fall_silent_anywhere_are_ended_and_others_do_not_wait(tmp_path: Path) -> None:
    chance = Random(7)
    settings = {"acse_timeout": 2, "dimse_timeout": 2, "idle_timeout": 2}
    with installation(tmp_path / "site", "receiver", receiver=settings) as site:
        silent = []
        for number in range(40):
            whole = b"".join(conversation(Random(f"silent-{number}")).pieces)
            connection = socket.create_connection(("127.0.0.1", site.port), timeout=DEADLINE_SECONDS)
            connection.sendall(whole[: chance.randrange(len(whole))])
            silent.append(connection)
        store_one(site, "GOOD")
        ended = threading.Barrier(len(silent) + 1)

        def drain(connection: socket.socket) -> None:
            with connection:
                try:
                    while connection.recv(1 << 16):
                        pass
                except ConnectionError:
                    pass
            ended.wait(DEADLINE_SECONDS)

        for connection in silent:
            threading.Thread(target=drain, args=(connection,), daemon=True).start()
        ended.wait(DEADLINE_SECONDS)
        store_one(site, "GOOD")
        assert len(site.workers()) == 2
    wait_until(lambda: "Traceback" not in site.log(), "no error of ours")
