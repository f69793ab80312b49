"""What an expected error says to do, and the exit status that it ends with."""

from pathlib import Path

from mercure.cli.exits import Exit, as_command_error
from mercure.config.write_access import CannotSaveError
from mercure.core.errors import ConfigError


def test_a_configuration_that_cannot_be_written_has_a_remedy_for_that_and_not_for_its_content(tmp_path: Path) -> None:
    error = CannotSaveError(tmp_path / "mercure.json", OSError(28, "No space left on device"))
    found = as_command_error(error)
    assert (found.status, found.remedy) == (Exit.CONFIGURATION, f"Make room on the file system of {tmp_path}.")
    assert str(found) == f"{tmp_path / 'mercure.json'} cannot be saved: No space left on device"


def test_a_fault_of_the_configuration_is_shown_by_its_check() -> None:
    found = as_command_error(ConfigError("unknown key"))
    assert (found.status, found.remedy) == (Exit.CONFIGURATION, "`mercure config check` shows every problem.")
