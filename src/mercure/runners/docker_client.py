"""The docker SDK's client, made so that no connection is left open when something fails.

The SDK leaves a socket that cannot connect, and a response that it does not return, to the garbage collector. Only
`docker_engine` loads this module, and only when the engine is needed.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from docker import APIClient
from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnection, UnixHTTPConnectionPool


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
