import time

import pytest
from tests.unit.core.rules.reference import CT_TAGS

from mercure.core.rules import Expression
from mercure.core.rules.limits import BUDGET, MAX_WEIGHT, LimitExceededError, Run, iterate, weigh
from mercure.core.tags import Tags

_MODULUS = 2**61 - 1
_SECONDS = 10.0
"""Generous, for a busy machine: alone, none takes a second."""

TOO_MUCH = [
    "sum(range(10**12))",
    "9**9**9",
    "2**10**10",
    "10**4000 * 10**4000",
    "(10**600)**3",
    "2**4095 * 2**4095",
    "'a'*10**10",
    "10**10*'a'",
    "[[[[0]*1000]*1000]*1000]*1000",
    "((0,)*1000,)*1000",
    "[0]*(10**10)",
    "list(range(10**9))",
    "tuple(range(10**6))",
    "set(range(10**6))",
    "sorted(range(10**6))",
    "max(range(10**9))",
    "all(range(1, 10**12))",
    "'x' in range(10**12)",
    "0.5 in range(10**12)",
    "10**12 in map(int, range(10**12))",
    "list(zip(range(10**9), range(10**9)))",
    "list(enumerate(range(10**9)))",
    "list(reversed(range(10**9)))",
    "list(filter(None, range(10**9)))",
    "any(map(isnan, range(10**9)))",
    "{1}.union(range(10**9))",
    "''.join(map(str, range(10**9)))",
    "('a'*50000).join(['a']*1000)",
    "dict(zip(range(10**9), range(10**9)))",
    "('a'*90000).replace('a', 'b'*90000)",
    "('a'*90000).replace('', 'b'*90000)",
    "'a'.ljust(10**10)",
    "'a'.center(10**10, 'x')",
    "'1'.zfill(10**10)",
    "format(1, '1000000000d')",
    "format(1.5, '.1000000000f')",
    "format(1, '9' + '9'*5000)",
    "'%1000000000d' % 1",
    "'%.1000000000f' % 1",
    "'%*d' % (10**9, 1)",
    "'%.*f' % (10**9, 1)",
    "factorial(10**9)",
    "round(5, -10**9)",
    "pow(3, 2**4000, 2**4000-1) + pow(3, 2**4000, 2**4000-1) + pow(3, 2**4000, 2**4000-1) + pow(3, 2**4000, 2**4000-1)",
    "pow(9, 9**9)",
    "int('1'*5000)",
    "float('1'*50000)",
    "int('f'*1000, 32) * int('f'*1000, 32)",
    f"len(set(range(0, {_MODULUS}*50000, {_MODULUS})))",
    f"len(frozenset(range(0, {_MODULUS}*50000, {_MODULUS})))",
    f"len(dict(zip(range(0, {_MODULUS}*50000, {_MODULUS}), range(50000))))",
    "sum([[0]*1000]*100, [])",
    "('a'*99000).rfind('b' + 'a'*49000) + ('a'*99000).rfind('b' + 'a'*49000)",
    "[[0]*300]*300 + [[0]*300]*300",
    " or ".join(["list(range(90000)) == []"] * 20),
    "len('a'*90000 + 'b'*90000)",
]


@pytest.mark.parametrize("text", TOO_MUCH)
def test_too_much_work_ends_soon_with_a_failure(text: str) -> None:
    start = time.monotonic()
    evaluation = Expression.parse(text).evaluate(CT_TAGS)
    assert time.monotonic() - start < _SECONDS
    assert evaluation.outcome == "failed"
    assert "too much work" in evaluation.reason


@pytest.mark.parametrize(
    "text",
    [
        "len('a'*90000) == 90000",
        "sum(range(90000)) > 0",
        "10**1000 > 9**1000",
        "len(set(range(2000))) == 2000",
        f"len(set(range(0, {_MODULUS}*1000, {_MODULUS}))) == 1000",
        "sorted(list(range(9000)), reverse=True)[0] == 8999",
        "('a'*9000).rfind('b' + 'a'*4000) == -1",
        "factorial(500) > 0",
        "pow(3, 2**1000, 10**300) > 0",
        "[[0]*300]*300 == [[0]*300]*300",
        "int('1'*1000) > 0",
        "any(range(10**12))",
        "10**11 in range(10**12)",
        "len(range(10**12)) == 10**12",
        "2**-1000 > 0",
    ],
)
def test_work_within_the_limits_is_done_soon(text: str) -> None:
    start = time.monotonic()
    evaluation = Expression.parse(text).evaluate(CT_TAGS)
    assert time.monotonic() - start < _SECONDS
    assert (evaluation.outcome, evaluation.reason) == ("matched", "")


@pytest.mark.parametrize("rule", ["tags.Long == 'x'", "tags['Lo' + 'ng'] == 'x'", "@Long@ == 'x'"])
def test_reading_very_long_tags_again_and_again_uses_up_the_budget(rule: str) -> None:
    tags = Tags({"Long": "a" * (BUDGET // 2)})
    assert Expression.parse(rule).evaluate(tags).outcome == "not_matched"
    assert Expression.parse(" or ".join([rule] * 3)).evaluate(tags).outcome == "failed"


def test_a_series_with_too_many_tags_cannot_be_listed() -> None:
    tags = Tags({str(number): "" for number in range(MAX_WEIGHT)})
    assert Expression.parse("len(tags) > 5").evaluate(tags).outcome == "failed"
    assert Expression.parse("'5' in tags").evaluate(tags).matched


def test_a_long_tag_is_no_number() -> None:
    evaluation = Expression.parse("float(tags.Long) > 1").evaluate(Tags({"Long": "1" * 5000}))
    assert evaluation.reason == "float() at column 1: too much work, or the result is too large"


def test_the_weight_of_a_value_is_that_of_all_in_it() -> None:
    assert weigh("abc") == 4
    assert weigh(5) == weigh(2.5) == weigh(None) == weigh(range(10**9)) == 1
    assert weigh(2**640) == 11
    assert weigh(["ab", (1, {2})]) == 1 + 3 + 1 + 1 + 1 + 1
    assert weigh({"a": [1]}) == 1 + 2 + 2


def test_only_values_of_the_language_have_a_weight() -> None:
    with pytest.raises(TypeError):
        weigh(object())
    with pytest.raises(LimitExceededError):
        weigh(2**5000)


def test_only_what_has_items_can_be_gone_through() -> None:
    with pytest.raises(TypeError):
        iterate(Run(CT_TAGS), 5)
