"""The JSON schema of our form, for editors."""

from typing import Any

from mercure.config.schema import Config


def json_schema() -> dict[str, Any]:
    """Return the JSON schema (2020-12) of the nested form."""
    schema = Config.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Mercure configuration"}
