"""SIGKILL of every service at any moment, and before every change that a receiver makes: nothing promised is lost."""

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.arrivals import census
from tests.peers import wait_until
from tests.torture.installation import FULL, Installation, installation, kill_process
from tests.torture.senders import Record, Sender, Series, check, series

from mercure.core.stages import Stage
from mercure.spool.layout import instance_name, sop_instance_uid_of

pytestmark = [pytest.mark.torture, pytest.mark.timeout(3600 if FULL else 300)]

SENDERS = 4
PER_SERIES = 25
INSTANCES = 20_000 if FULL else 600
KILLS = 160 if FULL else 12
DEADLINE_SECONDS = 1800 if FULL else 180
VICTIMS = ("receiver", "worker", "router", "dispatcher")


def kill(site: Installation, victim: str) -> None:
    """Kill one process. A dead service is started again at once; a dead worker is the receiver's business."""
    if victim == "worker":
        for worker in site.workers()[:1]:
            kill_process(worker)
        return
    site.kill(victim)
    site.restart(victim)


def campaign(site: Installation, progress: Callable[[], int], chance: random.Random) -> None:
    """Kill whenever another random part of the work is done, each kind of process equally often."""
    total = 2 * INSTANCES
    moments = sorted(chance.randrange(1, total * 95 // 100) for _ in range(KILLS))
    victims = [VICTIMS[number % len(VICTIMS)] for number in range(KILLS)]
    chance.shuffle(victims)
    for moment, victim in zip(moments, victims, strict=True):
        wait_until(
            lambda wanted=moment: progress() >= wanted,  # type: ignore[misc]
            f"{moment} of {total} steps are done; log:\n{site.log()[-3000:]}",
            seconds=DEADLINE_SECONDS,
            interval=0.01,
        )
        kill(site, victim)


def check_targets_have_each_job_once(site: Installation, record: Record, targets: Sequence[str]) -> None:
    """Each instance is in one job of each target; one that had to be sent again may have made a second job."""
    jobs = site.jobs_by_target()
    assert set(jobs) == set(targets)
    for target in targets:
        assert set(jobs[target]) == set(record.attempts)
        doubled = {uid: found for uid, found in jobs[target].items() if len(found) > record.attempts[uid]}
        assert doubled == {}, f"more jobs of {target} than times that the instance was sent"
        for job_names in jobs[target].values():
            assert len(set(job_names)) == len(job_names)


def check_files(folder: Path, batches: Sequence[Series]) -> None:
    """Every instance is in a folder of the folder target, byte by byte, in each job that has it."""
    expected = {uid: batch for batch in batches for uid in batch.instances}
    found = set()
    for path in folder.glob("[!.]*/*.dcm"):
        uid = sop_instance_uid_of(path.name)
        assert path.read_bytes().endswith(expected[uid].data_set(uid)), path.name
        found.add(uid)
    assert found == set(expected)


def test_services_killed_at_random_moments_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    chance = random.Random(20240611)
    batches = [series(PER_SERIES) for _ in range(INSTANCES // PER_SERIES)]
    record = Record()
    research, copies = tmp_path / "research", tmp_path / "copies"
    research.mkdir()
    copies.mkdir()
    rules = [
        {"name": "everything", "condition": "True", "target": ["archive", "research"]},
        {"name": "CT", "condition": "@Modality@ == 'CT'", "target": "copies", "priority": "urgent"},
    ]
    with installation(tmp_path / "archive", "receiver") as archive:
        targets = {
            "archive": {
                "target_type": "dicom",
                "host": "127.0.0.1",
                "port": archive.port,
                "called_ae_title": "ARCHIVE",
            },
            "research": {"target_type": "folder", "folder": str(research)},
            "copies": {"target_type": "folder", "folder": str(copies)},
        }
        with installation(tmp_path / "site", rules=rules, targets=targets) as site:
            senders = [Sender(site.port, batches[n::SENDERS], record) for n in range(SENDERS)]
            for sender in senders:
                sender.start()
            campaign(site, lambda: len(record.acknowledged) + len(os.listdir(research)) * PER_SERIES, chance)
            for sender in senders:
                sender.join(DEADLINE_SECONDS)
                assert not sender.is_alive()
            check(senders)
            site.stop("receiver")  # an orderly end and a new start: what dead workers left is taken up
            site.start("receiver")
            wait_until(lambda: not site.drafts(), "no draft is left")
            site.wait_until_quiet(DEADLINE_SECONDS)
            site.stop()
        archived = [path.name for path in archive.layout.incoming.glob("*#*/*.dcm")]
    assert not record.refused
    assert record.broken, "no sender noticed anything: the kills hit nothing"
    assert len(record.acknowledged) == INSTANCES
    check_targets_have_each_job_once(site, record, ("archive", "research", "copies"))
    check_files(research, batches)
    check_files(copies, batches)
    assert sorted(archived) == sorted(instance_name(batch.uid, uid) for batch in batches for uid in batch.instances)
    found = census(site.layout)
    assert (found.loose, found.jobs[Stage.ERROR], found.jobs[Stage.DISCARD]) == ({}, {}, {})
    hidden = [path for stage in Stage for path in site.layout.stage(stage).iterdir() if path.name.startswith(".")]
    assert hidden == []
    assert "Traceback" not in site.log()
