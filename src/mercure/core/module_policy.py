"""What a module may ask of Docker beside its image: the arguments, and the folders of the host.

An allow-list, because most other arguments of a container are a way out of it. It holds when a configuration is saved
and again when a module is started: files change, and so do symbolic links.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from mercure.core.processing import INPUT_IN_CONTAINER, OUTPUT_IN_CONTAINER, PERSISTENCE_IN_CONTAINER, ModuleSpec

Json = Any


class Fault(NamedTuple):
    """What is not allowed: where (`labels.site`, `/srv/models.bind`; empty: the whole), and why. Never a value."""

    path: str
    text: str


RESERVED_LABELS: Final = "mercure."
"""Labels that begin so name jobs; a module that gave them could be taken for another one."""

_Check = Callable[[str, Json], Iterator[Fault]]

_MAXIMUM_ENTRIES = 256
_MAXIMUM_TEXT = 32_768
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)([bkmgt]?)b?", re.ASCII | re.IGNORECASE)
_UNITS: Final = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SMALLEST_MEMORY = 6 << 20
_LARGEST_SIZE = 1 << 50
_CPU_SET = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*")
_RUNTIME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,254}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,254}")
_SIGNAL = re.compile(r"(SIG)?(?!SIG)[A-Z][A-Z0-9]{1,9}([+-][0-9]{1,2})?|[0-9]{1,2}")
_BLOCK_DEVICE = re.compile(r"/dev/[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
_GPU = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/=-]{0,254}")
_GPU_CAPABILITIES: Final = frozenset("gpu nvidia compute utility graphics video display compat32 ngx".split())
_GPU_RUNTIME: Final = "nvidia"
_VISIBLE_GPUS: Final = "NVIDIA_VISIBLE_DEVICES"
_NO_GPUS: Final = ("", "void", "none")
"""Values of that variable by which the runtime of NVIDIA gives no GPU."""

_HEALTH_TEST: Final = frozenset({"NONE", "CMD", "CMD-SHELL"})
_LONGEST_NANOSECONDS = 86_400_000_000_000


def check_docker_arguments(arguments: Mapping[str, Json]) -> list[Fault]:
    """Return what is not allowed in the `docker_arguments` of a module; an empty list when all is.

    Keys are those of the docker SDK. Sizes are bytes, or text with a unit (`512m`, `1.5g`, of 1024).
    """
    faults: list[Fault] = []
    for key, value in arguments.items():
        check = _ARGUMENTS.get(key)
        if check is None:
            faults.append(Fault(_short(key), "is no argument that a module may have"))
        else:
            faults.extend(check(key, value))
    return faults


def root_trouble(module: ModuleSpec, user_id: int) -> str:
    """Say why a module cannot run under a service of this user, or "".

    A command has the user of the service. A container could be root, but only root can read and remove whatever root
    leaves in an output folder, and nothing with more rights than the service ever tidies up behind a module.
    """
    if not module.requires_root or user_id == 0:
        return ""
    reason = "cannot make a command run as root"
    if module.runner == "docker":
        reason = "could not read or remove what root writes"
    return (
        f"it requires root, and user {user_id}, as which this runs, {reason}: "
        "run the services as root, or the module without requires_root"
    )


def asks_for_gpus(arguments: Mapping[str, Json], environment: Mapping[str, str], common_runtime: str = "") -> bool:
    """Whether a container gets GPUs by the arguments of its module: by device requests, or by the runtime of NVIDIA.

    `environment` goes over the variables of the arguments. `common_runtime` is one that all modules have, also those
    that use no GPU: with it, only a module counts that names GPUs in NVIDIA_VISIBLE_DEVICES.
    """
    if arguments.get("device_requests"):
        return True
    given = [named_texts(arguments.get(key, {})) for key in ("environment", "env")]
    visible = {**given[0], **given[1], **environment}.get(_VISIBLE_GPUS)
    if visible in _NO_GPUS:
        return False
    runtime = str(arguments.get("runtime", "" if visible is None else common_runtime))
    return _GPU_RUNTIME in runtime.lower()


def size_in_bytes(value: Json) -> int | None:
    """Return the bytes of a size as the docker SDK takes it, or None when it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    return int(float(found[1]) * _UNITS[found[2].lower()]) if found else None


