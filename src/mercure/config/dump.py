"""From checked values back to JSON: to be shown, with secrets hidden, or to be stored."""

from typing import Any

from mercure.config.schema import Config
from mercure.config.secrets import MASK


def dump(config: Config) -> dict[str, Any]:
    """Return every key with its value, defaults too. References to secrets stand as they are, secrets as a mask."""
    return config.model_dump(mode="json", context={"secrets": "reference"})


def to_json(config: Config) -> dict[str, Any]:
    """Return what a file must say to give this configuration: no defaults. Holds secrets that were given as text."""
    return config.model_dump(mode="json", context={"secrets": "plain"}, exclude_defaults=True)


def with_secrets(edited: Any, config: Config) -> Any:
    """Return an edited dump in which each mask that hides a secret of this configuration is that secret again."""
    return _unmasked(edited, dump(config), config.model_dump(mode="json", context={"secrets": "plain"}))


def _unmasked(edited: Any, shown: Any, stored: Any) -> Any:
    if isinstance(edited, str) and MASK in edited and edited == shown:
        return stored
    if isinstance(edited, dict) and isinstance(shown, dict):
        return {name: _unmasked(item, shown.get(name), stored.get(name)) for name, item in edited.items()}
    if isinstance(edited, list) and isinstance(shown, list):
        known = {_name_of(item, place): (item, stored[place]) for place, item in enumerate(shown)}
        return [_unmasked(item, *known.get(_name_of(item, place), (None, None))) for place, item in enumerate(edited)]
    return edited


def _name_of(item: Any, place: int) -> str | int:
    """Return what an item of a list is known by: rules, which may have been moved, by their name."""
    name = item.get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) else place
