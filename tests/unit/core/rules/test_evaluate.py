import pytest

from mercure.core.rules import tree
from mercure.core.rules.evaluate import compile_node
from mercure.core.rules.tree import Node


def test_a_node_that_is_not_of_the_language_has_no_meaning() -> None:
    class Surprise(Node):
        pass

    assert list(Surprise(column=1).parts()) == []
    with pytest.raises(TypeError, match="Surprise"):
        compile_node(Surprise(column=1))


def test_every_kind_of_node_has_a_meaning() -> None:
    kinds = {kind for kind in vars(tree).values() if isinstance(kind, type) and issubclass(kind, Node)}
    assert len(kinds) > 10
    assert set(compile_node.registry) - {object} == kinds - {Node}
