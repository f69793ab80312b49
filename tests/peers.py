"""Real peers for tests and benches: DCMTK, Orthanc, pynetdicom and a scripted TCP peer, each on a free port.

Every server is ready when its context manager returns (its port is polled against a deadline, nothing sleeps blindly)
and is gone when it leaves. A peer that is not installed is an error that says what to install, never a skipped test.
DCMTK programs run with `TCP_NODELAY=1`, which switches Nagle's algorithm off, unless the stall is the point.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pynetdicom import AE, AllStoragePresentationContexts, VerificationPresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE

DEADLINE_SECONDS = 30.0
_LISTENING = "0A"
_ORTHANC_NAMES = ("Orthanc", "orthanc")
_ADMIN_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))


class PeerMissingError(RuntimeError):
    """A program that tests need is not installed; the message says what to install."""


class PeerError(RuntimeError):
    """A peer did not start, ended too early or did not do what its part was."""


@dataclass(frozen=True)
class Finished:
    """A client that has run: exit status, both outputs together, and the wall time that it took."""

    returncode: int
    output: str
    seconds: float


@dataclass(frozen=True)
class Server:
    """A running receiver: where it listens, under which AE title, and where it puts what it gets."""

    port: int
    ae_title: str
    folder: Path
    process: subprocess.Popen[bytes]
    log: Path

    def files(self) -> list[Path]:
        """What has arrived so far."""
        return sorted(path for path in self.folder.iterdir() if path.is_file())


def program(*names: str, package: str) -> str:
    """The path of a program; PeerMissingError when none of the names is installed."""
    for name in names:
        found = shutil.which(name, path=_ADMIN_PATH)
        if found:
            return found
    message = (
        f"{names[0]} is not installed. Install the package '{package}' (Debian: apt-get install {package}; "
        f"RHEL: dnf install {package}, if the distribution has it), or run tools/ensure_peers.sh as root."
    )
    raise PeerMissingError(message)


def dcmtk(name: str) -> str:
    """The path of one of DCMTK's programs."""
    return program(name, package="dcmtk")


def free_port() -> int:
    """A TCP port that is free now, below the range from which the kernel gives ports to clients."""
    for _ in range(200):
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    message = "no free TCP port found"
    raise PeerError(message)


def wait_until(
    condition: Callable[[], object], what: str, *, seconds: float = DEADLINE_SECONDS, interval: float = 0.01
) -> None:
    """Poll until the condition holds; PeerError naming `what` when the deadline passes first."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            message = f"not within {seconds:g} s: {what}"
            raise PeerError(message)
        time.sleep(interval)


def listens(port: int) -> bool:
    """Whether some process listens on this TCP port: asked of the kernel, so that no server sees a stray connection."""
    local = f":{port:04X}"
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if not table.exists():
            continue
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(local) and fields[3] == _LISTENING:
                return True
    return False


@contextmanager
def storescp(
    folder: Path,
    *,
    tcp_nodelay: bool = True,
    ae_title: str = "STORESCP",
    port: int | None = None,
    extra_args: Sequence[str] = (),
) -> Iterator[Server]:
    """DCMTK's storescp, storing to `folder`; `extra_args` are such as "--fork", "+xa" or "--abort-during"."""
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    command = [dcmtk("storescp"), "-aet", ae_title, "-od", str(folder), *extra_args, str(port)]
    log = folder.parent / f"{folder.name}.storescp.log"
    with server_process(command, port=port, log=log, env=_dcmtk_environment(tcp_nodelay=tcp_nodelay)) as process:
        yield Server(port=port, ae_title=ae_title, folder=folder, process=process, log=log)


def storescu(port: int, *paths: Path, extra_args: Sequence[str] = (), tcp_nodelay: bool = True) -> Finished:
    """Send files or folders with DCMTK's storescu; by default it proposes what the files need."""
    folders = ["+sd", "+r"] if any(path.is_dir() for path in paths) else []
    return _client("storescu", [*extra_args, *folders, "127.0.0.1", str(port), *map(str, paths)], tcp_nodelay)


def dcmsend(port: int, *paths: Path, extra_args: Sequence[str] = (), tcp_nodelay: bool = True) -> Finished:
    """Send files or folders with DCMTK's dcmsend."""
    folders = ["+sd", "+r"] if any(path.is_dir() for path in paths) else []
    return _client("dcmsend", [*extra_args, *folders, "127.0.0.1", str(port), *map(str, paths)], tcp_nodelay)


def echoscu(port: int, *, extra_args: Sequence[str] = (), tcp_nodelay: bool = True) -> Finished:
    """Verify with DCMTK's echoscu."""
    return _client("echoscu", [*extra_args, "127.0.0.1", str(port)], tcp_nodelay)


def _client(name: str, arguments: Sequence[str], tcp_nodelay: bool, seconds: float = 600) -> Finished:
    started = time.perf_counter()
    done = subprocess.run(
        [dcmtk(name), *arguments],
        env=_dcmtk_environment(tcp_nodelay=tcp_nodelay),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds,
        check=False,
    )
    taken = time.perf_counter() - started
    return Finished(done.returncode, done.stdout.decode("utf-8", "replace"), taken)


def _dcmtk_environment(*, tcp_nodelay: bool) -> dict[str, str]:
    """DCMTK reads TCP_NODELAY: set to anything, Nagle's algorithm is off; absent, it stays on."""
    environment = {key: value for key, value in os.environ.items() if key != "TCP_NODELAY"}
    if tcp_nodelay:
        environment["TCP_NODELAY"] = "1"
    return environment


