"""Images of modules: which one runs under a name, and when the registry is asked for a newer one.

Images are pulled and nothing else: no image of the host is ever tagged, pruned or removed.
"""

import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mercure.core.errors import CancelledError, MercureError, PermanentError, TransientError
from mercure.core.processing import PullPolicy
from mercure.runners.docker_engine import DockerEngine, EngineAwayError, MissingError, refusal

PULL_INTERVAL_SECONDS: Final = 3600.0

_PART = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
_NAME = re.compile(
    rf"(?P<repository>(?:{_HOST}/)?{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_ID = re.compile(r"sha256:[0-9a-f]{64}")
_MAXIMUM_NAME = 512
_TICK_SECONDS = 0.25
_NOT_THERE = re.compile(r"not found|manifest unknown|denied|unauthorized|no matching manifest", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image as it is on the engine's machine. `digest` is the registry's, or the id of one that has none."""

    id: str
    digest: str
    stop_signal: str
    variables: frozenset[str]
    """Names of the variables that the image sets."""


@dataclass(eq=False, slots=True)
class _Pull:
    """A pull that goes on, on a thread of its own: nobody who waits for it must wait as long as a registry likes."""

    ended: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None
    waiting: int = 0
    """How many wait for it. One that nobody waits for any more is left to its end, and no later one joins it."""


@dataclass(slots=True)
class _Pulled:
    lock: threading.Lock = field(default_factory=threading.Lock)
    at: float | None = None
    going_on: _Pull | None = None


class Images:
    """The images of modules on one engine. Safe to use from many threads; several never pull one image at once."""

    def __init__(self, engine: DockerEngine, *, pull_interval_seconds: float = PULL_INTERVAL_SECONDS) -> None:
        """When an image was pulled is known to this process only: a service that starts anew asks once."""
        self._engine = engine
        self._interval_seconds = pull_interval_seconds
        self._lock = threading.Lock()
        self._pulls: dict[str, _Pulled] = defaultdict(_Pulled)

    def get(self, name: str, policy: PullPolicy, stopped: Callable[[], str] = lambda: "") -> LocalImage:
        """Return the image that runs under this name, pulled as the policy says.

        With `always` the registry is asked once an hour, and an image that is here is taken when that fails. Raises
        `PermanentError` (no valid name, no such image), `TransientError` (engine or registry away) or `CancelledError`
        when `stopped` says a reason while a pull is waited for.
        """
        check_image_name(name)
        if policy == "always":
            self._renew(name, stopped)
        try:
            return self._inspect(name)
        except MissingError:
            if policy == "never":
                raise PermanentError(f"image {name} is not on this machine, and may not be pulled") from None
        return self.pull(name, stopped)

    def pull(self, name: str, stopped: Callable[[], str] = lambda: "") -> LocalImage:
        """Ask the registry for this image now. Raises as `get` does."""
        check_image_name(name)
        entry = self._entry(name)
        with entry.lock:
            pull = self._joined(name, entry)
        _wait_for(pull, entry, stopped)
        try:
            return self._inspect(name)
        except MissingError:  # An engine that is shut down ends a pull as if it were whole.
            raise TransientError(f"pulling image {name}: it is not there after the pull") from None

    def _renew(self, name: str, stopped: Callable[[], str]) -> None:
        """Pull unless that was tried within the hour; a failure counts as tried when the image is here."""
        entry = self._entry(name)
        with entry.lock:
            if entry.at is not None and time.monotonic() - entry.at < self._interval_seconds:
                return
            pull = self._joined(name, entry)
        try:
            _wait_for(pull, entry, stopped)
        except (EngineAwayError, CancelledError):
            raise
        except MercureError as error:
            if not self._is_here(name):
                raise error from None
            with entry.lock:
                entry.at = time.monotonic()

    def _joined(self, name: str, entry: _Pulled) -> _Pull:
        """Return the pull of this image that goes on, or a new one, waited for by one more. The entry is locked."""
        if entry.going_on is None:
            pull = _Pull()
            try:
                threading.Thread(target=self._work, args=(name, entry, pull), name="pull", daemon=True).start()
            except RuntimeError as error:
                raise TransientError(f"no thread can be started: {error}") from error
            entry.going_on = pull
        entry.going_on.waiting += 1
        return entry.going_on

    def _work(self, name: str, entry: _Pulled, pull: _Pull) -> None:
        try:
            self._pull(name)
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            pull.error = error
        with entry.lock:
            if pull.error is None:
                entry.at = time.monotonic()
            if entry.going_on is pull:
                entry.going_on = None
        pull.ended.set()

    def _entry(self, name: str) -> _Pulled:
        with self._lock:
            return self._pulls[name]

    def _pull(self, name: str) -> None:
        if _ID.fullmatch(name):
            raise PermanentError(f"image {name} is named by its id, and no registry knows that")
        repository, tag = _split(name)
        what = f"pulling image {name}"
        try:
            with self._engine.asked(what) as api:
                for line in api.pull(repository, tag=tag, stream=True, decode=True):
                    if isinstance(line, Mapping) and line.get("error"):
                        text = str(line["error"])
                        raise refusal(what, 404 if _NOT_THERE.search(text) else 500, text)
        except TransientError as error:
            # Engines answer 500 also when the registry said clearly that it has no such image.
            if _NOT_THERE.search(str(error)) and not isinstance(error, EngineAwayError):
                raise PermanentError(str(error)) from None
            raise

    def _is_here(self, name: str) -> bool:
        try:
            self._inspect(name)
        except MissingError:
            return False
        return True

    def _inspect(self, name: str) -> LocalImage:
        with self._engine.asked(f"looking for image {name}") as api:
            found = api.inspect_image(name)
        return _image(found, name)


def _wait_for(pull: _Pull, entry: _Pulled, stopped: Callable[[], str]) -> None:
    """Wait for the end of a pull, and raise what it raised, or `CancelledError` when `stopped` gives a reason."""
    try:
        while not pull.ended.wait(_TICK_SECONDS):
            if why := stopped():
                raise CancelledError(why)
    finally:
        with entry.lock:
            pull.waiting -= 1
            if not pull.waiting and entry.going_on is pull:
                entry.going_on = None
    if pull.error is not None:
        raise pull.error


def check_image_name(name: str) -> None:
    """Raise `PermanentError` unless this is the name of an image: `registry:5000/path/name:tag@sha256:...`."""
    if len(name) > _MAXIMUM_NAME or not (_NAME.fullmatch(name) or _ID.fullmatch(name)):
        raise PermanentError("the name of the image is not valid")


def _split(name: str) -> tuple[str, str]:
    """Return repository and tag (or digest): without one the engine would pull every tag that there is."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise PermanentError("the name of the image is not valid")
    return found["repository"], found["digest"] or found["tag"] or "latest"


def _image(found: Mapping[str, Any], name: str) -> LocalImage:
    config = found.get("Config") or {}
    variables = frozenset(str(entry).partition("=")[0] for entry in config.get("Env") or ())
    identity = str(found["Id"])
    return LocalImage(identity, _digest(found, name) or identity, str(config.get("StopSignal") or ""), variables)


def _digest(found: Mapping[str, Any], name: str) -> str:
    """Return the digest under which the registry of this name knows the image, or of any other registry, or ""."""
    matched = _NAME.fullmatch(name)
    wanted = matched["repository"] if matched else ""
    digests = [str(entry) for entry in found.get("RepoDigests") or ()]
    own = [entry for entry in digests if entry.partition("@")[0].removeprefix("docker.io/library/") == wanted]
    return next(iter(own + digests), "").partition("@")[2]