def named_texts(value: Json) -> dict[str, str]:
    """Return variables or labels, given as object or as list of NAME=TEXT, as text by name."""
    if isinstance(value, Mapping):
        return {str(name): str(text) for name, text in value.items()}
    return {name: text for name, _, text in (str(entry).partition("=") for entry in value)}


# -- the kinds of values ---------------------------------------------------------------------------------------------


def _whole(low: int, high: int, *also: int) -> _Check:
    def check(path: str, value: Json) -> Iterator[Fault]:
        if isinstance(value, bool) or not isinstance(value, int) or not (low <= value <= high or value in also):
            others = "".join(f" or {number}" for number in also)
            yield Fault(path, f"is no whole number from {low} to {high}{others}")

    return check


def _size(low: int, *also: int) -> _Check:
    def check(path: str, value: Json) -> Iterator[Fault]:
        size = size_in_bytes(value)
        if size is None or not (low <= size <= _LARGEST_SIZE or size in also):
            yield Fault(path, f"is no size of {low} bytes or more, as a number or as text like 512m")

    return check


def _text(pattern: re.Pattern[str], what: str) -> _Check:
    def check(path: str, value: Json) -> Iterator[Fault]:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            yield Fault(path, f"is no {what}")

    return check


def _truth(path: str, value: Json) -> Iterator[Fault]:
    if not isinstance(value, bool):
        yield Fault(path, "is neither true nor false")


def _stop_signal(path: str, value: Json) -> Iterator[Fault]:
    if isinstance(value, int):
        yield from _whole(1, 64)(path, value)
    else:
        yield from _text(_SIGNAL, "signal, as a number or a name like SIGTERM")(path, value)


def _names(pattern: re.Pattern[str], what: str, reserved: str = "") -> _Check:
    def check(path: str, value: Json) -> Iterator[Fault]:
        if not isinstance(value, Mapping | list) or len(value) > _MAXIMUM_ENTRIES:
            yield Fault(path, f"is neither an object nor a list of NAME=TEXT (at most {_MAXIMUM_ENTRIES})")
            return
        if isinstance(value, list) and not all(isinstance(entry, str) for entry in value):
            yield Fault(path, "has an entry that is no text")
            return
        pairs = value.items() if isinstance(value, Mapping) else [entry.partition("=")[::2] for entry in value]
        for name, text in pairs:
            if not isinstance(name, str) or not pattern.fullmatch(name):
                yield Fault(f"{path}.{_short(name)}", f"is no name of a {what}")
            elif reserved and name.startswith(reserved):
                yield Fault(f"{path}.{_short(name)}", f"begins with {reserved}, which is reserved")
            elif not isinstance(text, str | int | float) or "\0" in str(text) or len(str(text)) > _MAXIMUM_TEXT:
                yield Fault(f"{path}.{_short(name)}", "is neither text nor a number, or is too long")

    return check


def _device_rates(path: str, value: Json) -> Iterator[Fault]:
    if not isinstance(value, list) or len(value) > _MAXIMUM_ENTRIES:
        yield Fault(path, "is no list of objects with Path and Rate")
        return
    for number, entry in enumerate(value):
        where = f"{path}[{number}]"
        if not isinstance(entry, Mapping) or set(entry) != {"Path", "Rate"}:
            yield Fault(where, "is no object with Path and Rate, and nothing else")
        else:
            yield from _text(_BLOCK_DEVICE, "path of a device below /dev")(f"{where}.Path", entry["Path"])
            yield from _whole(1, _LARGEST_SIZE)(f"{where}.Rate", entry["Rate"])


