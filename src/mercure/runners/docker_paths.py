"""Paths as the engine's machine knows them, also when the service itself runs in a container.

The engine mounts folders of its machine. A service in a container sees them elsewhere, so that each path is looked up
in the mounts of the service's own container. On the machine itself paths are what they are.
"""

import os
import re
import stat
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mercure.core.errors import PermanentError, TransientError
from mercure.core.module_policy import check_volumes, is_below
from mercure.core.processing import Json
from mercure.runners.docker_engine import DockerEngine, MissingError

_CONTAINER_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_FILES_OF_ENGINE: Final = frozenset({"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"})
"""Docker mounts these from a folder that is named after the container."""


@dataclass(frozen=True, slots=True)
class OwnMount:
    """A folder of the machine (`host`) that the service's container sees at `inside`."""

    host: str
    inside: str


@dataclass(frozen=True, slots=True)
class Volume:
    """A folder of the engine's machine that a module gets besides those of the contract."""

    host: str
    target: str
    read_only: bool


class HostPaths:
    """Translates paths of this process to paths of the engine's machine. Safe to use from many threads."""

    def __init__(self, engine: DockerEngine, proc: str = "/proc/self") -> None:
        """`proc` is where the kernel tells of this process; nothing is read or asked before the first translation."""
        self._engine = engine
        self._proc = proc
        self._lock = threading.Lock()
        self._mounts: tuple[OwnMount, ...] | None = None
        self._asked = False

    def of(self, path: str) -> str:
        """Return where the engine finds this path, symbolic links resolved.

        Raises `PermanentError` when no mount of the service's container holds it, `TransientError` when the engine
        is away.
        """
        real = os.path.realpath(path)
        mounts = self._own_mounts()
        return real if mounts is None else host_path(real, mounts)

    def volumes(self, wanted: Mapping[str, Json], allowed_roots: Iterable[str]) -> list[Volume]:
        """Return the volumes of a module, checked now: below allowed folders, links followed, files or folders.

        Raises `PermanentError` when one is not allowed, `TransientError` when one is not there now.
        """
        if not wanted:
            return []
        faults = check_volumes(wanted, self._seen(allowed_roots), self._resolve_on_host)
        if faults:
            raise PermanentError("; ".join(f"volume {fault.path} {fault.text}" for fault in faults))
        return [
            Volume(self._existing(host), str(volume["bind"]).rstrip("/"), volume.get("mode", "rw") == "ro")
            for host, volume in wanted.items()
        ]

    def _own_mounts(self) -> tuple[OwnMount, ...] | None:
        with self._lock:
            if not self._asked:
                self._mounts = self._ask()
                self._asked = True
            return self._mounts

    def _ask(self) -> tuple[OwnMount, ...] | None:
        for container in own_containers(_text(f"{self._proc}/mountinfo"), _text(f"{self._proc}/cgroup")):
            try:
                with self._engine.asked("looking for the service's own container") as api:
                    return mounts_in(api.inspect_container(container))
            except MissingError:
                continue  # A container of another engine, which this service cannot ask for anything.
        return None

    def _seen(self, roots: Iterable[str]) -> list[str]:
        """Leave out the roots that the service's own container does not see: nothing below them can be checked."""
        mounts = self._own_mounts()
        return [root for root in roots if mounts is None or any(is_below(root, mount.host) for mount in mounts)]

    def _resolve_on_host(self, path: str) -> str:
        """Follow symbolic links of a path of the machine, seen through the mounts of the service's own container."""
        mounts = self._own_mounts()
        if mounts is None:
            return os.path.realpath(path)
        return host_path(os.path.realpath(inside_path(path, mounts)), mounts)

    def _existing(self, path: str) -> str:
        real = self._resolve_on_host(path)
        mounts = self._own_mounts()
        try:
            mode = os.lstat(real if mounts is None else inside_path(real, mounts)).st_mode
        except OSError:
            raise TransientError(f"volume {path} is not there now") from None
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise PermanentError(f"volume {path} is neither a folder nor a file")
        return real


def own_containers(mountinfo: str, cgroup: str) -> list[str]:
    """Return the ids that this process' container may have, from what the kernel tells; empty: it is in none."""
    found: dict[str, None] = {}
    for line in mountinfo.splitlines():
        fields = line.split()
        if len(fields) > 4 and fields[4] in _FILES_OF_ENGINE:
            found.update(dict.fromkeys(_CONTAINER_ID.findall(fields[3])))
    found.update(dict.fromkeys(_CONTAINER_ID.findall(cgroup)))
    return list(found)


def mounts_in(inspected: Mapping[str, Any]) -> tuple[OwnMount, ...]:
    """Return the mounts of a container that the engine's machine has as a folder, from `docker inspect`."""
    return tuple(
        OwnMount(str(mount["Source"]).rstrip("/") or "/", str(mount["Destination"]).rstrip("/") or "/")
        for mount in inspected.get("Mounts") or ()
        if mount.get("Source") and mount.get("Destination")
    )


def host_path(path: str, mounts: Sequence[OwnMount]) -> str:
    """Return where the machine has a path of the service's container. Raises `PermanentError` when no mount has it."""
    holding = [mount for mount in mounts if is_below(path, mount.inside)]
    if not holding:
        raise PermanentError(
            f"{path} lies inside of the service's own container, where Docker cannot find it: mount a folder there"
        )
    best = max(holding, key=lambda mount: len(mount.inside))
    return _moved(path, best.inside, best.host)


def inside_path(path: str, mounts: Sequence[OwnMount]) -> str:
    """Return where the service's container sees a path of the machine. Raises `PermanentError` when it does not."""
    holding = [mount for mount in mounts if is_below(path, mount.host)]
    if not holding:
        raise PermanentError(
            f"{path} cannot be checked, because the service's own container does not see it: mount it there, too"
        )
    best = max(holding, key=lambda mount: len(mount.host))
    return _moved(path, best.host, best.inside)


def _moved(path: str, old: str, new: str) -> str:
    rest = path[len(old) :].lstrip("/")
    return f"{new.rstrip('/')}/{rest}" if rest else new


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
