import ast

import pytest

from mercure.core.errors import ExpressionError
from mercure.core.rules.limits import MAX_INTEGER_BITS, MAX_NUMBER_LENGTH
from mercure.core.rules.syntax import parse
from mercure.core.rules.tree import Constant


def value(text: str) -> object:
    node = parse(f"({text},)")
    assert isinstance(node, Constant)
    return node.value[0]


@pytest.mark.parametrize(
    "text",
    "0 00 7 1_000 0x1F 0XfF 0b101 0o17 1.5 .5 5. 1e3 1E-3 1.5e+2 1_0.0_1 2j 1.5J 1e400 12345678901234567890".split(),
)
def test_numbers_are_read_as_python_reads_them(text: str) -> None:
    assert repr(value(text)) == repr(ast.literal_eval(text))


@pytest.mark.parametrize(
    "text",
    [
        "''",
        '""',
        "'CT'",
        '"it\'s"',
        r"'it\'s'",
        r"'a\\b'",
        r"'tab\tnew\nreturn\r'",
        r"'\x41\u00e4\U0001F600'",
        r"r'a\b'",
        r"R'\''",
        "u'ä'",
        "'''three ' quotes'''",
        '"""two\nlines"""',
        "'joined \\\nline'",
        r"r'''\0'''",
        r"'\"'",
        "'@Modality@'",
        "'# no remark'",
    ],
)
def test_texts_are_read_as_python_reads_them(text: str) -> None:
    assert value(text) == ast.literal_eval(text)


def test_a_backslash_before_a_letter_without_meaning_stays() -> None:
    assert value(r"'ORIGINAL\PRIMARY\M'") == "ORIGINAL\\PRIMARY\\M"


@pytest.mark.parametrize(
    "text", [r"'0.5\0.5'", r"'a\b'", r"'\N{DIGIT ONE}'", r"'A\NORM'", r"'\x4'", r"'\ud800'", r"'\U00110000'"]
)
def test_escapes_that_nobody_means_are_refused_with_advice(text: str) -> None:
    with pytest.raises(ExpressionError, match="write two backslashes") as caught:
        parse(f"tags.X == {text}")
    assert caught.value.column == 11 + text.index("\\")


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("x == 'CT", 6, "closing quote"),
        ("x == 'CT\n'", 6, "closing quote"),
        ("'CT\\", 1, "closing quote"),
        ("'''CT''", 1, "closing quote"),
        ("f'{1}'", 1, "f-strings"),
        ("rF'{1}'", 1, "f-strings"),
        ("b'CT'", 1, "prefix"),
        ("007", 1, "leading zeros"),
        ("9" * 1001, 1, "too long"),
        ("0x" + "f" * 1025, 1, "too long"),
    ],
)
def test_broken_literals_are_refused_where_they_start(text: str, column: int, message: str) -> None:
    with pytest.raises(ExpressionError, match=message) as caught:
        parse(text.replace("x ==", "1 =="))
    assert caught.value.column == column


def test_the_longest_integer_literal_has_no_more_bits_than_a_result_may_have() -> None:
    longest = value("0x" + "f" * (MAX_NUMBER_LENGTH - 2))
    assert isinstance(longest, int)
    assert longest.bit_length() <= MAX_INTEGER_BITS
