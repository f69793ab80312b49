"""The reference of every key, as Markdown. `docs/configuration.md` ends with it, and a test compares the two.

Print it with `python -m mercure.config.reference`.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any, Final

from pydantic import BaseModel

from mercure.config import flat
from mercure.config.receiving import CommitmentPeer, ReceiverTls, StorageCommitment
from mercure.config.rules import Module, Rule
from mercure.config.schema import Config
from mercure.config.secrets import Secret
from mercure.config.targets import KINDS, TargetBase

MARK: Final = "<!-- From here on: printed by python -m mercure.config.reference -->"
_TYPES: Final = {"string": "text", "number": "number", "integer": "whole number", "boolean": "true or false"}
_NO_LIMIT: Final = 1_000_000
_TYPES_OF_ITEMS: Final = {"array": "list", "object": "object", "null": "null"}


def reference() -> str:
    """Return a table for every part: key, type, default, meaning with its unit."""
    return "\n".join(_parts())


def _parts() -> Iterator[str]:
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _table(f"`{name}`", field.annotation, field.description or "")
        if name == "receiver":
            yield from _table("`receiver.tls`", ReceiverTls, "The port with TLS.")
            yield from _table("`receiver.storage_commitment`", StorageCommitment, "Storage commitment (PS3.4 J).")
            yield from _table("`receiver.storage_commitment.ports.<AE title>`", CommitmentPeer, "Where reports go.")
    yield from _table("`rules[]`", Rule, "A list; rules are asked in its order.")
    yield from _table("`targets.<name>`, every kind", TargetBase, "Keys of every target.", without={"target_type"})
    common = set(TargetBase.model_fields) - {"target_type"}
    for kind, model in KINDS.items():
        later = "" if model.usable else " Not built yet: read in full and kept."
        note = " ".join((model.__doc__ or "").split()) + later
        yield from _table(f"`targets.<name>`, target_type `{kind}`", model, note, without=common)
    yield from _table("`modules.<name>`", Module, "A processing module: an image or a command.")
    yield from _flat_form()


def _flat_form() -> Iterator[str]:
    yield from ("### Keys of the flat form", "", "| Flat form | Here |", "|---|---|")
    for name, place in flat.places().items():
        yield f"| `{name}` | `{place}` |"
    yield from ("", "Defaults of the flat form that differ:", "", "| Key | Flat form | Here |", "|---|---|---|")
    for (section, name), value in flat.DEFAULTS.items():
        model = Config.model_fields[section].annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield f"| `{section}.{name}` | {_code(value)} | {_code(_default(model, name))} |"
    yield ""


def _table(title: str, model: type[BaseModel], note: str, without: set[str] | None = None) -> Iterator[str]:
    schema = model.model_json_schema()
    required = set(schema.get("required", ()))
    yield from (f"### {title}", "", note, "", "| Key | Type | Default | Meaning |", "|---|---|---|---|")
    for name, found in schema["properties"].items():
        if name not in (without or ()):
            default = "required" if name in required else _code(_default(model, name))
            yield f"| `{name}` | {_type(found)} | {default} | {found.get('description', '')} |"
    yield ""


def _default(model: type[BaseModel], name: str) -> Any:
    value = model.model_fields[name].default
    if isinstance(value, BaseModel):
        return {}
    shown = model.model_construct(**{name: value}).model_dump(mode="json", include={name})
    return shown[name]


def _code(value: Any) -> str:
    return f"`{json.dumps(value)}`"


def _type(schema: dict[str, Any]) -> str:
    """Describe a type in words, with its range and its closed set of values."""
    if schema.get("anyOf") == _SECRET["anyOf"]:
        return "secret"
    if "anyOf" in schema:
        inner = [one for one in schema["anyOf"] if one.get("type") != "null"]
        is_secret = inner == _SECRET["anyOf"]
        kinds = ["secret"] if is_secret else list(dict.fromkeys(_type(one) for one in inner))
        return " or ".join([*kinds, *(["null"] if len(inner) < len(schema["anyOf"]) else [])])
    if "enum" in schema:
        return ", ".join(_code(one) for one in schema["enum"])
    if "const" in schema:
        return _code(schema["const"])
    if schema.get("format") == "path":
        return "path"
    kind = schema.get("type", "object")
    if kind == "array" and schema.get("items", {}).get("type") in _TYPES:
        return f"list of {_type(schema['items'])}"
    return _TYPES.get(kind, _TYPES_OF_ITEMS.get(kind, "object")) + _range(schema)


def _range(schema: dict[str, Any]) -> str:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", _NO_LIMIT)
    if high < _NO_LIMIT:
        return f" from {low:g} to {high:.0f}"
    return f" from {low:g}" if low else ""


class _HasSecret(BaseModel):
    secret: Secret


_SECRET: Final = _HasSecret.model_json_schema()["properties"]["secret"]

if __name__ == "__main__":
    sys.stdout.write(reference())
