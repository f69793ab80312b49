r"""Numbers and quoted texts of a rule, read as Python reads them, less the escapes that nobody means.

Values of DICOM are joined by backslashes, so `'ORIGINAL\PRIMARY'` is common in rules and a backslash before a letter
without meaning stays. But the `\0` of `'0.5\0.5'` would silently become a control character, and the rule never match:
such escapes are errors that say to double the backslash.
"""

import re
from typing import Final

from mercure.core.errors import ExpressionError
from mercure.core.rules.limits import MAX_NUMBER_LENGTH

_SIMPLE: Final = {"\n": "", "\\": "\\", "'": "'", '"': '"', "n": "\n", "r": "\r", "t": "\t"}
_HEXADECIMAL: Final = {"x": 2, "u": 4, "U": 8}
_CONTROLS: Final = frozenset("abfvN01234567")
_HEX_DIGITS: Final = re.compile(r"[0-9a-fA-F]+")


def read_number(word: str, column: int) -> int | float | complex:
    """Return the number that the word stands for. Raises `ExpressionError`.

    The limit of its length keeps an integer below the limit of its bits.
    """
    if len(word) > MAX_NUMBER_LENGTH:
        raise ExpressionError("the number is too long", column)
    plain = word.replace("_", "").lower()
    if plain.startswith(("0x", "0o", "0b")):
        return int(plain, 0)
    if plain.endswith("j"):
        return complex(plain)
    if not plain.isdigit():
        return float(plain)
    if plain.startswith("0") and plain.strip("0"):
        raise ExpressionError("a number has no leading zeros; put the digits of a text in quotes", column)
    return int(plain)


def read_text(source: str, start: int, opening: str) -> tuple[str, int]:
    """Return the quoted text that starts there and the position behind it. Raises `ExpressionError`.

    `opening` is the prefix with the quotes, for example `r'`.
    """
    prefix = opening.rstrip("'\"")
    quotes = opening[len(prefix) :]
    _check_prefix(prefix, start + 1)
    position = start + len(opening)
    parts: list[str] = []
    while not source.startswith(quotes, position):
        char = source[position : position + 1]
        if not char or (char == "\n" and len(quotes) == 1):
            raise ExpressionError("the closing quote is missing", start + 1)
        if char == "\\":
            part, position = _escape(source, position, raw=prefix in ("r", "R"))
        else:
            part, position = char, position + 1
        parts.append(part)
    return "".join(parts), position + len(quotes)


def _check_prefix(prefix: str, column: int) -> None:
    if prefix in ("", "r", "R", "u", "U"):
        return
    if "f" in prefix.lower():
        raise ExpressionError("f-strings are not part of the rule language", column)
    raise ExpressionError(f"a text cannot have the prefix {prefix!r}", column)


def _escape(source: str, position: int, *, raw: bool) -> tuple[str, int]:
    char = source[position + 1 : position + 2]
    after = position + 2
    if raw or not char:
        return "\\" + char, after
    if char in _SIMPLE:
        return _SIMPLE[char], after
    if char in _HEXADECIMAL:
        return _character(source, after, _HEXADECIMAL[char])
    if char in _CONTROLS:
        raise _not_meant(source[position:after], position)
    return "\\" + char, after


def _character(source: str, start: int, length: int) -> tuple[str, int]:
    digits = source[start : start + length]
    if len(digits) == length and _HEX_DIGITS.fullmatch(digits):
        number = int(digits, 16)
        if number <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF:
            return chr(number), start + length
    raise _not_meant(source[start - 2 : start], start - 2)


def _not_meant(escape: str, position: int) -> ExpressionError:
    return ExpressionError(f"{escape} in quotes is no backslash and letter; write two backslashes", position + 1)
