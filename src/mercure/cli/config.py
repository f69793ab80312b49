"""`mercure config`: check, show, schema, import."""

import json
import os
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

from mercure.cli import installation
from mercure.cli.exits import CommandError, Exit
from mercure.cli.options import JSON, new_app
from mercure.cli.output import clean, complain, counted, print_json, say
from mercure.config.dump import dump
from mercure.config.files import unreadable_files
from mercure.config.imports import IS_DEFAULT, import_flat
from mercure.config.load import Loaded, load, read_object
from mercure.config.problems import InvalidConfigError, Problem, line_of, path_text
from mercure.config.schema_json import json_schema
from mercure.core.errors import ConfigError

app = new_app("Check, show and import the configuration.")


@app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="File to check; by default that of this machine.")
    ] = None,
    *,
    as_json: JSON = False,
) -> None:
    """Show every problem of a configuration, with path and line.

    Exit status 3: it cannot be used at all. 1: parts of it cannot be used. 0: at most warnings.
    """
    if file is not None and not os.path.lexists(file):
        raise CommandError(f"there is no file {file}", "Without FILE, that of this machine is checked.", Exit.USAGE)
    path = file or installation.configuration_file()
    loaded: Loaded | None = None
    problems: tuple[Problem, ...]
    try:
        loaded = load(path)
        problems = (*loaded.problems, *_file_problems(path, loaded))
    except InvalidConfigError as error:
        problems = error.problems
    except ConfigError as error:
        raise installation.unusable(path, error) from None
    if as_json:
        print_json(_report(path, loaded, problems))
    else:
        _print_problems(path, loaded, problems)
    if loaded is None:
        raise typer.Exit(Exit.CONFIGURATION)
    if any(problem.severity == "error" for problem in problems):
        raise typer.Exit(Exit.FAILED)


def _file_problems(path: Path, loaded: Loaded) -> list[Problem]:
    """Find the files of TLS that this user cannot read. The service may run as another user: no more than a warning."""
    missing = list(unreadable_files(loaded.config))
    lines = read_object(path.read_bytes()).lines if missing else {}
    return [Problem(path_text(one.path), str(one), "warning", "reference", line_of(one.path, lines)) for one in missing]


def _report(path: Path, loaded: Loaded | None, problems: tuple[Problem, ...]) -> dict[str, Any]:
    return {
        "file": path,
        "usable": loaded is not None,
        "taken_while_running": loaded is not None and not loaded.schema_errors,
        "form": loaded.form if loaded else None,
        "revision": loaded.revision if loaded else None,
        "problems": [
            {"severity": one.severity, "kind": one.kind, "line": one.line, "path": one.path, "message": one.message}
            for one in problems
        ],
    }


def _print_problems(path: Path, loaded: Loaded | None, problems: tuple[Problem, ...]) -> None:
    for problem in sorted(problems, key=lambda one: one.line or 0):
        place = f"{path}:{problem.line}" if problem.line else f"{path}"
        where = f"{problem.path}: " if problem.path else ""
        say(f"{place}: {problem.severity}: {clean(where + problem.message)}")
    if loaded is None:
        say(f"{path} cannot be used. Services that run keep the last good configuration; none can start with this one.")
        return
    config = loaded.config
    summary = f"{counted(len(config.rules), 'rule')} and {counted(len(config.targets), 'target')}"
    form = ", in the older flat form (`mercure config import` turns it into ours)" if loaded.form == "flat" else ""
    errors = sum(problem.severity == "error" for problem in problems)
    verdict = f"{counted(errors, 'error')}, {counted(len(problems) - errors, 'warning')}" if problems else "no problems"
    say(f"{path}: {verdict}; {summary}{form}.")
    if errors:
        _print_consequences(loaded)


def _print_consequences(loaded: Loaded) -> None:
    """Say what services that run, and what a start, would do with a file that has errors."""
    if not loaded.schema_errors:
        say("Services that run take this file. Series that need what it lacks wait in error/ until that is mended.")
        return
    kinds = (("rule", loaded.broken_rules), ("target", loaded.broken_targets), ("module", loaded.broken_modules))
    aside = ", ".join(f"{kind} {name!r}" for kind, names in kinds for name in names)
    say("Services that run refuse this file as a whole: they go on with the last good configuration.")
    say(clean(f"A start would set aside {aside} and work with the rest; series that need those would wait in error/."))


@app.command()
def show(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also show the keys that have their defaults.")] = False,
    as_json: JSON = False,
) -> None:
    """Show the configuration that holds, secrets masked: what differs from the defaults, or everything.

    With --json every key is printed, its default too.
    """
    loaded = installation.configuration()
    if as_json:
        print_json(dump(loaded.config))
        return
    context = {"secrets": "reference"}
    shown = loaded.config.model_dump(mode="json", context=context, exclude_defaults=not everything)
    for line in _lines(shown):
        say(line)
    for broken in (loaded.broken_rules, loaded.broken_targets, loaded.broken_modules):
        for name, reason in broken.items():
            complain(f"set aside: {clean(name)}: {clean(reason)}")


def _lines(value: Any, path: str = "") -> list[str]:
    """Return one line for each value: mercure.appliance_name = "master"."""
    if isinstance(value, dict) and value:
        inner = ((f"{path}.{key}" if path else str(key), item) for key, item in value.items())
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        inner = ((f"{path}[{index}]", item) for index, item in enumerate(value))
    else:
        return [f"{clean(path)} = {clean(json.dumps(value, ensure_ascii=False))}"]
    return [line for key, item in inner for line in _lines(item, key)]


@app.command()
def schema() -> None:
    """Print the JSON schema of the configuration, for editors."""
    print_json(json_schema())


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A configuration in the older flat form.", exists=True, dir_okay=False),
    ],
    *,
    output: Annotated[Path | None, typer.Option(metavar="OUT", help="File to write; by default stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Also list the keys that fall away because they say the default.")
    ] = False,
) -> None:
    """Turn a configuration in the older flat form into ours, and list the changes on stderr.

    The result holds the secrets of the file. An output file is readable by its owner only.
    """
    try:
        with open(file, "rb") as source:
            result, changes = import_flat(source.read())
    except InvalidConfigError as error:
        raise installation.unusable(file, error) from None
    except ConfigError as error:
        raise CommandError(f"{file}: {error}", status=Exit.CONFIGURATION) from None
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}", status=Exit.USAGE) from None
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        _write(output, text, replace=force)
    defaults = sum(change.endswith(IS_DEFAULT) for change in changes)
    for change in changes:
        if verbose or not change.endswith(IS_DEFAULT):
            complain(f"changed: {clean(change)}")
    complain(f"{counted(len(changes) - defaults, 'change')}." + (f" Written to {output}." if output else ""))
    if defaults:
        fall = "falls" if defaults == 1 else "fall"
        hint = "" if verbose else "; --verbose lists them"
        complain(f"{counted(defaults, 'key')} that said what is the default {fall} away{hint}.")


def _write(path: Path, text: str, *, replace: bool) -> None:
    """Write a file that appears whole or not at all, for its owner only."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.rename(draft, path)
            else:
                os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError:
        raise CommandError(f"{path} exists already", "Use --force to replace it, or name another file.") from None
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}", "Choose another folder.") from None
