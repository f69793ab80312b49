"""The runner `process`: a module is a command of this machine, with nothing to install beside it.

It sees the same folders and variables as in a container, by their real paths. It is fenced in as far as the kernel
lets a service do that without being root (`process_fence`), but it is no container: it reads what the user of the
service can read. Limits of memory hold for each process; cpus are whole ones, which modules share in turn.
"""

import errno
import itertools
import math
import os
import tempfile
import weakref
from collections.abc import Callable
from typing import Any

from mercure.core.errors import PermanentError, TransientError
from mercure.core.module_policy import root_trouble
from mercure.core.processing import ModuleSpec, Running, RunOrder, module_variables
from mercure.runners.process_claim import PRIVATE_PREFIX, Claim
from mercure.runners.process_fence import landlock_version
from mercure.runners.process_link import SpareGuard
from mercure.runners.process_run import ProcessRun, clear_private
from mercure.runners.process_tree import threads_of_machine

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the program of a module is looked for, when its environment does not say otherwise."""

_MAY_PASS = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY, errno.ENOSPC, errno.EIO}
_THREADS_OF_OTHERS = 512
_LANDLOCK_WITH_TRUNCATE = 3


class ProcessRunner:
    """`ModuleRunner` of `core.processing` for commands. Safe to use from many threads."""

    def __init__(self) -> None:
        """Nothing is started before the first run, and nothing needs to be closed."""
        self._turn = itertools.count()
        self._spare = SpareGuard()
        weakref.finalize(self, self._spare.close)

    @property
    def protects_input(self) -> bool:
        """Whether the kernel has a Landlock that knows of opening for writing as well as of cutting off."""
        return landlock_version() >= _LANDLOCK_WITH_TRUNCATE

    def start(self, order: RunOrder) -> Running:
        """Start the module; it runs when this returns. Never beside another run of the same order, which is ended.

        Raises `PermanentError` when there is no such program or it cannot be run, `TransientError` when the machine
        has no room for it now or an earlier run cannot be ended.
        """
        _check(order.module)
        try:
            claim = Claim.take(order.input_folder)
        except OSError as error:
            raise _refused(order, error) from error
        try:
            return self._start(order, claim)
        except OSError as error:
            claim.release()
            raise _refused(order, error) from error
        except BaseException:
            claim.release()
            raise

    def adopt(self, order: RunOrder) -> None:
        """Make sure that nothing of an earlier run is alive: a process without its service ends, always.

        Raises `TransientError` when it cannot be ended.
        """
        try:
            Claim.take(order.input_folder).release()
        except FileNotFoundError:  # the folder of the job, so there is no run
            return
        except OSError as error:
            raise _refused(order, error) from error

    def sweep(self, is_wanted: Callable[[str], bool]) -> None:
        """Do nothing: the guard of a run ends it together with the service that followed it."""

    def _start(self, order: RunOrder, claim: Claim) -> ProcessRun:
        folder = tempfile.mkdtemp(prefix=PRIVATE_PREFIX)
        try:
            claim.record(0, folder)
            guard = self._spare.take()
        except BaseException:
            clear_private(folder)
            raise
        run = ProcessRun(guard, claim, folder, order.output)
        try:
            run.begin(self._order(order, folder))
        except BaseException:
            run.close()
            raise
        self._spare.prepare()
        return run

    def _order(self, order: RunOrder, folder: str) -> dict[str, Any]:
        module, limits = order.module, order.limits
        writable = [folder, order.output_folder]
        writable += [order.persistence_folder] if order.persistence_folder else []
        writable += [order.input_folder] if module.writes_input else []
        return {
            "command": list(module.command),
            "environment": _environment(order, folder),
            "folder": folder,
            "writable": writable,
            "network": module.network_enabled,
            "memory": limits.memory_bytes,
            "file_size": module.output_limit_bytes,
            "processes": limits.processes,
            "threads_of_user": _threads_of_user(limits.processes),
            "cpus": self._cpus(limits.cpus),
        }

    def _cpus(self, count: float | None) -> list[int]:
        """Choose cpus for a run, beginning behind those of the last: an empty list means all."""
        mine = sorted(os.sched_getaffinity(0))
        if count is None or math.ceil(count) >= len(mine):
            return []
        wanted = max(1, math.ceil(count))
        first = next(self._turn) * wanted
        return [mine[(first + number) % len(mine)] for number in range(wanted)]


def _environment(order: RunOrder, folder: str) -> dict[str, str]:
    """Return the whole environment of a module: nothing of the service's own, which may hold secrets."""
    variables = {"PATH": PATH, "LANG": "C.UTF-8"}
    variables |= module_variables(order, (order.input_folder, order.output_folder, order.persistence_folder))
    gpus = ",".join(order.limits.gpus)
    variables |= {"CUDA_VISIBLE_DEVICES": gpus, "ROCR_VISIBLE_DEVICES": gpus}
    if order.limits.gpu_memory_bytes is not None:
        variables["MERCURE_GPU_MEMORY_LIMIT_BYTES"] = str(order.limits.gpu_memory_bytes)
    return variables | {"TMPDIR": folder, "HOME": folder}


def _threads_of_user(processes: int | None) -> int | None:
    """Return how many threads the user of the service may have while a module runs (RLIMIT_NPROC).

    The guard counts what the module has; this is what the kernel holds in the moments between.
    """
    return None if processes is None else threads_of_machine() + 2 * processes + _THREADS_OF_OTHERS


def _check(module: ModuleSpec) -> None:
    if not module.command:
        raise PermanentError(f"module {module.name} has no command")
    texts = (*module.command, *module.environment, *module.environment.values())
    if any("\0" in text for text in texts) or any(not name or "=" in name for name in module.environment):
        raise PermanentError(f"the command or the environment of module {module.name} has what no program can be given")
    if module.volumes:
        raise PermanentError(f"module {module.name} has volumes, which the runner process does not know")
    if trouble := root_trouble(module, os.geteuid()):
        raise PermanentError(f"module {module.name} cannot run: {trouble}")


def _refused(order: RunOrder, error: OSError) -> PermanentError | TransientError:
    kind = TransientError if error.errno in _MAY_PASS else PermanentError
    return kind(f"module {order.module.name} cannot be started: {error.strerror}")
