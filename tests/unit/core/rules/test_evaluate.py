import sys

import pytest
from tests.unit.core.rules.reference import CT_TAGS

from mercure.core.rules import Expression, tree
from mercure.core.rules.evaluate import compile_node
from mercure.core.rules.tree import Node


def test_a_node_that_is_not_of_the_language_has_no_meaning() -> None:
    class Surprise(Node):
        pass

    assert list(Surprise(column=1).parts()) == []
    with pytest.raises(TypeError, match="Surprise"):
        compile_node(Surprise(column=1))


@pytest.mark.parametrize(
    "text", ["str(map(float, []))", "repr(zip())", "complex(1j, 2)", "complex(1, 2j)", "'%s' % 1 + '%(a)s' % {'a': 1}"]
)
def test_what_python_can_do_but_no_rule_needs_fails(text: str) -> None:
    assert Expression.parse(text).evaluate(CT_TAGS).outcome == "failed"


def test_a_caller_that_is_deep_in_calls_gets_a_failure_and_no_exception() -> None:
    expression = Expression.parse("+" * 30 + "len(tags)" + " + 1" * 40)

    def deep(left: int) -> str:
        return deep(left - 1) if left else expression.evaluate(CT_TAGS).outcome

    assert deep(1) == "matched"
    outcomes = set()
    for depth in range(sys.getrecursionlimit()):
        try:
            outcomes.add(deep(depth))
        except RecursionError:  # no place left for the test itself
            break
    assert outcomes == {"matched", "failed"}


def test_every_kind_of_node_has_a_meaning() -> None:
    kinds = {kind for kind in vars(tree).values() if isinstance(kind, type) and issubclass(kind, Node)}
    assert len(kinds) > 10
    assert set(compile_node.registry) - {object} == kinds - {Node}
