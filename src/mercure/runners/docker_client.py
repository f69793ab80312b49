"""The docker SDK's client, made so that no connection is left open when something fails.

The SDK leaves a socket that cannot connect, and a response that it does not return, to the garbage collector. Only
`docker_engine` loads this module, and only when the engine is needed.
"""

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import requests
import urllib3
from docker import APIClient
from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnection, UnixHTTPConnectionPool

_EVENT_SECONDS = 5.0


class EngineClient(APIClient):  # type: ignore[misc] # the SDK has no types
    """A client of the SDK. Safe to use from many threads."""

    def __init__(self, **options: Any) -> None:
        """Take the options of the SDK's own client; the engine may be asked for its version."""
        self._of_thread = threading.local()
        try:
            super().__init__(**options)
        except BaseException:
            self.close()
            raise

    def mount(self, prefix: str, adapter: Any) -> None:
        """Put connections that close themselves in the place of those of the SDK."""
        super().mount(prefix, _Adapter.like(adapter) if isinstance(adapter, UnixHTTPAdapter) else adapter)

    def send(self, request: Any, **options: Any) -> Any:
        """Send a request and keep in mind who must close the response."""
        response = super().send(request, **options)
        if options.get("stream"):
            self._opened().append(response)
        return response

    @contextmanager
    def closing_on_failure(self) -> Iterator[None]:
        """Close the responses that this thread began to read in the block, when the block fails.

        When it does not, who got a stream closes it.
        """
        opened = self._opened()
        known = len(opened)
        try:
            yield
        except BaseException:
            for response in opened[known:]:
                with suppress(Exception):  # Some readers fail to close what the engine has cut off.
                    response.close()
            raise
        finally:
            del opened[known:]

    def signal_container(self, container: str, signal: str, seconds: float) -> None:
        """Send a signal to what runs in a container; the engine has so long to answer."""
        response = self._post(self._url("/containers/{0}/kill", container), params={"signal": signal}, timeout=seconds)
        self._raise_for_status(response)

    def actions_of(self, container: str, actions: Sequence[str], until: int) -> list[str]:
        """Return which of these the engine remembers of a container, in order, up to a time of its clock or a "die".

        Events that are still to come are waited for up to a few seconds only, whatever the engine's clock does.
        """
        filters = {"container": [container], "event": list(actions)}
        options = {"since": 1, "until": until, "filters": json.dumps(filters)}
        seen: list[str] = []
        response = self._get(self._url("/events"), params=options, stream=True, timeout=_EVENT_SECONDS)
        try:
            self._raise_for_status(response)
            for event in self._stream_helper(response, decode=True):
                seen.append(str(event.get("Action")))
                if seen[-1] == "die":
                    break
        except (requests.exceptions.Timeout, urllib3.exceptions.ReadTimeoutError):
            pass  # Nothing more was remembered.
        finally:
            response.close()
        return seen

    def _opened(self) -> list[Any]:
        opened: list[Any] = self._of_thread.__dict__.setdefault("opened", [])
        return opened


class _Adapter(UnixHTTPAdapter):  # type: ignore[misc] # the SDK has no types
    """Makes the connections to a socket of this machine."""

    @classmethod
    def like(cls, adapter: Any) -> "_Adapter":
        return cls(f"http+unix://{adapter.socket_path}", adapter.timeout, max_pool_size=adapter.max_pool_size)

    def get_connection(self, url: str, proxies: Any = None) -> Any:  # noqa: ARG002 - the SDK's signature
        with self.pools.lock:
            pool = self.pools.get(url)
            if pool is None:
                pool = self.pools[url] = _Pool(url, self.socket_path, self.timeout, maxsize=self.max_pool_size)
        return pool


class _Pool(UnixHTTPConnectionPool):  # type: ignore[misc] # the SDK has no types
    def _new_conn(self) -> Any:
        return _Connection(self.base_url, self.socket_path, self.timeout)


class _Connection(UnixHTTPConnection):  # type: ignore[misc] # the SDK has no types
    def connect(self) -> None:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.settimeout(self.timeout)
            link.connect(self.unix_socket)
        except BaseException:
            link.close()
            raise
        self.sock = link
