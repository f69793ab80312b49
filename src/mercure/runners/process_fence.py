"""What keeps a module of the runner `process` in its place: set in its process between fork and exec.

Everything here holds without any right of the service, and is inherited by all that the module starts: limits of the
kernel, no new privileges, no capabilities (so that even uid 0 obeys the modes of files), and Landlock where the kernel
has it (Linux 5.13): files are written below its own folders only, no process outside is traced or signalled, and no TCP
without `network_enabled`. Imports nothing that costs time to start.
"""

import ctypes
import os
import resource

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module itself takes longer to import than all else together
    from typing import Any

_SIGKILL = 9
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP = 1, 4, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 36, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_WRITE_FILE, _TRUNCATE, _REFER, _IOCTL_DEVICE = 1 << 1, 1 << 14, 1 << 13, 1 << 15
_MAKE_DEVICES = 1 << 6 | 1 << 11
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
_TCP = 3
_SCOPES = 3
"""Abstract sockets and signals stay among the processes of the module."""

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "shm", "dri", "kfd")
"""Below /dev, with all that begins with `nvidia`: what a program may want to write to."""

NICE = 10
"""Modules give way to the services beside them, which receive, and to their guards."""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def _prctl(option: int, first: int = 0) -> int:
    return int(_libc.prctl(*(ctypes.c_ulong(value) for value in (option, first, 0, 0, 0))))


def guard_self() -> None:
    """Make this process the one that inherits what descends from it, and one that nobody traces."""
    _check(_prctl(_PR_SET_CHILD_SUBREAPER, 1))
    _prctl(_PR_SET_DUMPABLE, 0)


def fence(order: "dict[str, Any]", guard: int) -> None:
    """Fence this process in, as `order` says (see `process_guard`). Raises `OSError`; it must not go on then."""
    _check(_prctl(_PR_SET_PDEATHSIG, _SIGKILL))
    if os.getppid() != guard:
        os._exit(1)
    os.nice(NICE)
    if order["cpus"]:
        os.sched_setaffinity(0, order["cpus"])
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, order["memory"])
    _limit(resource.RLIMIT_FSIZE, order["file_size"])
    _limit(resource.RLIMIT_NPROC, order["threads_of_user"])
    _drop_bounding_set()
    _check(_prctl(_PR_SET_NO_NEW_PRIVS, 1))
    _landlock(order["writable"], network=order["network"])
    _drop_capabilities()


def _limit(kind: int, value: "int | None") -> None:
    if value is None:
        return
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _drop_bounding_set() -> None:
    """Without it uid 0 gets every capability back with the next program; others cannot drop it and need not."""
    if os.geteuid() != 0:
        return
    for capability in range(_LAST_CAPABILITY + 1):
        if _prctl(_PR_CAPBSET_DROP, capability) < 0:
            break  # the kernel knows no more of them; or may not drop, then the sets below are what counts


def _drop_capabilities() -> None:
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()))


# -- Landlock: linux/landlock.h --------------------------------------------------------------------------------------


def landlock_version() -> int:
    """Return which Landlock the kernel has; 0: none."""
    return max(0, int(_libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))))


def _landlock(writable: "list[str]", *, network: bool) -> None:
    version = landlock_version()
    if version == 0:
        return
    handled = _WRITE_FILE | _REMOVE_AND_MAKE
    handled |= _REFER if version >= 2 else 0
    handled |= _TRUNCATE if version >= 3 else 0
    handled |= _IOCTL_DEVICE if version >= 5 else 0
    tcp = _TCP if version >= 4 and not network else 0
    attributes = (ctypes.c_uint64 * 3)(handled, tcp, _SCOPES if version >= 6 else 0)
    size = ctypes.c_size_t(8 if version < 4 else 16 if version < 6 else 24)
    rules = _check(_libc.syscall(_LANDLOCK_CREATE, attributes, size, ctypes.c_uint32(0)))
    for path in writable:
        _allow(rules, path, handled & ~_MAKE_DEVICES)
    for name in os.listdir("/dev"):
        if name in _DEVICES or name.startswith("nvidia"):
            _allow(rules, f"/dev/{name}", handled & ~_MAKE_DEVICES)
    _check(_libc.syscall(_LANDLOCK_RESTRICT, rules, ctypes.c_uint32(0)))
    os.close(rules)


def _allow(rules: int, path: str, access: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            access &= _WRITE_FILE | _TRUNCATE | _IOCTL_DEVICE
        # struct landlock_path_beneath_attr is packed: 64 bits of rights, 32 bits of the descriptor.
        rule = access.to_bytes(8, "little") + descriptor.to_bytes(4, "little")
        _check(_libc.syscall(_LANDLOCK_ADD, rules, ctypes.c_int(1), rule, ctypes.c_uint32(0)))
    finally:
        os.close(descriptor)
