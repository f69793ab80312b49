"""What a module may ask of Docker: every argument in its range, and no folder that leads out of the container."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercure.core.module_policy import (
    Fault,
    check_docker_arguments,
    check_volumes,
    named_texts,
    root_trouble,
    size_in_bytes,
)
from mercure.core.processing import ModuleSpec

ALLOWED: dict[str, list[Any]] = {
    "mem_limit": [6 << 20, "512m", "1.5g", "2GB", "8589934592"],
    "memswap_limit": ["1g", -1],
    "shm_size": ["64m", 1],
    "cpu_period": [100_000],
    "cpu_quota": [50_000],
    "cpu_shares": [512],
    "cpuset_cpus": ["0", "0-3,8"],
    "cpuset_mems": ["0,1"],
    "nano_cpus": [1_500_000_000],
    "blkio_weight": [300],
    "device_read_bps": [[{"Path": "/dev/sda", "Rate": 1 << 20}], []],
    "device_write_bps": [[{"Path": "/dev/mapper/vg-data", "Rate": 1}]],
    "device_read_iops": [[{"Path": "/dev/sda", "Rate": 100}]],
    "device_write_iops": [[{"Path": "/dev/sda", "Rate": 100}]],
    "pids_limit": [1, 4096],
    "environment": [{"MODEL": "v2", "THREADS": 4}, ["MODEL=v2", "EMPTY="], {}],
    "env": [{"MODEL": "v2"}],
    "labels": [{"org.example.site": "a"}, ["team=x"]],
    "read_only": [True, False],
    "runtime": ["nvidia", "runc"],
    "stop_signal": ["SIGINT", "TERM", "SIGRTMIN+3", 2],
    "stop_timeout": [0, 60],
    "healthcheck": [
        {"test": ["CMD", "true"], "interval": 1_000_000_000, "retries": 3},
        {"Test": "true", "StartPeriod": 0},
    ],
    "device_requests": [
        [{"driver": "nvidia", "count": -1, "capabilities": [["gpu", "compute"]]}],
        [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0"]}],
        [{"device_ids": ["GPU-3a", "1"], "capabilities": [["gpu"]], "options": {"visible": "1"}}],
    ],
}

REFUSED: dict[str, list[Any]] = {
    "mem_limit": [1024, "1k", -1, True, None, "many", "1e9", 1 << 60, [1]],
    "memswap_limit": [-2, 0, "all"],
    "shm_size": [0, "", -5],
    "cpu_period": [999, 1_000_001, "100000", 1.5],
    "cpu_quota": [-1, 0, True],
    "cpu_shares": [1, 262_145],
    "cpuset_cpus": ["0;reboot", "", "a", 3, "0-", "0\n"],
    "cpuset_mems": ["-1", None],
    "nano_cpus": [0, 1e9],
    "blkio_weight": [9, 1001, False],
    "device_read_bps": [
        {"Path": "/dev/sda", "Rate": 1},
        [{"Path": "/etc/passwd", "Rate": 1}],
        [{"Path": "/dev/../etc", "Rate": 1}],
        [{"Path": "/dev/sda", "Rate": 0}],
        [{"Path": "/dev/sda"}],
        [{"Path": "/dev/sda", "Rate": 1, "More": 1}],
    ],
    "device_write_bps": ["fast"],
    "device_read_iops": [[7]],
    "device_write_iops": [None],
    "pids_limit": [-1, 0, "100", True],
    "environment": [{"A=B": "x"}, {"": "x"}, ["=x"], {"A": "x\0y"}, {"A": None}, {"A": ["x"]}, [7], "A=1", {1: "x"}],
    "env": [{"9A": "x"}],
    "labels": [{"mercure.job": "another"}, ["mercure.data=x"], {"a b": "c"}],
    "read_only": [0, "true", None],
    "runtime": ["", "../runc", "/usr/bin/sh", "a b"],
    "stop_signal": [0, 65, "sigint", "SIG", True, None],
    "stop_timeout": [-1, 3601],
    "healthcheck": [
        [],
        {"test": ["SHELL", "x"]},
        {"test": [1]},
        {"interval": 5},
        {"privileged": True},
        {"Test": "a", "test": "b"},
    ],
    "device_requests": [
        {"count": 1},
        [{"driver": "vfio"}],
        [{"capabilities": [["gpu", "sys_admin"]]}],
        [{"device_ids": ["/dev/sda"]}],
        [{"count": 65}],
        [{"privileged": True}],
    ],
}


FORBIDDEN = [
    "privileged", "cap_add", "cap_drop", "devices", "device_cgroup_rules", "security_opt", "pid_mode", "ipc_mode",
    "network", "network_mode", "userns_mode", "uts_mode", "cgroup_parent", "cgroupns", "volumes", "volumes_from",
    "mounts", "user", "group_add", "entrypoint", "command", "image", "name", "links", "ports", "sysctls", "tmpfs",
    "ulimits", "use_config_proxy", "volume_driver", "init", "auto_remove", "remove", "restart_policy",
    "oom_kill_disable", "oom_score_adj", "mem_swappiness", "log_config", "extra_hosts", "dns", "hostname",
    "publish_all_ports",
    "kernel_memory", "Mem_limit", "mem_limit ", "",
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in ALLOWED.items() for value in values])
def test_an_argument_in_its_range_is_allowed(key: str, value: Any) -> None:
    assert check_docker_arguments({key: value}) == []


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in REFUSED.items() for value in values])
def test_an_argument_out_of_its_range_is_a_fault_that_names_it(key: str, value: Any) -> None:
    faults = check_docker_arguments({key: value})

    assert len(faults) >= 1
    assert all(fault.path.startswith(key) for fault in faults)


def test_every_argument_of_the_list_has_examples_here() -> None:
    assert set(ALLOWED) == set(REFUSED)
    assert check_docker_arguments({key: values[0] for key, values in ALLOWED.items()}) == []


@pytest.mark.parametrize("key", FORBIDDEN)
def test_an_argument_that_is_not_in_the_list_is_a_fault(key: str) -> None:
    assert check_docker_arguments({key: True}) == [Fault(key, "is no argument that a module may have")]


def test_faults_show_no_values_because_values_may_be_secrets() -> None:
    arguments = {"environment": {"TOKEN": ["s3cret"], "bad name": "s3cret"}, "labels": {"x": {"y": "s3cret"}}}

    faults = check_docker_arguments({**arguments, "runtime": "s3cret/"})

    assert len(faults) == 4
    assert "s3cret" not in str(faults)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(key=st.sampled_from(sorted(ALLOWED)), value=JSON_VALUES)
def test_no_value_breaks_the_check(key: str, value: Any) -> None:
    for fault in check_docker_arguments({key: value}):
        assert fault.path.startswith(key)
        assert fault.text


@pytest.mark.parametrize(
    ("size", "amount"),
    [(7, 7), ("7", 7), ("1k", 1024), ("1.5M", 3 << 19), ("2gb", 2 << 30), ("1t", 1 << 40), ("x", None), (True, None)],
)
def test_a_size_is_read_as_the_docker_sdk_reads_it(size: Any, amount: int | None) -> None:
    assert size_in_bytes(size) == amount


def test_variables_come_as_object_or_as_list() -> None:
    assert named_texts({"A": 1, "B": "x=y"}) == named_texts(["A=1", "B=x=y"]) == {"A": "1", "B": "x=y"}


# -- volumes ---------------------------------------------------------------------------------------------------------


def faults_of(host: str, bind: Any = "/models", mode: Any = "ro", roots: tuple[str, ...] = ("/srv/volumes",)) -> str:
    return str(check_volumes({host: {"bind": bind, "mode": mode}}, roots, os.path.normpath))


NONE = "[]"


@pytest.mark.parametrize("host", ["/srv/volumes", "/srv/volumes/", "/srv/volumes/models", "/srv/volumes/a b/c"])
def test_a_volume_below_an_allowed_folder_is_allowed(host: str) -> None:
    assert faults_of(host) == NONE
    assert faults_of(host, mode="rw") == NONE
    assert check_volumes({host: {"bind": "/models"}}, ["/srv/volumes"], os.path.normpath) == []


@pytest.mark.parametrize(
    "host",
    [
        "", "models", "/srv/volumes/../etc", "/srv/volumes-too", "/srv", "/", "//", "/opt", "~/x", "/srv/volumes/./x",
        "/srv/volumes/a\0b", "/srv/volumes/a\nb", "/srv//volumes", "/srv/volumes/" + "a" * 5000,
    ],
)  # fmt: skip
def test_a_volume_outside_of_the_allowed_folders_is_a_fault(host: str) -> None:
    assert faults_of(host) != NONE
    assert faults_of(host, roots=()) != NONE


@pytest.mark.parametrize("host", ["/etc/x", "/proc/1/root", "/sys/fs", "/dev/sda", "/run/docker.sock", "/var/run", "/"])
def test_the_machine_itself_is_never_given_even_when_a_folder_allows_it(host: str) -> None:
    assert "never given" in faults_of(host, roots=(host, "/etc", "/run"))


@pytest.mark.parametrize("host", ["/var/lib", "/var/lib/docker/volumes", "/srv/volumes/docker.sock", "/boot"])
def test_folders_of_the_engine_and_its_socket_are_never_given(host: str) -> None:
    assert "never given" in faults_of(host, roots=(host,))


@pytest.mark.parametrize("root", ["/", "", "relative", "/srv/../", "//"])
def test_a_root_that_leads_to_the_whole_machine_allows_nothing(root: str) -> None:
    assert "not below" in faults_of("/home/models", roots=(root,))


@pytest.mark.parametrize(
    "bind",
    [
        "/", "//", "", "models", "/tmp", "/tmp/", "/tmp/data", "/tmp/data/x", "/tmp/output", "/tmp/output/",
        "/tmp/persistence", "/proc", "/proc/self", "/sys", "/dev", "/dev/shm", "/a/../proc", "/a/..",
        "/var/run/docker.sock", "/x\0", None, 7,
    ],
)  # fmt: skip
def test_a_target_that_covers_the_contract_or_the_kernel_is_a_fault(bind: Any) -> None:
    assert faults_of("/srv/volumes/models", bind) != NONE


@pytest.mark.parametrize("mode", ["", "RW", "z", "ro,z", "rshared", None, 1])
def test_a_mode_other_than_ro_and_rw_is_a_fault(mode: Any) -> None:
    assert faults_of("/srv/volumes/models", mode=mode) != NONE


@pytest.mark.parametrize("volume", ["/models", None, [], {}, {"mode": "ro"}, {"bind": "/m", "propagation": "shared"}])
def test_a_volume_in_another_form_is_a_fault(volume: Any) -> None:
    assert check_volumes({"/srv/volumes/models": volume}, ["/srv/volumes"], os.path.normpath) != []


def test_two_volumes_at_one_place_are_a_fault() -> None:
    volumes = {"/srv/volumes/a": {"bind": "/m"}, "/srv/volumes/b": {"bind": "/m/"}}

    (fault,) = check_volumes(volumes, ["/srv/volumes"], os.path.normpath)

    assert fault.path == "/srv/volumes/b.bind"


def test_a_symbolic_link_counts_as_what_it_leads_to(tmp_path: Path) -> None:
    allowed, secret = tmp_path / "allowed", tmp_path / "secret"
    allowed.mkdir()
    secret.mkdir()
    (allowed / "out").symlink_to(secret)
    (allowed / "in").mkdir()
    (tmp_path / "alias").symlink_to(allowed)

    def check(path: Path) -> list[Fault]:
        return check_volumes({str(path): {"bind": "/m"}}, [str(tmp_path / "alias")], os.path.realpath)

    assert check(allowed / "in") == []
    assert check(tmp_path / "alias" / "in") == []
    assert [fault.text for fault in check(allowed / "out")] == ["is not below a folder that is allowed for modules"]


def test_only_a_service_of_root_can_run_a_module_that_requires_root() -> None:
    plain, rooted = ModuleSpec("m", "docker"), ModuleSpec("m", "docker", requires_root=True)
    assert root_trouble(rooted, 0) == root_trouble(plain, 0) == root_trouble(plain, 65_534) == ""
    assert "user 65534, as which this runs, could not read" in root_trouble(rooted, 65_534)
    command = ModuleSpec("m", "process", requires_root=True)
    assert "cannot make a command run as root" in root_trouble(command, 65_534)
