"""What a module says in `result.json`: its output, a wish to notify, and where the result is to go.

It comes from somebody else's program, so nothing in it is more than a wish: targets must be known and allowed.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Any

ROUTING_KEY = "__mercure_routing"
NOTIFICATION_KEY = "__mercure_notification"
MAXIMUM_RESULT_BYTES = 16 << 20
_MAXIMUM_TEXT = 2000
_MAXIMUM_DEPTH = 100


def parse_result(content: bytes | None) -> tuple[Json, str]:
    """Return the parsed `result.json` (None when there is none or it is no JSON), and what is wrong with it, or "".

    What was parsed can be written down again as valid JSON in UTF-8.
    """
    if content is None:
        return None, ""
    if len(content) > MAXIMUM_RESULT_BYTES:
        return None, "result.json is too long and was not taken"
    try:
        output = json.loads(content, parse_constant=_no_number, parse_float=_finite)
        _check_can_be_written(output)
    except (ValueError, RecursionError):
        return None, "result.json is no JSON and was not taken"
    return output, ""


def _check_can_be_written(output: Json) -> None:
    """Raise `ValueError` for what Python reads and no other program could read again, or Python itself not write.

    Those are halves of characters (RFC 8259, 8.2), and values within values without end (RFC 8259, 9).
    """
    pending = [(output, 1)]
    while pending:
        value, depth = pending.pop()
        if isinstance(value, str):
            value.encode()
        elif isinstance(value, dict | list):
            if depth > _MAXIMUM_DEPTH:
                raise ValueError("too deep")
            if isinstance(value, dict):
                pending.extend((key, depth) for key in value)
            pending.extend((part, depth + 1) for part in (value.values() if isinstance(value, dict) else value))


def _finite(text: str) -> float:
    """Refuse a number that is larger than any of Python's, and would become an infinity."""
    if math.isinf(number := float(text)):
        raise ValueError(text)
    return number


def _no_number(name: str) -> Json:
    """Refuse NaN and infinities, which Python reads and JSON does not have (RFC 8259, 6)."""
    raise ValueError(name)


@dataclass(frozen=True, slots=True)
class Notification:
    """What a module wants told: a text for people, and whether it asks for the notification of the end."""

    text: str = ""
    requested: bool = False


def notification_in(output: Json) -> Notification:
    """Return the wish in the output of one module; an empty one when there is none or it is not valid."""
    wish = output.get(NOTIFICATION_KEY) if isinstance(output, Mapping) else None
    if not isinstance(wish, Mapping):
        return Notification()
    text = wish.get("text")
    return Notification(text[:_MAXIMUM_TEXT] if isinstance(text, str) else "", wish.get("requested") is True)


@dataclass(frozen=True, slots=True)
class DynamicRouting:
    """What a rule allows a module to decide."""

    enabled: bool = False
    allowed_targets: tuple[str, ...] = ()
    """Empty: every target of the configuration."""
    alternate_target: str = ""


@dataclass(frozen=True, slots=True)
class Routed:
    """Where the result goes, and a sentence on how that came about (for the journal), or ""."""

    targets: tuple[str, ...]
    note: str = ""


def route_result(output: Json, rule: DynamicRouting, targets: Sequence[str], known: Collection[str]) -> Routed:
    """Return the targets of a result, given the output of the last module and the targets that the rule names.

    A wish that is not allowed, or names a target that is not known, changes nothing and is noted.
    """
    fixed = tuple(targets)
    wish = output.get(ROUTING_KEY) if isinstance(output, Mapping) else None
    if wish is None:
        return Routed(fixed)
    if not rule.enabled:
        return Routed(fixed, "the module wants to route its result, which the rule does not allow")
    if not isinstance(wish, Mapping):
        return Routed(fixed, f"{ROUTING_KEY} of the module is no object")
    if wish.get("discard") is True:
        return Routed((), "the module wants its result to go nowhere")
    if "target" in wish:
        return _named(wish["target"], rule, fixed, known)
    if wish.get("use_alternate_target") is True:
        if rule.alternate_target in known:
            return Routed((rule.alternate_target,), "the module chose the alternate target")
        return Routed(fixed, "the module chose the alternate target, and the rule names none that is known")
    return Routed(fixed)


def _named(wish: Json, rule: DynamicRouting, fixed: tuple[str, ...], known: Collection[str]) -> Routed:
    names = [wish] if isinstance(wish, str) else wish
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return Routed(fixed, f"the target in {ROUTING_KEY} is neither a name nor a list of names")
    if any(name not in known for name in names):
        return Routed(fixed, "the module chose a target that is not in the configuration")
    if rule.allowed_targets and any(name not in rule.allowed_targets for name in names):
        return Routed(fixed, "the module chose a target that the rule does not allow")
    return Routed(tuple(dict.fromkeys(names)), "the module chose the targets")
