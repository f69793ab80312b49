"""Text of a rule -> tokens. Nothing but what is named here can become one; each refusal says what to write instead.

Columns count characters of the original text from 1.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

from mercure.core.errors import ExpressionError
from mercure.core.rules.literals import read_number, read_text

MAX_LENGTH: Final = 10_000
"""The most characters of an expression."""

OPTION_NAMES: Final = frozenset(
    {"base", "default", "keepends", "key", "maxsplit", "ndigits", "reverse", "sep", "start"}
)
"""Names that may stand before `=` between the brackets of a call."""

TokenKind = Literal["name", "number", "text", "tag", "operator", "end"]


@dataclass(frozen=True, slots=True)
class Token:
    """One word of an expression; `value` is the number, the text or the name of the tag that it stands for."""

    kind: TokenKind
    text: str
    column: int
    value: object = None


_SHOWN_LENGTH: Final = 64
_CURLY: Final = "\u201c\u201d\u201e\u2018\u2019\u201a"
"""Quotes as word processors set them."""
_TAG_NAME: Final = r"[A-Za-z][A-Za-z0-9_]*|[0-9A-Fa-f]{4},[0-9A-Fa-f]{4}"
_TOKEN: Final = re.compile(
    rf"""
      (?P<space>[ \t\r\n\f]+|\#[^\n]*)
    | (?P<quote>(?:[rR][bBfFtT]|[bBfFtT][rR]|[rRuUbBfFtT])?(?:'''|\"""|'|"))
    | @(?P<tag>{_TAG_NAME})@
    | (?P<percent>%(?!pi%|e%)[A-Za-z]\w*%)
    | (?P<number>0[xX](?:_?[0-9a-fA-F])+|0[oO](?:_?[0-7])+|0[bB](?:_?[01])+
        |(?:\d(?:_?\d)*\.?(?:\d(?:_?\d)*)?|\.\d(?:_?\d)*)(?:[eE][+-]?\d(?:_?\d)*)?[jJ]?)
    | (?P<name>[A-Za-z_]\w*)
    | (?P<refused>===|:=|&&|\|\||<>|<<|>>|=>|(?:\*\*|//|[-+*/%&|^])=|;|!(?!=)|\$|\?|`|\\|@|[{_CURLY}])
    | (?P<operator>\*\*|//|==|!=|<=|>=|[-+*/%<>|&^~()\[\]{{}},.:=])
    """,
    re.VERBOSE | re.ASCII,
)

_USE_EQUALS: Final = "a rule cannot assign; use == to compare"
_REFUSED: Final = {
    "===": "use == to compare",
    ":=": _USE_EQUALS,
    "&&": "write 'and'",
    "||": "write 'or'",
    "<>": "write !=",
    "=>": "write >=",
    "<<": "shifting bits is not part of the rule language",
    ">>": "shifting bits is not part of the rule language",
    ";": "a rule is one expression; join conditions with 'and' or 'or' instead of ;",
    "!": "write 'not'",
    "@": "a tag is written @Name@, without spaces, for example @Modality@",
    "\\": "a backslash can only stand inside quotes",
}
_STATEMENT: Final = "'{}' starts a statement; a rule is one expression"
_FORMS: Final = {
    "if": "'if' is not part of the rule language; a rule is a condition itself, joined with 'and' and 'or'",
    "else": "'else' is not part of the rule language; a rule is a condition itself, joined with 'and' and 'or'",
    "for": "'for' (a loop or comprehension) is not part of the rule language; use any(), all(), map() or filter()",
    "lambda": "'lambda' is not part of the rule language; give the name of a function, for example map(float, ...)",
}
_STATEMENTS: Final = frozenset(
    [
        "as",
        "assert",
        "async",
        "await",
        "break",
        "class",
        "continue",
        "def",
        "del",
        "elif",
        "except",
        "finally",
        "from",
        "global",
        "import",
        "nonlocal",
        "pass",
        "raise",
        "return",
        "try",
        "while",
        "with",
        "yield",
    ]
)


def tokenize(text: str) -> list[Token]:
    """Return the tokens of the text, the last of kind "end". Raises `ExpressionError`."""
    _check_characters(text)
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ExpressionError(f"the character {text[position]!r} can only stand inside quotes", position + 1)
        if match.lastgroup == "quote":
            value, position = read_text(text, position, match["quote"])
            tokens.append(Token("text", text[match.start() : position], match.start() + 1, value))
            continue
        position = match.end()
        if match.lastgroup != "space":
            tokens.append(_token(match, tokens))
    tokens.append(Token("end", "", len(text) + 1))
    return tokens


def _check_characters(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"the expression is longer than {MAX_LENGTH} characters", MAX_LENGTH + 1)
    for index, char in enumerate(text):
        if "\ud800" <= char <= "\udfff" or char == "\x7f" or (char < " " and char not in "\t\r\n\f"):
            raise ExpressionError(f"the character {char!r} is not allowed", index + 1)


def _token(match: re.Match[str], before: list[Token]) -> Token:
    word, column = match.group(), match.start() + 1
    match match.lastgroup:
        case "tag":
            return Token("tag", word, column, match["tag"])
        case "number":
            return Token("number", word, column, read_number(word, column))
        case "name":
            _check_name(word, column)
            return Token("name", word, column)
        case "percent":
            name = word[1:-1][:_SHOWN_LENGTH]
            raise ExpressionError(f"%{name}% is not a tag; write @{name}@ or tags.{name}", column)
        case "refused":
            raise ExpressionError(f"{word} cannot be used here: {_hint(word)}", column)
    if word == "=" and not _names_option(before):
        raise ExpressionError(_USE_EQUALS, column)
    return Token("operator", word, column)


def _check_name(word: str, column: int) -> None:
    if word in _FORMS:
        raise ExpressionError(_FORMS[word], column)
    if word in _STATEMENTS:
        raise ExpressionError(_STATEMENT.format(word), column)


def _hint(word: str) -> str:
    if word in _CURLY:
        return "write straight quotes, ' or \""
    if word.endswith("=") and word not in _REFUSED:
        return _USE_EQUALS
    return _REFUSED.get(word, "it is not part of the rule language")


def _names_option(before: list[Token]) -> bool:
    return len(before) > 2 and before[-1].text in OPTION_NAMES and before[-2].text in ("(", ",")
