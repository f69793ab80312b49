"""The top level: help, unknown commands, and what becomes of errors."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.cli.site import COMMAND, Site

from mercure import __version__
from mercure.cli.exits import CommandError, Exit, as_command_error
from mercure.cli.main import COMMANDS, load
from mercure.core.errors import ConfigError, PermanentError, SpoolError


def test_the_help_names_every_command_and_is_quick(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured in time of the processor, so that a busy machine changes nothing; and without measuring coverage."""
    monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = site.process("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert answer.status == 0
    assert all(f"\n  {name} " in answer.out for name in COMMANDS)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 0.3


def test_the_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, mercure.cli.main as m\n"
        "try: m.app(['--help'], prog_name='mercure')\n"
        "except SystemExit: pass\n"
        "print([n for n in ('pydantic', 'pydicom', 'rich', 'mercure.app', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_can_be_loaded_and_describes_itself(name: str, site: Site) -> None:
    assert load(name).help
    answer = site(name, "--help")
    assert answer.status == 0
    assert f"Usage: mercure {name}" in answer.out


def test_an_unknown_command_is_a_usage_error_with_a_guess(site: Site) -> None:
    answer = site("quue")
    assert answer.status == Exit.USAGE
    assert "queue" in answer.err
    assert answer.out == ""


def test_the_version_is_printed_for_people_and_programs(site: Site) -> None:
    assert site("version").out == site("--version").out == f"mercure {__version__}\n"
    assert site("--version").status == Exit.OK
    assert site("version", "--json").json["mercure"] == __version__


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("no"), Exit.CONFIGURATION),
        (SpoolError("no"), Exit.DATA_FOLDER),
        (PermissionError(13, "Permission denied", "/data"), Exit.DATA_FOLDER),
        (PermanentError("no"), Exit.FAILED),
        (CommandError("no", "Do so.", Exit.PORT), Exit.PORT),
    ],
)
def test_every_expected_error_has_its_exit_status(error: Exception, status: Exit) -> None:
    assert isinstance(error, ConfigError | SpoolError | OSError | PermanentError | CommandError)
    assert as_command_error(error).status == status


def test_an_error_is_one_line_with_a_remedy_and_no_traceback(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.config_file.unlink()
    answer = site.process("config", "show")
    assert answer.status == Exit.CONFIGURATION
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert str(site.config_file) in answer.err
    assert "MERCURE_CONFIG_FOLDER" in answer.err
    assert "Traceback" not in answer.err


def test_debugging_adds_the_traceback(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.config_file.unlink()
    answer = site.process("config", "show", MERCURE_DEBUG="true")
    assert answer.status == Exit.CONFIGURATION
    assert "Traceback" in answer.err


def test_a_reader_that_goes_away_is_no_error(site: Site) -> None:
    program = " ".join(COMMAND)
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program} config schema | head -c 10"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
