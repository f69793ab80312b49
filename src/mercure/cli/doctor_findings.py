"""What `mercure doctor` finds."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was examined: how it is, and what to do if it is not well."""

    check: str
    severity: Severity
    message: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it for a program."""
        return asdict(self)
