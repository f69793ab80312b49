"""Which sealed series the router looks at: those that are new, that changed, or that were not looked at for long.

Series are kept sealed while their jobs stand in memory, thousands of them when modules are slow. Nothing is to be done
for nearly all of them, and whoever brings a job to a disk notes it in the sealed folder, which changes its time stamp.
So a pass costs one `stat` for each of them. The notes are not the truth, so every one of them is looked at in full once
a minute, a few in each pass.
"""

import logging
import os
from collections.abc import Iterator

from mercure.core.clock import Clock
from mercure.spool import sealing
from mercure.spool.kept import memory_of_now
from mercure.spool.layout import Layout
from mercure.spool.sealing import Sealed

log = logging.getLogger(__name__)

_FULL_ROUND_SECONDS = 60.0
_PASS_SHARE = 20
"""Passes may cost one part in so many of the router's time, however many series are kept."""

_LONGEST_PAUSE_SECONDS = 60.0
_LOOK_SECONDS = 0.1
"""What a pass may take for series of which nothing says that they changed; the others follow in the next passes."""

_RACY_SECONDS = 2.0
"""A folder whose time stamp is younger than this may change again within the same tick: it is looked at again."""

_CANNOT_TAKE_SECONDS = 60.0

_State = tuple[int, int]


class SealedWatch:
    """Remembers what was looked at, and when a series that failed may be tried again. Used by one thread."""

    def __init__(self, layout: Layout, clock: Clock) -> None:
        """Know nothing: the first pass looks at everything."""
        self._layout = layout
        self._clock = clock
        self._next_at = float("-inf")
        self._began_at = float("-inf")
        self._not_before: dict[str, float] = {}
        self._listed: dict[str, _State | None] = {}
        self._settled: dict[str, _State] = {}
        self._round: set[str] = set()
        self._round_at = float("-inf")
        self._memory: str | None = None

    def look_at_once(self) -> None:
        """Have the next pass not wait for its time."""
        self._next_at = float("-inf")

    def put_off(self, seal_id: str, seconds: float) -> None:
        """Leave a series alone for so long."""
        self._not_before[seal_id] = self._clock.monotonic() + seconds

    def settle(self, seal_id: str) -> None:
        """Note that a series was looked at, and that nothing is to be done until it changes."""
        self._not_before.pop(seal_id, None)
        state = self._listed.get(seal_id)
        if state and self._clock.now().timestamp() - state[1] / 1e9 > _RACY_SECONDS:
            self._settled[seal_id] = state

    def series(self, interval_seconds: float) -> Iterator[Sealed]:
        """Take those that are worth a look, one at a time, to be closed by the caller; none before the next pass.

        The pause is counted from the end of a pass, so that what is due meanwhile is not kept waiting by the next one.
        """
        moment = self._clock.monotonic()
        if moment < self._next_at:
            return
        self._next_at = moment + interval_seconds
        self._begin_pass(moment)
        worked = 0.0
        for sealed in sealing.open_sealed(self._layout, self._cannot_take, self._is_wanted):
            is_known, handed_at = sealed.id in self._settled, self._clock.monotonic()
            yield sealed
            if not is_known:
                worked += self._clock.monotonic() - handed_at
        ended = self._clock.monotonic()
        pause = min((ended - moment - worked) * _PASS_SHARE, _LONGEST_PAUSE_SECONDS)
        self._next_at = ended + max(interval_seconds, pause)
        self._forget_gone()

    def _begin_pass(self, moment: float) -> None:
        self._began_at = moment
        self._listed.clear()
        try:
            memory = memory_of_now(self._layout)
        except OSError:
            memory = None
        if memory is None or memory != self._memory:  # jobs may be lost with the memory that they stood in
            self._settled.clear()
        self._memory = memory
        if not self._round and moment - self._round_at >= _FULL_ROUND_SECONDS:
            self._round, self._round_at = set(self._settled), moment

    def _forget_gone(self) -> None:
        self._not_before = {name: until for name, until in self._not_before.items() if name in self._listed}
        self._settled = {name: state for name, state in self._settled.items() if name in self._listed}
        self._round &= self._settled.keys()

    def _is_wanted(self, name: str) -> bool:
        self._listed[name] = state = self._state(name)
        if self._not_before.get(name, float("-inf")) > self._began_at:
            return False
        if state is None or self._settled.get(name) != state:
            return True
        if name in self._round and self._clock.monotonic() - self._began_at < _LOOK_SECONDS:
            self._round.discard(name)
            return True
        return False

    def _state(self, name: str) -> _State | None:
        """Return what changes with a sealed folder; None when it cannot be had."""
        try:
            status = os.stat(self._layout.sealed / name)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _cannot_take(self, seal_id: str, error: OSError) -> None:
        log.error("the sealed series %s cannot be taken now: %s", seal_id, error.strerror)
        self.put_off(seal_id, _CANNOT_TAKE_SECONDS)
