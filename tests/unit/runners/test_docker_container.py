"""What the engine is told to make of an order."""

from typing import Any

import pytest

from mercure.core.processing import Limits, ModuleSpec, RunOrder
from mercure.runners.docker_container import Place, container_config, container_labels, container_name
from mercure.runners.docker_images import LocalImage
from mercure.runners.docker_paths import Volume

IMAGE = LocalImage("sha256:1", "sha256:2", "", frozenset({"PATH"}))


def order(
    *, job: str = "job-1", step: int = 0, limits: Limits | None = None, kept: str = "", **module: Any
) -> RunOrder:
    spec = ModuleSpec("segment", "docker", image="segment:1", **module)
    return RunOrder(job, step, spec, "/srv/in", "/srv/out", kept, limits or Limits(), lambda _: None)


def config(
    asked: RunOrder, *, package: tuple[str, ...] = (), volumes: tuple[Volume, ...] = (), image: LocalImage = IMAGE
) -> dict[str, Any]:
    place = Place("/h/in", "/h/out", "/h/kept", volumes, (1000, 1001), 1 << 20, 4)
    return container_config(asked, place, image, package, container_labels("data", asked))


def host(asked: RunOrder, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = config(asked, **more)["HostConfig"]
    return made


def with_arguments(**arguments: Any) -> RunOrder:
    return order(docker_arguments=arguments)


def test_every_fence_is_up_without_being_asked() -> None:
    made = host(order())

    assert made["NetworkMode"] == "none"
    assert made["CapDrop"] == ["ALL"]
    assert made["SecurityOpt"] == ["no-new-privileges"]
    assert made["ReadonlyRootfs"] is made["Init"] is True
    assert made["Privileged"] is False
    assert made["PidsLimit"] == 1024
    assert made["LogConfig"]["Type"] == "json-file"
    assert "max-size" in made["LogConfig"]["Config"]
    assert set(made["Tmpfs"]) == {"/tmp", "/var/tmp", "/run"}
    assert config(order())["User"] == "1000:1001"


def test_folders_are_mounted_where_the_contract_says() -> None:
    mounts = {entry["Target"]: (entry["Source"], entry["ReadOnly"]) for entry in host(order(kept="/k"))["Mounts"]}

    assert mounts == {
        "/tmp/data": ("/h/in", True),
        "/tmp/output": ("/h/out", False),
        "/tmp/persistence": ("/h/kept", False),
    }
    assert host(order(writes_input=True))["Mounts"][0]["ReadOnly"] is False
    assert len(host(order())["Mounts"]) == 2


def test_the_network_is_there_only_when_it_is_enabled() -> None:
    assert host(order(network_enabled=True))["NetworkMode"] == "default"


def test_gpus_of_the_order_are_requested_and_nothing_else_gets_a_gpu() -> None:
    limits = Limits(gpus=("0", "GPU-7"), gpu_memory_bytes=5)
    asked = order(limits=limits, docker_arguments={"device_requests": [{"count": -1, "capabilities": [["gpu"]]}]})

    (request,) = host(asked)["DeviceRequests"]

    assert (request["DeviceIDs"], request["Capabilities"]) == (["0", "GPU-7"], [["gpu"]])
    assert "MERCURE_GPU_MEMORY_LIMIT_BYTES=5" in config(asked)["Env"]
    assert "DeviceRequests" not in host(order())


def test_gpus_named_as_cdi_devices_are_requested_so() -> None:
    (request,) = host(order(limits=Limits(gpus=("nvidia.com/gpu=0",))))["DeviceRequests"]

    assert request["Driver"] == "cdi"


def test_device_requests_of_the_module_are_passed_on_in_the_engines_spelling() -> None:
    asked = with_arguments(device_requests=[{"driver": "nvidia", "device_ids": ["1"], "options": {"a": 1}}])

    assert host(asked)["DeviceRequests"] == [{"Driver": "nvidia", "DeviceIDs": ["1"], "Options": {"a": "1"}}]


def test_variables_of_the_contract_win_over_those_of_the_module_and_these_over_the_arguments() -> None:
    arguments = {"environment": {"A": 1, "B": 1, "C": 1}, "env": ["C=2", "MERCURE_OUT_DIR=/x"], "runtime": "nvidia"}

    variables = dict(
        entry.split("=", 1) for entry in config(order(docker_arguments=arguments, environment={"B": "own"}))["Env"]
    )

    assert (variables["A"], variables["B"], variables["C"]) == ("1", "own", "2")
    assert variables["MERCURE_OUT_DIR"] == "/tmp/output"
    assert variables["HOME"] == "/tmp"


def test_home_is_the_images_when_it_names_one() -> None:
    image = LocalImage("sha256:1", "sha256:2", "", frozenset({"HOME"}))

    assert not [entry for entry in config(order(), image=image)["Env"] if entry.startswith("HOME=")]


def test_arguments_of_the_module_come_before_the_limits() -> None:
    limits = Limits(cpus=2.0, memory_bytes=1 << 30, processes=10, shared_memory_bytes=5)
    arguments = {"mem_limit": "512m", "shm_size": "1g", "pids_limit": 99, "cpuset_cpus": "0", "read_only": True}

    made = host(order(limits=limits, docker_arguments=arguments))

    assert (made["Memory"], made["MemorySwap"], made["ShmSize"]) == (512 << 20, 512 << 20, 1 << 30)
    assert (made["PidsLimit"], made["CpusetCpus"], made["NanoCpus"]) == (99, "0", 2_000_000_000)


def test_a_module_has_less_weight_than_the_services_unless_it_says_otherwise() -> None:
    assert 2 <= host(order())["CpuShares"] < 1024
    assert host(with_arguments(cpu_shares=2048))["CpuShares"] == 2048


def test_a_quota_of_the_module_replaces_the_limit_of_cpus_because_the_engine_takes_one_only() -> None:
    made = host(order(limits=Limits(cpus=2.0), docker_arguments={"cpu_quota": 50_000}))

    assert made["CpuQuota"] == 50_000
    assert "NanoCpus" not in made


def test_swap_is_what_the_module_says() -> None:
    assert host(with_arguments(mem_limit="512m", memswap_limit=-1))["MemorySwap"] == -1


def test_labels_of_the_module_cannot_replace_those_that_name_the_job() -> None:
    labels = config(with_arguments(labels={"mercure.job": "x", "site": 7}))["Labels"]

    assert labels["mercure.job"] == "job-1"
    assert labels["site"] == "7"


def test_signal_time_and_health_of_the_module_are_passed_on() -> None:
    check = {"test": "true", "start_period": 5, "Retries": 2}

    made = config(with_arguments(stop_signal=2, stop_timeout=7, healthcheck=check))

    assert (made["StopSignal"], made["StopTimeout"]) == ("2", 7)
    assert made["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "StartPeriod": 5, "Retries": 2}


def test_the_command_of_a_package_replaces_the_entrypoint_and_that_of_the_module_does_not() -> None:
    assert config(order(), package=("python3", "/app"))["Entrypoint"] == ["python3", "/app"]
    assert "Entrypoint" not in config(order())
    own = config(order(command=("run", "it")), package=("python3",))
    assert own["Cmd"] == ["run", "it"]
    assert "Entrypoint" not in own


def test_volumes_are_mounted_and_replace_a_folder_for_work_at_the_same_place() -> None:
    made = host(order(), volumes=(Volume("/h/models", "/var/tmp", read_only=True),))

    assert made["Mounts"][-1] == {"Type": "bind", "Source": "/h/models", "Target": "/var/tmp", "ReadOnly": True}
    assert "/var/tmp" not in made["Tmpfs"]


def test_a_writable_root_has_no_folders_in_memory() -> None:
    made = host(with_arguments(read_only=False))

    assert made["ReadonlyRootfs"] is False
    assert "Tmpfs" not in made


@pytest.mark.parametrize(
    ("data", "asked"), [("another", order()), ("data", order(job="job-2")), ("data", order(step=1))]
)
def test_a_name_belongs_to_one_order_of_one_data_folder(data: str, asked: RunOrder) -> None:
    assert container_name("data", order()) == container_name("data", order())
    assert container_name(data, asked) != container_name("data", order())


def test_a_name_is_one_that_the_engine_takes_whatever_the_job_is_called() -> None:
    assert container_name("ä/\udcff", order(job="../\udcff")).removeprefix("mercure-").isalnum()
