"""Text of a rule -> checked tree, by recursive descent with the precedence of Python's expressions.

The grammar has expressions only, and of these only what `tree.py` lists: operators are read here, operands in
`operands.py`. Text never reaches Python's own compiler.
"""

from typing import Final

from mercure.core.errors import ExpressionError
from mercure.core.rules.operands import Operands
from mercure.core.rules.tokens import tokenize
from mercure.core.rules.traps import check_comparison, check_condition, check_operands
from mercure.core.rules.tree import Binary, Boolean, Comparison, Constant, Node, Unary

_LEVELS: Final = (("|",), ("^",), ("&",), ("+", "-"), ("*", "/", "//", "%"))
"""Binary operators, those that bind least first."""
_COMPARISONS: Final = ("==", "!=", "<", "<=", ">", ">=", "in", "is")


def parse(text: str) -> Node:
    """Return the checked tree of an expression. Raises `ExpressionError` with the column, and nothing else."""
    tokens = tokenize(text)
    if tokens[0].kind == "end":
        raise ExpressionError("the expression is empty; write False for a rule that never matches, True for always")
    parser = _Operators(tokens)
    try:
        node = parser.expression()
    except RecursionError:  # the caller was itself deep in calls
        raise ExpressionError("the expression is nested too deeply", parser.here.column) from None
    if parser.here.kind != "end":
        parser.unexpected()
    check_condition(node)
    return node


class _Operators(Operands):
    """Reads operators, those that bind least first."""

    def expression(self) -> Node:
        with self.nested():
            terms = [self._and()]
            while self.accept("or"):
                terms.append(self._and())
        return terms[0] if len(terms) == 1 else Boolean(column=terms[0].column, operator="or", terms=tuple(terms))

    def _and(self) -> Node:
        terms = [self._not()]
        while self.accept("and"):
            terms.append(self._not())
        return terms[0] if len(terms) == 1 else Boolean(column=terms[0].column, operator="and", terms=tuple(terms))

    def _not(self) -> Node:
        token = self.accept("not")
        if token is None:
            return self._comparison()
        with self.nested():
            return Unary(column=token.column, operator="not", operand=self._not())

    def _comparison(self) -> Node:
        operands = [self._binary(0)]
        operators: list[str] = []
        columns: list[int] = []
        while self.at(*_COMPARISONS) or (self.at("not") and self.at("in", ahead=1)):
            columns.append(self.here.column)
            operators.append(self._comparison_operator())
            operands.append(self._binary(0))
        if not operators:
            return operands[0]
        node = Comparison(
            column=columns[0], operators=tuple(operators), columns=tuple(columns), operands=tuple(operands)
        )
        check_comparison(node)
        return node

    def _comparison_operator(self) -> str:
        word = self.take().text
        if word == "not":
            self.take()
            return "not in"
        if word == "is" and self.accept("not"):
            return "is not"
        return word

    def _binary(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self._unary()
        left = self._binary(level + 1)
        while token := self.accept(*_LEVELS[level]):
            right = self._binary(level + 1)
            node = Binary(column=token.column, operator=token.text, left=left, right=right)
            check_operands(node)
            left = node
        return left

    def _unary(self) -> Node:
        token = self.accept("-", "+", "~")
        if token is None:
            return self._power()
        with self.nested():
            operand = self._unary()
        if token.text == "-" and isinstance(operand, Constant) and type(operand.value) in (int, float):
            return Constant(column=token.column, value=-operand.value)
        return Unary(column=token.column, operator=token.text, operand=operand)

    def _power(self) -> Node:
        base = self.postfix()
        token = self.accept("**")
        if token is None:
            return base
        with self.nested():
            return Binary(column=token.column, operator="**", left=base, right=self._unary())
