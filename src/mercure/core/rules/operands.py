"""The operands of a rule: tags, constants, brackets, indexes and calls.

This is the gate: a name that is not in a list of `names.py`, and a dot that leads to neither a tag nor an allowed
method that is called, end the parse.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

from mercure.core.errors import ExpressionError
from mercure.core.rules.cursor import Cursor
from mercure.core.rules.functions import FUNCTIONS, Function
from mercure.core.rules.methods import TYPE_NAMES
from mercure.core.rules.names import CONSTANTS, TAGS, WORDS, function_name, method_forms, unknown_name
from mercure.core.rules.tokens import Token
from mercure.core.rules.tree import (
    Call,
    Collection,
    CollectionKind,
    Constant,
    Item,
    Node,
    Slice,
    Tag,
    TagAt,
    TagNames,
    collect,
)

_OPENING: Final = ("(", "[", "{")


class Operands(Cursor, ABC):
    """Reads what stands between operators."""

    @abstractmethod
    def expression(self) -> Node:
        """Read one expression with all its operators."""

    def postfix(self) -> Node:
        """Read an operand with the indexes and method calls that follow it."""
        node = self._atom()
        while True:
            if opened := self.accept("["):
                node = Item(column=opened.column, value=node, index=self._index(opened))
            elif dot := self.accept("."):
                node = self._method(node, dot)
            elif self.at("("):
                raise ExpressionError("only functions and methods can be called, this is a value", self.here.column)
            else:
                return node

    def _atom(self) -> Node:
        token = self.here
        if token.kind in ("number", "text"):
            return Constant(column=token.column, value=self.take().value)
        if token.kind == "tag":
            return Tag(column=token.column, name=str(self.take().value), exact=True)
        if self.at(*_OPENING):
            return self._brackets(self.take())
        if token.kind != "name" or token.text in WORDS:
            self.unexpected()
        return self._named(self.take())

    def _named(self, token: Token) -> Node:
        name = token.text
        if name in CONSTANTS:
            return Constant(column=token.column, value=CONSTANTS[name])
        if name == TAGS:
            return self._tags(token)
        if name not in FUNCTIONS:
            raise unknown_name(token)
        if name in TYPE_NAMES and self.accept("."):
            return self._method_of_type(token, self.take())
        opened = self.accept("(")
        if opened is None:
            raise ExpressionError(f"a function is called with brackets: {name}(...)", token.column)
        return self._call(token, None, [FUNCTIONS[name]], opened)

    def _tags(self, token: Token) -> Node:
        if self.accept("."):
            name = self.take()
            if name.kind != "name" or name.text.startswith("_"):
                raise ExpressionError("the name of a tag comes after 'tags.', for example tags.Modality", name.column)
            return Tag(column=token.column, name=name.text, exact=False)
        opened = self.accept("[")
        if opened is None:
            return TagNames(column=token.column)
        index = self._index(opened)
        if isinstance(index, Constant) and type(index.value) is str:
            return Tag(column=token.column, name=index.value, exact=True)
        if isinstance(index, (Constant, Slice)):
            raise ExpressionError('the name of a tag stands in quotes: tags["Modality"]', index.column)
        return TagAt(column=token.column, name=index)

    def _index(self, opened: Token) -> Node:
        bounds: list[Node | None] = [None]
        while not self.at("]"):
            if self.accept(":"):
                bounds.append(None)
            elif bounds[-1] is None:
                bounds[-1] = self._sequence("]") if len(bounds) == 1 else self.expression()
            else:
                break
        self.close("]", opened)
        if len(bounds) == 1 and bounds[0] is not None:
            return bounds[0]
        if not 1 < len(bounds) <= 3:
            raise ExpressionError("an index or start:stop:step stands between [ and ]", opened.column)
        nothing = Constant(column=opened.column, value=None)
        start, stop, step = (*(bound or nothing for bound in bounds), nothing)[:3]
        return Slice(column=opened.column, bounds=(start, stop, step))

    def _sequence(self, closing: str) -> Node:
        """Read one expression, or a tuple of them when a comma follows."""
        first = self.expression()
        if not self.at(","):
            return first
        return _collection("tuple", [first, *self._more(closing)], first.column)

    def _more(self, closing: str) -> list[Node]:
        items: list[Node] = []
        while self.accept(",") and not self.at(closing):
            items.append(self.expression())
        return items

    def _brackets(self, opened: Token) -> Node:
        if opened.text == "{":
            return self._braces(opened)
        closing, kind = (")", "tuple") if opened.text == "(" else ("]", "list")
        if self.accept(closing):
            return Constant(column=opened.column, value=() if kind == "tuple" else [])
        if kind == "tuple":
            node = self._sequence(closing)
        else:
            node = _collection("list", [self.expression(), *self._more(closing)], opened.column)
        self.close(closing, opened)
        return node

    def _braces(self, opened: Token) -> Node:
        if self.accept("}"):
            return Constant(column=opened.column, value={})
        first = self.expression()
        if self.at(":"):
            items = [first, *self._pair_value()]
            while self.accept(",") and not self.at("}"):
                items += [self.expression(), *self._pair_value()]
            node = _collection("dict", items, opened.column)
        else:
            node = _collection("set", [first, *self._more("}")], opened.column)
        self.close("}", opened)
        return node

    def _pair_value(self) -> list[Node]:
        if not self.accept(":"):
            self.unexpected()
        return [self.expression()]

    def _method(self, receiver: Node, dot: Token) -> Node:
        token = self.take()
        if token.kind != "name":
            raise ExpressionError("the name of a method is missing after the dot", dot.column)
        forms = method_forms(token)
        return self._call(token, receiver, forms, self._bracket_of(token))

    def _method_of_type(self, kind: Token, token: Token) -> Node:
        """Read `str.lower(value)`, which is `value.lower()`."""
        function_name(kind, token)
        opened = self._bracket_of(token)
        receiver = self.expression()
        if not self.accept(",") and not self.at(")"):
            self.unexpected()
        return self._call(token, receiver, method_forms(token), opened)

    def _bracket_of(self, token: Token) -> Token:
        opened = self.accept("(")
        if opened is None:
            raise ExpressionError(f"a method is called with brackets: .{token.text}(...)", token.column)
        return opened

    def _call(self, token: Token, receiver: Node | None, forms: Sequence[Function], opened: Token) -> Node:
        arguments: list[Node] = []
        options: dict[str, Node] = {}
        while not self.at(")"):
            if self.at("=", ahead=1):
                self._option(token, forms, options)
            elif options:
                raise ExpressionError("arguments without a name come first", self.here.column)
            else:
                arguments.append(self._argument(to_call=forms[0].takes_function and not arguments))
            if not self.accept(","):
                break
        self.close(")", opened)
        _check_count(token, forms, len(arguments))
        return Call(
            column=token.column,
            name=token.text,
            receiver=receiver,
            arguments=tuple(arguments),
            options=tuple(options.items()),
        )

    def _option(self, token: Token, forms: Sequence[Function], options: dict[str, Node]) -> None:
        name = self.take()
        self.take()
        if name.text in options or not any(name.text in form.options for form in forms):
            raise ExpressionError(f"{token.text}() takes no argument {name.text!r} here", name.column)
        options[name.text] = self._argument(to_call=name.text == "key")

    def _argument(self, *, to_call: bool) -> Node:
        if not to_call:
            return self.expression()
        token = self.here
        if token.kind == "name" and token.text in FUNCTIONS:
            self.take()
            return function_name(token, self.take() if self.accept(".") else None)
        node = self.expression()
        if isinstance(node, Constant) and node.value is None:
            return node
        raise ExpressionError("the name of a function comes here, for example float or str.lower", node.column)


def _check_count(token: Token, forms: Sequence[Function], count: int) -> None:
    least, most = min(form.least for form in forms), max(form.most for form in forms)
    if not least <= count <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise ExpressionError(f"{token.text}() takes {wanted} argument(s), not {count}", token.column)


def _collection(kind: CollectionKind, items: list[Node], column: int) -> Node:
    node = Collection(column=column, kind=kind, items=tuple(items))
    values = [item.value for item in items if isinstance(item, Constant)]
    if len(values) < len(items):
        return node
    try:
        # No operation changes a value, so what is constant can be made once.
        return Constant(column=column, value=collect(kind, values))
    except TypeError:  # a list in a set; said when it is evaluated, if it ever is
        return node
