"""Where the engine's machine has the folders of a service, in a container and without."""

import os
from pathlib import Path

import pytest

from mercure.core.errors import PermanentError, TransientError
from mercure.runners.docker_engine import DockerEngine
from mercure.runners.docker_paths import HostPaths, OwnMount, host_path, inside_path, mounts_in, own_containers

ID = "4f1c" * 16
OTHER = "9e0d" * 16

MOUNTINFO = f"""\
1253 1087 0:62 / / rw,relatime master:428 - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/ABC,upperdir=/x
1260 1253 8:1 /var/lib/docker/containers/{ID}/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/sda1 rw
1261 1253 8:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw,relatime - ext4 /dev/sda1 rw
1263 1253 8:1 /opt/mercure/data /opt/data rw,relatime - ext4 /dev/sda1 rw
"""
MOUNTINFO_OF_A_HOST = f"""\
25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
93 25 0:48 / /var/lib/docker/containers/{OTHER}/mounts/shm rw,nosuid - tmpfs shm rw,size=65536k
"""

INSPECTED = {
    "Id": ID,
    "Mounts": [
        {
            "Type": "volume",
            "Name": "mercure_data",
            "Source": "/var/lib/docker/volumes/mercure_data/_data",
            "Destination": "/opt/mercure/data",
            "Driver": "local",
            "Mode": "z",
            "RW": True,
            "Propagation": "",
        },
        {
            "Type": "bind",
            "Source": "/fast/processing/",
            "Destination": "/opt/mercure/data/processing",
            "Mode": "",
            "RW": True,
            "Propagation": "rprivate",
        },
        {"Type": "bind", "Source": "/run/docker.sock", "Destination": "/run/docker.sock", "Mode": "", "RW": True},
        {"Type": "tmpfs", "Source": "", "Destination": "/tmp", "Mode": "", "RW": True, "Propagation": ""},
    ],
}


@pytest.mark.parametrize(
    ("mountinfo", "cgroup", "found"),
    [
        (MOUNTINFO, "0::/\n", [ID]),
        (MOUNTINFO, f"12:pids:/docker/{ID}\n0::/docker/{ID}\n", [ID]),
        ("", f"0::/system.slice/docker-{ID}.scope\n", [ID]),
        (MOUNTINFO_OF_A_HOST, "0::/user.slice\n", []),
        ("", "", []),
        ("short\n", "1:name=systemd:/docker/4f1c\n", []),
        (MOUNTINFO, f"1:cpu:/docker/{OTHER}\n", [ID, OTHER]),
    ],
)
def test_the_kernel_tells_the_container_that_the_service_is_in(mountinfo: str, cgroup: str, found: list[str]) -> None:
    assert own_containers(mountinfo, cgroup) == found


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("/opt/mercure/data", "/var/lib/docker/volumes/mercure_data/_data"),
        ("/opt/mercure/data/outgoing/j", "/var/lib/docker/volumes/mercure_data/_data/outgoing/j"),
        ("/opt/mercure/data/processing/j/in", "/fast/processing/j/in"),
        ("/opt/mercure/data/processing-old", "/var/lib/docker/volumes/mercure_data/_data/processing-old"),
    ],
)
def test_the_nearest_mount_of_the_own_container_says_where_a_folder_is(path: str, where: str) -> None:
    mounts = mounts_in(INSPECTED)

    assert host_path(path, mounts) == where
    assert inside_path(where, mounts) == path


@pytest.mark.parametrize("path", ["/opt/mercure", "/opt/mercure/database", "/tmp/x", "/"])
def test_a_folder_that_only_the_own_container_has_is_refused(path: str) -> None:
    with pytest.raises(PermanentError, match="own container"):
        host_path(path, mounts_in(INSPECTED))


def test_a_folder_of_the_host_that_the_own_container_does_not_see_cannot_be_checked() -> None:
    with pytest.raises(PermanentError, match="cannot be checked"):
        inside_path("/srv/models", mounts_in(INSPECTED))


def test_a_mount_of_the_whole_machine_is_translated_too() -> None:
    mounts = [OwnMount("/", "/host")]

    assert host_path("/host/srv/x", mounts) == "/srv/x"
    assert host_path("/host", mounts) == "/"
    assert inside_path("/srv/x", mounts) == "/host/srv/x"


def test_containers_without_mounts_have_none() -> None:
    assert mounts_in({}) == mounts_in({"Mounts": None}) == ()


def paths(tmp_path: Path, mountinfo: str) -> HostPaths:
    (tmp_path / "mountinfo").write_text(mountinfo)
    return HostPaths(DockerEngine(f"unix://{tmp_path}/none.sock"), str(tmp_path))


def test_on_the_machine_itself_a_folder_is_where_it_is_and_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")

    found = paths(tmp_path, MOUNTINFO_OF_A_HOST).of(str(tmp_path / "link" / "in"))

    assert found == os.path.realpath(tmp_path / "data" / "in")


def test_in_a_container_an_engine_that_is_away_is_asked_again_later(tmp_path: Path) -> None:
    found = paths(tmp_path, MOUNTINFO)

    for _ in range(2):
        with pytest.raises(TransientError):
            found.of(str(tmp_path))


def test_a_process_without_proc_is_taken_for_one_on_the_machine(tmp_path: Path) -> None:
    found = HostPaths(DockerEngine(f"unix://{tmp_path}/none.sock"), str(tmp_path / "none"))

    assert found.of(str(tmp_path)) == os.path.realpath(tmp_path)
