"""`mercure rules`: what a rule answers, and why."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mercure.app.assembly import routing_rules, target_states
from mercure.cli import installation
from mercure.cli.exits import CommandError, Exit
from mercure.cli.options import JSON, new_app
from mercure.cli.output import Column, clean, complain, counted, print_json, print_table, say
from mercure.config.load import Loaded
from mercure.config.rule_tags import ADDITIONAL_TAGS, readable_name, unseen_tags
from mercure.core.errors import ConfigError, ExpressionError, MercureError
from mercure.core.plan import Plan, RoutingRule, RuleTrace, make_plan
from mercure.core.rules import Evaluation, Expression
from mercure.core.tags import RECEPTION_TAGS, Tags
from mercure.dicom.tags_reader import read_tags, tag_names

app = new_app("Try rules on a DICOM file, or on tags given by hand. Nothing is sent, moved or changed.")

DicomFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="DICOM file whose tags the rule sees.", exists=True, dir_okay=False, readable=True
    ),
]
GivenTags = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="NAME=VALUE", help="A tag; may be given often, and beside --file."),
]

_STYLES = {"matched": "green", "failed": "red bold", "skipped": "dim"}
_WORDS = {"matched": "matched", "not_matched": "not matched", "failed": "FAILED", "skipped": "skipped"}


@app.command("test")
def evaluate(
    expression: Annotated[str | None, typer.Argument(metavar="[EXPRESSION]", help="The rule to try.")] = None,
    *,
    rule: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of a rule of the configuration, instead.")
    ] = None,
    file: DicomFile = None,
    tag: GivenTags = None,
    as_json: JSON = False,
) -> None:
    """Show what a rule answers for a file or for tags, which tags it read, and what was missing.

    Exit status 0: it matched or did not match. 1: it could not be evaluated. 2: it is no valid expression, or there is
    no rule of that name.
    """
    if (expression is None) == (rule is None):
        raise CommandError("give either an expression or --rule", "See `mercure rules test --help`.", Exit.USAGE)
    text = expression if expression is not None else _condition(str(rule))
    try:
        parsed = Expression.parse(text)
    except ExpressionError as error:
        raise CommandError(_with_caret(text, error), "docs/rules.md describes the language.", Exit.USAGE) from None
    values = _values(file, tag)
    answer = parsed.evaluate(values)
    hints = _hints(parsed, answer, file)
    if as_json:
        shown = {name: values.get(name) for name in answer.read}
        print_json({"expression": text, **asdict(answer), "values": shown, "hints": hints})
    else:
        _print_answer(answer, values, hints)
    if answer.outcome == "failed":
        raise typer.Exit(Exit.FAILED)


def _condition(name: str) -> str:
    loaded = installation.configuration()
    found = next((rule.condition for rule in loaded.config.rules if rule.name == name), None)
    if found is None:
        known = f"Rules of the configuration: {', '.join(rule.name for rule in loaded.config.rules) or 'none'}."
        if name in loaded.broken_rules:
            message = f"rule {name!r} cannot be read: {loaded.broken_rules[name]}"
            raise CommandError(message, known, Exit.CONFIGURATION)
        raise CommandError(f"there is no rule {name!r}", known, Exit.USAGE)
    return found


def _with_caret(text: str, error: ExpressionError) -> str:
    """Print the expression with a mark under the column of its fault; return the message."""
    line = "".join(char if char.isprintable() else " " for char in text)
    start = max(0, error.column - 60)
    complain(f"  {line[start : start + 100]}")
    complain(f"  {' ' * (error.column - 1 - start)}^")
    return str(error)


def _values(file: Path | None, given: Sequence[str] | None) -> Tags:
    if file is None and not given:
        raise CommandError("give --file, --tag, or both", "See `mercure rules test --help`.", Exit.USAGE)
    additional = _additional_tags()
    values = _tags_of(file, additional) if file else {}
    for one in given or ():
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise CommandError(f"--tag {one!r} is not NAME=VALUE", "Write for example --tag Modality=CT.", Exit.USAGE)
        values[name] = value
    return Tags(values, tag_names(additional) if file else ())


def _tags_of(file: Path, additional: Sequence[str]) -> dict[str, str]:
    try:
        return {**read_tags(file, additional), "Filename": file.name}
    except MercureError as error:
        raise CommandError(f"{file}: {error}", "Give a DICOM file.") from None


def _additional_tags() -> tuple[str, ...]:
    """Return the tags that the receiver of this machine reads beside the standard ones; none without configuration."""
    try:
        return tuple(installation.configuration().config.receiver.additional_tags)
    except (ConfigError, CommandError):
        return ()


def _hints(rule: Expression, answer: Evaluation, file: Path | None) -> list[str]:
    """Say which tags no series can have for this rule, and which of those that are missing must be given by hand."""
    names = [name for name in map(readable_name, answer.missing) if name] if file else []
    found = _tags_of(file, names) if file and names else {}
    hints = [
        f"the file has {name}, but rules see it only when {ADDITIONAL_TAGS} names it" for name in names if name in found
    ]
    said = {name.lower() for name in found}
    unseen = unseen_tags(rule, _additional_tags())
    hints += [message for tag, message in unseen if tag.lower() not in said]
    origins = {name.lower(): name for name in RECEPTION_TAGS}
    missing = dict.fromkeys(origins[name.lower()] for name in answer.missing if name.lower() in origins)
    return hints + [
        f"{name} is known when a series comes and stands in no file: give --tag {name}=..." for name in missing
    ]


def _print_answer(answer: Evaluation, tags: Tags, hints: Sequence[str]) -> None:
    reason = f": {answer.reason}" if answer.reason else ""
    say(f"{_WORDS[answer.outcome]}{clean(reason)}")
    if answer.read or answer.missing:
        say()
        names = list(dict.fromkeys((*answer.read, *answer.missing)))
        rows = [(name, _shown(tags, name, answer)) for name in names]
        print_table([Column("TAG"), Column("VALUE", wraps=True, styles={"(missing)": "yellow"})], rows)
    for hint in hints:
        say(f"Hint: {clean(hint)}{'' if hint.endswith('?') else '.'}")


def _shown(tags: Tags, name: str, answer: Evaluation) -> str:
    value = tags.find(name)
    if value is None:
        return "(missing)"
    if tags.lacks(tags.exact_name(name) or ""):
        return '"" (missing: counts as empty)'
    return f'"{value}"' + (" (empty where a number is needed)" if name in answer.missing else "")


@app.command("try")
def try_(
    *,
    file: DicomFile = None,
    tag: GivenTags = None,
    as_json: JSON = False,
) -> None:
    """Ask every rule of the configuration, and show which jobs a series with these tags would become.

    Exit status 1: something would go to error/.
    """
    loaded = installation.configuration()
    rules = routing_rules(loaded)
    plan = make_plan(_values(file, tag), rules, target_states(loaded))
    if as_json:
        print_json({"rules": [asdict(trace) for trace in plan.trace], "jobs": [asdict(job) for job in plan.jobs]})
    else:
        _print_plan(plan, rules, loaded)
    if any(job.fail_stage for job in plan.jobs):
        raise typer.Exit(Exit.FAILED)


def _print_plan(plan: Plan, rules: Sequence[RoutingRule], loaded: Loaded) -> None:
    if not rules:
        say(f"{installation.configuration_file()} has no rules.")
    else:
        columns = [
            Column("RULE"),
            Column("ANSWER", styles={_WORDS[key]: style for key, style in _STYLES.items()}),
            Column("ACTION"),
            Column("TAGS", wraps=True),
            Column("WHY", wraps=True),
        ]
        rows = [
            (trace.rule, _WORDS[trace.outcome], rule.action, _tags_asked(trace), trace.reason)
            for trace, rule in zip(plan.trace, rules, strict=True)
        ]
        print_table(columns, rows)
    say()
    for job in plan.jobs:
        to = f" to {', '.join(job.targets)}" if job.targets else ""
        why = f" ({job.reason})" if job.reason else ""
        say(clean(f"-> {job.stage.value}/: {job.action}{to}{why}"))
    if loaded.problems:
        problems = counted(len(loaded.problems), "problem")
        complain(f"The configuration has {problems}; `mercure config check` shows what.")


def _tags_asked(trace: RuleTrace) -> str:
    names = dict.fromkeys((*trace.read, *trace.missing))
    return ", ".join(f"{name} (missing)" if name in trace.missing else name for name in names)
