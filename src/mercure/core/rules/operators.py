"""The operators of the rule language on values, each with its work bounded beforehand.

They raise what Python raises (`TypeError`, `ZeroDivisionError`, ...) and `LimitExceededError`.
"""

import operator
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from mercure.core.rules.limits import MAX_INTEGER_BITS, MAX_WEIGHT, LimitExceededError, Run, Value, lazily, weigh

MAX_WIDTH: Final = 1000
"""The most characters that a format can ask for by a number."""

_CONVERSION: Final = re.compile(r"%[-+ #0]*(\*|\d*)(?:\.(\*|\d*))?[hlL]?(.?)", re.ASCII | re.DOTALL)
_CONVERSIONS: Final = frozenset("diouxXeEfFgGcrsa%")
_REPEATABLE: Final = (str, list, tuple)


def add(run: Run, left: Value, right: Value) -> Value:
    """Return left + right."""
    return run.admit(left + right)


def multiply(run: Run, left: Value, right: Value) -> Value:
    """Return left * right; a repetition is weighed before it is made."""
    if type(left) in _REPEATABLE:
        _check_repetition(left, right)
    elif type(right) in _REPEATABLE:
        _check_repetition(right, left)
    return run.admit(left * right)


def _check_repetition(value: Value, times: Value) -> None:
    if isinstance(times, int) and times > 0 and (weigh(value) - 1) * times > MAX_WEIGHT:
        raise LimitExceededError


def modulo(run: Run, left: Value, right: Value) -> Value:
    """Return left % right; text on the left is a template, whose widths are bounded."""
    if type(left) is str:
        _check_template(left)
    return run.admit(left % right)


def _check_template(template: str) -> None:
    for width, precision, conversion in _CONVERSION.findall(template):
        if conversion not in _CONVERSIONS:
            raise ValueError
        if any(part == "*" or int(part or 0) > MAX_WIDTH for part in (width, precision)):
            raise LimitExceededError


def power(run: Run, left: Value, right: Value) -> Value:
    """Return left ** right; the bits of an integer result are bounded before it is made."""
    if (
        isinstance(left, int)
        and isinstance(right, int)
        and abs(left) > 1
        and left.bit_length() * right > MAX_INTEGER_BITS
    ):
        raise LimitExceededError
    return run.admit(left**right)


def contains(run: Run, container: Value, item: Value) -> bool:
    """Whether item is in container; a range looks at each of its numbers when the item is no integer."""
    if type(container) is range and type(item) not in (int, bool):
        return item in lazily(run, container)
    return item in container


def _admitted(apply: Callable[[Value, Value], Value]) -> Callable[[Run, Value, Value], Value]:
    def call(run: Run, left: Value, right: Value) -> Value:
        return run.admit(apply(left, right))

    return call


BINARY: Final[Mapping[str, Callable[[Run, Value, Value], Value]]] = MappingProxyType(
    {
        "+": add,
        "-": _admitted(operator.sub),
        "*": multiply,
        "/": _admitted(operator.truediv),
        "//": _admitted(operator.floordiv),
        "%": modulo,
        "**": power,
        "&": _admitted(operator.and_),
        "|": _admitted(operator.or_),
        "^": _admitted(operator.xor),
    }
)


def _invert(value: Value) -> Value:
    return ~int(value) if type(value) is bool else ~value  # Python warns of ~True


UNARY: Final[Mapping[str, Callable[[Value], Value]]] = MappingProxyType(
    {"-": operator.neg, "+": operator.pos, "~": _invert}
)

COMPARISONS: Final[Mapping[str, Callable[[Value, Value], Value]]] = MappingProxyType(
    {
        "==": operator.eq,
        "!=": operator.ne,
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
        "is": operator.is_,
        "is not": operator.is_not,
    }
)
