"""What is wrong between the parts of a configuration: names that lead nowhere, things not built yet, likely mistakes.

None of it makes an entry unusable: the rule stays, and what it takes waits where it can be seen.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from mercure.config.json_text import JsonPath
from mercure.config.rules import Rule
from mercure.config.schema import Config
from mercure.config.secrets import Secret
from mercure.config.targets import DicomBase

_PLACEHOLDERS = ("generate_random_key_here", "BOOKKEEPER_TOKEN_PLACEHOLDER", "PutSomethingRandomHere")


@dataclass(frozen=True)
class Doubt:
    """Something between the parts. The number in a path into rules counts the rules of the configuration."""

    path: JsonPath
    message: str
    severity: Literal["error", "warning"]
    kind: Literal["schema", "reference"]


def unresolved(config: Config, broken_targets: Mapping[str, str]) -> Iterator[Doubt]:
    """Find what is asked for and cannot be had. For a rule that never takes anything it is a warning."""
    for index, rule in enumerate(config.rules):
        for name, message in _wants(rule, config, broken_targets):
            severity: Literal["error", "warning"] = "warning" if _never_fires(rule) else "error"
            yield Doubt(("rules", index, name), message, severity, "reference")
    for name, target in config.targets.items():
        reason = config.why_unusable(name)
        if reason and isinstance(target, DicomBase) and not target.called_ae_title:
            yield Doubt(("targets", name, "called_ae_title"), reason, "error", "reference")
    yield from _unknown_tags(config.receiver.additional_tags)


def _never_fires(rule: Rule) -> bool:
    return rule.disabled or rule.condition.strip() == "False"


def _unknown_tags(names: Iterable[str]) -> Iterator[Doubt]:
    """Find tags that the dictionary does not know: rules would never see them."""
    keywords = [name for name in names if "," not in name]
    if not keywords:
        return
    from pydicom.datadict import keyword_dict  # noqa: PLC0415 - large, and hardly a file asks for it

    for name in (name for name in keywords if name not in keyword_dict):
        by_lower = {keyword.lower(): keyword for keyword in keyword_dict}
        close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.7)
        guess = f"; did you mean {by_lower[close[0]]}?" if close else "; write its number as gggg,eeee"
        message = f"no DICOM dictionary has this keyword, so rules never see it{guess}"
        yield Doubt(("receiver", "additional_tags", name), message, "error", "reference")


def _wants(rule: Rule, config: Config, broken_targets: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in rule.target:
        if reason := _why_not(name, config, broken_targets):
            yield "target", f"{name!r}: {reason}"
    if rule.action in ("route", "both") and not rule.target and not _never_fires(rule):
        yield "target", f"the action {rule.action} needs a target"
    if rule.action in ("process", "both"):
        yield "action", f"the action {rule.action} is not built yet: no modules are run"
        for name in rule.processing_module:
            if name not in config.modules:
                yield "processing_module", f"{name!r}: there is no module of this name"
    if rule.action_trigger == "study" and rule.action != "discard":
        yield "action_trigger", "rules for whole studies are not built yet"


def _why_not(name: str, config: Config, broken_targets: Mapping[str, str]) -> str | None:
    if name in broken_targets:
        return f"the target cannot be read: {broken_targets[name]}"
    return config.why_unusable(name)


def doubts(config: Config) -> Iterator[Doubt]:
    """Find what is allowed but hardly meant."""
    for index, rule in enumerate(config.rules):
        if rule.action == "notification" or rule.notification_email or rule.notification_webhook:
            yield _warning(("rules", index), "notifications are not built yet: none is sent")
    for path, secret in (
        (("webgui", "auth_token_key"), config.webgui.auth_token_key),
        (("bookkeeper", "api_key"), config.bookkeeper.api_key),
    ):
        if _is_placeholder(secret):
            yield _warning(path, "is the placeholder of the example and no secret")
    cleaner = config.cleaner.min_free_space_gb
    if 0 < cleaner < config.receiver.min_free_space_gb:
        yield _warning(
            ("cleaner", "min_free_space_gb"), "is less than that of receiver: images are refused before room is made"
        )


def _warning(path: JsonPath, message: str) -> Doubt:
    return Doubt(path, message, "warning", "schema")


def _is_placeholder(secret: Secret | None) -> bool:
    return secret is not None and secret.source == "text" and secret.reveal() in _PLACEHOLDERS
