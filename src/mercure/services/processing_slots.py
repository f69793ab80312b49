"""What jobs share while they are processed: places, GPUs, and the folders that modules keep between jobs."""

import contextlib
import fcntl
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mercure.core.processing import ModuleSpec
from mercure.services.processing_settings import ProcessorSettings


@dataclass(frozen=True, slots=True)
class Needs:
    """What the modules of a job take of what there is little of."""

    gpus: int = 0
    modules: frozenset[str] = frozenset()
    """Those of which only some may run at the same time."""
    folders: frozenset[str] = frozenset()
    """Persistence folders."""

    def shares_with(self, other: "Needs") -> bool:
        """Whether one of two jobs may have to wait for the other."""
        return bool((self.gpus and other.gpus) or self.modules & other.modules or self.folders & other.folders)


_UNNAMED_GPUS: Final = ""
"""Stands for the GPUs of a machine whose configuration names none; no id is empty."""


def needs_of(specs: Sequence[ModuleSpec], settings: ProcessorSettings) -> Needs:
    """Return what a job needs, one module after another. GPUs that are shared are never scarce."""
    return Needs(
        0 if settings.shared_gpus else _gpu_count(specs, settings),
        frozenset(spec.name for spec in specs if spec.max_parallel is not None),
        frozenset(spec.persistence for spec in specs if spec.persistence),
    )


def _gpu_count(specs: Sequence[ModuleSpec], settings: ProcessorSettings) -> int:
    """Return how many GPUs a job must have. One that gets GPUs unchosen needs all, or the machine for itself.

    Where GPUs are shared there is nothing to wait for, and only those are chosen that a module has a number of.
    """
    every = 0 if settings.shared_gpus else len(_all_gpus(settings))
    return max((every if spec.takes_all_gpus else spec.gpu_count for spec in specs), default=0)


def _all_gpus(settings: ProcessorSettings) -> tuple[str, ...]:
    return settings.gpus or (_UNNAMED_GPUS,)


@dataclass(frozen=True, slots=True)
class Slot:
    """What one job holds while it runs. Give it back once."""

    modules: tuple[str, ...]
    gpus: tuple[str, ...]
    folders: frozenset[str]
    locks: tuple[int, ...]
    """Descriptors that carry the locks of persistence folders; the kernel frees them with the process."""


class Slots:
    """Hands out what there is. Used by the processor's own thread only."""

    def __init__(self) -> None:
        """Start with everything free."""
        self._modules: Counter[str] = Counter()
        self._gpus: Counter[str] = Counter()
        self._folders: Counter[str] = Counter()
        self._count = 0

    @property
    def count(self) -> int:
        """How many jobs hold a slot."""
        return self._count

    def has_room(self, specs: Sequence[ModuleSpec], settings: ProcessorSettings, kept: Sequence[Needs] = ()) -> bool:
        """Whether what a job needs is free, apart from what is kept for others.

        Another processor may still have a persistence folder: only `take` finds that.
        """
        needs = needs_of(specs, settings)
        kept = [other for other in kept if other.shares_with(needs)]
        if any(self._is_full(spec, kept) for spec in specs):
            return False
        kept_folders = frozenset[str]().union(*(other.folders for other in kept))
        if any(self._folders[name] or name in kept_folders for name in needs.folders):
            return False
        return not needs.gpus or len(self._free_gpus(settings)) - sum(other.gpus for other in kept) >= needs.gpus

    def take(
        self, specs: Sequence[ModuleSpec], settings: ProcessorSettings, begun_with: Sequence[str] | None = None
    ) -> Slot | None:
        """Return all that the modules of a job need, or None when some of it is not free just now.

        A job that was begun already, with these GPUs, has its place and them in any case: it may still run.
        """
        if begun_with is None and not self.has_room(specs, settings):
            return None
        gpus = self._gpus_for(specs, settings, begun_with or ())
        if gpus is None:
            return None
        folders = needs_of(specs, settings).folders
        locks = _lock_folders(sorted(folders), settings)
        if locks is None:
            return None
        modules = tuple(dict.fromkeys(spec.name for spec in specs))
        self._modules.update(modules)
        self._gpus.update(gpus)
        self._folders.update(folders)
        self._count += 1
        return Slot(modules, gpus, folders, locks)

    def give_back(self, slot: Slot) -> None:
        """Take everything back."""
        self._modules.subtract(slot.modules)
        self._gpus.subtract(slot.gpus)
        self._folders.subtract(slot.folders)
        self._count -= 1
        for lock in slot.locks:
            with contextlib.suppress(OSError):  # a file server may complain; the lock is gone all the same
                os.close(lock)

    def _is_full(self, spec: ModuleSpec, kept: Sequence[Needs]) -> bool:
        if spec.max_parallel is None:
            return False
        return self._modules[spec.name] + sum(spec.name in other.modules for other in kept) >= spec.max_parallel

    def _gpus_for(
        self, specs: Sequence[ModuleSpec], settings: ProcessorSettings, begun_with: Sequence[str]
    ) -> tuple[str, ...] | None:
        """Return the GPUs of a job: those that it was begun with, else free ones; None when there are too few."""
        chosen = max((spec.gpu_count for spec in specs), default=0)
        if begun := tuple(gpu for gpu in begun_with if gpu != _UNNAMED_GPUS or not chosen):
            return begun if len(begun) >= chosen else None
        count = _gpu_count(specs, settings)
        free = tuple(self._free_gpus(settings)[:count])
        return free if len(free) == count else None

    def _free_gpus(self, settings: ProcessorSettings) -> list[str]:
        """Return the GPUs that a job may have, those with the fewest jobs first: none has two unless they share."""
        if settings.shared_gpus:
            free = list(settings.gpus)
        elif self._gpus[_UNNAMED_GPUS] or (not settings.gpus and self._gpus.total()):
            free = []  # The configuration changed meanwhile: what runs has all, or some that have no names any more.
        else:
            free = [gpu for gpu in _all_gpus(settings) if not self._gpus[gpu]]
        return sorted(free, key=lambda gpu: self._gpus[gpu])


def _lock_folders(names: Sequence[str], settings: ProcessorSettings) -> tuple[int, ...] | None:
    """Lock persistence folders for one job, also against other processors; None when somebody has one of them."""
    root = Path(settings.persistence_folder)
    locks: list[int] = []
    try:
        if names:
            root.mkdir(mode=0o750, parents=True, exist_ok=True)
        for name in names:
            locks.append(os.open(root / f".{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640))
            fcntl.flock(locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        for lock in locks:
            os.close(lock)
        return None
    except OSError:
        for lock in locks:
            os.close(lock)
        raise
    return tuple(locks)
