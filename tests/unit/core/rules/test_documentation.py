import re
from pathlib import Path

import pytest
from tests.unit.core.rules.reference import CT, CT_TAGS

from mercure.core.errors import ExpressionError
from mercure.core.rules import Expression
from mercure.core.rules.functions import FUNCTIONS
from mercure.core.rules.methods import METHODS
from mercure.core.tags import FILE_TAGS

PAGE = (Path(__file__).parents[4] / "docs" / "rules.md").read_text(encoding="utf-8")
EXAMPLES = [
    tuple(re.split(r"\s+=>\s+", line.rstrip()))
    for block in re.findall(r"```rule\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
TRAPS = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|$", PAGE.split("| Written | Write |")[1], re.MULTILINE)


def outcome(text: str) -> str:
    try:
        return Expression.parse(text).evaluate(CT_TAGS).outcome.replace("_", " ")
    except ExpressionError:
        return "error"


@pytest.mark.parametrize(("text", "expected"), EXAMPLES)
def test_each_example_of_the_page_gives_the_answer_that_the_page_says(text: str, expected: str) -> None:
    assert outcome(text) == expected


def test_the_page_has_examples_with_each_outcome() -> None:
    assert len(EXAMPLES) >= 40
    assert {expected for _, expected in EXAMPLES} == {"matched", "not matched", "failed", "error"}


@pytest.mark.parametrize(("written", "better"), TRAPS)
def test_each_trap_of_the_page_is_refused_and_its_remedy_is_not(written: str, better: str) -> None:
    assert outcome(written) == "error"
    assert outcome(better) in ("matched", "not matched")


def test_the_page_lists_the_traps() -> None:
    assert len(TRAPS) == 8


def test_the_tags_of_the_page_are_those_of_the_examples() -> None:
    table = PAGE.split("| Tag | Value |")[1].split("\n\n")[0]
    rows = dict(re.findall(r"^\| ([\w,]+) \| (.+) \|$", table, re.MULTILINE))
    assert {name: "" if value == "(empty)" else value.strip("`") for name, value in rows.items()} == dict(CT)


@pytest.mark.parametrize(("section", "names"), [("## Functions", set(FUNCTIONS)), ("## Methods", set(METHODS))])
def test_the_page_lists_every_function_and_method_and_no_other(section: str, names: set[str]) -> None:
    text = PAGE.split(section)[1].split("\n\nThe first")[0].split("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", text)) == names


def test_the_page_lists_every_tag_that_is_read_of_every_series_and_no_other() -> None:
    (listed,) = re.findall(r"read of every series:\n\n((?:> .*\n)+)", PAGE)
    assert set(re.findall(r"\w+", listed)) == FILE_TAGS
