"""What was done, as tags and never as values."""

from dataclasses import dataclass, field
from typing import Literal

Fate = Literal["kept", "changed", "removed"]


def tag_name(tag: int) -> str:
    """Return a tag as the standard writes it."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


@dataclass(slots=True)
class Tally:
    """What became of the attributes of one series. An attribute in a sequence is named by its path."""

    instances: int = 0
    found: dict[Fate, set[str]] = field(default_factory=lambda: {"kept": set(), "changed": set(), "removed": set()})

    def note(self, fate: Fate, path: tuple[int, ...]) -> None:
        """Note what became of the attribute at this path of tags."""
        self.found[fate].add(">".join(map(tag_name, path)))

    def add(self, other: "Tally") -> None:
        """Add what became of another instance of the series."""
        self.instances += other.instances
        for fate, paths in other.found.items():
            self.found[fate] |= paths

    def as_json(self) -> dict[str, object]:
        """Return the report. A tag may be under several headings when instances, or items, differ."""
        return {"instances": self.instances, **{fate: sorted(paths) for fate, paths in self.found.items()}}