class Orthanc:
    """A running Orthanc with empty storage. Its own defaults rule, except for ports, folders and who may talk to it."""

    ae_title = "ORTHANC"

    def __init__(self, *, port: int, http_port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port = port
        self.http_port = http_port
        self.process = process
        self.log = log

    def get(self, path: str) -> Any:
        """The JSON answer of the REST interface to GET `path`."""
        return json.loads(self._call("GET", path))

    def count(self) -> int:
        """How many instances are stored."""
        return int(self.get("/statistics")["CountInstances"])

    def sop_instance_uids(self) -> set[str]:
        """The SOP instance UIDs of all that is stored."""
        return {one["MainDicomTags"]["SOPInstanceUID"] for one in self.get("/instances?expand")}

    def file(self, sop_instance_uid: str) -> bytes:
        """The stored file of one instance."""
        body = self._call("POST", "/tools/lookup", sop_instance_uid.encode())
        found = [one["ID"] for one in json.loads(body) if one["Type"] == "Instance"]
        if len(found) != 1:
            message = f"Orthanc has {len(found)} instances of {sop_instance_uid}"
            raise PeerError(message)
        return self._call("GET", f"/instances/{found[0]}/file")

    def clear(self) -> None:
        """Delete everything that is stored."""
        for patient in self.get("/patients"):
            self._call("DELETE", f"/patients/{patient}")

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data=body, method=method)
        with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as answer:
            content: bytes = answer.read()
            return content


@contextmanager
def orthanc(folder: Path, *, tcp_nodelay: bool = True, **settings: Any) -> Iterator[Orthanc]:
    """A stock Orthanc with its storage in `folder`; `settings` are added to its configuration file."""
    path = program(*_ORTHANC_NAMES, package="orthanc")
    port, http_port = free_port(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    configuration = {
        "Name": "test",
        "DicomAet": Orthanc.ae_title,
        "DicomPort": port,
        "HttpPort": http_port,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "Plugins": [],
        **settings,
    }
    file, log = folder / "orthanc.json", folder / "orthanc.log"
    file.write_text(json.dumps(configuration, indent=2), encoding="utf-8")
    environment = _dcmtk_environment(tcp_nodelay=tcp_nodelay)
    with server_process([path, str(file)], port=port, log=log, env=environment) as process:
        peer = Orthanc(port=port, http_port=http_port, process=process, log=log)
        wait_until(lambda: listens(http_port), "Orthanc's REST interface answers")
        yield peer


@contextmanager
def server_process(
    command: Sequence[str], *, port: int, log: Path, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server in its own process group, wait until it listens, end the whole group afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
    try:
        wait_until(lambda: process.poll() is not None or listens(port), f"{command[0]} listens on port {port}")
        if process.poll() is not None:
            message = f"{command[0]} ended with status {process.returncode}: {log.read_text(errors='replace')[-2000:]}"
            raise PeerError(message)
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes], *, seconds: float = 5.0) -> None:
    """Ask a process to end; then kill what is left of the group it leads. Waits until it is gone."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    with suppress(ProcessLookupError, PermissionError):  # nobody is left, or it never led a group
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@dataclass
class PynetdicomServer:
    """A receiver made of pynetdicom, in a thread of this process. `received` lists SOP instance UIDs as they come."""

    port: int
    ae_title: str
    received: list[str]


@contextmanager
def pynetdicom_server(
    entity: AE, handlers: Sequence[evt.EventHandlerType], *, port: int | None = None
) -> Iterator[int]:
    """Serve an application entity of pynetdicom on a port, and leave nothing of it open.

    pynetdicom forgets to close a socket whose other side has reset it. The interpreter would find it at any later time,
    and blame the test that runs then.
    """
    sockets: list[socket.socket] = []

    def on_open(event: evt.Event) -> None:
        wrapped = event.assoc.dul.socket
        if wrapped is not None and wrapped.socket is not None:
            sockets.append(wrapped.socket)

    port = port or free_port()
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[*handlers, (evt.EVT_CONN_OPEN, on_open)]
    )
    assert server is not None
    try:
        yield port
    finally:
        associations = entity.active_associations
        entity.shutdown()
        for association in associations:
            association.join(DEADLINE_SECONDS)
        for accepted in sockets:
            accepted.close()


@contextmanager
def pynetdicom_scp(
    *,
    ae_title: str = "PYNETDICOM",
    status_of: Callable[[str], int] = lambda _uid: 0x0000,
    transfer_syntaxes: Sequence[str] | None = None,
    sop_classes: Sequence[str] | None = None,
    max_pdu_bytes: int = 16_382,
) -> Iterator[PynetdicomServer]:
    """A receiver whose answers the test chooses: `status_of` maps a SOP instance UID to a DIMSE status."""
    received: list[str] = []

    def on_store(event: evt.Event) -> int:
        request = event.request
        if not isinstance(request, C_STORE):
            message = f"a C-STORE handler got {type(request).__name__}"
            raise TypeError(message)
        uid = str(request.AffectedSOPInstanceUID)
        received.append(uid)
        return status_of(uid)

    entity = AE(ae_title=ae_title)
    entity.maximum_pdu_size = max_pdu_bytes
    entity.supported_contexts = VerificationPresentationContexts
    classes = list(sop_classes or [str(context.abstract_syntax) for context in AllStoragePresentationContexts])
    for sop_class in classes:
        if transfer_syntaxes:
            entity.add_supported_context(sop_class, list(transfer_syntaxes))
        else:
            entity.add_supported_context(sop_class)
    with pynetdicom_server(entity, [(evt.EVT_C_STORE, on_store)]) as port:
        yield PynetdicomServer(port=port, ae_title=ae_title, received=received)
