"""The Docker engine: one client, made when it is first needed, and errors that say whether waiting helps.

Nothing here needs the engine, or the SDK, before the first call: a service starts without Docker.
"""

import http.client
import importlib.util
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from mercure.core.errors import PermanentError, TransientError

_MAXIMUM_EXPLANATION = 300
_CONNECTIONS = 64
_LOCAL_SOCKET = "unix:///var/run/docker.sock"
_PATIENCE_SECONDS, _PAUSE_SECONDS = 10.0, 0.05


class EngineAwayError(TransientError):
    """The engine does not answer; what it was asked may have been done, or not."""


class MissingError(PermanentError):
    """There is no such container or image, or path in it."""


class ConflictError(PermanentError):
    """The engine cannot do this in the present state: the name is taken, or the container does not run."""


class DockerEngine:
    """Gives the client of the docker SDK. Safe to use from many threads."""

    def __init__(self, host: str = "", *, timeout_seconds: float = 60.0) -> None:
        """`host` is as in DOCKER_HOST; empty: that variable and its companions, or the local socket."""
        self._host = host
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._client: Any = None

    @contextmanager
    def asked(self, what: str, *, connecting_seconds: float | None = None) -> Iterator[Any]:
        """Give the client, and turn its errors into ours, with `what` in their text: "pulling the image x".

        `connecting_seconds` is how long an engine is waited for that must be connected to first (that of all requests
        when not given). No other thread that asks is waited for.

        Raises `EngineAwayError`, `MissingError`, `ConflictError`, `PermanentError` for other refusals, and
        `TransientError` when the engine itself failed.
        """
        if self._client is None and _has_no_socket(self._host):
            raise EngineAwayError(f"{what}: the Docker engine does not answer (no socket)")
        docker, broken = _libraries()
        try:
            client = self._connected(docker, connecting_seconds or self._timeout_seconds)
            with client.closing_on_failure():
                yield client
        except docker.errors.APIError as error:
            raise refusal(what, error.status_code or 500, str(error.explanation or "")) from None
        except broken as error:
            self.close()
            raise EngineAwayError(f"{what}: the Docker engine does not answer ({type(error).__name__})") from None

    def _connected(self, docker: Any, seconds: float) -> Any:
        """Return the client. Asking an engine that hangs holds up nobody else: the lock is not held meanwhile."""
        with self._lock:
            known = self._client
        if known is not None:
            return known
        where = {"base_url": self._host} if self._host else docker.utils.kwargs_from_env()
        from mercure.runners.docker_client import EngineClient  # noqa: PLC0415 - it loads the SDK

        made = EngineClient(**where, version="auto", timeout=seconds, max_pool_size=_CONNECTIONS)
        made.timeout = self._timeout_seconds
        with self._lock:
            known = self._client
            if known is None:
                self._client = made
        if known is None:
            return made
        made.close()
        return known

    def close(self) -> None:
        """Drop the client: the engine that comes back may be another version. Streams that are open go on."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()


def refusal(what: str, status: int, explanation: str) -> PermanentError | TransientError:
    """Return the error that belongs to an answer of the engine, with its explanation shortened to one line."""
    text = " ".join(explanation.split())
    if len(text) > _MAXIMUM_EXPLANATION:
        text = f"{text[:_MAXIMUM_EXPLANATION]}..."
    message = f"{what}: {text}" if text else f"{what}: refused with status {status}"
    if status >= 500:
        return TransientError(message)
    return {404: MissingError, 409: ConflictError}.get(status, PermanentError)(message)


def break_stream(stream: Any) -> None:
    """End a stream of the SDK for who reads it on another thread, and there must call `close_stream`."""
    with suppress(Exception):  # The SDK cannot do this to a stream that ended by itself just now.
        stream.close()


def close_stream(stream: Any) -> None:
    """Close a stream of the SDK that nobody reads any more. The SDK itself leaves its connection to the collector."""
    break_stream(stream)
    response = getattr(stream, "_response", None)
    if response is not None:
        with suppress(Exception):
            response.close()


def remove_container(engine: DockerEngine, container: str, *, patience_seconds: float = _PATIENCE_SECONDS) -> None:
    """Remove a container, running or not, with the volumes that its image made for it; none is no error.

    It is gone on return, also when somebody else was removing it already. Raises `TransientError` when that is not
    possible now.
    """
    with suppress(MissingError):
        try:
            with engine.asked("removing a container") as api:
                api.remove_container(container, force=True, v=True)
        except ConflictError:
            _wait_until_gone(engine, container, patience_seconds)


def _wait_until_gone(engine: DockerEngine, container: str, patience_seconds: float) -> None:
    """Wait until a container is not there: `MissingError` says so. It may run until then."""
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        with engine.asked("waiting until a container is removed") as api:
            api.inspect_container(container)
        time.sleep(_PAUSE_SECONDS)
    raise TransientError("a container is still being removed")


def _has_no_socket(host: str) -> bool:
    """Whether the engine is away for sure, which is known without the SDK: services without Docker never load it.

    Without the package it would not help if the socket came.
    """
    where = host or os.environ.get("DOCKER_HOST") or _LOCAL_SOCKET
    if importlib.util.find_spec("docker") is None:
        return False
    return where.startswith("unix:///") and not os.path.exists(where.removeprefix("unix://"))


def _libraries() -> tuple[Any, tuple[type[Exception], ...]]:
    """Return the SDK, and the errors that it lets through when an engine breaks off, or what answers is none."""
    try:
        import docker  # noqa: PLC0415 - a service without Docker modules never loads it
        import requests  # noqa: PLC0415
        import urllib3  # noqa: PLC0415
    except ImportError:
        raise PermanentError("the Python package 'docker' is not installed") from None
    return docker, (
        docker.errors.DockerException,
        docker.errors.StreamParseError,
        requests.exceptions.RequestException,
        urllib3.exceptions.HTTPError,
        http.client.HTTPException,
        OSError,
        KeyError,
    )