def _object(fields: Mapping[str, _Check]) -> _Check:
    """Fields are known in the spelling of the SDK (`device_ids`) and of the engine (`DeviceIDs`)."""

    def check(path: str, value: Json) -> Iterator[Fault]:
        if not isinstance(value, Mapping):
            yield Fault(path, "is no object")
            return
        seen: set[str] = set()
        for key, entry in value.items():
            name = field_name(key)
            if name not in fields or name in seen:
                yield Fault(f"{path}.{_short(key)}", "is not known here, or is given twice")
            else:
                seen.add(name)
                yield from fields[name](f"{path}.{_short(key)}", entry)

    return check


def field_name(key: Json) -> str:
    """Return the spelling that the SDK and the engine share: `device_ids` and `DeviceIDs` are `deviceids`."""
    return key.replace("_", "").lower() if isinstance(key, str) else ""


def _each(check: _Check, at_most: int) -> _Check:
    def check_all(path: str, value: Json) -> Iterator[Fault]:
        if not isinstance(value, list) or len(value) > at_most:
            yield Fault(path, f"is no list of at most {at_most} entries")
            return
        for number, entry in enumerate(value):
            yield from check(f"{path}[{number}]", entry)

    return check_all


def _plain_text(path: str, value: Json) -> Iterator[Fault]:
    if not isinstance(value, str) or "\0" in value or len(value) > _MAXIMUM_TEXT:
        yield Fault(path, "is no text")


def _health_test(path: str, value: Json) -> Iterator[Fault]:
    if isinstance(value, list):
        yield from _each(_plain_text, 64)(path, value)
        if value and value[0] not in _HEALTH_TEST:
            yield Fault(path, "does not begin with NONE, CMD or CMD-SHELL")
    else:
        yield from _plain_text(path, value)


def _gpu_capability(path: str, value: Json) -> Iterator[Fault]:
    if not isinstance(value, str) or value not in _GPU_CAPABILITIES:
        yield Fault(path, "is none of the capabilities of a GPU: " + ", ".join(sorted(_GPU_CAPABILITIES)))


_NANOSECONDS = _whole(1_000_000, _LONGEST_NANOSECONDS, 0)
_DEVICE_REQUEST = _object(
    {
        "driver": _text(re.compile("|nvidia|cdi"), "driver of GPUs: nvidia, cdi or empty"),
        "count": _whole(-1, 64),
        "deviceids": _each(_text(_GPU, "id of a GPU"), 64),
        "capabilities": _each(_each(_gpu_capability, 16), 16),
        "options": _names(_VARIABLE, "option"),
    }
)
_ARGUMENTS: Final[Mapping[str, _Check]] = {
    "mem_limit": _size(_SMALLEST_MEMORY),
    "memswap_limit": _size(_SMALLEST_MEMORY, -1),
    "shm_size": _size(1),
    "cpu_period": _whole(1_000, 1_000_000),
    "cpu_quota": _whole(1_000, 1_000_000_000),
    "cpu_shares": _whole(2, 262_144),
    "cpuset_cpus": _text(_CPU_SET, "list of CPUs like 0-3,8"),
    "cpuset_mems": _text(_CPU_SET, "list of memory nodes like 0,1"),
    "nano_cpus": _whole(10_000_000, 4_096_000_000_000),
    "blkio_weight": _whole(10, 1_000),
    "device_read_bps": _device_rates,
    "device_write_bps": _device_rates,
    "device_read_iops": _device_rates,
    "device_write_iops": _device_rates,
    "pids_limit": _whole(1, 4_194_304),
    "environment": _names(_VARIABLE, "variable"),
    "env": _names(_VARIABLE, "variable"),
    "labels": _names(_LABEL, "label", RESERVED_LABELS),
    "read_only": _truth,
    "runtime": _text(_RUNTIME, "name of a runtime"),
    "stop_signal": _stop_signal,
    "stop_timeout": _whole(0, 3_600),
    "healthcheck": _object(
        {
            "test": _health_test,
            "interval": _NANOSECONDS,
            "timeout": _NANOSECONDS,
            "startperiod": _NANOSECONDS,
            "startinterval": _NANOSECONDS,
            "retries": _whole(0, 1_000),
        }
    ),
    "device_requests": _each(_DEVICE_REQUEST, 16),
}

