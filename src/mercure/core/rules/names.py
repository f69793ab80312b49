"""Which names a rule may use, and what to say about the others."""

import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final

from mercure.core.errors import ExpressionError
from mercure.core.rules.functions import FUNCTIONS, Function
from mercure.core.rules.limits import Value
from mercure.core.rules.methods import METHODS, TYPE_NAMES
from mercure.core.rules.tokens import Token
from mercure.core.rules.tree import FunctionName

TAGS: Final = "tags"
CONSTANTS: Final[Mapping[str, Value]] = MappingProxyType(
    {"True": True, "False": False, "None": None, "pi": math.pi, "e": math.e}
)
WORDS: Final = frozenset({"and", "or", "not", "in", "is"})
_KNOWN: Final = (*FUNCTIONS, *CONSTANTS, *WORDS, TAGS)
_LOWER: Final = MappingProxyType({name.lower(): name for name in _KNOWN})
_KEYWORD: Final = re.compile(r"[A-Z][a-z]+[A-Za-z]*")
_SHOWN_LENGTH: Final = 40
_FORMATTING: Final = frozenset({"format", "format_map"})


def unknown_name(token: Token) -> ExpressionError:
    """Return the error for a name that the language does not have, with a guess what was meant."""
    name = token.text[:_SHOWN_LENGTH]
    known = _LOWER.get(name.lower())
    if known is None and _KEYWORD.fullmatch(name):
        return ExpressionError(f"unknown name {name!r}: a tag is written tags.{name} or @{name}@", token.column)
    guess = [known] if known else get_close_matches(name, _KNOWN, 1)
    return ExpressionError(f"unknown name {name!r}{_meant(guess)}", token.column)


def method_forms(token: Token) -> list[Function]:
    """Return what the method does on each type that has it. Raises `ExpressionError` for any other method."""
    name = token.text
    if name in METHODS:
        return list(METHODS[name].values())
    if name in _FORMATTING:
        raise ExpressionError("formatting is not part of the rule language; compare the parts one by one", token.column)
    if name.startswith("_"):
        raise ExpressionError("names that start with an underscore cannot be used", token.column)
    name = name[:_SHOWN_LENGTH]
    raise ExpressionError(f"unknown method {name!r}{_meant(get_close_matches(name, METHODS, 1))}", token.column)


def function_name(token: Token, method: Token | None) -> FunctionName:
    """Return the function, or the method of a type, that is handed to another. Raises `ExpressionError`."""
    if method is None:
        return FunctionName(column=token.column, name=token.text)
    method_forms(method)
    if token.text not in TYPE_NAMES or TYPE_NAMES[token.text] not in METHODS[method.text]:
        raise ExpressionError(f"{token.text} has no method {method.text!r}", method.column)
    return FunctionName(column=token.column, name=method.text, of=token.text)


def _meant(guesses: list[str]) -> str:
    return f"; did you mean {guesses[0]!r}?" if guesses else ""
