"""Prints docs/commands.md from the commands themselves: `python -m mercure.cli.reference > docs/commands.md`."""

import inspect
import sys
from collections.abc import Iterator
from typing import Any

from mercure.cli.exits import MEANINGS
from mercure.cli.main import COMMANDS, load

_HEAD = """# Commands

`mercure` is one program with a command for each task; `mercure --help` and `mercure COMMAND --help` tell the same as
this page. It works on the configuration `mercure.json` in the folder that `MERCURE_CONFIG_FOLDER` names
(`/opt/mercure/config` without it; `MERCURE_CONFIG_FILE` names the file itself), and on the data folder that the
configuration names. Commands work beside running services, from any process and as any user that may read and write
the data folder: nothing but files connects them.

Data goes to stdout: as tables in colour on a terminal, as aligned text without colour in a pipe, as JSON with `--json`.
What went wrong is one line on stderr, with what to do about it. No command shows the name or the id of a patient,
except `rules`, which shows tags of the file that it was given. `MERCURE_DEBUG=true` adds the traceback of an error.

## Exit status

Every command uses the same numbers.

| Status | Meaning |
|---|---|
"""

_TAIL = """
## Examples

```sh
mercure config check                                    # is the configuration good? where not?
mercure rules test "tags.Modality == 'CT'" --file X.dcm # does this rule take this image, and why?
mercure rules try --file X.dcm                          # what would become of this series?
mercure run                                             # everything in one process
mercure run receiver                                    # one service; the others elsewhere, on the same folders
mercure queue list --stage error                        # what failed, and why
mercure queue retry --all-failed                        # the target is back
mercure queue hold --stage outgoing                     # send nothing for now
mercure queue list --json | jq '.jobs[] | select(.state == "deferred") | .job'
mercure send ~/images --to pacs.hospital.org:104 --called PACS --associations 4
mercure modules add segment --docker-tag example.org/segment:1.2 --gpus 1
mercure modules add report --command /opt/report/bin/report -- --short
mercure modules test segment --input ~/images --output ~/made --settings '{"threshold": 0.7}'
mercure doctor                                          # what is wrong here?
```
"""


def reference() -> str:
    """Return the whole page."""
    table = "".join(f"| {status.value} | {meaning} |\n" for status, meaning in MEANINGS.items())
    commands = "".join(part for name in COMMANDS for part in _described(load(name), f"mercure {name}", level=2))
    return _HEAD + table + commands + _TAIL


def _described(command: Any, name: str, *, level: int) -> Iterator[str]:
    subcommands: dict[str, Any] = getattr(command, "commands", {})
    yield f"\n{'#' * level} `{name}`\n\n{inspect.cleandoc(command.help or '')}\n"
    if not subcommands:
        yield from _parameters(command, name)
    for word, subcommand in subcommands.items():
        yield from _described(subcommand, f"{name} {word}", level=level + 1)


def _parameters(command: Any, name: str) -> Iterator[str]:
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    arguments = [parameter for parameter in shown if parameter.param_type_name == "argument"]
    options = [parameter for parameter in shown if parameter.param_type_name == "option"]
    words = [name, *(_metavar(one) for one in arguments), *(["[OPTIONS]"] if options else [])]
    yield f"\n```\n{' '.join(words)}\n```\n"
    rows = [(f"`{_metavar(one)}`", one) for one in arguments] + [(f"`{_spelt(one)}`", one) for one in options]
    if rows:
        yield "\n| | |\n|---|---|\n"
    for left, parameter in rows:
        yield f"| {left} | {parameter.help}{_default(parameter)} |\n"


def _metavar(argument: Any) -> str:
    if argument.metavar:
        return str(argument.metavar)
    name = argument.name.upper()
    return name if argument.required else f"[{name}]"


def _spelt(option: Any) -> str:
    spelling = ", ".join(option.opts)
    return spelling if option.is_flag else f"{spelling} {option.metavar or option.name.upper()}"


def _default(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False) or parameter.default in (None, ""):
        return " Required." if parameter.required and parameter.param_type_name == "option" else ""
    return f" Default: `{parameter.default}`."


if __name__ == "__main__":
    sys.stdout.write(reference())
