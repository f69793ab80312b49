"""Every kind of bad target at once, beside good ones, over the whole platform."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.builders import MR_STORAGE
from tests.peers import Server, free_port, listens, stop, storescp, wait_until
from tests.torture import bad_peers
from tests.torture.bad_peers import peer
from tests.torture.installation import FULL, Installation, installation
from tests.torture.senders import Record, Sender, Series, check, series

from mercure.core.stages import Stage
from mercure.spool.layout import sop_instance_uid_of

pytestmark = [pytest.mark.torture, pytest.mark.timeout(3600 if FULL else 300)]

SERIES = 60 if FULL else 4
PER_SERIES = 10
DEADLINE_SECONDS = 1200 if FULL else 120
NEVER_SECONDS = 3000
"""The time-out for answers of all targets: who waits for a hung one waits longer than the test."""


def dicom(port: int, **settings: object) -> dict[str, object]:
    return {"target_type": "dicom", "host": "127.0.0.1", "port": port, "called_ae_title": "PEER", **settings}


def in_storescp(server: Server) -> set[str]:
    return {path.name.partition(".")[2] for path in server.files()}


def in_folder(folder: Path) -> list[str]:
    return sorted(sop_instance_uid_of(path.name) for path in folder.glob("[!.]*/*.dcm"))


@contextmanager
def killed_half_way(folder: Path, port: int, after: int) -> Iterator[Server]:
    """A storescp that is killed when it has some instances."""
    with storescp(folder, port=port) as server:
        watch = threading.Event()

        def kill() -> None:
            while len(server.files()) < after and not watch.wait(0.001):
                pass
            server.process.kill()

        thread = threading.Thread(target=kill)
        thread.start()
        try:
            yield server
        finally:
            watch.set()
            thread.join()
            stop(server.process)


def send_all(site: Installation, batches: list[Series]) -> None:
    record = Record()
    senders = [Sender(site.port, batches[n::2], record) for n in range(2)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(DEADLINE_SECONDS)
    check(senders)
    assert len(record.acknowledged) == SERIES * PER_SERIES


def states(site: Installation, stage: str, target: str) -> list[str]:
    jobs = site.command("queue", "list", "--stage", stage)["jobs"]
    return [job["state"] for job in jobs if target in str(job["targets"])]


def test_bad_targets_of_every_kind_delay_no_good_one_and_get_what_they_lack_when_they_recover(tmp_path: Path) -> None:
    batches = [series(PER_SERIES) for _ in range(SERIES)]
    everything = {uid for batch in batches for uid in batch.instances}
    second = [batch.instances[1] for batch in batches]
    fifth = [batch.instances[4] for batch in batches]
    release, down, hung, dying = threading.Event(), free_port(), free_port(), free_port()
    folder = tmp_path / "folder"
    folder.mkdir()
    with ExitStack() as stack:
        archive = stack.enter_context(storescp(tmp_path / "archive", extra_args=("+xa",)))
        node = stack.enter_context(installation(tmp_path / "node", "receiver"))
        slow = stack.enter_context(peer(bad_peers.slow))
        warns = stack.enter_context(peer(bad_peers.warns))
        busy = stack.enter_context(peer(bad_peers.some(0xA700, fifth)))
        choosy = stack.enter_context(peer(bad_peers.some(0xC000, second)))
        aborts = stack.enter_context(peer(bad_peers.aborts_at(fifth)))
        stuck = stack.enter_context(peer(bad_peers.stuck(release)))
        only_mr = ExitStack()
        stack.callback(only_mr.close)
        refusing = only_mr.enter_context(peer(bad_peers.good, sop_classes=[MR_STORAGE]))
        silent = ExitStack()
        stack.callback(silent.close)
        silent.enter_context(socket.create_server(("127.0.0.1", hung), backlog=64))  # connected, and never answered
        dead = ExitStack()
        stack.callback(dead.close)
        first_life = dead.enter_context(killed_half_way(tmp_path / "dying", dying, PER_SERIES // 2))
        peers = {"slow": slow, "warns": warns, "busy": busy, "choosy": choosy, "aborts": aborts, "stuck": stuck}
        targets = {name: dicom(one.port) for name, one in peers.items()} | {
            "archive": dicom(archive.port),
            "node": dicom(node.port),
            "folder": {"target_type": "folder", "folder": str(folder)},
            "down": dicom(down),
            "hung": dicom(hung),
            "dying": dicom(dying),
            "refusing": dicom(refusing.port),
        }
        mixed = ["hung", "down", "folder", "stuck", "archive"]
        rules: list[dict[str, object]] = [
            {"name": name, "condition": "True", "target": name} for name in targets if name not in mixed
        ]
        rules.append({"name": "mixed", "condition": "True", "target": mixed})
        settings = {"retry_delay": 0.3, "retry_max_delay": 1.0, "retry_max": 0, "response_timeout": NEVER_SECONDS}
        site = stack.enter_context(
            installation(tmp_path / "site", "all", rules=rules, targets=targets, dispatcher=settings)
        )
        send_all(site, batches)
        sent_at = time.monotonic()
        wait_until(lambda: in_storescp(archive) == everything, "storescp has everything", seconds=DEADLINE_SECONDS)
        wait_until(lambda: in_folder(folder) == sorted(everything), "so has the folder")
        wait_until(lambda: len(list(node.layout.incoming.glob("*#*/*.dcm"))) == len(everything), "so has the node")
        wait_until(lambda: set(warns.confirmed) == everything, "so has the one that warns")
        assert time.monotonic() - sent_at < (NEVER_SECONDS if FULL else 45)
        wait_until(lambda: set(busy.confirmed) == everything - set(fifth), "all but single instances are there")
        wait_until(lambda: set(choosy.confirmed) == everything - set(second), "all but the refused are there")
        wait_until(lambda: states(site, "error", "refusing"), "a target without contexts fails for good")
        wait_until(lambda: first_life.process.poll() is not None, "the dying one is dead")
        assert not stuck.confirmed
        assert states(site, "outgoing", "down")

        # -- everything recovers -------------------------------------------------------------------------------------
        confirmed_by_first_life = in_storescp(first_life)
        assert confirmed_by_first_life < everything
        silent.close()
        only_mr.close()
        dead.close()
        for one in peers.values():
            one.recovered.set()
        release.set()
        wait_until(lambda: not any(map(listens, (hung, dying, refusing.port))), "the old ones are gone")
        late = {
            name: stack.enter_context(storescp(tmp_path / f"late-{name}", port=port, extra_args=("+xa",)))
            for name, port in (("down", down), ("hung", hung), ("dying", dying), ("refusing", refusing.port))
        }
        wait_until(
            lambda: len(states(site, "error", "refusing")) == len(states(site, "error", "choosy")) == SERIES,
            "what was refused waits in error/",
            interval=0.5,
            seconds=DEADLINE_SECONDS,
        )
        failed = site.command("queue", "list", "--stage", "error")["jobs"]
        assert all(job["reason"] for job in failed)
        assert len(failed) == 2 * SERIES
        site.command("queue", "retry", "--all-failed")
        site.wait_until_quiet(DEADLINE_SECONDS)
        site.check_alive()
        assert site.jobs(Stage.ERROR) == []
        for name, one in peers.items():
            assert set(one.confirmed) == everything, name
            repeated = {uid for uid, count in one.confirmed.items() if count > 1}
            allowed = everything if name == "stuck" else one.aborted
            assert repeated <= allowed, f"{name} had confirmed {len(repeated)} instances that it got again"
        assert all(slow.confirmed[uid] == warns.confirmed[uid] == 1 for uid in everything)
        assert all(choosy.asked[uid] == 1 for uid in everything - set(second))
        assert in_storescp(late["down"]) == in_storescp(late["hung"]) == in_storescp(late["refusing"]) == everything
        again = in_storescp(late["dying"]) & confirmed_by_first_life
        assert len(again) <= 1, "only the instance that was under way may come twice"
        assert in_storescp(late["dying"]) | confirmed_by_first_life == everything
        assert in_folder(folder) == sorted(everything)
        for server in (archive, *late.values()):
            assert "already exists" not in server.log.read_text("utf-8", "replace") or server is late["hung"]
    assert "Traceback" not in site.log(), site.log()[-4000:]
