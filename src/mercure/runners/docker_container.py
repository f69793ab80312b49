"""What the engine is told to make of an order: the container of a module, with every fence that Docker has.

Pure translation: values in, the JSON of the engine's API out.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mercure.core.module_policy import field_name, named_texts, size_in_bytes
from mercure.core.processing import (
    INPUT_IN_CONTAINER,
    OUTPUT_IN_CONTAINER,
    PERSISTENCE_IN_CONTAINER,
    Json,
    Limits,
    RunOrder,
    module_variables,
)
from mercure.runners.docker_images import LocalImage
from mercure.runners.docker_paths import Volume

LABEL_DATA: Final = "mercure.data"
LABEL_JOB: Final = "mercure.job"
LABEL_STEP: Final = "mercure.step"
LABEL_MODULE: Final = "mercure.module"

GPU_MEMORY_VARIABLE: Final = "MERCURE_GPU_MEMORY_LIMIT_BYTES"
"""Tells the module how much memory of a GPU it may use. Docker cannot enforce it."""

LOW_CPU_SHARES: Final = 128
"""Weight of a module where processors are short; the services, and all that says nothing, have 1024."""

_WORK_FOLDERS: Final = ("/tmp", "/var/tmp", "/run")  # noqa: S108
_LOG_SIZE, _LOG_FILES = "8m", "4"
_HOST_KEYS: Final = {
    "cpu_period": "CpuPeriod",
    "cpu_quota": "CpuQuota",
    "cpu_shares": "CpuShares",
    "cpuset_cpus": "CpusetCpus",
    "cpuset_mems": "CpusetMems",
    "nano_cpus": "NanoCpus",
    "blkio_weight": "BlkioWeight",
    "device_read_bps": "BlkioDeviceReadBps",
    "device_write_bps": "BlkioDeviceWriteBps",
    "device_read_iops": "BlkioDeviceReadIOps",
    "device_write_iops": "BlkioDeviceWriteIOps",
    "pids_limit": "PidsLimit",
    "runtime": "Runtime",
    "read_only": "ReadonlyRootfs",
}
_HOST_SIZES: Final = {"mem_limit": "Memory", "memswap_limit": "MemorySwap", "shm_size": "ShmSize"}
_HEALTH_KEYS: Final = {
    "test": "Test",
    "interval": "Interval",
    "timeout": "Timeout",
    "startperiod": "StartPeriod",
    "startinterval": "StartInterval",
    "retries": "Retries",
}
_REQUEST_KEYS: Final = {
    "driver": "Driver",
    "count": "Count",
    "deviceids": "DeviceIDs",
    "capabilities": "Capabilities",
    "options": "Options",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a module runs: paths of the engine's machine, the user, and how much it may keep in `/tmp`."""

    input_folder: str
    output_folder: str
    persistence_folder: str
    volumes: Sequence[Volume]
    user: tuple[int, int]
    work_bytes: int
    cpus: int


def container_name(data_id: str, order: RunOrder) -> str:
    """Return the one name that a container of this order has: the engine gives it to one container only."""
    text = f"{data_id}\0{order.job_id}\0{order.step}"
    return f"mercure-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:32]}"


def container_labels(data_id: str, order: RunOrder) -> dict[str, str]:
    """Return the labels that name the order."""
    return {
        LABEL_DATA: data_id,
        LABEL_JOB: order.job_id,
        LABEL_STEP: str(order.step),
        LABEL_MODULE: order.module.name,
    }


def container_config(
    order: RunOrder, place: Place, image: LocalImage, package: Sequence[str], labels: Mapping[str, str]
) -> dict[str, Any]:
    """Return what the engine is to make. The module's `docker_arguments` have been checked.

    They come before the limits of the order, so that existing modules keep what they asked for. `package` is the
    command of a MONAI Application Package, which replaces the image's entrypoint, too.
    """
    arguments = order.module.docker_arguments
    config: dict[str, Any] = {
        "Image": image.id,
        "User": f"{place.user[0]}:{place.user[1]}",
        "Env": [f"{name}={text}" for name, text in _variables(order, image).items()],
        "Labels": {**named_texts(arguments.get("labels", {})), **labels},
        "Tty": False,
        "OpenStdin": False,
        "HostConfig": _host_config(order, place),
    }
    if order.module.command:
        config["Cmd"] = list(order.module.command)
    elif package:
        config["Entrypoint"] = list(package)
    if "stop_signal" in arguments:
        config["StopSignal"] = str(arguments["stop_signal"])
    if "stop_timeout" in arguments:
        config["StopTimeout"] = arguments["stop_timeout"]
    if "healthcheck" in arguments:
        config["Healthcheck"] = _healthcheck(arguments["healthcheck"])
    return config


