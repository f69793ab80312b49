"""The methods of the rule language: an allow-list for each type of value, each with its work bounded.

None of them changes a value, and none formats: a method of Python that is not listed here cannot be reached.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from mercure.core.rules.functions import Function
from mercure.core.rules.limits import MAX_WEIGHT, LimitExceededError, Run, Value, hashed, iterate


def _of_text(method: Callable[..., Value], least: int = 0, most: int = 0, *options: str) -> Function:
    def call(run: Run, text: Value, *values: Value, **named: Value) -> Value:
        for value in (*values, *named.values()):
            if type(value) is str:  # searching may look at each character of one for each of the other
                run.charge(len(text) * len(value) // 1000)
        return run.admit(method(text, *values, **named))

    return Function(call, least, most, frozenset(options))


def _padding(method: Callable[..., Value], most: int = 2) -> Function:
    def call(run: Run, text: Value, width: Value, *fill: Value) -> Value:
        if isinstance(width, int) and width > MAX_WEIGHT:
            raise LimitExceededError
        return run.admit(method(text, width, *fill))

    return Function(call, 1, most)


def _replace(run: Run, text: Value, old: Value, new: Value, count: Value = -1) -> Value:
    run.charge(len(text) * len(old) // 1000)
    times = str.count(text, old) if count < 0 else min(count, str.count(text, old))
    if len(text) + times * (len(new) - len(old)) > MAX_WEIGHT:
        raise LimitExceededError
    return run.admit(str.replace(text, old, new, count))


def _join(run: Run, text: Value, value: Value) -> Value:
    parts = list(iterate(run, value))
    if len(text) * len(parts) + sum(map(len, parts)) > MAX_WEIGHT:
        raise LimitExceededError
    return run.admit(str.join(text, parts))


def _of_set(kind: type, name: str, *, many: bool) -> Function:
    method = getattr(kind, name)

    def call(run: Run, value: Value, *others: Value) -> Value:
        return run.admit(method(value, *(hashed(run, list(iterate(run, other))) for other in others)))

    return Function(call, 0 if many else 1, 1000 if many else 1)


def _plain(method: Callable[..., Value], least: int = 0, most: int = 0) -> Function:
    def call(run: Run, *values: Value) -> Value:
        return run.admit(method(*values))

    return Function(call, least, most)


def _listed(method: Callable[..., Value]) -> Function:
    def call(run: Run, value: Value) -> Value:
        return run.admit(list(method(value)))

    return Function(call, 0, 0)


_TEXT: Final = {
    **{
        name: _of_text(getattr(str, name))
        for name in (
            "capitalize casefold lower swapcase title upper isalnum isalpha isascii isdecimal isdigit isidentifier "
            "islower isnumeric isprintable isspace istitle isupper"
        ).split()
    },
    **{name: _of_text(getattr(str, name), 0, 1) for name in ("strip", "lstrip", "rstrip")},
    **{
        name: _of_text(getattr(str, name), 1, 3) for name in "startswith endswith count find rfind index rindex".split()
    },
    **{name: _of_text(getattr(str, name), 1, 1) for name in "partition rpartition removeprefix removesuffix".split()},
    **{name: _of_text(getattr(str, name), 0, 2, "sep", "maxsplit") for name in ("split", "rsplit")},
    **{name: _padding(getattr(str, name)) for name in ("center", "ljust", "rjust")},
    "splitlines": _of_text(str.splitlines, 0, 1, "keepends"),
    "zfill": _padding(str.zfill, 1),
    "replace": Function(_replace, 2, 3),
    "join": Function(_join),
}


def _set_methods(kind: type) -> dict[str, Function]:
    many = {name: _of_set(kind, name, many=True) for name in ("union", "intersection", "difference")}
    one = "isdisjoint issubset issuperset symmetric_difference".split()
    return many | {name: _of_set(kind, name, many=False) for name in one}


_TYPES: Final[Mapping[type, dict[str, Function]]] = MappingProxyType(
    {
        str: _TEXT,
        list: {"count": _plain(list.count, 1, 1), "index": _plain(list.index, 1, 3)},
        tuple: {"count": _plain(tuple.count, 1, 1), "index": _plain(tuple.index, 1, 3)},
        dict: {
            "get": _plain(dict.get, 1, 2),
            "keys": _listed(dict.keys),
            "values": _listed(dict.values),
            "items": _listed(dict.items),
        },
        set: _set_methods(set),
        frozenset: _set_methods(frozenset),
        float: {"is_integer": _plain(float.is_integer)},
    }
)

METHODS: Final[Mapping[str, Mapping[type, Function]]] = MappingProxyType(
    {
        name: {kind: methods[name] for kind, methods in _TYPES.items() if name in methods}
        for name in sorted({name for methods in _TYPES.values() for name in methods})
    }
)
"""Name of a method -> type of the receiver -> what to do."""

TYPE_NAMES: Final[Mapping[str, type]] = MappingProxyType({kind.__name__: kind for kind in _TYPES})
"""Names before a dot in `map(str.lower, ...)`."""
