"""The configuration file while services run: watched, replaced only by something good, saved without lost updates."""

import json
import os
import stat
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mercure.config.dump import with_secrets
from mercure.config.environment import config_path
from mercure.config.json_text import MAXIMUM_BYTES
from mercure.config.load import Loaded, parse, revision_of
from mercure.config.problems import InvalidConfigError, Problem
from mercure.config.write_access import CannotSaveError, exclusive
from mercure.core.errors import ConfigError

__all__ = ["ConfigStore", "Rejection", "config_path"]

Signature = tuple[int, int, int, int]


@dataclass(frozen=True)
class Rejection:
    """A version of the file that was not taken. `at` is the time of the file; None, and no revision, if it has gone."""

    problems: tuple[Problem, ...]
    at: datetime | None
    revision: str

    def __str__(self) -> str:
        return "; ".join(str(problem) for problem in self.problems)


class ConfigStore:
    """One configuration file. May be shared by threads; `save` also excludes other processes."""

    def __init__(self, path: Path) -> None:
        """Read nothing yet."""
        self.path = path
        self._lock = threading.RLock()
        self._current: Loaded | None = None
        self._rejected: Rejection | None = None
        self._seen: Signature | None = None
        self._is_confirmed = False

    @property
    def current(self) -> Loaded:
        """The configuration that holds; read at first use. Raises ConfigError if that fails."""
        with self._lock:
            return self._current or self.load()

    @property
    def rejected(self) -> Rejection | None:
        """The version of the file that was not taken, as long as it stands there.

        It is the same object for the same version: who reports it compares by identity, and reports once.
        """
        return self._rejected

    def load(self) -> Loaded:
        """Read the file and take it, also with entries set aside. Raises ConfigError when it cannot be used."""
        with self._lock:
            try:
                content, self._seen = _read(self.path)
            except OSError as error:
                raise ConfigError(f"{self.path} cannot be read: {error.strerror}") from None
            self._is_confirmed = False
            self._current = parse(content)
            self._rejected = None
            return self._current

    def poll(self) -> Loaded | None:
        """Return the new configuration when there is a good one, else None. One stat when nothing has changed.

        A file with any error in itself is not taken: `rejected` then says why, and the last good one holds.
        """
        with self._lock:
            if self._current is None:
                return self.load()
            try:
                if _signature(os.stat(self.path)) == self._seen and self._is_confirmed:
                    return None
                content, seen = _read(self.path)
            except OSError as error:
                self._seen = None
                self._reject(Problem("", f"{self.path} cannot be read: {error.strerror}"))
                return None
            # A change in the same tick of the clock leaves the signature as it is: look once more next time.
            self._is_confirmed = seen is not None and seen == self._seen
            self._seen = seen
            return self._consider(content, seen) if seen is not None else None

    def save(self, config_json: dict[str, Any], expected_revision: str) -> str:
        """Replace the file and return its new revision; durable on return. `poll` takes it up like any other change.

        `expected_revision` is that of the version that was edited, empty for a file that must not exist yet. Masks in
        the place of secrets stand for the secrets of that version. Raises ConfigError when the file was changed in
        between, or when the new content has errors in itself; `CannotSaveError` when it cannot be written.
        """
        try:
            with self._lock, exclusive(self.path) as path:
                return _replace(path, config_json, expected_revision)
        except OSError as error:
            raise CannotSaveError(self.path, error) from None

    def _consider(self, content: bytes, seen: Signature) -> Loaded | None:
        revision = revision_of(content)
        if self._current is not None and revision == self._current.revision:
            self._rejected = None
            return None
        if self._rejected is not None and revision == self._rejected.revision:
            return None
        try:
            loaded = parse(content)
        except InvalidConfigError as error:
            problems = error.problems
        else:
            problems = loaded.schema_errors
            if not problems:
                self._current, self._rejected = loaded, None
                return loaded
        self._reject(*problems, revision=revision, at=_time(seen))
        return None

    def _reject(self, *problems: Problem, revision: str = "", at: datetime | None = None) -> None:
        found = Rejection(problems, at, revision)
        self._rejected = self._rejected if self._rejected == found else found


def _signature(found: os.stat_result) -> Signature:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _time(signature: Signature) -> datetime:
    return datetime.fromtimestamp(signature[2] // 1_000_000_000, UTC)


def _read(path: Path) -> tuple[bytes, Signature | None]:
    """Return the content and the signature it belongs to; None when the file changed while it was read."""
    with open(path, "rb") as file:
        before = _signature(os.fstat(file.fileno()))
        content = file.read(MAXIMUM_BYTES + 1)
        return content, before if _signature(os.fstat(file.fileno())) == before else None


def _replace(path: Path, config_json: dict[str, Any], expected_revision: str) -> str:
    """Check and write, under the lock."""
    try:
        old: bytes | None = path.read_bytes()
    except FileNotFoundError:
        old = None
    if (revision_of(old) if old is not None else "") != expected_revision:
        raise ConfigError(f"{path} was changed in between: read it again and repeat the change")
    content = _checked_text(config_json, old)
    if content != old:
        _write(path, content)
    return revision_of(content)


def _checked_text(config_json: dict[str, Any], old: bytes | None) -> bytes:
    if old is not None:
        with suppress(ConfigError):  # what cannot be read has no secrets that a mask could stand for
            config_json = with_secrets(config_json, parse(old).config)
    try:
        content = (json.dumps(config_json, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError, RecursionError):
        raise ConfigError("the configuration cannot be written as JSON") from None
    if problems := parse(content).schema_errors:
        raise InvalidConfigError(problems)
    return content


def _write(path: Path, content: bytes) -> None:
    """Write a draft, make it durable and rename it over the file. Mode and owner stay; a new file is private."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)  # of a process that died; we hold the lock
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            _like(path, file.fileno())
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _like(path: Path, descriptor: int) -> None:
    """Give a draft the owner and mode of the file that it replaces."""
    with suppress(FileNotFoundError):
        old = path.stat()
        with suppress(PermissionError):  # only root may give a file away
            os.fchown(descriptor, old.st_uid, old.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
