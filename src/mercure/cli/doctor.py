"""`mercure doctor`: everything that can be wrong with an installation, each finding with its remedy."""

from typing import Any

import typer

from mercure.cli import installation
from mercure.cli.doctor_findings import Finding
from mercure.cli.doctor_folders import folder_findings
from mercure.cli.doctor_machine import machine_findings
from mercure.cli.doctor_modules import module_findings
from mercure.cli.doctor_network import port_findings, target_findings
from mercure.cli.exits import CommandError, Exit
from mercure.cli.options import JSON, new_app
from mercure.cli.output import clean, counted, is_terminal, print_json, say
from mercure.config.dump import dump
from mercure.config.files import unreadable_files
from mercure.config.load import Loaded, load
from mercure.config.problems import InvalidConfigError, path_text
from mercure.config.schema import Config
from mercure.config.secrets import MASK
from mercure.core.errors import ConfigError

app = new_app()

_COLOURS = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "error": typer.colors.RED}


@app.command()
def doctor(*, as_json: JSON = False) -> None:
    """Examine this installation: configuration, folders, disk, ports, targets, modules, limits, clock. Changes nothing.

    Run it as the user of the services, beside them or before their start. Exit status 1: a finding is an error.
    """
    findings = _examine()
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        print_json({"ok": not errors, "findings": [finding.to_json() for finding in findings]})
    else:
        for finding in findings:
            _print(finding)
        warnings = sum(finding.severity == "warning" for finding in findings)
        say()
        say(f"{counted(errors, 'error')}, {counted(warnings, 'warning')}, {len(findings)} checks in all.")
    if errors:
        raise typer.Exit(Exit.FAILED)


def _examine() -> list[Finding]:
    loaded, findings = _configuration()
    if loaded is None:
        return [*findings, *machine_findings(Config())]
    findings += folder_findings(loaded.config)
    findings += port_findings(loaded.config)
    findings += target_findings(loaded)
    findings += module_findings(loaded)
    return [*findings, *machine_findings(loaded.config)]


def _configuration() -> tuple[Loaded | None, list[Finding]]:
    path = installation.configuration_file()
    try:
        loaded = load(path)
    except InvalidConfigError as error:
        remedy = f"Mend {path}; no service can start with it."
        return None, [Finding("configuration", "error", str(problem), remedy) for problem in error.problems]
    except ConfigError as error:
        found: CommandError = installation.unusable(path, error)
        return None, [Finding("configuration", "error", str(found), found.remedy)]
    findings = [
        Finding("configuration", problem.severity, str(problem), f"Mend {path}.") for problem in loaded.problems
    ]
    remedy = f"Put it there, readable by the user of the services, or mend {path}."
    findings += [
        Finding("configuration", "error", f"{path_text(one.path)}: {one}", remedy)
        for one in unreadable_files(loaded.config)
        if one.path[0] == "receiver"
    ]
    if not loaded.config.rules and not loaded.broken_rules:
        message = "there are no rules: every series is discarded"
        findings.append(Finding("configuration", "warning", message, "Add rules; docs/rules.md describes them."))
    if path.stat().st_mode & 0o004 and _holds(dump(loaded.config), MASK):
        message = f"{path} holds secrets and can be read by everybody"
        findings.append(Finding("configuration", "warning", message, f"chmod o-r {path}"))
    return loaded, findings or [Finding("configuration", "ok", f"{path} has no problems")]


def _holds(value: Any, what: str) -> bool:
    if isinstance(value, dict):
        return any(_holds(item, what) for item in value.values())
    if isinstance(value, list):
        return any(_holds(item, what) for item in value)
    return isinstance(value, str) and what in value


def _print(finding: Finding) -> None:
    mark = f"{finding.severity:<7}"
    if is_terminal():
        mark = typer.style(mark, fg=_COLOURS[finding.severity], bold=finding.severity == "error")
    say(f"{mark}  {finding.check}: {clean(finding.message)}")
    if finding.remedy and finding.severity != "ok":
        say(f"         Remedy: {clean(finding.remedy)}")
