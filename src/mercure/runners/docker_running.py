"""A container that runs a module, followed by one thread: its output as it comes, and then its end."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from mercure.core.errors import MercureError, PermanentError, TransientError
from mercure.core.processing import RunOrder
from mercure.runners.docker_ends import came_back_with_its_modules, exit_code, how_it_ended
from mercure.runners.docker_engine import (
    ConflictError,
    DockerEngine,
    EngineAwayError,
    MissingError,
    break_stream,
    close_stream,
    remove_container,
)

ENGINE_GRACE_SECONDS: Final = 30.0
"""An engine that is upgraded comes back within this time; with live restore its containers go on meanwhile."""

SIGNAL_SECONDS: Final = 5.0
"""An engine that does not take a signal in this time hangs: who cancels a job does not wait for it."""

_KILL_SECONDS = 15.0
"""The engine answers only when it has seen the end of what it killed, which it waits 10 s for."""

_HUNG_SECONDS = 0.5
"""An engine that has just hung gets this long. What it did not take is done when it is back."""

_FOLLOWER_SECONDS = 10.0
_PAUSES_AT_END = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Between the end of the log and the end of the container, before the log is looked at again."""

_REMOVED = "the container of the module was removed while it ran"

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0
_MOST_BREAKS = 10
"""So often in a row the output may break off, for reasons of the SDK alone, without a byte of it having come."""


@dataclass(frozen=True, slots=True)
class Followed:
    """A container, what runs in it, and the signal that asks it to end."""

    id: str
    image_digest: str
    stop_signal: str