# -- volumes ---------------------------------------------------------------------------------------------------------

_HOST_NEVER: Final = tuple("/proc /sys /dev /run /var/run /etc /boot /var/lib/docker /var/lib/containerd".split())
_CONTAINER_NEVER: Final = ("/proc", "/sys", "/dev", INPUT_IN_CONTAINER, OUTPUT_IN_CONTAINER, PERSISTENCE_IN_CONTAINER)
_BIND, _MODE = "bind", "mode"


def check_volumes(
    volumes: Mapping[str, Json], allowed_roots: Iterable[str], resolve: Callable[[str], str]
) -> list[Fault]:
    """Return what is not allowed in the volumes of a module, `{host path: {"bind": path, "mode": "ro" or "rw"}}`.

    `resolve` follows the symbolic links of a path of the host, also of one that is not there (`os.path.realpath`). A
    volume is one of the allowed folders or lies below one; folders that lead to the whole machine never count.
    """
    if len(volumes) > _MAXIMUM_ENTRIES:
        return [Fault("", f"are more than {_MAXIMUM_ENTRIES} volumes")]
    roots = [real for root in allowed_roots if is_plain_path(root) and (real := resolve(root)) != "/"]
    faults: list[Fault] = []
    targets: list[str] = []
    for host, volume in volumes.items():
        faults.extend(_host_faults(host, roots, resolve))
        faults.extend(_volume_faults(_short(host), volume, targets))
    return faults


def is_plain_path(path: Json) -> bool:
    """Whether this is an absolute path of a container or host without `.`, `..`, and characters that hide."""
    if not isinstance(path, str) or not path.startswith("/") or not path.isprintable() or len(path) > 4096:
        return False
    return not path.startswith("//") and not {".", "..", ""} & set(path.rstrip("/").split("/")[1:])


def is_below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies in it; both are resolved."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _host_faults(host: str, roots: Sequence[str], resolve: Callable[[str], str]) -> Iterator[Fault]:
    where = _short(host)
    if not is_plain_path(host):
        yield Fault(where, "is no absolute path of the host without '..'")
        return
    real = resolve(host)
    if any(is_below(real, never) or is_below(never, real) for never in _HOST_NEVER) or real.endswith(".sock"):
        yield Fault(where, "leads to the machine itself and is never given to a module")
    elif not any(is_below(real, root) for root in roots):
        yield Fault(where, "is not below a folder that is allowed for modules")


def _volume_faults(where: str, volume: Json, targets: list[str]) -> Iterator[Fault]:
    """`targets` collects the paths in the container, which must not meet each other."""
    if not isinstance(volume, Mapping) or not {_BIND} <= set(volume) <= {_BIND, _MODE}:
        yield Fault(where, "is no object with bind and mode")
        return
    if volume.get(_MODE, "rw") not in ("ro", "rw"):
        yield Fault(f"{where}.{_MODE}", "is neither ro nor rw")
    target = volume[_BIND]
    if not is_plain_path(target) or target == "/" or target.endswith(".sock"):
        yield Fault(f"{where}.{_BIND}", "is no absolute path in the container without '..', below /")
        return
    target = target.rstrip("/")
    if any(is_below(target, never) or is_below(never, target) for never in _CONTAINER_NEVER):
        yield Fault(f"{where}.{_BIND}", "would cover the folders of the contract or of the kernel")
    elif target in targets:
        yield Fault(f"{where}.{_BIND}", "is the place of another volume, too")
    targets.append(target)


def _short(name: Json) -> str:
    return str(name)[:128]
