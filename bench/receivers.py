"""The receivers that are compared: each starts with empty storage and can tell whether everything has arrived."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests import peers

from bench.inputs import Load
from bench.mercure_services import start_receiver
from bench.workplace import native


@dataclass(frozen=True)
class Receiver:
    """A running receiver. `check` raises unless it holds exactly the instances of the load."""

    port: int
    check: Callable[[Load], None]


Starter = Callable[[Path], AbstractContextManager[Receiver]]


@dataclass(frozen=True)
class Kind:
    """A receiver as a bench lists it."""

    name: str
    start: Starter
    protocol: Literal["dicom", "copy"] = "dicom"


class IncompleteError(RuntimeError):
    """A receiver acknowledged instances that are not where they belong."""


def limit(name: str, *options: str) -> Kind:
    """The plain copy from socket to file."""

    @contextmanager
    def start(folder: Path) -> Iterator[Receiver]:
        port, store = peers.free_port(), folder / "copies"
        store.mkdir()
        command = [str(native("limit")), str(port), str(store), *options]
        with peers.server_process(command, port=port, log=folder / "limit.log"):
            yield Receiver(port, lambda load: None if "--null" in options else _check_files(store, load))

    return Kind(name, start, "copy")


def storescp(name: str, *options: str, tcp_nodelay: bool) -> Kind:
    """DCMTK's storescp."""

    @contextmanager
    def start(folder: Path) -> Iterator[Receiver]:
        with peers.storescp(folder / "storescp", tcp_nodelay=tcp_nodelay, extra_args=options) as server:
            yield Receiver(server.port, lambda load: _check_files(server.folder, load, tolerance=4_096))

    return Kind(name, start)


def orthanc(name: str, *, tcp_nodelay: bool) -> Kind:
    """Orthanc with its own defaults."""

    @contextmanager
    def start(folder: Path) -> Iterator[Receiver]:
        with peers.orthanc(folder / "orthanc", tcp_nodelay=tcp_nodelay) as server:

            def check(load: Load) -> None:
                _expect(server.count(), len(load.files))

            yield Receiver(server.port, check)

    return Kind(name, start)


def mercure(name: str, *, fsync: bool) -> Kind:
    """Our own receiver, as the service is started in production."""

    @contextmanager
    def start(folder: Path) -> Iterator[Receiver]:
        data, port = folder / "data", peers.free_port()
        with start_receiver(data, port, fsync=fsync):
            yield Receiver(port, lambda load: check_placed(data, load))

    return Kind(name, start)


def _check_files(folder: Path, load: Load, *, tolerance: int = 0) -> None:
    """As many files as were sent, and as many bytes; `tolerance` per file for headers that a receiver writes anew."""
    sizes = [path.stat().st_size for path in folder.iterdir()]
    _expect(len(sizes), len(load.files))
    if abs(sum(sizes) - load.size_bytes) > tolerance * len(sizes):
        message = f"{sum(sizes)} bytes arrived of {load.size_bytes}"
        raise IncompleteError(message)


def check_placed(data: Path, load: Load) -> None:
    """Every instance lies under its own name in a reception of its series, and no instance is there twice."""
    names = [path.stem.partition("#") for path in data.glob("incoming/*/*.dcm")]
    _expect(len(names), len(load.files))
    placed = {(series, instance) for series, _, instance in names}
    if placed != load.identities:
        message = f"{len(load.identities - placed)} instances are not at their place"
        raise IncompleteError(message)


def _expect(found: int, wanted: int) -> None:
    if found != wanted:
        message = f"{found} instances arrived of {wanted}"
        raise IncompleteError(message)
