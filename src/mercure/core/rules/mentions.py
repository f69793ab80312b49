"""Which tags a rule names: they can be checked before any series comes."""

from dataclasses import dataclass

from mercure.core.rules.tree import Comparison, Constant, Node, Tag, TagNames


@dataclass(frozen=True, slots=True)
class TagMention:
    """A tag that is named in a rule. `exact` when capital and small letters matter: not for `tags.Name`."""

    name: str
    exact: bool


def mentions(root: Node) -> tuple[TagMention, ...]:
    """Return the tags whose name is written in the rule, those of `"Name" in tags` too, in the order of the text."""
    found: dict[TagMention, None] = {}
    for node in root.walk():
        if isinstance(node, Tag):
            found[TagMention(node.name, node.exact)] = None
        elif isinstance(node, Comparison):
            found |= dict.fromkeys(_asked_for(node))
    return tuple(found)


def _asked_for(node: Comparison) -> list[TagMention]:
    """Return what stands before `in tags` and `not in tags`."""
    pairs = zip(node.operators, node.operands, node.operands[1:], strict=False)
    return [
        TagMention(left.value, exact=True)
        for operator, left, right in pairs
        if operator in ("in", "not in")
        and isinstance(right, TagNames)
        and isinstance(left, Constant)
        and isinstance(left.value, str)
    ]
