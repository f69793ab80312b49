"""The place of the parser in the tokens of a rule, and what it says when the next token does not fit."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

from mercure.core.errors import ExpressionError
from mercure.core.rules.names import WORDS
from mercure.core.rules.tokens import Token

_MAX_NESTING: Final = 40
_SHOWN_LENGTH: Final = 40


class Cursor:
    """One pass over the tokens; `here` is the next one."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._position = 0
        self._nesting = 0

    @property
    def here(self) -> Token:
        """The next token."""
        return self._tokens[self._position]

    def take(self) -> Token:
        """Return the next token and go behind it; the end stays."""
        token = self.here
        if token.kind != "end":
            self._position += 1
        return token

    def at(self, *words: str, ahead: int = 0) -> bool:
        """Whether the next token, or the one so many ahead, is one of the operators or names."""
        token = self._tokens[min(self._position + ahead, len(self._tokens) - 1)]
        return token.kind in ("operator", "name") and token.text in words

    def accept(self, *words: str) -> Token | None:
        """Take the next token if it is one of these."""
        return self.take() if self.at(*words) else None

    def close(self, word: str, opened: Token) -> None:
        """Take the closing bracket. Raises `ExpressionError` when something else comes."""
        if self.accept(word):
            return
        if self.here.kind == "end":
            raise ExpressionError(f"the closing {word} is missing", opened.column)
        self.unexpected()

    @contextmanager
    def nested(self) -> Iterator[None]:
        """Count one level; each costs the parser some ten calls of its own."""
        self._nesting += 1
        if self._nesting > _MAX_NESTING:
            raise ExpressionError("the expression is nested too deeply", self.here.column)
        yield
        self._nesting -= 1

    def unexpected(self) -> NoReturn:
        """Raise the `ExpressionError` for the next token, with what was probably meant."""
        token = self.here
        if token.kind == "end":
            raise ExpressionError("the expression is not complete", token.column)
        raise ExpressionError(f"{token.text[:_SHOWN_LENGTH]} is not expected here{_hint(token)}", token.column)


def _hint(token: Token) -> str:
    if token.text == ",":
        return "; a comma joins nothing, write 'and' or 'or'"
    if token.kind == "name" and token.text not in WORDS and token.text.lower() in WORDS:
        return f"; did you mean {token.text.lower()!r}?"
    if token.kind != "operator" and token.text not in WORDS:
        return "; an operator such as ==, a comma or 'and' is missing before it, or quotes around it"
    return ""
