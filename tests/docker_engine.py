"""A Docker engine for tests: the one that answers, or one of our own that lives as long as the tests.

No registry is ever asked: base images are made from what this machine has, a static BusyBox and the Python that runs
the tests. An engine that cannot be had is an error that says what is missing, never a skipped test.
"""

import atexit
import functools
import gc
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
from tests.peers import DEADLINE_SECONDS, PeerError, program, wait_until

BUSYBOX = "mercure-test-busybox:latest"
PYTHON = "mercure-test-python:latest"
_PACKAGES = ("pydicom", "numpy")
_START_SECONDS = 2 * DEADLINE_SECONDS
_LIBRARIES = "usr/local/lib/machine"
_ANSWERS_NOT = (docker.errors.DockerException, requests.exceptions.RequestException)


@dataclass(eq=False)
class Engine:
    """An engine that answers at `host`; `client` is the docker SDK's client for it."""

    host: str
    client: Any
    _making: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def busybox(self) -> str:
        """The name of an image with nothing but BusyBox and its commands in `/bin`; made when it is missing."""
        return self._base(BUSYBOX, _busybox_tree, ["ENV PATH=/usr/local/bin:/bin", 'CMD ["sh"]'])

    def python(self) -> str:
        """The name of an image with Python (`python3`), pydicom, numpy and BusyBox; made when it is missing."""
        library = f"ENV LD_LIBRARY_PATH=/{_LIBRARIES}"
        return self._base(PYTHON, _python_tree, ["ENV PATH=/usr/local/bin:/bin", library, 'CMD ["python3"]'])

    def make_image(self, base: str, files: Mapping[str, str | bytes], lines: Sequence[str] = ()) -> str:
        """Make an image of a base, files (path to content) and further lines of a Dockerfile; return its name."""
        name = f"mercure-test-{uuid.uuid4().hex[:12]}:latest"
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as tar:
            _add_text(tar, "Dockerfile", "\n".join([f"FROM {base}", *(["COPY root/ /"] if files else []), *lines]))
            for path, content in files.items():
                _add_text(tar, f"root/{path.lstrip('/')}", content)
        context.seek(0)
        self.client.images.build(fileobj=context, custom_context=True, tag=name, rm=True, forcerm=True)
        return name

    def remove_image(self, name: str) -> None:
        """Remove an image that a test made; none is no error."""
        with suppress(docker.errors.ImageNotFound):
            self.client.images.remove(name, force=True)

    def left(self) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
        """Containers, volumes and images that are there now: equal before and after, when nothing was left behind."""
        containers = frozenset(entry["Id"] for entry in self.client.api.containers(all=True))
        volumes = frozenset(entry["Name"] for entry in self.client.api.volumes()["Volumes"] or ())
        images = frozenset(entry["Id"] for entry in self.client.api.images())
        return containers, volumes, images

    def _base(self, name: str, write_tree: Any, changes: Sequence[str]) -> str:
        with self._making:
            try:
                self.client.api.inspect_image(name)
            except docker.errors.ImageNotFound:
                with tempfile.TemporaryFile() as file:
                    with tarfile.open(fileobj=file, mode="w") as tar:
                        write_tree(tar)
                    file.seek(0)
                    repository, _, tag = name.partition(":")
                    self.client.api.import_image_from_data(file, repository, tag, list(changes))
        return name


