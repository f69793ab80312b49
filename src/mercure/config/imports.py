"""The flat form of existing files, turned into ours once and for all."""

from collections.abc import Iterator
from typing import Any, Final

from mercure.config import flat
from mercure.config.build import Builder
from mercure.config.dump import to_json
from mercure.config.json_text import JsonPath
from mercure.config.load import form_of, read_object
from mercure.config.problems import path_text
from mercure.config.schema import Config
from mercure.core.errors import ConfigError

IS_DEFAULT: Final = "falls away: it is the default"
"""How the changes end that change nothing: a key that said what holds anyway."""


def import_flat(text: bytes | str) -> tuple[dict[str, Any], list[str]]:
    """Return a flat file in our form, and every change that was made. The result holds secrets given as text.

    An entry that cannot be read is kept, with its fault. Raises ConfigError when the file cannot be used, or is in our
    form already.
    """
    document = read_object(text)
    if form_of(document.value) == "nested":
        raise ConfigError("the file is in this form already: nothing to import")
    translation = flat.translate(document.value)
    builder = Builder(document.lines, translation)
    config = builder.build(translation.nested)
    result = _with_broken_entries(to_json(config), translation, builder)
    kept = [
        f"kept with its fault: {problem}"
        for problem in builder.problems
        if (problem.kind, problem.severity) == ("schema", "error")
    ]
    return result, [
        *translation.changes,
        *_defaults(document.value, translation, result, config),
        *_notes(config),
        *kept,
    ]


def _with_broken_entries(result: dict[str, Any], translation: flat.Translation, builder: Builder) -> dict[str, Any]:
    for collection in ("targets", "modules"):
        for name in builder.broken[collection]:
            result.setdefault(collection, {})[name] = _raw(translation, (collection, name))
    good = iter(result.get("rules", ()))
    rules = [
        _raw(translation, ("rules", index)) if entry["name"] in builder.broken["rules"] else next(good)
        for index, entry in enumerate(translation.nested.get("rules", ()))
    ]
    return result | {"rules": rules} if rules else result


def _raw(translation: flat.Translation, path: JsonPath) -> Any:
    collection, name = path
    entry = translation.nested[str(collection)][name]
    return translation.left_over.get(path, {}) | entry if isinstance(entry, dict) else entry


def _defaults(
    given: dict[str, Any], translation: flat.Translation, result: dict[str, Any], config: Config
) -> Iterator[str]:
    """Tell which keys fell away because they say what holds anyway, and which defaults had to be written out."""
    for ours, theirs in translation.origins.items():
        if not _stands_in(result, ours) and theirs[0] in given and ours[0] in Config.model_fields:
            yield f"{path_text(theirs)} {IS_DEFAULT}"
    for place in (*flat.DEFAULTS, ("dispatcher", "retry_max_delay")):
        if translation.origins.get(place, ("",))[0] not in given and _stands_in(result, place):
            section, name = place
            yield f"{path_text(place)} is written, as it was before: {getattr(getattr(config, section), name)}"


def _stands_in(value: Any, path: JsonPath) -> bool:
    try:
        for part in path:
            value = value[part]
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _notes(config: Config) -> Iterator[str]:
    if any(rule.priority == "offpeak" for rule in config.rules):
        yield f"off-peak hours are now those of local_time ({config.mercure.local_time}), not of the process"
