"""What is wrong with a configuration, in words for the person who wrote it: where, what, and what was perhaps meant."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from mercure.config.json_text import JsonPath
from mercure.core.errors import ConfigError

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. `path` is as in the file: rules[2].target, targets.pacs.

    `kind` is "schema" when the file itself must be mended, "reference" when a name leads nowhere or what it names is
    not built yet: then the entry stays, and what depends on it waits. `line` counts from 1.
    """

    path: str
    message: str
    severity: Literal["error", "warning"] = "error"
    kind: Literal["schema", "reference"] = "schema"
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        return f"{place}{self.path}: {self.message}" if self.path else f"{place}{self.message}"


class InvalidConfigError(ConfigError):
    """Nothing of the file can be used. `problems` says why; the text lists them all."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Keep the problems beside the text."""
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


def path_text(path: JsonPath) -> str:
    """Write a path as rules[2].target; a name with unusual characters is quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{part[:128]!r}]"
    return text


def line_of(path: JsonPath, lines: Mapping[JsonPath, int]) -> int | None:
    """Return the line of this value, or of the nearest one around it that is there."""
    for end in range(len(path), 0, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return None


def unknown_key(name: str, known: Iterable[str], elsewhere: Mapping[str, str] | None = None) -> str:
    """Say that a key is unknown, and which one was perhaps meant. `elsewhere`: where keys of other places belong."""
    if elsewhere and name in elsewhere:
        return f"unknown key; here it is called {elsewhere[name]}"
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return f"unknown key; did you mean {close[0]}?" if close else "unknown key"


def schema_failures(
    error: ValidationError, model: type[BaseModel], elsewhere: Mapping[str, str] | None = None
) -> list[tuple[JsonPath, str]]:
    """Translate what pydantic found in one part: path inside the part, and message. Never repeats a value."""
    failures = []
    for found in error.errors(include_url=False, include_context=True, include_input=False):
        path = tuple(found["loc"])
        is_extra = found["type"] == "extra_forbidden"
        if path[-1:] == ("[key]",) and not is_extra:  # pydantic's mark for a key of a mapping that is wrong itself
            path = path[:-1]
        message = unknown_key(str(path[-1]), _keys_at(model, path[:-1]), elsewhere) if is_extra else _message(found)
        failures.append((path, message))
    return failures


def _message(found: Any) -> str:
    match found["type"]:
        case "missing":
            return "is missing"
        case "value_error":
            return str(found["ctx"]["error"])
        case "string_pattern_mismatch":
            return "has characters or a form that do not fit"
        case "model_type" | "dict_type" | "model_attributes_type":
            return "must be an object"
        case "tuple_type":
            return "must be a list"
    text: str = found["msg"]
    text = text.partition("should")[2] or f" fit: {text}"
    return (
        "must" + text.replace("a valid boolean", "true or false").replace("a valid string", "text").split(", unable")[0]
    )


def _keys_at(model: type[BaseModel], path: JsonPath) -> list[str]:
    """Keys that are known at this place of a model."""
    found: Any = model
    for part in path:
        inner = found.model_fields.get(part) if isinstance(part, str) else None
        found = _model_in(inner.annotation) if inner is not None else found
        if found is None:
            return []
    return list(found.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := _model_in(inner):
            return found
    return None
