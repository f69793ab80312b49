"""How much one evaluation may do, and the state of one evaluation.

The language has no variable, no loop and no function of its own. A value is therefore used once, by the operation
around it, and the work of an operation is linear in the weight of its operands. So it suffices to weigh values where
they come into being: no value is heavier than `MAX_WEIGHT`, and all together not heavier than `BUDGET`. The few
operations that are worse than linear (sorting, hashing, searching, powers) charge for it before they start.
"""

from collections.abc import Iterable, Iterator
from types import GeneratorType, NoneType
from typing import Any, Final

from mercure.core.tags import Tags

MAX_WEIGHT: Final = 100_000
"""The most characters of a text, or items of a list with all that is in them."""
BUDGET: Final = 1_000_000
"""The sum of the weights of all values of one evaluation."""
MAX_INTEGER_BITS: Final = 4096
MAX_NUMBER_LENGTH: Final = 1000
"""The most characters of a text that is read as a number."""
_SMALL: Final = 1 << 62
_FREE_LENGTH: Final = 1000
"""Reading a tag up to this length costs nothing: a rule has at most a few thousand of them."""

Value = Any
"""A value of the rule language. Which type it has is known only when it is evaluated."""

_SCALARS: Final = (float, bool, NoneType, complex, range, GeneratorType)
_COLLECTIONS: Final = (list, tuple, set, frozenset)


class LimitExceededError(Exception):
    """The evaluation would do too much work or make a value that is too large."""


class EmptyNumberError(ValueError):
    """A number was asked of a text without characters."""


class Run:
    """One evaluation: the tags it reads, what it read, what it missed, and the work it may still do."""

    __slots__ = ("left", "missing", "read", "tags")

    def __init__(self, tags: Tags) -> None:
        self.tags = tags
        self.read: dict[str, None] = {}
        self.missing: dict[str, None] = {}
        self.left = BUDGET

    def charge(self, amount: int) -> None:
        """Take this much from the budget. Raises `LimitExceededError` when it is used up."""
        self.left -= amount
        if self.left < 0:
            raise LimitExceededError

    def admit(self, value: Value) -> Value:
        """Return a new value after weighing it. Raises `LimitExceededError` when it is too large."""
        if type(value) is int and -_SMALL < value < _SMALL:
            return value
        weight = weigh(value)
        if weight > MAX_WEIGHT:
            raise LimitExceededError
        self.charge(weight)
        return value

    def value_of(self, name: str, *, exact: bool) -> str | None:
        """Return the value of a tag and note that it was read, or None when the series has no such tag."""
        tags = self.tags
        spelled = name if exact or name in tags else tags.exact_name(name)
        if spelled is None or spelled not in tags:
            return None
        self.read[spelled] = None
        value = tags[spelled]
        if not value and tags.lacks(spelled):
            self.missing[spelled] = None
        if len(value) > _FREE_LENGTH:
            self.charge(len(value))
        return value

    def blank(self, name: str, *, exact: bool) -> str | None:
        """Return the name as the series spells it when this tag is there and holds nothing but spaces, else None."""
        spelled = name if exact else self.tags.exact_name(name)
        return spelled if spelled is not None and not self.tags.get(spelled, "0").strip() else None


def weigh(value: Value) -> int:
    """Return the weight of a value with all that is in it.

    Raises `LimitExceededError` for an integer that is too large, `TypeError` for what is no value of the language.
    """
    kind = type(value)
    if kind is str:
        return len(value) + 1
    if kind is int:
        return _weigh_integer(value)
    if kind in _SCALARS:
        return 1
    if kind is dict:
        return 1 + sum(map(weigh, value)) + sum(map(weigh, value.values()))
    if kind in _COLLECTIONS:
        return 1 + sum(map(weigh, value))
    raise TypeError


def _weigh_integer(value: int) -> int:
    bits = value.bit_length()
    if bits > MAX_INTEGER_BITS:
        raise LimitExceededError
    return 1 + bits // 64


def iterate(run: Run, value: Value) -> Iterator[Value]:
    """Return an iterator over the items of a value, charged where the items do not exist yet.

    Raises `TypeError` when the value has no items.
    """
    kind = type(value)
    if kind is range:
        return lazily(run, value)
    if kind in _COLLECTIONS or kind in (str, dict, GeneratorType):
        return iter(value)
    raise TypeError


def lazily(run: Run, items: Iterable[Value]) -> Iterator[Value]:
    """Give the items one by one and charge for each: what is never asked for costs nothing."""
    for item in items:
        run.charge(1)
        yield item


def hashed(run: Run, items: list[Value]) -> list[Value]:
    """Return the items after charging for a hash table of them, which is quadratic when their hashes collide."""
    run.charge(len(items) + sum(map(weigh, items)) * len(items) // 64)
    return items
