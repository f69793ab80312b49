"""The functions of the rule language: an allow-list, each with its work bounded.

An implementation gets the run first, then the arguments. What takes time for each item asks `iterate` for the items,
what makes a new value hands it to `Run.admit`. Lazy functions (map, filter, zip, enumerate, reversed) give a generator.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import GeneratorType, MappingProxyType
from typing import Final

from mercure.core.rules.limits import (
    MAX_INTEGER_BITS,
    MAX_NUMBER_LENGTH,
    EmptyNumberError,
    LimitExceededError,
    Run,
    Value,
    hashed,
    iterate,
    lazily,
    weigh,
)
from mercure.core.rules.operators import MAX_WIDTH, add, power

_MAX_FACTORIAL: Final = 500
_MAX_DIGITS: Final = 400
_NUMBERS: Final = frozenset({int, float, bool, complex})
_DIGITS: Final = re.compile(r"\d+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Function:
    """A callable of the language: how to do it, how many arguments it takes, and which options by name."""

    call: Callable[..., Value]
    least: int = 1
    most: int = 1
    options: frozenset[str] = frozenset()
    takes_function: bool = False


def _plain(function: Callable[..., Value], least: int = 1, most: int = 1) -> Function:
    def call(run: Run, *values: Value) -> Value:
        return run.admit(function(*values))

    return Function(call, least, most)


def _check_number_text(value: Value) -> None:
    if type(value) is str:
        if len(value) > MAX_NUMBER_LENGTH:
            raise LimitExceededError
        if not value.strip():
            raise EmptyNumberError


def _float(_run: Run, value: Value = 0.0) -> float:
    _check_number_text(value)
    return float(value)


def _int(run: Run, value: Value = 0, base: Value = None) -> Value:
    _check_number_text(value)
    return run.admit(int(value) if base is None else int(value, base))


def _complex(_run: Run, real: Value = 0, imaginary: Value = None) -> complex:
    _check_number_text(real)
    if imaginary is None:
        return complex(real)
    if complex in (type(real), type(imaginary)):  # Python warns of complex parts
        raise TypeError
    return complex(real, imaginary)


def _text(run: Run, value: Value = "") -> Value:
    return run.admit(str(_shown(value)))


def _repr(run: Run, value: Value) -> Value:
    return run.admit(repr(_shown(value)))


def _shown(value: Value) -> Value:
    if type(value) is GeneratorType:
        raise TypeError
    return value


def _format(run: Run, value: Value, form: Value = "") -> Value:
    if type(value) is not str and type(value) not in _NUMBERS:
        raise TypeError
    if any(len(digits) > len(str(MAX_WIDTH)) or int(digits) > MAX_WIDTH for digits in _DIGITS.findall(form)):
        raise LimitExceededError
    return run.admit(format(value, form))


def _list(run: Run, value: Value = ()) -> Value:
    return run.admit(list(iterate(run, value)))


def _tuple(run: Run, value: Value = ()) -> Value:
    return run.admit(tuple(iterate(run, value)))


def _set(run: Run, value: Value = ()) -> Value:
    return run.admit(set(hashed(run, list(iterate(run, value)))))


def _frozenset(run: Run, value: Value = ()) -> Value:
    return run.admit(frozenset(hashed(run, list(iterate(run, value)))))


def _dict(run: Run, value: Value = ()) -> Value:
    if type(value) is dict:
        return dict(value)
    pairs = hashed(run, list(iterate(run, value)))
    if not all(type(pair) in (list, tuple, str) for pair in pairs):
        raise TypeError
    return run.admit(dict(pairs))


def _sum(run: Run, value: Value, start: Value = 0) -> Value:
    items = list(iterate(run, value))
    if type(start) is str:
        raise TypeError
    if all(type(item) in _NUMBERS for item in items):
        return run.admit(sum(items, start))
    for item in items:
        start = add(run, start, item)
    return start


def _extreme(pick: Callable[..., Value]) -> Function:
    def call(run: Run, *values: Value, **options: Value) -> Value:
        if len(values) == 1:
            return pick(iterate(run, values[0]), **options)
        return pick(*values, **options)

    return Function(call, 1, 1000, frozenset({"key", "default"}))


def _any(run: Run, value: Value) -> bool:
    return any(iterate(run, value))


def _all(run: Run, value: Value) -> bool:
    return all(iterate(run, value))


def _sorted(run: Run, value: Value, *, key: Value = None, reverse: Value = False) -> Value:
    items = list(iterate(run, value))
    run.charge(weigh(items) * len(items).bit_length())
    return run.admit(sorted(items, key=key, reverse=reverse))


def _reversed(run: Run, value: Value) -> Value:
    if type(value) not in (str, list, tuple, dict, range):
        raise TypeError
    return lazily(run, reversed(value))


def _enumerate(run: Run, value: Value, start: Value = 0) -> Value:
    return lazily(run, enumerate(iterate(run, value), start))


def _zip(run: Run, *values: Value) -> Value:
    return lazily(run, zip(*[iterate(run, value) for value in values], strict=False))


def _map(run: Run, function: Value, *values: Value) -> Value:
    return lazily(run, map(function, *[iterate(run, value) for value in values]))


def _filter(run: Run, function: Value, value: Value) -> Value:
    return lazily(run, filter(function, iterate(run, value)))


def _round(run: Run, number: Value, ndigits: Value = None) -> Value:
    if isinstance(ndigits, int) and abs(ndigits) > _MAX_DIGITS:
        raise LimitExceededError
    if type(number) not in _NUMBERS:
        raise TypeError
    return run.admit(round(number, ndigits))


def _pow(run: Run, base: Value, exponent: Value, modulus: Value = None) -> Value:
    if modulus is None:
        return power(run, base, exponent)
    if not all(isinstance(value, int) for value in (base, exponent, modulus)):
        raise TypeError
    words = modulus.bit_length() // 64 + 1
    run.charge(exponent.bit_length() * words * words // 16)
    return run.admit(pow(base, exponent, modulus))


def _factorial(run: Run, number: Value) -> Value:
    if isinstance(number, int) and number > _MAX_FACTORIAL:
        raise LimitExceededError
    return run.admit(math.factorial(number))


assert math.factorial(_MAX_FACTORIAL).bit_length() <= MAX_INTEGER_BITS  # noqa: S101 - two limits that belong together

_MANY: Final = 1000

FUNCTIONS: Final[Mapping[str, Function]] = MappingProxyType(
    {
        "bool": _plain(bool, 0),
        "int": Function(_int, 0, 2, frozenset({"base"})),
        "float": Function(_float, 0),
        "complex": Function(_complex, 0, 2),
        "str": Function(_text, 0),
        "repr": Function(_repr),
        "format": Function(_format, 1, 2),
        "list": Function(_list, 0),
        "tuple": Function(_tuple, 0),
        "set": Function(_set, 0),
        "frozenset": Function(_frozenset, 0),
        "dict": Function(_dict, 0),
        "range": _plain(range, 1, 3),
        "len": _plain(len),
        "sum": Function(_sum, 1, 2, frozenset({"start"})),
        "min": _extreme(min),
        "max": _extreme(max),
        "any": Function(_any),
        "all": Function(_all),
        "sorted": Function(_sorted, 1, 1, frozenset({"key", "reverse"})),
        "reversed": Function(_reversed),
        "enumerate": Function(_enumerate, 1, 2, frozenset({"start"})),
        "zip": Function(_zip, 0, _MANY),
        "map": Function(_map, 2, _MANY, takes_function=True),
        "filter": Function(_filter, 2, 2, takes_function=True),
        "abs": _plain(abs),
        "round": Function(_round, 1, 2, frozenset({"ndigits"})),
        "pow": Function(_pow, 2, 3),
        "divmod": _plain(divmod, 2, 2),
        "chr": _plain(chr),
        "ord": _plain(ord),
        "hex": _plain(hex),
        "oct": _plain(oct),
        "bin": _plain(bin),
        "factorial": Function(_factorial),
        "log": _plain(math.log, 1, 2),
        "atan2": _plain(math.atan2, 2, 2),
        **{
            name: _plain(getattr(math, name))
            for name in "sqrt ceil floor log10 log2 exp sin cos tan asin acos atan isinf isnan fabs trunc".split()
        },
    }
)
