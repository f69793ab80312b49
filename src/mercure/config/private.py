"""Objects of any content in which some values may be secret: settings, arguments, nodes. Shown with those masked.

Nobody declares which values are secret there, so the name of the key decides: rather one too many than one too few.
"""

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, SerializationInfo

from mercure.config.secrets import MASK, is_plain, mask_url, refuse_mask
from mercure.config.values import json_object

_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET_WORDS: Final = frozenset(
    "auth authorization bearer cookie credential credentials key keys pass passphrase pin pwd token tokens".split()
)
_SECRET_ENDS: Final = (
    "apikey",
    "accesskey",
    "privatekey",
    "secretkey",
    "passwd",
    "password",
    "secret",
    "secrets",
    "token",
)
_VARIABLES: Final = frozenset({"environment", "env"})
_WITH_USER: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s]*@.*", re.DOTALL)


def is_secret_name(name: str) -> bool:
    """Whether the value under this key is probably a secret: password, token, api_key, clientSecret ..."""
    words = [word.lower() for word in _WORDS.findall(name)]
    return any(word in _SECRET_WORDS or word.endswith(_SECRET_ENDS) for word in words)


def masked(value: Any) -> Any:
    """Return a value of JSON with every text and number masked that a key, or a user in a URL, makes a secret."""
    if isinstance(value, dict):
        return {name: _masked_under(name, item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    return mask_url(value) if isinstance(value, str) and _WITH_USER.fullmatch(value) else value


def _masked_under(name: str, value: Any) -> Any:
    if name.lower() in _VARIABLES and isinstance(value, list | tuple):
        return [_masked_variable(item) for item in value]
    return _hidden(value) if name.lower() in _VARIABLES or is_secret_name(name) else masked(value)


def _masked_variable(item: Any) -> Any:
    """Mask the value of a variable that is written NAME=VALUE, as Docker takes it too."""
    if not isinstance(item, str):
        return _hidden(item)
    name, equals, value = item.partition("=")
    return f"{name}={MASK}" if equals and value else item


def _hidden(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _hidden(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(item) for item in value]
    return value if value is None or isinstance(value, bool) or value == "" else MASK


def _without_masks(value: Any) -> Any:
    """Refuse a mask that stands for nothing that is known. Raises ValueError."""
    if isinstance(value, dict):
        for item in value.values():
            _without_masks(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _without_masks(item)
    elif isinstance(value, str):
        refuse_mask(value)
    return value


def _write(value: Any, info: SerializationInfo) -> Any:
    return value if is_plain(info) else masked(value)


def _settings(value: Any) -> Any:
    """Accept an object for all steps, or a list with one for each."""
    if isinstance(value, list | tuple):
        if not all(isinstance(step, dict) for step in value):
            raise ValueError("must be an object, or a list of objects")
        return tuple(value)
    if isinstance(value, dict):
        return value
    raise ValueError("must be an object, or a list of objects")


_Masked = PlainSerializer(_write, return_type=Any)

PrivateObject = Annotated[
    dict[str, Any],
    BeforeValidator(json_object, json_schema_input_type=dict[str, Any] | str),
    AfterValidator(_without_masks),
    _Masked,
]
"""An object, or text that holds one as JSON."""

PrivateSettings = Annotated[
    Any,
    BeforeValidator(_settings, json_schema_input_type=dict[str, Any] | list[dict[str, Any]]),
    AfterValidator(_without_masks),
    _Masked,
]
"""Settings of one module, or of each module of a chain."""

PrivateNode = Annotated[dict[str, Any], AfterValidator(_without_masks), _Masked]
"""An object."""
