"""Checked tree -> a function of the run that gives the value of the expression.

Each node becomes one closure over the closures of its parts. There is no code object made from the text, no `eval`,
no name looked up while it runs: what a closure can do is written in this file and in the tables of operators, functions
and methods. An operation that raises ends the evaluation with a `Stop` that names the operation and its column.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, singledispatch

from mercure.core.rules.failures import FAILURES, Stop, empty_number, failed, missing_computed_tag, missing_tag
from mercure.core.rules.functions import FUNCTIONS
from mercure.core.rules.limits import EmptyNumberError, LimitExceededError, Run, Value
from mercure.core.rules.methods import METHODS, TYPE_NAMES
from mercure.core.rules.operators import BINARY, COMPARISONS, UNARY, contains
from mercure.core.rules.tree import (
    Binary,
    Boolean,
    Call,
    Collection,
    Comparison,
    Constant,
    FunctionName,
    Item,
    Node,
    Slice,
    Tag,
    TagAt,
    TagNames,
    Unary,
    collect,
)

Compiled = Callable[[Run], Value]


@dataclass(frozen=True, slots=True)
class _Site:
    """Where an operation stands in the rule, to say how it ended the evaluation."""

    operation: str
    node: Node

    def end(self, run: Run, error: Exception, *values: Value) -> Stop:
        """Return the end by this error: not matched when a number was asked of an empty tag, else failed."""
        if isinstance(error, EmptyNumberError):
            # There are no variables: a value comes from the tags below its node and from nowhere else.
            tags = [part for part in self.node.walk() if isinstance(part, Tag)]
            names = dict.fromkeys(run.blank(tag.name, exact=tag.exact) for tag in tags)
            if empty := tuple(name for name in names if name is not None):
                return empty_number(self.operation, empty)
        return failed(error, self.operation, self.node.column, values)


@singledispatch
def compile_node(node: Node) -> Compiled:
    """Return the closure of a node. Raises `TypeError` for a node that is not of `tree.py`."""
    raise TypeError(type(node).__name__)


@compile_node.register
def _(node: Constant) -> Compiled:
    value = node.value
    return lambda _run: value


@compile_node.register
def _(node: Tag) -> Compiled:
    name, exact, site = node.name, node.exact, _Site(f"tag {node.name}", node)

    def tag(run: Run) -> Value:
        try:
            value = run.value_of(name, exact=exact)
        except LimitExceededError as error:
            raise site.end(run, error) from None
        if value is None:
            raise missing_tag(name)
        return value

    return tag


@compile_node.register
def _(node: TagAt) -> Compiled:
    name_of, site = compile_node(node.name), _Site("tags[...]", node)

    def tag_at(run: Run) -> Value:
        name = name_of(run)
        if type(name) is not str:
            raise site.end(run, TypeError(), name)
        try:
            value = run.value_of(name, exact=True)
        except LimitExceededError as error:
            raise site.end(run, error) from None
        if value is None:  # the name may come from the value of a tag and is not told
            raise missing_computed_tag(site.operation, node.column)
        return value

    return tag_at


@compile_node.register
def _(node: TagNames) -> Compiled:
    site = _Site("tags", node)

    def names(run: Run) -> Value:
        try:
            return run.admit(tuple(run.tags))
        except LimitExceededError as error:
            raise site.end(run, error) from None

    return names


@compile_node.register
def _(node: FunctionName) -> Compiled:
    function = FUNCTIONS[node.name] if node.of is None else METHODS[node.name][TYPE_NAMES[node.of]]
    return partial(partial, function.call)


@compile_node.register
def _(node: Collection) -> Compiled:
    kind, items, site = node.kind, [compile_node(item) for item in node.items], _Site(f"the {node.kind}", node)

    def collection(run: Run) -> Value:
        values = [item(run) for item in items]
        try:
            return run.admit(collect(kind, values))
        except FAILURES as error:
            raise site.end(run, error) from None

    return collection


@compile_node.register
def _(node: Unary) -> Compiled:
    operand, site = compile_node(node.operand), _Site(node.operator, node)
    if node.operator == "not":
        return lambda run: not operand(run)
    apply = UNARY[node.operator]

    def unary(run: Run) -> Value:
        value = operand(run)
        try:
            return run.admit(apply(value))
        except FAILURES as error:
            raise site.end(run, error, value) from None

    return unary


@compile_node.register
def _(node: Binary) -> Compiled:
    left, right, site = compile_node(node.left), compile_node(node.right), _Site(node.operator, node)
    apply = BINARY[node.operator]

    def binary(run: Run) -> Value:
        a, b = left(run), right(run)
        try:
            return apply(run, a, b)
        except FAILURES as error:
            raise site.end(run, error, a, b) from None

    return binary


@compile_node.register
def _(node: Boolean) -> Compiled:
    *first, last = (compile_node(term) for term in node.terms)
    ends = node.operator == "or"

    def boolean(run: Run) -> Value:
        for term in first:
            value = term(run)
            if bool(value) is ends:
                return value
        return last(run)

    return boolean


@compile_node.register
def _(node: Slice) -> Compiled:
    start, stop, step = (compile_node(bound) for bound in node.bounds)
    return lambda run: slice(start(run), stop(run), step(run))


@compile_node.register
def _(node: Item) -> Compiled:
    value_of, index_of, site = compile_node(node.value), compile_node(node.index), _Site("[...]", node)

    def item(run: Run) -> Value:
        value, index = value_of(run), index_of(run)
        try:
            return run.admit(value[index])
        except FAILURES as error:
            raise site.end(run, error, value) from None

    return item


_Test = Callable[[Run, Value, Value], Value]


@compile_node.register
def _(node: Comparison) -> Compiled:
    if len(node.operators) == 1 and node.operators[0] in ("in", "not in") and isinstance(node.operands[1], TagNames):
        return _tag_is_there(node)
    operands = [compile_node(operand) for operand in node.operands]
    tests = [_test(operator, _Site(operator, node)) for operator in node.operators]
    if len(tests) > 1:
        return _chain(operands, tests)
    (left, right), test = operands, tests[0]
    return lambda run: test(run, left(run), right(run))


def _chain(operands: list[Compiled], tests: list[_Test]) -> Compiled:
    first, pairs = operands[0], list(zip(tests, operands[1:], strict=True))

    def chain(run: Run) -> Value:
        left, result = first(run), True
        for test, operand in pairs:
            right = operand(run)
            result = test(run, left, right)
            if not result:
                break
            left = right
        return result

    return chain


def _test(operator: str, site: _Site) -> _Test:
    if operator in ("in", "not in"):
        return _membership(site, wanted=operator == "in")
    apply = COMPARISONS[operator]

    def test(run: Run, left: Value, right: Value) -> Value:
        try:
            return apply(left, right)
        except FAILURES as error:
            raise site.end(run, error, left, right) from None

    return test


def _membership(site: _Site, *, wanted: bool) -> _Test:
    def test(run: Run, item: Value, container: Value) -> bool:
        try:
            return contains(run, container, item) is wanted
        except FAILURES as error:
            raise site.end(run, error, item, container) from None

    return test


def _tag_is_there(node: Comparison) -> Compiled:
    """Compile `"Name" in tags`: a name that the rule spells out is noted, a computed one may be a value and is not."""
    name_of, wanted = compile_node(node.operands[0]), node.operators[0] == "in"
    site, spelled = _Site(node.operators[0], node), isinstance(node.operands[0], Constant)

    def test(run: Run) -> bool:
        name = name_of(run)
        try:
            there = name in run.tags
        except TypeError as error:
            raise site.end(run, error, name) from None
        if spelled:
            (run.read if there else run.missing)[str(name)] = None
            if there and run.tags.lacks(str(name)):
                run.missing[str(name)] = None
        return there is wanted

    return test


@compile_node.register
def _(node: Call) -> Compiled:
    arguments = [compile_node(argument) for argument in node.arguments]
    options = {name: compile_node(option) for name, option in node.options}
    if node.receiver is not None:
        return _method(node, compile_node(node.receiver), arguments, options)
    function, site = FUNCTIONS[node.name].call, _Site(f"{node.name}()", node)
    if len(arguments) == 1 and not options:
        return _call_of_one(function, arguments[0], site)

    def call(run: Run) -> Value:
        values = [argument(run) for argument in arguments]
        named = {name: option(run) for name, option in options.items()}
        try:
            return function(run, *values, **named)
        except FAILURES as error:
            raise site.end(run, error, *values) from None

    return call


def _call_of_one(function: Callable[..., Value], argument: Compiled, site: _Site) -> Compiled:
    def call(run: Run) -> Value:
        value = argument(run)
        try:
            return function(run, value)
        except FAILURES as error:
            raise site.end(run, error, value) from None

    return call


def _method(node: Call, receiver: Compiled, arguments: list[Compiled], options: dict[str, Compiled]) -> Compiled:
    forms, site = METHODS[node.name], _Site(f".{node.name}()", node)

    def method(run: Run) -> Value:
        value = receiver(run)
        form = forms.get(type(value))
        if form is None:
            raise site.end(run, TypeError(), value)
        values = [argument(run) for argument in arguments]
        named = {name: option(run) for name, option in options.items()}
        try:
            return form.call(run, value, *values, **named)
        except FAILURES as error:
            raise site.end(run, error, value, *values) from None

    return method
