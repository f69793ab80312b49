"""What jobs share while they are processed: places, GPUs, and the folders that modules keep between jobs."""

import contextlib
import fcntl
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mercure.core.processing import ModuleSpec
from mercure.services.processing_settings import ProcessorSettings


@dataclass(frozen=True, slots=True)
class Slot:
    """What one job holds while it runs. Give it back once."""

    modules: tuple[str, ...]
    gpus: tuple[str, ...]
    locks: tuple[int, ...]
    """Descriptors that carry the locks of persistence folders; the kernel frees them with the process."""


class Slots:
    """Hands out what there is. Used by the processor's own thread only."""

    def __init__(self) -> None:
        """Start with everything free."""
        self._modules: Counter[str] = Counter()
        self._gpus: Counter[str] = Counter()
        self._count = 0

    @property
    def count(self) -> int:
        """How many jobs hold a slot."""
        return self._count

    def take(
        self, specs: Sequence[ModuleSpec], settings: ProcessorSettings, begun_with: Sequence[str] | None = None
    ) -> Slot | None:
        """Return all that the modules of a job need, or None when some of it is not free just now.

        A job that was begun already, with these GPUs, has its place and them in any case: it may still run.
        """
        names = tuple(dict.fromkeys(spec.name for spec in specs))
        if begun_with is None and any(self._is_full(spec) for spec in specs):
            return None
        count = max((spec.gpu_count for spec in specs), default=0)
        gpus = tuple(begun_with) if begun_with else self._free_gpus(count, settings)
        if gpus is None:
            return None
        locks = _lock_folders(sorted({spec.persistence for spec in specs if spec.persistence}), settings)
        if locks is None:
            return None
        self._modules.update(names)
        self._gpus.update(gpus)
        self._count += 1
        return Slot(names, gpus, locks)

    def give_back(self, slot: Slot) -> None:
        """Take everything back."""
        self._modules.subtract(slot.modules)
        self._gpus.subtract(slot.gpus)
        self._count -= 1
        for lock in slot.locks:
            with contextlib.suppress(OSError):  # a file server may complain; the lock is gone all the same
                os.close(lock)

    def _is_full(self, spec: ModuleSpec) -> bool:
        return spec.max_parallel is not None and self._modules[spec.name] >= spec.max_parallel

    def _free_gpus(self, count: int, settings: ProcessorSettings) -> tuple[str, ...] | None:
        """Return so many GPUs, those with the fewest jobs first; none has two unless sharing is allowed."""
        free = [gpu for gpu in settings.gpus if settings.shared_gpus or not self._gpus[gpu]]
        free.sort(key=lambda gpu: self._gpus[gpu])
        return tuple(free[:count]) if len(free) >= count else None


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
