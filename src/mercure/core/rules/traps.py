"""Forms that Python accepts, that always give the same answer and that nobody means: errors that say what to write."""

from mercure.core.errors import ExpressionError
from mercure.core.rules.tree import Binary, Boolean, Comparison, Constant, Node, Tag, Unary


def check_condition(node: Node) -> None:
    """Refuse quoted text where an answer is wanted, as in `tags.Modality == 'CT' or 'MR'`. Raises `ExpressionError`."""
    if isinstance(node, Boolean):
        for term in node.terms:
            check_condition(term)
    elif isinstance(node, Unary) and node.operator == "not":
        check_condition(node.operand)
    elif isinstance(node, Constant) and type(node.value) is str:
        raise ExpressionError(
            "text alone is no condition, its answer is always the same; "
            "compare it each time: tags.Modality == 'CT' or tags.Modality == 'MR'",
            node.column,
        )


def check_comparison(node: Comparison) -> None:
    """Refuse `is` between values, and a tag equal to a number. Raises `ExpressionError`."""
    pairs = zip(node.operators, node.columns, node.operands, node.operands[1:], strict=False)
    for operator, column, left, right in pairs:
        if operator.startswith("is") and not (_is_singleton(left) or _is_singleton(right)):
            instead = "==" if operator == "is" else "!="
            raise ExpressionError(f"'{operator}' is for None, True and False only; use {instead} to compare", column)
        if operator in ("==", "!=") and (_never_equal(left, right) or _never_equal(right, left)):
            raise ExpressionError(
                "a tag is text and never equals a number; put the number in quotes, or write int(...) or float(...) "
                "around the tag",
                column,
            )


def check_operands(node: Binary) -> None:
    """Refuse & and | on text. Raises `ExpressionError`."""
    if node.operator in ("&", "|") and (_is_text(node.left) or _is_text(node.right)):
        word = "and" if node.operator == "&" else "or"
        raise ExpressionError(f"{node.operator} does not work on text; to join conditions write '{word}'", node.column)


def _is_singleton(node: Node) -> bool:
    return isinstance(node, Constant) and (node.value is None or type(node.value) is bool)


def _never_equal(node: Node, other: Node) -> bool:
    return isinstance(node, Tag) and isinstance(other, Constant) and isinstance(other.value, (int, float, complex))


def _is_text(node: Node) -> bool:
    return isinstance(node, Tag) or (isinstance(node, Constant) and type(node.value) is str)
