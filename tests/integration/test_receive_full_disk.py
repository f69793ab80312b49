"""A data folder that fills up: a real file system of a few megabytes.

Mounting needs root, so these tests do: a `tmpfs` of 6 MB each. A container must be allowed to mount (CAP_SYS_ADMIN).
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import builders
from tests.receiver import receiver
from tests.sender import called, store

from mercure.dicom import dimse

MEGABYTE = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.fail("this test mounts a tmpfs: run it as root (sudo make test), with CAP_SYS_ADMIN in a container")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "mercure-test", str(folder)], capture_output=True, check=False
    )
    assert mounted.returncode == 0, f"cannot mount a tmpfs: {mounted.stderr.decode()}"
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def instance(uid: str, size_bytes: int) -> bytes:
    side = int((size_bytes / 2) ** 0.5)
    return builders.dicom_bytes(
        part10=False, rows=side, columns=side, SOPInstanceUID=uid, SeriesInstanceUID="1.2.9", StudyInstanceUID="1.2"
    )


def test_a_full_disk_refuses_what_it_cannot_hold_and_takes_it_when_there_is_space(small_disk: Path) -> None:
    acknowledged: dict[str, bytes] = {}
    with receiver(small_disk / "data") as running, called(running.port) as caller:
        for number in range(1, 15):
            uid = f"1.2.{number}"
            data_set = instance(uid, MEGABYTE)
            caller.send(store(data_set, uid, message_id=number))
            status = caller.status()
            assert status in (dimse.SUCCESS, dimse.OUT_OF_RESOURCES)
            assert running.drafts() == []
            if status == dimse.SUCCESS:
                acknowledged[uid] = data_set
        assert 3 <= len(acknowledged) <= 6
        assert [path.name for path in running.instances()] == sorted(f"1.2.9#{uid}.dcm" for uid in acknowledged)
        for path in running.instances():
            assert path.read_bytes().endswith(acknowledged[path.name.split("#")[1].removesuffix(".dcm")])
        running.instances()[0].unlink()
        late = instance("1.2.99", MEGABYTE)
        caller.send(store(late, "1.2.99", message_id=99))
        assert caller.status() == dimse.SUCCESS
        caller.release()
        running.wait_for_ends()
        assert running.tallies[0].refused == 14 - len(acknowledged)


def test_a_disk_that_is_full_to_the_last_byte_crashes_nothing(small_disk: Path) -> None:
    with receiver(small_disk / "data") as running, called(running.port) as caller:
        filler = small_disk / "filler"
        filled = subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], capture_output=True, check=False)
        assert b"No space" in filled.stderr
        for number, data_set in enumerate((instance("1.2.3", 10_000), b"not understandable"), start=1):
            caller.send(store(data_set, "1.2.3", message_id=number))
            assert caller.status() == dimse.OUT_OF_RESOURCES
        assert running.drafts() == []
        assert running.broken() == []
        filler.unlink()
        caller.send(store(instance("1.2.3", 10_000), "1.2.3", message_id=3))
        assert caller.status() == dimse.SUCCESS


def test_the_reserve_is_kept_for_what_is_already_there(small_disk: Path) -> None:
    reserve = 2 * MEGABYTE
    with receiver(small_disk / "data", min_free_bytes=reserve) as running, called(running.port) as caller:
        statuses = []
        for number in range(1, 8):
            uid = f"1.2.{number}"
            caller.send(store(instance(uid, MEGABYTE), uid, message_id=number))
            statuses.append(caller.status())
        assert set(statuses) == {dimse.SUCCESS, dimse.OUT_OF_RESOURCES}
        assert os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize > reserve - 2 * MEGABYTE
        with pytest.raises(AssertionError, match="00020301"), called(running.port):
            pass