@functools.cache
def shared_engine() -> Engine:
    """The engine of this process of tests: one that answers, else our own, started once and gone at the end."""
    found = _answering(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
    if found is not None:
        return found
    own = OwnEngine()
    atexit.register(own.remove)
    own.start()
    return own


@pytest.fixture(scope="session", name="engine")
def engine_fixture() -> Engine:
    """The engine that the tests share."""
    return shared_engine()


@pytest.fixture(name="nothing_is_left_open")
def nothing_is_left_open_fixture() -> Iterator[None]:
    """What a test leaves open is closed by the collector, with a warning, which is an error: of this test, no later."""
    gc.collect()
    yield
    gc.collect()


@contextmanager
def own_engine(*extra_arguments: str) -> Iterator["OwnEngine"]:
    """An engine that a test may kill, with further arguments of `dockerd`; gone, with its containers, at the end."""
    engine = OwnEngine(*extra_arguments)
    try:
        engine.start()
        yield engine
    finally:
        engine.remove()


class OwnEngine(Engine):
    """A `dockerd` with a data root and a socket of its own, and without network: nothing else sees it."""

    def __init__(self, *extra_arguments: str) -> None:
        """Nothing runs before `start`."""
        self.folder = Path(tempfile.mkdtemp(prefix="mercure-engine-"))
        host = f"unix://{self.folder}/docker.sock"
        super().__init__(host, docker.DockerClient(base_url=host, version="1.41"))
        self._extra = extra_arguments
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, or start anew after `kill`; containers and images are those of before. It answers on return.

        The engine ends with the thread that starts it, too.
        """
        if os.geteuid() != 0:
            message = "No Docker engine answers, and only root can start one: start Docker, or run the tests as root."
            raise PeerError(message)
        # Tests that are killed cannot end their engine: the kernel tells it that they are gone.
        guard = [setpriv, "--pdeathsig", "TERM", "--"] if (setpriv := shutil.which("setpriv")) else []
        dockerd = program("dockerd", package="docker.io")
        command = [*guard, dockerd, "--host", self.host, *self._arguments(), *self._extra]
        log = self.folder / "log"
        (self.folder / "daemon.json").write_text("{}", encoding="ascii")
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        process = self._process
        wait_until(
            lambda: process.poll() is not None or self._answers(),
            f"dockerd answers:\n{_tail(log)}",
            seconds=_START_SECONDS,
        )
        if process.poll() is not None:
            message = f"dockerd did not start:\n{_tail(log)}"
            raise PeerError(message)

    def kill(self) -> None:
        """End the engine at once, as a crash does; what its containers do then depends on its arguments."""
        self._end(signal.SIGKILL)
        # Where nobody reaps the dead, the next dockerd would take its predecessor's containerd for alive.
        pid_file = self.folder / "exec-root" / "containerd" / "containerd.pid"
        _kill(int(pid_file.read_text()))
        pid_file.unlink()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Let the engine take no step, as on a machine whose disk does not answer, until the end of the block."""
        if self._process is None:
            message = "The engine does not run."
            raise PeerError(message)
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def cut_power(self) -> None:
        """End the engine and all that runs in it at once, as a machine does that loses its power."""
        self.kill()
        for pid in _processes_of(str(self.folder)):
            _kill(pid)

    def stop(self) -> None:
        """End the engine in order."""
        self._end(signal.SIGTERM)

    def remove(self) -> None:
        """End the engine and remove all that it had. Returns with nothing of it left."""
        if self._answers():
            for container in self.client.api.containers(all=True):
                with suppress(*_ANSWERS_NOT):
                    self.client.api.remove_container(container["Id"], force=True, v=True)
        self.stop()
        for pid in _processes_of(str(self.folder)):
            _kill(pid)
        self.client.close()
        for mount in reversed(_mounts_below(self.folder)):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        found = _answering(self.host)
        if found is not None:
            found.client.close()
        return found is not None

    def _arguments(self) -> list[str]:
        places = ["data-root", "exec-root", "pidfile"]
        switched_off = ["iptables", "ip6tables", "ip-forward", "ip-masq"]
        return [
            *(f"--{name}={self.folder}/{name}" for name in places),
            *(f"--{name}=false" for name in switched_off),
            "--bridge=none",
            f"--config-file={self.folder}/daemon.json",
        ]

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(DEADLINE_SECONDS)


def _answering(host: str) -> Engine | None:
    path = host.removeprefix("unix://")
    if path != host and not _listens(path):
        return None  # The SDK would leave a socket open.
    try:
        client = docker.DockerClient(base_url=host, version="auto", timeout=DEADLINE_SECONDS)
    except _ANSWERS_NOT:
        return None
    try:
        client.ping()
    except _ANSWERS_NOT:
        client.close()
        return None
    return Engine(host, client)


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _processes_of(folder: str) -> list[int]:
    """What an engine with this folder left: the processes that name it, and their children, which come first."""
    parents: dict[int, int] = {}
    naming: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if f"{folder}/".encode() in (entry / "cmdline").read_bytes():
                naming.add(int(entry.name))
    naming.discard(os.getpid())
    return [pid for pid, parent in parents.items() if parent in naming] + sorted(naming)


def _mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return [point for point in (line.split()[4] for line in lines) if point.startswith(f"{folder}/")]


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:] if log.exists() else ""


# -- trees of base images --------------------------------------------------------------------------------------------


def _add_text(tar: tarfile.TarFile, path: str, content: str | bytes) -> None:
    data = content.encode() if isinstance(content, str) else content
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(data), 0o755
    tar.addfile(entry, io.BytesIO(data))


def _add_folder(tar: tarfile.TarFile, path: str, mode: int = 0o755) -> None:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    tar.addfile(entry)


def _busybox_tree(tar: tarfile.TarFile) -> None:
    busybox = program("busybox", package="busybox-static")
    for folder in ("bin", "etc"):
        _add_folder(tar, folder)
    _add_folder(tar, "tmp", 0o1777)
    tar.add(busybox, "bin/busybox", filter=_of_root)
    for name in subprocess.run([busybox, "--list"], capture_output=True, check=True, text=True).stdout.split():
        if name != "busybox":
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)


def _python_tree(tar: tarfile.TarFile) -> None:
    """The interpreter, its library and some packages below `/usr/local`, and the shared libraries that they need."""
    _busybox_tree(tar)
    library = Path(sysconfig.get_path("stdlib"))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    interpreter = Path(sys.executable).resolve()
    tar.add(interpreter, "usr/local/bin/python3", filter=_of_root)
    tar.add(library, f"usr/local/lib/{version}", filter=_of_library)
    native = [interpreter, *library.glob("lib-dynload/*.so")]
    for package in _PACKAGES:
        for file in distribution(package).files or ():
            if ".." not in file.parts and "tests" not in file.parts and file.suffix != ".pyc":
                path = Path(str(file.locate()))
                tar.add(path, f"usr/local/lib/{version}/site-packages/{file}", recursive=False, filter=_of_root)
                native.extend([path] if file.suffix == ".so" else [])
    for name, needed in _shared_libraries(native).items():
        place = str(needed).lstrip("/") if name.startswith("ld-") else f"{_LIBRARIES}/{name}"
        tar.add(needed.resolve(), place, filter=_of_root)


def _shared_libraries(programs: Sequence[Path]) -> dict[str, Path]:
    told = subprocess.run(["ldd", *map(str, programs)], capture_output=True, check=True, text=True).stdout
    return {Path(path).name: Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", told, re.MULTILINE)}


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _of_library(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    left_out = {
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "idlelib",
        "tkinter",
        "ensurepip",
        "lib2to3",
        "__pycache__",
    }
    parts = entry.name.split("/")
    if parts[-1] in left_out or parts[-1].startswith("config-"):
        return None
    entry.mode |= 0o444
    return _of_root(entry)
