"""Who may save the configuration: what root did must not keep the owner of the folder from it."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mercure.config.write_access import CannotSaveError, exclusive

SERVICE = 12345
SAVE = """
import os, sys
from pathlib import Path
from mercure.config.store import ConfigStore
from mercure.config.write_access import CannotSaveError
path, user = Path(sys.argv[1]), int(sys.argv[2])
store = ConfigStore(path)
revision = store.current.revision  # as root: the interpreter may be closed to others, and loads some parts late
if os.geteuid() != user:
    os.setgroups([])
    os.setgid(int(sys.argv[3]))
    os.setuid(user)
try:
    store.save({"mercure": {"retention_days": user % 10 + 1}}, revision)
except CannotSaveError as error:
    print(error, error.remedy, sep="\\n")
"""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that other users can reach; those of pytest are closed to them."""
    monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)  # another user may not write there
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        config = Path(folder) / "config"
        config.mkdir()
        (config / "mercure.json").write_text("{}")
        yield config
        as_root("chown", "-R", str(os.geteuid()), str(config))


def as_root(*command: str) -> str:
    prefix = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    done = subprocess.run([*prefix, *command], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def save_as(user: int, folder: Path, group: int = SERVICE) -> list[str]:
    """Save as somebody; return the error and its remedy, nothing when it worked."""
    arguments = (str(folder / "mercure.json"), str(user), str(group))
    return as_root(sys.executable, "-c", SAVE, *arguments).splitlines()


def lock_of(folder: Path) -> Path:
    return folder / ".mercure.json.lock"


def test_after_root_has_saved_first_the_owner_of_the_folder_can_save(folder: Path) -> None:
    as_root("chown", "-R", f"{SERVICE}:{SERVICE}", str(folder))
    assert save_as(0, folder) == []
    assert save_as(SERVICE, folder) == []
    assert '"retention_days": 6' in as_root("cat", str(folder / "mercure.json"))
    assert as_root("stat", "-c", "%u:%g %a", str(lock_of(folder))) == f"{SERVICE}:{SERVICE} 600\n"


@pytest.mark.parametrize("first", [0, SERVICE, SERVICE + 1])
def test_all_can_save_who_may_write_to_the_folder_by_its_group(folder: Path, first: int) -> None:
    as_root("chown", "-R", f"0:{SERVICE}", str(folder))
    as_root("chmod", "-R", "g+rwX", str(folder))
    for user in (first, 0, SERVICE, SERVICE + 1):
        assert save_as(user, folder) == []


def test_a_lock_that_root_has_left_is_named_with_the_command_that_helps(folder: Path) -> None:
    as_root("chown", "-R", f"{SERVICE}:{SERVICE}", str(folder))
    lock = lock_of(folder)
    as_root("install", "-m", "600", "/dev/null", str(lock))
    error, remedy = save_as(SERVICE, folder)
    assert error == f"{folder / 'mercure.json'} cannot be saved: {lock}: Permission denied"
    how, _, command = remedy.partition(": ")
    assert how == "As root"
    as_root(*command.split())
    assert save_as(SERVICE, folder) == []


def test_a_folder_of_somebody_else_is_named(folder: Path) -> None:
    folder.chmod(0o755)
    as_root("chown", "-R", "0:0", str(folder))
    as_root("chmod", "644", str(folder / "mercure.json"))
    error, remedy = save_as(SERVICE, folder)
    assert "Permission denied" in error
    assert remedy == f"Run this as a user who may write to {folder}."


def test_a_link_in_the_place_of_the_lock_is_not_followed(folder: Path) -> None:
    lock_of(folder).symlink_to(folder / "elsewhere")
    with pytest.raises(OSError, match="symbolic"), exclusive(folder / "mercure.json"):
        pass
    assert not (folder / "elsewhere").exists()


def test_the_lock_is_for_its_owner_only_where_the_folder_is(folder: Path) -> None:
    folder.chmod(0o755)
    with exclusive(folder / "mercure.json") as path:
        assert path == folder / "mercure.json"
    assert stat.S_IMODE(lock_of(folder).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(28, "No space left on device"), "Make room on the file system of {0}."),
        (OSError(30, "Read-only file system"), "Mount {0} read-write."),
        (OSError(5, "Input/output error"), "Examine {0}."),
    ],
)
def test_each_trouble_has_its_remedy(tmp_path: Path, error: OSError, remedy: str) -> None:
    found = CannotSaveError(tmp_path / "mercure.json", error)
    assert str(found) == f"{tmp_path / 'mercure.json'} cannot be saved: {error.strerror}"
    assert found.remedy == remedy.format(tmp_path)


def test_a_missing_folder_is_to_be_made(tmp_path: Path) -> None:
    missing = tmp_path / "none" / "mercure.json"
    error = FileNotFoundError(2, "No such file or directory", str(missing))
    assert CannotSaveError(missing, error).remedy == f"Make the folder {missing.parent}."
