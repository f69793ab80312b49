"""The receiver: accepts connections, keeps the limits, and hands each connection to a worker process.

One thread waits for all of it. The least loaded worker gets the next connection, so that one association never waits
while a core is idle. A worker that dies is replaced; its associations are lost to their senders, who send again.
"""

import contextlib
import ipaddress
import json
import logging
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mercure.core.errors import SpoolError
from mercure.dicom.worker import plain_address
from mercure.dicom.worker_settings import WorkerSettings

log = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_RESTART_SECONDS = 1.0
_STOP_GRACE_SECONDS = 5.0
_RETIRE_SECONDS = 3600.0
"""What the associations of a worker that is not wanted any more may take to end."""

_BACKLOG = 256
_REFUSED_PER_PEER = 4
"""Connections of one address that are told at the same time that the limits are reached; more are just closed."""

_REFUSED = 64
_PORTS_AGAIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ReceiverSettings:
    """Where the receiver listens, whom it lets in, and what its workers do. A port of 0 takes a free one."""

    worker: WorkerSettings
    host: str = ""
    port: int | None = 11112
    tls_port: int | None = None
    networks: tuple[Network, ...] = ()
    maximum_associations: int = 100
    maximum_associations_per_peer: int = 50
    workers: int = 2


@dataclass(slots=True)
class _WorkerProcess:
    process: subprocess.Popen[bytes]
    control: socket.socket
    connections: dict[int, str] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    """Connections that are only told that they are refused; they count against no limit."""
    is_retiring: bool = False


