"""How an evaluation ends early, and the words for it. No value of a tag is ever part of them."""

from collections.abc import Iterable
from types import GeneratorType, NoneType
from typing import Final, Literal

from mercure.core.rules.limits import EmptyNumberError, LimitExceededError, Value

FAILURES: Final = (ArithmeticError, LookupError, TypeError, ValueError, MemoryError, RecursionError, LimitExceededError)
"""What an operation on values can raise."""

_TO_NUMBER: Final = ("int()", "float()", "complex()")
_KINDS: Final = {
    str: "text",
    int: "a number",
    float: "a number",
    complex: "a number",
    bool: "a yes or no",
    NoneType: "None",
    list: "a list",
    tuple: "a tuple",
    set: "a set",
    frozenset: "a set",
    dict: "a dict",
    range: "a range",
    GeneratorType: "a sequence",
}


class Stop(Exception):  # noqa: N818 - a missing tag is no error
    """The evaluation ends here: with `not_matched` when tags are missing, else with `failed`."""

    def __init__(self, outcome: Literal["not_matched", "failed"], reason: str, missing: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason
        self.missing = missing


def missing_tag(name: str) -> Stop:
    """Return the end of an evaluation that needs a tag which the series does not have."""
    return Stop("not_matched", f"the series has no tag {name}", (name,))


def missing_computed_tag(form: str, column: int) -> Stop:
    """Return the same for a name that was computed, perhaps from the value of a tag: it is not told."""
    return Stop("not_matched", f"the series has no tag of the name computed at column {column}", (form,))


def empty_number(operation: str, names: tuple[str, ...]) -> Stop:
    """Return the end of an evaluation that needs a number from a tag which is empty."""
    subject = f"the tag {names[0]} is" if len(names) == 1 else f"the tags {', '.join(names)} are"
    return Stop("not_matched", f"{subject} empty where {operation} needs a number", names)


def failed(error: Exception, operation: str, column: int, values: Iterable[Value] = ()) -> Stop:
    """Return the end of an evaluation by an operation that raised; only the types of the values are told."""
    kinds = " and ".join(_KINDS.get(type(value), "this") for value in values)
    return Stop("failed", f"{operation} at column {column}: {_cause(error, operation, kinds)}")


def _cause(error: Exception, operation: str, kinds: str) -> str:
    match error:
        case LimitExceededError() | MemoryError() | RecursionError():
            return "too much work, or the result is too large"
        case ZeroDivisionError():
            return "division by zero"
        case ArithmeticError():
            return "the number is too large"
        case IndexError():
            return "there are not so many items"
        case KeyError():
            return "there is no such key"
        case EmptyNumberError():
            return "the text is empty"
        case ValueError():
            return "the text is not a number" if operation in _TO_NUMBER else "not possible with this value"
    hint = "; float() or int() makes a number of text" if "text" in kinds and "a number" in kinds else ""
    return f"not possible with {kinds or 'values of these types'}{hint}"
