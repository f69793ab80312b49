"""docs/events.md, read by tests."""

import re
from pathlib import Path

from mercure.core.events import Event

PAGE = (Path(__file__).parents[1] / "docs" / "events.md").read_text(encoding="utf-8")
ALWAYS = {"kind", "at", "id"}


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Each kind of event on the page: what it means, and the fields that it may have."""
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for line in PAGE.partition("## Kinds")[2].splitlines():
        if match := re.fullmatch(r"\| `([a-z_]+)` \| (.*) \|(.*)\|", line):
            fields = set(re.findall(r"`([a-z_]+)`", match[3])) & set(Event.__dataclass_fields__)
            for other in re.findall(r"as `([a-z_]+)`", match[3]):
                fields |= found[other][1]
            found[match[1]] = match[2], frozenset(fields)
    return found
