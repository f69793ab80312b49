from typing import Any

import pytest

from mercure.config import json_text


def _fault(text: bytes | str) -> json_text.JsonTextError:
    with pytest.raises(json_text.JsonTextError) as caught:
        json_text.read(text)
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{}", {}),
        ("[]", []),
        (' [1, -2.5, 1e3, true, false, null, "a"] \n', [1, -2.5, 1000.0, True, False, None, "a"]),
        (r'"\u00e4\n\"\\\/ \ud83d\ude00"', 'ä\n"\\/ 😀'),
        ('{"a": {"b": [0]}}', {"a": {"b": [0]}}),
        ("0", 0),
    ],
)
def test_good_json_is_read(text: str, value: Any) -> None:
    assert json_text.read(text).value == value
    assert json_text.read(text.encode()).value == value


def test_a_byte_order_mark_is_tolerated() -> None:
    assert json_text.read(b"\xef\xbb\xbf{}").value == {}
    assert json_text.read("\ufeff{}").value == {}


def test_the_line_of_every_value_is_known() -> None:
    lines = json_text.read('{\n"a": [\n1,\n2],\n\n"b": {"c": 3}}').lines
    assert lines == {(): 1, ("a",): 2, ("a", 0): 3, ("a", 1): 4, ("b",): 6, ("b", "c"): 6}


@pytest.mark.parametrize(
    ("text", "words", "line", "column"),
    [
        ("", "is empty", 1, 1),
        (" \n ", "is empty", 2, 2),
        ("{} x", "more text", 1, 4),
        ('{"a": 1,\n "a": 2}', "twice", 2, 5),
        ("[NaN]", "expected", 1, 2),
        ("[Infinity]", "expected", 1, 2),
        ("[-Infinity]", "value is expected", 1, 2),
        ("[1e999]", "out of range", 1, 2),
        (f"[{'9' * 41}]", "too long", 1, 2),
        ("[01]", "comma", 1, 3),
        ("[.5]", "value is expected", 1, 2),
        ("{a: 1}", "key in double quotes", 1, 2),
        ('{"a" 1}', "colon", 1, 6),
        ('{"a": 1 "b": 2}', "comma or }", 1, 9),
        ('{"a": 1,}', "key in double quotes", 1, 9),
        ("[1 2]", "comma or ]", 1, 4),
        ("[1,", "ends in the middle", 1, 4),
        ('["abc', "no end", 1, 2),
        ('["a\nb"]', "line break", 1, 2),
        (r'["\x"]', "escape", 1, 2),
        (r'["\u0000"]', "NUL", 1, 2),
        (r'["\ud800"]', "surrogate", 1, 2),
        ("[" * 100, "deeper", 1, 42),
        ("'a'", "expected", 1, 1),
    ],
)
def test_what_is_no_strict_json_is_refused_with_its_place(text: str, words: str, line: int, column: int) -> None:
    fault = _fault(text)
    assert words in fault.message
    assert (fault.line, fault.column) == (line, column)


def test_bytes_that_are_not_utf8_are_refused_with_their_line() -> None:
    fault = _fault(b'{\n"a": "\xff"}')
    assert "UTF-8" in fault.message
    assert fault.line == 2


def test_a_file_that_is_too_large_is_refused() -> None:
    assert "larger than 8 MB" in _fault(b" " * (json_text.MAXIMUM_BYTES + 1)).message


def test_a_fault_knows_the_path_to_it() -> None:
    assert _fault('{"a": [1, {"b": nul}]}').path == ("a", 1, "b")


def test_no_fault_repeats_a_value() -> None:
    assert "Geheim" not in str(_fault('{"password": "Geheim\\q"}'))
