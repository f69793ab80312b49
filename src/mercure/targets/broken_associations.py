"""What to do when the peer breaks an association off while an instance is on its way.

Some nodes abort on an instance that they cannot read. It must not keep the others of its series from them, so it is
sent last, on another association, and given up for this attempt when it is alone to blame.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

_MOST_IN_VAIN = 3
"""Associations in a row on which nothing was stored: a node that breaks that often is ill, not the instances."""


@dataclass(slots=True)
class Breaks:
    """The associations of one attempt that were broken off. Names are those of instances."""

    _suspects: dict[str, None] = field(default_factory=dict)
    _given_up: dict[str, None] = field(default_factory=dict)
    _in_vain: int = 0

    def order(self, names: Iterable[str]) -> list[str]:
        """Return what to send next: the suspects last, without what was given up."""
        left = [name for name in names if name not in self._given_up]
        return [name for name in left if name not in self._suspects] + [n for n in left if n in self._suspects]

    def note(self, broke_on: str, left: Iterable[str], *, stored: bool) -> bool:
        """Note a break; return whether to go on. `left` are the names without a result, `broke_on` among them."""
        self._in_vain = 0 if stored else self._in_vain + 1
        if any(name != broke_on and name not in self._suspects and name not in self._given_up for name in left):
            self._suspects[broke_on] = None
        else:
            self._given_up[broke_on] = None
        return self._in_vain < _MOST_IN_VAIN and bool(self.order(left))
