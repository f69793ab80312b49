"""The rule language: expressions on the tags of a series, parsed once, evaluated in microseconds.

Why it is safe to evaluate what somebody typed into a web page on what anybody sent over the network:

- It is an allow-list by construction. The text is read by our own parser into the few nodes of `tree.py`, and each node
  becomes a closure of `evaluate.py`. Python's compiler, `eval` and attribute access never see the text, so there is
  nothing to escape to: a name that is not in our tables has no meaning at all.
- Values are text, numbers, and collections of these; no object with behaviour of its own, no function as a value.
- Work is bounded, see `limits.py`. There are no loops, and each value is weighed where it is made.
- Parsing raises `ExpressionError` and nothing else; evaluating never raises. No message contains the value of a tag.

The decision and its alternatives: `docs/decisions/0002-rule-language.md`. For who writes rules: `docs/rules.md`.
"""

from dataclasses import dataclass, field
from typing import Literal

from mercure.core.rules.evaluate import Compiled, compile_node
from mercure.core.rules.failures import FAILURES, Stop, failed
from mercure.core.rules.limits import Run
from mercure.core.rules.mentions import TagMention, mentions
from mercure.core.rules.syntax import parse
from mercure.core.tags import Tags

__all__ = ["Evaluation", "Expression", "TagMention"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a rule said about one series, and why. Names of tags only, never a value.

    `read` are the tags that were looked at, in order. `missing` are those that the series does not have, also where
    they count as empty, or that are empty where a number is needed. `reason` is for a person, and empty when the rule
    simply matched or did not.
    """

    outcome: Literal["matched", "not_matched", "failed"]
    read: tuple[str, ...]
    missing: tuple[str, ...]
    reason: str

    @property
    def matched(self) -> bool:
        """Whether the rule applies to the series."""
        return self.outcome == "matched"


@dataclass(frozen=True, slots=True)
class Expression:
    """A rule that was checked; equal to another when the text is. Made by `parse`, safe to share between threads."""

    text: str
    tags: tuple[TagMention, ...] = field(repr=False, compare=False)
    """The tags that the rule names, each once; those with a computed name are not among them."""
    _value_of: Compiled = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> "Expression":
        """Check a text. Raises `ExpressionError` with the column of what is not acceptable, and never anything else."""
        node = parse(text)
        return cls(text, mentions(node), compile_node(node))

    def evaluate(self, tags: Tags) -> Evaluation:
        """Answer for the tags of one series. Never raises."""
        run = Run(tags)
        try:
            matched = bool(self._value_of(run))
        except Stop as stop:
            return _stopped(run, stop)
        except FAILURES as error:
            return _stopped(run, failed(error, "the rule", 1))
        return Evaluation("matched" if matched else "not_matched", tuple(run.read), tuple(run.missing), "")

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Expression.parse, (self.text,)


def _stopped(run: Run, stop: Stop) -> Evaluation:
    missing = dict.fromkeys((*run.missing, *stop.missing))
    return Evaluation(stop.outcome, tuple(run.read), tuple(missing), stop.reason)