def _variables(order: RunOrder, image: LocalImage) -> dict[str, str]:
    arguments = order.module.docker_arguments
    variables: dict[str, str] = {}
    for key in ("environment", "env"):
        variables.update(named_texts(arguments.get(key, {})))
    variables.update(module_variables(order, (INPUT_IN_CONTAINER, OUTPUT_IN_CONTAINER, PERSISTENCE_IN_CONTAINER)))
    if "HOME" not in image.variables:
        # A user without an entry in /etc/passwd would have the root folder, where nothing can be written.
        variables.setdefault("HOME", "/tmp")  # noqa: S108
    if order.limits.gpu_memory_bytes is not None:
        variables[GPU_MEMORY_VARIABLE] = str(order.limits.gpu_memory_bytes)
    return variables


def _host_config(order: RunOrder, place: Place) -> dict[str, Any]:
    arguments = order.module.docker_arguments
    config: dict[str, Any] = {
        "Mounts": _mounts(order, place),
        "NetworkMode": "default" if order.module.network_enabled else "none",
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Privileged": False,
        "ReadonlyRootfs": True,
        "Init": True,
        "IpcMode": "private",
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
        # A core dump would be an image of a patient in a place that nobody looks at.
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": _LOG_SIZE, "max-file": _LOG_FILES}},
        "CpuShares": LOW_CPU_SHARES,
        **_limits(order.limits, place.cpus),
    }
    if {"cpu_period", "cpu_quota"} & set(arguments):
        config.pop("NanoCpus", None)  # The engine takes one way of saying it only.
    config.update({_HOST_KEYS[key]: value for key, value in arguments.items() if key in _HOST_KEYS})
    config.update({_HOST_SIZES[key]: size_in_bytes(value) for key, value in arguments.items() if key in _HOST_SIZES})
    if "Memory" in config:
        config.setdefault("MemorySwap", config["Memory"])  # Else a module gets the same again as swap.
    if requests := _device_requests(order.limits.gpus, arguments.get("device_requests", [])):
        config["DeviceRequests"] = requests
    if config["ReadonlyRootfs"]:
        config["Tmpfs"] = _work_folders(place)
    return config


def _limits(limits: Limits, machine_cpus: int) -> dict[str, Any]:
    """The engine refuses more CPUs than the machine has: a configuration may come from a larger one."""
    cpus = None if limits.cpus is None else round(min(limits.cpus, machine_cpus) * 1e9)
    wanted = {
        "NanoCpus": cpus,
        "Memory": limits.memory_bytes,
        "PidsLimit": limits.processes,
        "ShmSize": limits.shared_memory_bytes,
    }
    return {key: value for key, value in wanted.items() if value is not None}


def _mounts(order: RunOrder, place: Place) -> list[dict[str, Any]]:
    mounts = [
        _bind(place.input_folder, INPUT_IN_CONTAINER, read_only=not order.module.writes_input),
        _bind(place.output_folder, OUTPUT_IN_CONTAINER, read_only=False),
    ]
    if order.persistence_folder:
        mounts.append(_bind(place.persistence_folder, PERSISTENCE_IN_CONTAINER, read_only=False))
    mounts.extend(_bind(volume.host, volume.target, read_only=volume.read_only) for volume in place.volumes)
    return mounts


def _bind(source: str, target: str, *, read_only: bool) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}


def _work_folders(place: Place) -> dict[str, str]:
    covered = {volume.target for volume in place.volumes}
    options = f"rw,exec,nosuid,nodev,mode=1777,size={place.work_bytes}"
    return {folder: options for folder in _WORK_FOLDERS if folder not in covered}


def _device_requests(gpus: Sequence[str], asked: Iterable[Mapping[str, Json]]) -> list[dict[str, Any]]:
    """GPUs that were chosen for this run are the only ones that it gets: another job may have the others."""
    if gpus:
        driver = "cdi" if all("=" in gpu for gpu in gpus) else ""
        return [{"Driver": driver, "Count": 0, "DeviceIDs": list(gpus), "Capabilities": [["gpu"]], "Options": {}}]
    requests = [{_REQUEST_KEYS[field_name(key)]: value for key, value in request.items()} for request in asked]
    for request in requests:
        if "Options" in request:
            request["Options"] = named_texts(request["Options"])
    return requests


def _healthcheck(asked: Mapping[str, Json]) -> dict[str, Any]:
    check = {_HEALTH_KEYS[field_name(key)]: value for key, value in asked.items()}
    if isinstance(check.get("Test"), str):
        check["Test"] = ["CMD-SHELL", check["Test"]]
    return check