class Receiver:
    """The service `receiver`."""

    name = "receiver"

    def __init__(
        self,
        settings: ReceiverSettings,
        *,
        on_association: Callable[[dict[str, Any]], None] = lambda _report: None,
        on_recovered: Callable[[int], None] = lambda _count: None,
        on_end: Callable[[str, str, str, str], None] = lambda _peer, _how, _calling, _called: None,
    ) -> None:
        """Prepare; nothing listens yet.

        `on_end` gets the address of the peer, how its connection ended, and the calling and called AE title as the peer
        sent them, or "".
        """
        self._settings = settings
        self._wanted = settings
        self._on_association = on_association
        self._on_recovered = on_recovered
        self._on_end = on_end
        self._selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._next: ReceiverSettings | None = None
        self._next_lock = threading.Lock()
        self._ports_again_at: float | None = None
        self._listeners: dict[socket.socket, bool] = {}
        self._workers: list[_WorkerProcess] = []
        self._missing_since: list[float] = []
        self._number = 0
        self._tls_files: dict[str, Any] = {}
        self.ports: tuple[int, ...] = ()
        self.listening = threading.Event()

    def configure(self, settings: ReceiverSettings) -> None:
        """Take new settings soon; open associations go on."""
        with self._next_lock:
            self._next = settings
        self.wake()

    def wake(self) -> None:
        """Look at `stop` and at new settings."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"!")

    def run(self, stop: threading.Event) -> None:
        """Listen until `stop`. Raises `SpoolError` when a port cannot be opened."""
        self._selector = selectors.DefaultSelector()
        with self._selector:
            self._selector.register(self._wake_read, selectors.EVENT_READ, self._drain_wake)
            try:
                self._listen_to(self._open_ports(self._settings, {}))
                for _ in range(self._settings.workers):
                    self._start_worker()
                self.listening.set()
                while not stop.is_set():
                    self._turn()
            finally:
                self.listening.clear()
                self._close_all()

    def _turn(self) -> None:
        wait = _RESTART_SECONDS / 2 if self._missing_since or self._ports_again_at is not None else None
        for key, _mask in self._selector.select(wait):
            key.data(key.fileobj)
        with self._next_lock:
            settings, self._next = self._next, None
        if settings:
            self._apply(settings)
        elif self._ports_again_at is not None and time.monotonic() >= self._ports_again_at:
            self._apply(self._wanted)
        while self._missing_since and time.monotonic() - self._missing_since[0] >= _RESTART_SECONDS:
            self._missing_since.pop(0)
            self._match_workers()

    def _drain_wake(self, _file: Any) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    # -- listening ---------------------------------------------------------------------------------------------------

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            self._selector.unregister(listener)
            listener.close()
        self._listeners.clear()

    def _accept(self, listener: socket.socket) -> None:
        tls = self._listeners.get(listener)
        if tls is None:
            return
        try:
            connection, address = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # No descriptor left, or the peer was gone first: the others go on.
            log.error("connection not accepted: %s", error.strerror)  # noqa: TRY400
            time.sleep(0.01)
            return
        with connection:
            connection.setblocking(True)
            peer = plain_address(address[0])
            self._hand_over(connection, peer, tls=tls)

    def _hand_over(self, connection: socket.socket, peer: str, *, tls: bool) -> None:
        """Give a connection to the least loaded worker, to be served or to be told that the limits are reached."""
        worker = min(self._employed(), key=lambda each: len(each.connections), default=None)
        if worker is None:
            return
        refusal = self._refusal(peer)
        if refusal and not self._may_be_told(peer):
            self._on_end(peer, f"closed ({refusal}): too many connections", "", "")
            return
        self._number += 1
        message = {"connection": self._number, "peer": peer, "tls": tls, "refuse": refusal}
        with contextlib.suppress(OSError):  # a worker that died is seen by its control socket
            socket.send_fds(worker.control, [json.dumps(message).encode()], [connection.fileno()], socket.MSG_DONTWAIT)
            (worker.refused if refusal else worker.connections)[self._number] = peer

    def _is_allowed(self, peer: str) -> bool:
        networks = self._settings.networks
        return not networks or any(ipaddress.ip_address(peer) in network for network in networks)

    def _may_be_told(self, peer: str) -> bool:
        refused = Counter(known for worker in self._workers for known in worker.refused.values())
        return refused[peer] < _REFUSED_PER_PEER and refused.total() < _REFUSED

    def _refusal(self, peer: str) -> str:
        settings = self._settings
        if not self._is_allowed(peer):
            return "network"
        counts = Counter(peer for worker in self._workers for peer in worker.connections.values())
        if counts.total() >= settings.maximum_associations:
            return "limit"
        return "limit of the address" if counts[peer] >= settings.maximum_associations_per_peer else ""

    # -- workers -----------------------------------------------------------------------------------------------------

    def _start_worker(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "mercure.dicom.worker", str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )
        worker = _WorkerProcess(process, ours)
        self._workers.append(worker)
        self._selector.register(ours, selectors.EVENT_READ, lambda _socket: self._hear(worker))
        self._tell(worker, self._settings)

    @staticmethod
    def _tell(worker: _WorkerProcess, settings: ReceiverSettings) -> None:
        with contextlib.suppress(OSError):  # a full socket is that of a worker that has stopped; it will be buried
            worker.control.send(b'{"settings":' + settings.worker.encode() + b"}", socket.MSG_DONTWAIT)

    def _hear(self, worker: _WorkerProcess) -> None:
        try:
            data = worker.control.recv(1 << 18)
        except OSError:
            data = b""
        if not data:
            self._bury(worker)
            return
        message = json.loads(data)
        if "ended" in message:
            peer = worker.connections.pop(message["ended"], "") or worker.refused.pop(message["ended"], "")
            self._on_end(peer, message["how"], message["calling"], message["called"])
        elif "association" in message:
            self._on_association(message["association"])
        elif "tls_files" in message:
            self._say_tls_files(message["tls_files"])
        elif "recovered" in message:
            self._on_recovered(int(message["recovered"]))

    def _say_tls_files(self, state: dict[str, Any]) -> None:
        """Say once what each of the workers finds for itself."""
        if state == self._tls_files:
            return
        self._tls_files = state
        if not state["trouble"]:
            log.info("the TLS files can be used now")
        elif state["is_usable"]:
            log.error("the TLS files cannot be used, the ones before go on: %s", state["trouble"])
        else:
            log.error("NO TLS association can be accepted until this is mended: %s", state["trouble"])

    def _bury(self, worker: _WorkerProcess) -> None:
        self._selector.unregister(worker.control)
        worker.control.close()
        self._workers.remove(worker)
        try:
            status = worker.process.wait(0.2)
        except subprocess.TimeoutExpired:  # it closed its socket and goes on: it is of no use any more
            worker.process.kill()
            status = worker.process.wait()
        if not worker.is_retiring:
            log.error("a receiver worker ended (exit status %s); it is replaced", status)
            self._missing_since.append(time.monotonic())

    def _employed(self) -> list[_WorkerProcess]:
        return [worker for worker in self._workers if not worker.is_retiring]

    def _match_workers(self) -> None:
        """Have as many workers as wanted; those that are too many end when their associations have."""
        employed = self._employed()
        for worker in employed[self._settings.workers :]:
            worker.is_retiring = True
            with contextlib.suppress(OSError):
                worker.control.send(json.dumps({"stop": _RETIRE_SECONDS}).encode())
        for _ in range(self._settings.workers - len(employed)):
            self._start_worker()

    def _apply(self, settings: ReceiverSettings) -> None:
        """Change over: new ports are opened before old ones are closed, so that a bad port changes nothing."""
        old, self._wanted = self._settings, settings
        self._ports_again_at = None
        if (old.host, old.port, old.tls_port) != (settings.host, settings.port, settings.tls_port):
            try:
                self._change_listeners(old, settings)
            except SpoolError as error:
                log.error("the receiver stays where it is, and tries again: %s", error)  # noqa: TRY400
                self._ports_again_at = time.monotonic() + _PORTS_AGAIN_SECONDS
                settings = replace(settings, host=old.host, port=old.port, tls_port=old.tls_port)
        self._settings = settings
        if not settings.worker.tls:
            self._tls_files = {}
        for worker in self._employed():
            self._tell(worker, settings)
        self._match_workers()

    def _change_listeners(self, old: ReceiverSettings, new: ReceiverSettings) -> None:
        """Open the new ports and close the old ones. Raises `SpoolError` when the old ones are in use still."""
        kept = {listener.getsockname()[1]: listener for listener in self._listeners} if old.host == new.host else {}
        try:
            wanted = self._open_ports(new, kept)
        except SpoolError:
            if old.host == new.host or not {old.port, old.tls_port} & {new.port, new.tls_port} - {None}:
                raise
            self._close_listeners()  # the same port on another address: only one of them at a time
            try:
                wanted = self._open_ports(new, {})
            except SpoolError:
                self._listen_to(self._open_ports(old, {}))
                raise
        self._listen_to(wanted)

    @staticmethod
    def _open_ports(settings: ReceiverSettings, kept: Mapping[int, socket.socket]) -> dict[socket.socket, bool]:
        opened: dict[socket.socket, bool] = {}
        try:
            for port, tls in _wanted_ports(settings):
                opened[kept.get(port) or _listen(settings.host, port)] = tls
        except SpoolError:
            for listener in opened.keys() - kept.values():
                listener.close()
            raise
        return opened

    def _listen_to(self, wanted: dict[socket.socket, bool]) -> None:
        for listener in self._listeners.keys() - wanted.keys():
            self._selector.unregister(listener)
            listener.close()
        for listener in wanted.keys() - self._listeners.keys():
            self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._listeners = wanted
        self.ports = tuple(listener.getsockname()[1] for listener in wanted)
        log.info("listening on port %s", ", ".join(map(str, self.ports)))

    def _close_all(self) -> None:
        self._close_listeners()
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.control.send(json.dumps({"stop": _STOP_GRACE_SECONDS}).encode())
        deadline = time.monotonic() + _STOP_GRACE_SECONDS + 3.0
        for worker in self._workers:
            try:
                worker.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.control.close()
        self._workers.clear()


def _wanted_ports(settings: ReceiverSettings) -> list[tuple[int, bool]]:
    ports = [(settings.port, False), (settings.tls_port, True)]
    return [(port, tls) for port, tls in ports if port is not None]


def _listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; without a host on all interfaces, IPv6 and IPv4 in one where the system can."""
    try:
        if host:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        elif socket.has_dualstack_ipv6():
            listener = socket.create_server(("::", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True)
        else:
            listener = socket.create_server(("", port), backlog=_BACKLOG)
    except OSError as error:
        raise SpoolError(f"port {port} cannot be opened: {error.strerror}") from error
    listener.setblocking(False)
    return listener