class DockerRunning:
    """`Running` of `core.processing` for a container that was started."""

    def __init__(
        self,
        engine: DockerEngine,
        container: Followed,
        output: Callable[[bytes], None],
        *,
        attached: Any = None,
        grace_seconds: float = ENGINE_GRACE_SECONDS,
        owed: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Begin to follow the container, from the first byte of its output.

        `attached` is the stream of its output, opened before the start; without one the engine's log is read. `owed`
        is told the id of a container that could not be removed because the engine was away.
        """
        self._engine = engine
        self._container = container
        self._output = output
        self._grace_seconds = grace_seconds
        self._owed = owed
        self._ended = threading.Event()
        self._left = threading.Event()
        self._lock = threading.Lock()
        self._stream: Any = attached
        self._attached = attached is not None
        self._delivered = 0
        self._code: int | None = None
        self._failure: MercureError | None = None
        self._away_since: float | None = None
        self._breaks = 0
        self._asked_to_end = False
        self._hangs = False
        self._thread = threading.Thread(target=self._follow, name=f"docker-{container.id[:12]}", daemon=True)
        self._thread.start()

    @property
    def image_digest(self) -> str:
        """The digest of the image as its registry has it, or its id."""
        return self._container.image_digest

    def wait(self, seconds: float) -> int | None:
        """Wait so long for the end; return the exit code, or None while it runs. See `Running.wait`.

        Everything that the module wrote has been given to the order's `output` when a code is returned. An engine
        that is away for a short time only is waited for.
        """
        self._ended.wait(seconds)
        if self._failure is not None:
            raise self._failure
        if self._ended.is_set():
            return self._code
        away = self._away_since
        if away is not None and time.monotonic() - away >= self._grace_seconds:
            raise EngineAwayError("the Docker engine went away while the module ran")
        return None

    def stop(self) -> None:
        """Ask the module to end, with the signal that it or its image names, SIGTERM otherwise. Returns at once."""
        self._signal(self._container.stop_signal or "SIGTERM", SIGNAL_SECONDS)

    def kill(self) -> None:
        """End all that runs in the container."""
        self._signal("SIGKILL", _KILL_SECONDS)

    def leave(self) -> None:
        """Stop following; the container goes on where `adopt` finds it."""
        self._left.set()
        with self._lock:
            if self._stream is not None:
                break_stream(self._stream)
        self._thread.join(_HUNG_SECONDS if self._hangs else _FOLLOWER_SECONDS)

    def close(self) -> None:
        """Remove the container, ended if it still runs. Raises `TransientError` when the engine is away."""
        try:
            if not self._ended.is_set():
                self.kill()
                self._thread.join(_FOLLOWER_SECONDS)
            remove_container(self._engine, self._container.id)
        except TransientError:
            self._owed(self._container.id)
            raise
        finally:
            self.leave()

    def _signal(self, name: str, seconds: float) -> None:
        """Raises `EngineAwayError` when the engine does not take the signal in time; it may take it later."""
        self._asked_to_end = True
        seconds = _HUNG_SECONDS if self._hangs else seconds
        connecting = min(seconds, SIGNAL_SECONDS)
        began = time.monotonic()
        try:
            # A container that has ended, or is gone, needs no signal.
            with (
                suppress(ConflictError, MissingError),
                self._engine.asked("ending a module", connecting_seconds=connecting) as api,
            ):
                api.signal_container(self._container.id, name, seconds)
        except EngineAwayError:
            self._hangs = time.monotonic() - began >= connecting
            raise
        self._hangs = False

    # -- on the thread -----------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._left.is_set():
            try:
                if self._follow_to_the_end():
                    return
                pause = _FIRST_PAUSE_SECONDS
            except TransientError:
                self._away_since = self._away_since or time.monotonic()
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            except PermanentError:
                self._fail(_REMOVED)
                return
            except Exception as error:  # noqa: BLE001 - the SDK raises what it likes when a connection breaks
                self._breaks += 1
                if self._breaks > _MOST_BREAKS:
                    self._fail(f"the module could not be followed any more ({type(error).__name__})")
                    return
            self._left.wait(pause)

    def _follow_to_the_end(self) -> bool:
        """Give the output that comes; return whether the module has ended, and how is known."""
        of_log = not self._attached
        self._read_output()
        state = self._state_at_end()
        if state is None:
            self._away_since = None
            return False
        counts = self._counts(state)
        self._away_since = None
        if of_log:
            self._read_log(follow=False)
        self._end(state, counts=counts)
        return True

    def _fail(self, why: str) -> None:
        self._failure = TransientError(why)
        self._ended.set()

    def _read_output(self) -> None:
        """Give what the module wrote to `output`, from where an earlier connection broke, until the stream ends.

        Bytes come from the stream that was open before the start. When that breaks, or another service opened it,
        the log that the engine keeps is read, which is bounded and may lag behind the end of the container.
        """
        if self._attached:
            self._attached = False
            self._pass_on(0)
        else:
            self._read_log(follow=True)

    def _read_log(self, *, follow: bool) -> None:
        with self._engine.asked("reading the output of a module") as api:
            stream = api.logs(self._container.id, stdout=True, stderr=True, stream=True, follow=follow)
            self._away_since = None
            with self._lock:
                self._stream = stream
                if self._left.is_set():
                    break_stream(stream)
            self._pass_on(self._delivered)

    def _pass_on(self, known: int) -> None:
        """Read the stream to its end, without the first bytes, which are known."""
        try:
            for chunk in self._stream:
                if self._left.is_set():
                    break
                fresh = chunk[known:]
                known -= len(chunk) - len(fresh)
                if fresh:
                    self._output(fresh)
                    self._delivered += len(fresh)
                    self._breaks = 0
        finally:
            with self._lock:
                stream, self._stream = self._stream, None
            close_stream(stream)

    def _state_at_end(self) -> dict[str, Any] | None:
        """Return the state of the container when it has ended; None: it still runs."""
        for pause in _PAUSES_AT_END:
            if self._left.wait(pause):
                return None
            with self._engine.asked("asking for the end of a module") as api:
                state: dict[str, Any] = api.inspect_container(self._container.id)["State"]
            if state.get("Status") in ("exited", "dead"):
                return state
        return None

    def _counts(self, state: dict[str, Any]) -> bool:
        """Whether the exit code is the module's own: it ended by itself, or because it was asked to through us."""
        if self._asked_to_end or state.get("OOMKilled"):
            return True
        end = how_it_ended(self._engine, self._container.id, state)
        return end == "by itself" or (end == "unseen" and came_back_with_its_modules(self._engine, state))

    def _end(self, state: dict[str, Any], *, counts: bool) -> None:
        if state.get("Status") == "dead":
            self._fail(_REMOVED)
            return
        if not counts:
            self._fail("the module was ended from outside, or together with the Docker engine")
            return
        if state.get("OOMKilled"):
            self._output(b"\nmercure: the module, or a part of it, used more memory than it may and was ended\n")
        self._code = exit_code(state)
        self._ended.set()


def followed(order: RunOrder, inspected: dict[str, Any], image_digest: str) -> Followed:
    """Return a container from `docker inspect`, which also knows the signal that its image wants."""
    config = inspected.get("Config") or {}
    wanted = order.module.docker_arguments.get("stop_signal") or config.get("StopSignal") or ""
    return Followed(str(inspected["Id"]), image_digest, str(wanted))
