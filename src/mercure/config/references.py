"""What is wrong between the parts of a configuration: names that lead nowhere, things not built yet, likely mistakes.

None of it makes an entry unusable: the rule stays, and what it takes waits where it can be seen.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from mercure.config.json_text import JsonPath
from mercure.config.modules import chain_of, module_trouble
from mercure.config.rule_tags import ADDITIONAL_TAGS, close_keyword, unseen_tags
from mercure.config.rules import Rule
from mercure.config.schema import Config
from mercure.config.secrets import Secret
from mercure.config.targets import DicomBase, ProcessingTarget
from mercure.core.rules import Expression

_PLACEHOLDERS = ("generate_random_key_here", "BOOKKEEPER_TOKEN_PLACEHOLDER", "PutSomethingRandomHere")


@dataclass(frozen=True)
class Doubt:
    """Something between the parts. The number in a path into rules counts the rules of the configuration."""

    path: JsonPath
    message: str
    severity: Literal["error", "warning"]
    kind: Literal["schema", "reference"]


@dataclass(frozen=True)
class Broken:
    """The targets and modules that were set aside, with the reason."""

    targets: Mapping[str, str]
    modules: Mapping[str, str]


def unresolved(config: Config, broken: Broken) -> Iterator[Doubt]:
    """Find what is asked for and cannot be had. For a rule that never takes anything it is a warning."""
    for index, rule in enumerate(config.rules):
        for name, message in _wants(rule, config, broken):
            severity: Literal["error", "warning"] = "warning" if _never_fires(rule) else "error"
            yield Doubt(("rules", index, name), message, severity, "reference")
    for name, target in config.targets.items():
        reason = config.why_unusable(name)
        if reason and isinstance(target, DicomBase) and not target.called_ae_title:
            yield Doubt(("targets", name, "called_ae_title"), reason, "error", "reference")
    yield from _of_unused_targets(config, broken)
    yield from _unknown_tags(config.receiver.additional_tags)


def _of_unused_targets(config: Config, broken: Broken) -> Iterator[Doubt]:
    """Find targets that name no module, and that no rule names: the others are reported with their rules."""
    used = {name for rule in config.rules for name in rule.target}
    for name, target in config.targets.items():
        if isinstance(target, ProcessingTarget) and name not in used:
            for module in target.processing_module:
                if reason := _why_no_module(module, config, broken):
                    path: JsonPath = ("targets", name, "processing_module")
                    yield Doubt(path, f"{module!r}: {reason}", "warning", "reference")


def _never_fires(rule: Rule) -> bool:
    return rule.disabled or rule.condition.strip() == "False"


def _unknown_tags(names: Iterable[str]) -> Iterator[Doubt]:
    """Find tags that the dictionary does not know: rules would never see them."""
    keywords = [name for name in names if "," not in name]
    if not keywords:
        return
    from pydicom.datadict import keyword_dict  # noqa: PLC0415 - large, and hardly a file asks for it

    for name in (name for name in keywords if name not in keyword_dict):
        close = close_keyword(name)
        guess = f"; did you mean {close}?" if close else "; write its number as gggg,eeee"
        message = f"no DICOM dictionary has this keyword, so rules never see it{guess}"
        yield Doubt(("receiver", "additional_tags", name), message, "error", "reference")


def _wants(rule: Rule, config: Config, broken: Broken) -> Iterator[tuple[str, str]]:
    processes = rule.action in ("process", "both")
    for name in rule.target:
        is_module = _is_module(name, config)
        if is_module and processes and rule.processing_module:
            yield "target", f"{name!r}: it is a module, and the rule has processing_module: name modules in one place"
        elif not (is_module and processes) and (reason := _why_not(name, config, broken)):
            yield "target", f"{name!r}: {reason}"
    places = [name for name in rule.target if not processes or not _is_module(name, config)]
    if rule.action in ("route", "both") and not places and not _never_fires(rule):
        yield "target", f"the action {rule.action} needs a target"
    if processes:
        yield from _wants_of_modules(rule, config, broken)
    yield from _wants_of_routing(rule, config, broken)
    if rule.action_trigger == "study" and rule.action != "discard":
        yield "action_trigger", "rules for whole studies are not built yet"


def _wants_of_modules(rule: Rule, config: Config, broken: Broken) -> Iterator[tuple[str, str]]:
    chain = chain_of(rule, config)
    if not chain and not _never_fires(rule):
        yield "processing_module", f"the action {rule.action} needs a module, here or as its target"
    where = "processing_module" if rule.processing_module else "target"
    for name in dict.fromkeys(link.module for link in chain):
        if reason := _why_no_module(name, config, broken):
            yield where, f"{'module ' if where == 'target' else ''}{name!r}: {reason}"
    settings = rule.processing_settings
    if isinstance(settings, tuple) and len(settings) > len(chain):
        yield "processing_settings", f"has {len(settings)} objects for {len(chain)} modules"


def _wants_of_routing(rule: Rule, config: Config, broken: Broken) -> Iterator[tuple[str, str]]:
    """Find targets that a module may choose and that cannot be had."""
    if not rule.dynamic_routing:
        return
    for name in rule.dynamic_routing_allowed_targets:
        if reason := _why_not(name, config, broken):
            yield "dynamic_routing_allowed_targets", f"{name!r}: {reason}"
    name = rule.conditional_alternate_target
    if name and (reason := _why_not(name, config, broken)):
        yield "conditional_alternate_target", f"{name!r}: {reason}"


def _is_module(target: str, config: Config) -> bool:
    return isinstance(config.targets.get(target), ProcessingTarget)


def _why_not(name: str, config: Config, broken: Broken) -> str | None:
    if name in broken.targets:
        return f"the target cannot be read: {broken.targets[name]}"
    return config.why_unusable(name)


def _why_no_module(name: str, config: Config, broken: Broken) -> str | None:
    if name in broken.modules:
        return f"the module cannot be read: {broken.modules[name]}"
    module = config.modules.get(name)
    return module_trouble(module, config.processor) if module else "there is no module of this name"


def doubts(config: Config, additional_tags: str = ADDITIONAL_TAGS) -> Iterator[Doubt]:
    """Find what is allowed but hardly meant. `additional_tags` is what the file calls that key of the receiver."""
    for index, rule in enumerate(config.rules):
        condition = Expression.parse(rule.condition)
        for _, message in unseen_tags(condition, config.receiver.additional_tags, additional_tags):
            yield _warning(("rules", index, "condition"), message)
        if rule.action == "notification" or rule.notification_email or rule.notification_webhook:
            yield _warning(("rules", index), "notifications are not built yet: none is sent")
    for path, secret in (
        (("webgui", "auth_token_key"), config.webgui.auth_token_key),
        (("bookkeeper", "api_key"), config.bookkeeper.api_key),
    ):
        if _is_placeholder(secret):
            yield _warning(path, "is the placeholder of the example and no secret")
    if config.mercure.series_complete_trigger == 0:
        quiet: JsonPath = ("mercure", "series_complete_trigger")
        yield _warning(quiet, "is 0: a series is complete between two of its instances, and becomes several jobs")
    cleaner = config.cleaner.min_free_space_gb
    if 0 < cleaner < config.receiver.min_free_space_gb:
        yield _warning(
            ("cleaner", "min_free_space_gb"), "is less than that of receiver: images are refused before room is made"
        )


def _warning(path: JsonPath, message: str) -> Doubt:
    return Doubt(path, message, "warning", "schema")


def _is_placeholder(secret: Secret | None) -> bool:
    return secret is not None and secret.source == "text" and secret.reveal() in _PLACEHOLDERS
