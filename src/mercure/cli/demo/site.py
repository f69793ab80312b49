"""Where the demo takes place: its folder, the platform, and the receivers that stand for PACS."""

import fcntl
import json
import logging
import os
import re
import shutil
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from mercure.app.platform import SERVICES, Platform
from mercure.cli.demo import configuration
from mercure.cli.demo.examples import example
from mercure.cli.demo.image import DemoImage
from mercure.cli.demo.series import Wanted
from mercure.config.store import ConfigStore
from mercure.core.errors import ConfigError, SpoolError
from mercure.spool.layout import Layout

MARKER = ".mercure-demo"
"""In a folder that a demo has made: such a folder may be taken by the next one, no other.

It names, one in each line, what stands there and is of no use to anybody any more.
"""

_EARLIER = re.compile(r"old-([0-9]{1,9})")
"""Folders in that of the demo, with what earlier ones left: people change rules there and send series of their own."""

_MOST_NOTED_BYTES = 1 << 16
_START_SECONDS = 30.0
_STOP_SECONDS = 20.0


class Node:
    """A platform, or only its receiver, on a thread of this process."""

    def __init__(self, config: Path, services: tuple[str, ...] = SERVICES) -> None:
        """Load the configuration and make the folders. Raises `ConfigError` or `SpoolError`."""
        self.platform = Platform(ConfigStore(config), services)
        self._thread = threading.Thread(target=self.platform.run, daemon=True)

    def start(self) -> "Node":
        """Start, and wait until the port is open. Raises `SpoolError` when it does not open."""
        self._thread.start()
        listening: threading.Event = self.platform.service("receiver").listening
        deadline = time.monotonic() + _START_SECONDS
        while not listening.wait(0.05):
            failures = self.platform.supervisor.failures
            if failures or time.monotonic() > deadline:
                raise SpoolError("; ".join(failures.values()) or "the receiver does not start")
        return self

    def stop(self) -> None:
        """End in order."""
        self.platform.stop()
        if self._thread.ident is not None:
            self._thread.join(_STOP_SECONDS)


class Site:
    """The folder of the demo and everything that runs in it. A context manager: at its end everything has stopped."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, and move aside what an earlier demo left in it: `earlier` is where, if anywhere.

        Nothing runs yet. Raises `SpoolError` when the folder is not a demo's own or another demo runs in it.
        """
        self.folder = folder.absolute()
        self._exit = ExitStack()
        self._lock, self.earlier = _take(self.folder)
        self._exit.callback(os.close, self._lock)
        self.port, archive, workstation = _free_ports(3)
        self.ports = {"archive": archive, "workstation": workstation}
        self.config = self.folder / "config" / "mercure.json"
        self.layout = Layout.under(self.folder / "data")
        self._image = ""
        self._mercure: Node | None = None

    def make_image(self) -> str:
        """Make the image of the module that runs in a container. Returns why there is none, or ""."""
        image = DemoImage(self.folder)
        self._exit.callback(image.remove)
        why = image.make(example(configuration.IN_A_CONTAINER.module))
        self._image = "" if why else image.name
        return why

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """The series that are to be sent here."""
        return (*configuration.SERIES, *((configuration.IN_A_CONTAINER,) if self._image else ()))

    def start(self) -> None:
        """Start the archive and the platform. The workstation stays off. Raises `ConfigError` or `SpoolError`."""
        self.switch_on("archive")
        (self.folder / "research").mkdir()
        program = example("smooth")
        content = configuration.platform(self.folder, self.port, self.ports, program, self._image)
        self._mercure = Node(_write(self.config, content))
        self._run(self._mercure)

    def switch_on(self, name: str) -> None:
        """Start a receiver that stands for a PACS node, with a data folder of its own. Raises `SpoolError`."""
        home = self.folder / name
        content = configuration.node(home, name, self.ports[name])
        self._run(Node(_write(home / "mercure.json", content), ("receiver",)))

    def folders_of(self, target: str) -> tuple[Path, ...]:
        """Return where the instances that a target has got can stand."""
        if target == "research":
            return (self.folder / "research",)
        return (self.folder / target / "data" / "incoming",)

    @property
    def discarded(self) -> Path:
        """Where series stand that no rule took."""
        return self.layout.discard

    def note_replaceable(self) -> None:
        """Note that the next demo may remove what stands here: nobody had the time to do something with it."""
        os.pwrite(self._lock, "".join(f"{entry.name}\n" for entry in _entries(self.folder)).encode(), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._mercure is not None:
            self._mercure.stop()  # first, so that it releases its associations with the others
        self._exit.close()

    def _run(self, node: Node) -> None:
        self._exit.callback(node.stop)
        node.start()


def log_to(path: Path) -> None:
    """Have everything that the services say go into a file; the screen shows what happens."""
    logging.basicConfig(filename=path, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.environ.setdefault("MERCURE_LOG_LEVEL", "error")  # of the receiver's workers, which write to the terminal


def _take(folder: Path) -> tuple[int, Path | None]:
    """Return the descriptor that holds the folder for this demo, and where what stood there is now."""
    marker = folder / MARKER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not marker.exists() and any(folder.iterdir()):
            raise SpoolError(f"{folder} holds other files")
        lock = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise SpoolError(f"{folder} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_noted(folder, lock)
        earlier = _move_aside(folder)
    except OSError as error:
        os.close(lock)
        why = "another demo runs in it" if isinstance(error, BlockingIOError) else error.strerror
        raise SpoolError(f"{folder} cannot be used: {why}") from error
    return lock, earlier


def _remove_noted(folder: Path, marker: int) -> None:
    """Remove what the last demo has noted."""
    noted = os.pread(marker, _MOST_NOTED_BYTES, 0).decode("ascii", "replace").splitlines()
    for entry in _entries(folder):
        if entry.name in noted and entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name in noted:
            entry.unlink()
    os.truncate(marker, 0)


def _entries(folder: Path) -> list[Path]:
    """Return what stands in the folder, but for the marker and what was moved aside."""
    return [entry for entry in folder.iterdir() if entry.name != MARKER and not _EARLIER.fullmatch(entry.name)]


def _move_aside(folder: Path) -> Path | None:
    """Move what stands in the folder into a new one in it; return that, or None when nothing stood there."""
    left = _entries(folder)
    if not left:
        return None
    before = [int(found[1]) for entry in folder.iterdir() if (found := _EARLIER.fullmatch(entry.name))]
    earlier = folder / f"old-{max(before, default=0) + 1}"
    earlier.mkdir()
    for entry in left:
        entry.rename(earlier / entry.name)
    return earlier


def _write(path: Path, config: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return path


def _free_ports(count: int) -> list[int]:
    """Return different ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        ports = [each.getsockname()[1] for each in sockets]
    except OSError as error:
        raise ConfigError(f"no free port: {error.strerror}") from error
    finally:
        for each in sockets:
            each.close()
    return ports
