"""The rule language against random text, tokens and expressions, with Python's own answers as the measure."""

import math
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.core.rules.reference import CT, CT_TAGS, python_value

from mercure.core.errors import ExpressionError
from mercure.core.rules import Expression
from mercure.core.rules.functions import FUNCTIONS
from mercure.core.rules.literals import read_text
from mercure.core.rules.methods import METHODS
from mercure.core.tags import Tags, is_valid_uid

_SECONDS = 20.0
"""Far more than any expression takes alone; the machine may be busy."""


OUTCOMES = ("matched", "not_matched", "failed", "missing", "refused", "too much work")


def refusal(text: str) -> str:
    """Return why the text is no expression."""
    with pytest.raises(ExpressionError) as caught:
        Expression.parse(text)
    return caught.value.message


def outcome(text: str, tags: Tags = CT_TAGS) -> str:
    """Parse and evaluate; only `ExpressionError` may come out, and soon."""
    start = time.monotonic()
    try:
        expression = Expression.parse(text)
    except ExpressionError as error:
        return "refused" if 1 <= error.column <= len(text) + 1 else "no such column"
    finally:
        assert time.monotonic() - start < _SECONDS
    evaluation = expression.evaluate(tags)
    assert time.monotonic() - start < _SECONDS
    assert evaluation.outcome in ("matched", "not_matched", "failed")
    assert bool(evaluation.reason) or evaluation.outcome != "failed"
    if "too much work" in evaluation.reason:
        return "too much work"
    return "missing" if evaluation.reason and evaluation.outcome == "not_matched" else evaluation.outcome


@settings(deadline=None)
@given(st.text())
@example("@" * 50)
@example("tags" * 3)
def test_random_text_raises_nothing_but_expression_errors(text: str) -> None:
    assert outcome(text) in OUTCOMES


@settings(deadline=None)
@given(st.text(alphabet="tags.MX@'\"\\()[]{},:=<>!+-*/%&|^~0159ej _#\n\t\0\ud800é", max_size=60))
def test_random_text_of_the_characters_of_rules_raises_nothing_else(text: str) -> None:
    assert outcome(text) in OUTCOMES


TOKENS = [
    *"( ) [ ] { } , . : = == != < <= > >= + - * / // % ** & | ^ ~ and or not in is if else for lambda".split(),
    *"0 1 2 -1 7 10 0.5 1e3 99999 'CT' '' 'a' '1' '\\\\' 'a,b' True False None pi tags".split(),
    *(f"tags.{name}" for name in ("Modality", "sliceThickness", "Missing", "ContrastBolusAgent")),
    *("@Modality@", "@0018,0060@", "@Missing@", 'tags["SeriesNumber"]'),
    *(f"{name}(" for name in FUNCTIONS),
    *(f".{name}(" for name in METHODS),
    *("map(float,", "map(str.upper,", "filter(None,", "key=len", "reverse=True", "str.lower", "()", "[0]", "[1:]"),
]


def agrees_with_python(text: str) -> None:
    """Where the language gives an answer and Python gives one, it is the same."""
    ours = outcome(text)
    assert ours in OUTCOMES
    if ours not in ("matched", "not_matched"):
        return
    try:
        value = python_value(text)
        theirs = "matched" if value else "not_matched"
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, SyntaxError):
        return
    assert ours == theirs


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(TOKENS), max_size=25))
@example(["map(float,", "1", ")"])
def test_random_tokens_raise_nothing_else_and_agree_with_python(tokens: list[str]) -> None:
    agrees_with_python(" ".join(tokens))


