"""The checked tree of a rule. What has no node here does not exist in the language.

`depth` is the height of the tree below and with a node; it bounds the recursion of whoever walks the tree.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from mercure.core.errors import ExpressionError
from mercure.core.rules.limits import Value

MAX_DEPTH: Final = 100
CollectionKind = Literal["list", "tuple", "set", "dict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A part of a rule; `column` is where it shows in the text, counted from 1."""

    column: int
    depth: int = field(init=False, default=1)

    def __post_init__(self) -> None:
        depth = 1 + max((part.depth for part in self.parts()), default=0)
        if depth > MAX_DEPTH:
            raise ExpressionError("the expression is nested too deeply", self.column)
        object.__setattr__(self, "depth", depth)

    def parts(self) -> Iterable["Node"]:
        """Return the nodes right below."""
        return ()

    def walk(self) -> Iterator["Node"]:
        """Return this node and all below."""
        yield self
        for part in self.parts():
            yield from part.walk()


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant(Node):
    """A value that is written in the rule."""

    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag(Node):
    """The value of a tag: `tags.Name` in any case, `tags["Name"]` and `@Name@` exactly."""

    name: str
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TagAt(Node):
    """The value of a tag whose name is computed."""

    name: Node

    def parts(self) -> Iterable[Node]:
        """Return the expression of the name."""
        return (self.name,)


@dataclass(frozen=True, slots=True, kw_only=True)
class TagNames(Node):
    """`tags` by itself: the names of all tags."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection(Node):
    """A list, tuple, set or dict written out; the items of a dict are its keys and values in turn."""

    kind: CollectionKind
    items: tuple[Node, ...]

    def parts(self) -> Iterable[Node]:
        """Return the items."""
        return self.items


@dataclass(frozen=True, slots=True, kw_only=True)
class Unary(Node):
    """An operator with one operand: `not - + ~`."""

    operator: str
    operand: Node

    def parts(self) -> Iterable[Node]:
        """Return the operand."""
        return (self.operand,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary(Node):
    """An operator with two operands, no comparison."""

    operator: str
    left: Node
    right: Node

    def parts(self) -> Iterable[Node]:
        """Return both operands."""
        return (self.left, self.right)


@dataclass(frozen=True, slots=True, kw_only=True)
class Boolean(Node):
    """Terms joined by `and`, or by `or`."""

    operator: Literal["and", "or"]
    terms: tuple[Node, ...]

    def parts(self) -> Iterable[Node]:
        """Return the terms."""
        return self.terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Node):
    """A chain of comparisons, `a < b <= c`: operators, the column of each, and one operand more."""

    operators: tuple[str, ...]
    columns: tuple[int, ...]
    operands: tuple[Node, ...]

    def parts(self) -> Iterable[Node]:
        """Return the operands."""
        return self.operands


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice(Node):
    """`[start:stop:step]`; what is left out is a constant None."""

    bounds: tuple[Node, Node, Node]

    def parts(self) -> Iterable[Node]:
        """Return start, stop and step."""
        return self.bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Item(Node):
    """`value[index]`."""

    value: Node
    index: Node

    def parts(self) -> Iterable[Node]:
        """Return the value and the index."""
        return (self.value, self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionName(Node):
    """A function that is handed to map, filter or as `key`: `float`, or `str.lower` when `of` is "str"."""

    name: str
    of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Node):
    """A call of a function, or of a method when there is a receiver."""

    name: str
    receiver: Node | None
    arguments: tuple[Node, ...]
    options: tuple[tuple[str, Node], ...]

    def parts(self) -> Iterable[Node]:
        """Return the receiver, the arguments and the values of the options."""
        first = () if self.receiver is None else (self.receiver,)
        return (*first, *self.arguments, *(value for _, value in self.options))


def collect(kind: CollectionKind, values: list[Value]) -> Value:
    """Return the values as a collection of this kind; those of a dict are keys and values in turn.

    Raises `TypeError` for what cannot be in a set or be a key.
    """
    match kind:
        case "list":
            return values
        case "tuple":
            return tuple(values)
        case "set":
            return set(values)
    return dict(zip(values[::2], values[1::2], strict=True))
