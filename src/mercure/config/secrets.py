"""A secret: given as text, or by reference to an environment variable or a file. It never shows itself."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, PlainSerializer, SerializationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from mercure.core.errors import ConfigError

MASK: Final = "********"
MAXIMUM_BYTES: Final = 65536

Source = Literal["text", "env", "file"]


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A password, token or key. `str`, `repr` and JSON give the mask; only `reveal` gives the content.

    `source` is "text" (the content stands in the file), "env" (name of a variable) or "file" (absolute path).
    """

    source: Source
    _held: str

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def reveal(self, environment: Mapping[str, str] | None = None) -> str:
        """Return the content, read anew each time, without line ends at its end.

        Raises ConfigError, which names the variable or the path and never the content.
        """
        match self.source:
            case "text":
                return self._held
            case "env":
                return _from_environment(self._held, os.environ if environment is None else environment)
            case "file":
                return _from_file(self._held)

    def reference(self, *, plain: bool = False) -> str | dict[str, str]:
        """Return what stands in the file: a reference as it is, text only if `plain`, else the mask."""
        if self.source == "text":
            return self._held if plain else MASK
        return {self.source: self._held}

    @classmethod
    def parse(cls, value: Any) -> "Secret":
        """Make a secret of a value from JSON. Raises ValueError, without the value."""
        if isinstance(value, Secret):
            return value
        if isinstance(value, str):
            if value == MASK:
                raise ValueError(f"{MASK} stands for a hidden secret and is not one")
            return cls("text", value)
        if isinstance(value, dict) and len(value) == 1:
            ((source, held),) = value.items()
            if source in ("env", "file") and isinstance(held, str) and held:
                return _reference(source, held)
        raise ValueError('must be text, {"env": "NAME"} or {"file": "/path"}')

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate with `parse`, write with `reference` when the context asks for it, else the mask."""
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(_write, info_arg=True),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe the three forms."""
        reference = [
            {
                "type": "object",
                "properties": {name: {"type": "string"}},
                "required": [name],
                "additionalProperties": False,
            }
            for name in ("env", "file")
        ]
        return {"anyOf": [{"type": "string"}, *reference]}


def mask_url(url: str) -> str:
    """Return a URL without user, password and the values of its query; the rest of it stays."""
    return _mask_url(url, hides_path=False)


def mask_webhook(url: str) -> str:
    """Return a URL without user, password, path and query: webhooks commonly have their token in the path."""
    return _mask_url(url, hides_path=True)


def _mask_url(url: str, *, hides_path: bool) -> str:
    rest, mark, fragment = url.partition("#")
    rest, asks, query = rest.partition("?")
    scheme, slashes, rest = rest.partition("//") if "//" in rest else ("", "", rest)
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        authority = f"{MASK}@{authority.rpartition('@')[2]}"
    if hides_path:
        authority = authority if slashes else authority and MASK
        path = path and MASK
    return "".join((scheme, slashes, authority, slash, path, asks, _masked_query(query), mark, fragment and MASK))


def _masked_query(query: str) -> str:
    parts = (part.partition("=") for part in query.split("&")) if query else ()
    return "&".join(f"{name}{equals}{MASK}" if equals else MASK for name, equals, _ in parts)


def refuse_mask(text: str) -> str:
    """Return the text. Raises ValueError when it holds a mask."""
    if MASK in text:
        raise ValueError(f"{MASK} stands for a hidden secret and is not one")
    return text


def _write_url(url: str, info: SerializationInfo) -> str:
    return url if is_plain(info) else mask_url(url)


def _write_webhook(url: str, info: SerializationInfo) -> str:
    return url if is_plain(info) else mask_webhook(url)


def _write_text(text: str, info: SerializationInfo) -> str:
    return text if is_plain(info) or not text else MASK


def is_plain(info: SerializationInfo) -> bool:
    """Whether values are written to be stored, with their secrets."""
    return isinstance(info.context, dict) and info.context.get("secrets") == "plain"


PrivateUrl = Annotated[str, AfterValidator(refuse_mask), PlainSerializer(_write_url, return_type=str)]
"""A URL that may hold a password or a token: it is shown without them, and stored whole."""

WebhookUrl = Annotated[str, AfterValidator(refuse_mask), PlainSerializer(_write_webhook, return_type=str)]
"""A URL that may hold a token anywhere behind its host: only the host is shown."""

PrivateText = Annotated[str, AfterValidator(refuse_mask), PlainSerializer(_write_text, return_type=str)]
"""Text in which anything may be secret: it is never shown."""


def _reference(source: Any, held: str) -> Secret:
    if source == "env" and ("=" in held or not held.isprintable()):
        raise ValueError("env must be the name of an environment variable")
    if source == "file" and not Path(held).is_absolute():
        raise ValueError("file must be an absolute path")
    return Secret(source, held)


def _write(secret: Secret, info: SerializationInfo) -> Any:
    context = info.context if isinstance(info.context, dict) else {}
    wanted = context.get("secrets")
    return secret.reference(plain=wanted == "plain") if wanted else MASK


def _from_environment(name: str, environment: Mapping[str, str]) -> str:
    try:
        return environment[name]
    except KeyError:
        raise ConfigError(f"the environment variable {name}, which holds a secret, is not set") from None


def _from_file(path: str) -> str:
    if not os.path.isfile(path):  # a pipe or a device could hold us up for ever
        raise ConfigError(f"the file {path}, which holds a secret, does not exist or is not a regular file")
    try:
        with open(path, "rb") as file:
            content = file.read(MAXIMUM_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the file {path}, which holds a secret, cannot be read: {error.strerror}") from None
    if len(content) > MAXIMUM_BYTES:
        raise ConfigError(f"the file {path} is too long for a secret")
    try:
        return content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError(f"the file {path}, which holds a secret, is not UTF-8 text") from None
