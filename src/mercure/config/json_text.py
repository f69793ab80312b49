"""Strict JSON (RFC 8259) with the line of every value. What Python's reader lets pass is refused here.

Refused: double keys, NaN and Infinity, numbers out of range, nesting beyond `MAXIMUM_DEPTH`, NUL and lone surrogates in
text, anything but UTF-8, files beyond `MAXIMUM_BYTES`. A byte order mark is tolerated. No message repeats a value.
"""

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Final

MAXIMUM_BYTES: Final = 8 * 1024 * 1024
MAXIMUM_DEPTH: Final = 40
MAXIMUM_NUMBER_LENGTH: Final = 40

JsonPath = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t\r\n]*")
_TEXT = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*"')
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_WORD = re.compile(r"[A-Za-z_]+")
_WORDS: Final = {"true": True, "false": False, "null": None}
_UNFIT = re.compile("[\x00\ud800-\udfff]")


class JsonTextError(ValueError):
    """The text is not JSON that we take. `line` and `column` count from 1."""

    def __init__(self, message: str, line: int = 1, column: int = 1, path: JsonPath = ()) -> None:
        """Keep the place beside the message."""
        super().__init__(f"{message} (line {line}, column {column})")
        self.message = message
        self.line = line
        self.column = column
        self.path = path


@dataclass(frozen=True)
class Document:
    """A value, and the line on which each part of it begins."""

    value: Any
    lines: dict[JsonPath, int]


def read(content: bytes | str) -> Document:
    """Read one JSON text. Raises JsonTextError."""
    reader = _Reader(_decode(content))
    return Document(reader.whole(), reader.lines)


def _decode(content: bytes | str) -> str:
    if len(content) > MAXIMUM_BYTES:
        raise JsonTextError(f"is larger than {MAXIMUM_BYTES // 1024 // 1024} MB")
    if isinstance(content, str):
        return content.removeprefix("\ufeff")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise JsonTextError("is not UTF-8 text", line) from None


@dataclass
class _Reader:
    text: str
    at: int = 0
    lines: dict[JsonPath, int] = field(default_factory=dict)
    _line: int = 1
    _line_known_at: int = 0

    def whole(self) -> Any:
        self._skip_blanks()
        if self.at == len(self.text):
            raise self._error("is empty")
        value = self._value(())
        self._skip_blanks()
        if self.at < len(self.text):
            raise self._error("there is more text after the end of the JSON value")
        return value

    def _value(self, path: JsonPath) -> Any:
        if len(path) > MAXIMUM_DEPTH:
            raise self._error(f"is nested deeper than {MAXIMUM_DEPTH} levels", path)
        self._skip_blanks()
        self.lines[path] = self._current_line()
        match self.text[self.at : self.at + 1]:
            case "{":
                return self._object(path)
            case "[":
                return self._array(path)
            case '"':
                return self._string(path)
            case "":
                raise self._error("ends in the middle", path)
            case _:
                return self._word_or_number(path)

    def _object(self, path: JsonPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self.at += 1
        if self._take("}"):
            return found
        while True:
            self._skip_blanks()
            if self.text[self.at : self.at + 1] != '"':
                raise self._error("a key in double quotes is expected here", path)
            key = self._string(path)
            if key in found:
                raise self._error("this key stands here twice", (*path, key))
            if not self._take(":"):
                raise self._error("a colon is expected here", (*path, key))
            found[key] = self._value((*path, key))
            if self._take("}"):
                return found
            if not self._take(","):
                raise self._error("a comma or } is expected here", path)

    def _array(self, path: JsonPath) -> list[Any]:
        found: list[Any] = []
        self.at += 1
        if self._take("]"):
            return found
        while True:
            found.append(self._value((*path, len(found))))
            if self._take("]"):
                return found
            if not self._take(","):
                raise self._error("a comma or ] is expected here", path)

    def _string(self, path: JsonPath) -> str:
        token = _TEXT.match(self.text, self.at)
        if not token:
            raise self._error("this text has no end, or holds a line break or a wrong escape", path)
        value: str = json.loads(token[0])
        if _UNFIT.search(value):
            raise self._error("this text holds a NUL or half a surrogate pair", path)
        self.at = token.end()
        return value

    def _word_or_number(self, path: JsonPath) -> Any:
        if word := _WORD.match(self.text, self.at):
            if word[0] not in _WORDS:
                raise self._error("true, false, null, a number or text in double quotes is expected here", path)
            self.at = word.end()
            return _WORDS[word[0]]
        number = _NUMBER.match(self.text, self.at)
        if not number:
            raise self._error("a value is expected here", path)
        if number.end() - number.start() > MAXIMUM_NUMBER_LENGTH:
            raise self._error("this number is too long", path)
        is_whole = number[1] is None and number[2] is None
        value = int(number[0]) if is_whole else float(number[0])
        if isinstance(value, float) and math.isinf(value):
            raise self._error("this number is out of range", path)
        self.at = number.end()
        return value

    def _take(self, character: str) -> bool:
        self._skip_blanks()
        if self.text.startswith(character, self.at):
            self.at += 1
            return True
        return False

    def _skip_blanks(self) -> None:
        blank = _BLANK.match(self.text, self.at)
        self.at = blank.end() if blank else self.at

    def _current_line(self) -> int:
        self._line += self.text.count("\n", self._line_known_at, self.at)
        self._line_known_at = self.at
        return self._line

    def _error(self, message: str, path: JsonPath = ()) -> JsonTextError:
        column = self.at - (self.text.rfind("\n", 0, self.at) + 1) + 1
        return JsonTextError(message, self._current_line(), column, path)