def _joined(operators: list[str], part: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(lambda a, op, b: f"({a} {op} {b})", part, st.sampled_from(operators), part)


def _untyped(part: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    several = st.lists(part, max_size=3).map(", ".join)
    operators = [*"+ - * / // % ** & | ^ == != < <= > >= and or in".split(), "not in", "is not"]
    return st.one_of(
        _joined(operators, part),
        _joined(operators, part),
        st.builds(lambda a, b, c: f"({a} in {b} < {c})", part, part, part),
        st.builds(lambda sign, a: f"({sign}{a})", st.sampled_from(["-", "~", "not "]), part),
        st.builds(lambda name, items: f"{name}({items})", st.sampled_from(sorted(FUNCTIONS)), several),
        st.builds(lambda name, items: f"{name}({items})", st.sampled_from(["map", "filter"]), several).map(
            lambda text: text.replace("(", "(str.upper, ", 1)
        ),
        st.builds(lambda a, name, items: f"{a}.{name}({items})", part, st.sampled_from(sorted(METHODS)), several),
        st.builds(lambda a, b: f"{a}[{b}]", part, part),
        st.builds(lambda a, b, c: f"{a}[{b}:{c}]", part, part, part),
        st.builds("[{}]".format, several),
        st.builds("({},)".format, part),
        st.builds("{{{}}}".format, part),
        st.builds("{{{}: {}}}".format, part, part),
    )


ATOMS = st.sampled_from(
    "(0) (1) (2) (-1) 0.5 10**300 'CT' '' 'a,b' '1' '%s' '\\\\' True None [] {} tags tags.Modality @SeriesNumber@ "
    "tags['ImageType'] tags.ContrastBolusAgent range(3) range(10**12) [3,1] {1,2} {'a':1} (1,'b') 2j".split()
)


@settings(deadline=None, max_examples=500)
@given(st.recursive(ATOMS, _untyped, max_leaves=12))
def test_random_expressions_of_any_types_agree_with_python(text: str) -> None:
    agrees_with_python(text)


def _calls(names: list[str], *arguments: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(lambda name, given: f"{name}({', '.join(given)})", st.sampled_from(names), st.tuples(*arguments))


INTEGERS = st.integers(-20, 20).map(str)
SHORT = st.text(alphabet="aAbB1 ,\\\n'é", max_size=4).map(repr)
TAG = st.sampled_from(list(CT)).map(lambda name: f"@{name}@") | st.sampled_from(
    ["tags.Modality", "tags.MODALITY", "tags['SeriesNumber']", "tags.ImageType", "tags.SliceThickness"]
)


def _texts(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        _joined(["+", "or", "and"], children),
        st.builds(
            lambda t, m: f"{t}.{m}()", children, st.sampled_from(["lower", "upper", "strip", "title", "swapcase"])
        ),
        st.builds(lambda t, a, b: f"{t}.replace({a}, {b})", children, SHORT, SHORT),
        st.builds(lambda t, a, b: f"{t}[{a}:{b}]", children, INTEGERS | st.just(""), INTEGERS | st.just("")),
        st.builds(lambda t, n: f"{t} * {n}", children, st.integers(-2, 5)).map(lambda text: f"({text})"),
        st.builds(lambda t, s: f"{t}.join(['x', {s}])", children, children),
        st.builds(lambda t: f"sorted({t}.split(','), key=len, reverse=True)[0]", children),
        st.builds(lambda t: f"'%s' % {t}.zfill(5)", children).map(lambda text: f"({text})"),
    )


TEXTS = st.recursive(SHORT | TAG, _texts, max_leaves=8)


def _numbers(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        _joined(["+", "-", "*", "/", "//", "%", "or", "and"], children),
        st.builds(lambda a, n: f"({a} ** {n})", children, st.integers(-3, 6)),
        st.builds(lambda s, a: f"({s}{a})", st.sampled_from("+-"), children),
        _calls(["abs", "int", "float", "ceil", "floor", "round", "sqrt", "exp", "bool"], children),
        _calls(["min", "max", "divmod", "atan2"], children, children).map(lambda text: f"sum([{text}], 0)"),
        st.lists(children, min_size=1, max_size=4).map(lambda items: f"sum([{', '.join(items)}])"),
        st.lists(children, min_size=1, max_size=4).map(lambda items: f"len(set(map(int, ({', '.join(items)},))))"),
    )


NUMBERS = st.recursive(
    INTEGERS
    | st.floats(allow_nan=False, allow_infinity=False, width=16).map(repr)
    | st.just("float(tags.SliceThickness)")
    | st.just("int(@SeriesNumber@)")
    | TEXTS.map(lambda text: f"len({text})")
    | st.builds(lambda text, part: f"{text}.count({part})", TEXTS, SHORT),
    _numbers,
    max_leaves=6,
)
COMPARE = ["==", "!=", "<", "<=", ">", ">="]
CONDITIONS = st.recursive(
    st.one_of(
        _joined(COMPARE, NUMBERS),
        _joined([*COMPARE, "in", "not in"], TEXTS.map(lambda text: f"({text})[:]")),
        st.builds(lambda a, b, c: f"({a} < {b} <= {c})", NUMBERS, NUMBERS, NUMBERS),
        st.builds(lambda text, items: f"({text} in [{', '.join(items)}])", TEXTS, st.lists(TEXTS, max_size=3)),
        st.builds(lambda text, part: f"{text}.startswith({part})", TEXTS, SHORT),
        st.sampled_from(["True", "False", "'Modality' in tags", "'X' in tags", "len(tags) > 2"]),
    ),
    lambda part: _joined(["and", "or", "==", "!="], part) | part.map(lambda text: f"(not {text})"),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300)
@given(TEXTS | NUMBERS)
def test_a_random_value_is_the_one_that_python_gives(text: str) -> None:
    try:
        value = python_value(text)
    except (LookupError, TypeError, ValueError, ArithmeticError):
        assert outcome(text) in ("failed", "missing", "too much work")
        return
    if isinstance(value, float) and not math.isfinite(value):
        return  # has no literal
    ours = outcome(f"[{text}] == [{value!r}]")
    assert ours in ("matched", "too much work") or (ours == "refused" and "too long" in refusal(repr(value)))


@settings(deadline=None, max_examples=300)
@given(CONDITIONS)
def test_a_random_condition_has_the_answer_that_python_gives(text: str) -> None:
    try:
        theirs = "matched" if python_value(text) else "not_matched"
    except (LookupError, TypeError, ValueError, ArithmeticError):
        assert outcome(text) in ("failed", "missing", "too much work")
        return
    assert outcome(text) in (theirs, "too much work")


@settings(deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])), st.sampled_from("'\""))
def test_quoted_text_is_read_back(text: str, quote: str) -> None:
    quoted = quote + text.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote
    assert read_text(quoted, 0, quote) == (text, len(quoted))


@settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=6),
    st.lists(st.sampled_from(TOKENS), max_size=12),
)
def test_hostile_tags_raise_nothing_and_do_not_show(values: dict[str, str], tokens: list[str]) -> None:
    secret = {f"S{name}": f"\u2620{value}" for name, value in values.items()} | {"Modality": "\u2620'\"\\{0}%s"}
    try:
        expression = Expression.parse(" ".join(tokens))
    except ExpressionError:
        return
    evaluation = expression.evaluate(Tags(secret))
    assert "\u2620" not in evaluation.reason + "".join(evaluation.missing)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=8), st.text(max_size=8))
def test_find_agrees_with_a_search_through_all_names(values: dict[str, str], name: str) -> None:
    same = [key for key in values if key.lower() == name.lower()]
    expected = values.get(name, values[same[0]] if same else None)
    assert Tags(values).find(name) == expected


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6).map(str), min_size=1, max_size=8).map(".".join))
def test_numbers_joined_by_dots_are_uids(uid: str) -> None:
    assert is_valid_uid(uid)
    assert not is_valid_uid(uid + ".")
    assert not is_valid_uid(uid + "/..")


@pytest.mark.parametrize("name", [*dir(object), "__globals__", "__code__", "__subclasses__", "__mro__", "gi_frame"])
@pytest.mark.parametrize(
    "value", ["tags", "tags.Modality", "@Modality@", "''", "1.5", "[]", "{}", "(1)", "len", "str", "True"]
)
def test_no_attribute_of_python_can_be_reached(name: str, value: str) -> None:
    assert outcome(f"{value}.{name}") == ("missing" if (value, name) == ("tags", "gi_frame") else "refused")
    assert outcome(f"{value}.{name}()") == "refused"
