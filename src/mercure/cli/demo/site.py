"""Where the demo takes place: its folder, its configuration, the platform, and the receivers that stand for PACS."""

import fcntl
import json
import logging
import os
import shutil
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from mercure.app.platform import SERVICES, Platform
from mercure.cli.demo.series import Wanted
from mercure.config.store import ConfigStore
from mercure.core.errors import ConfigError, SpoolError

MARKER = ".mercure-demo"
"""In a folder that a demo has made: such a folder may be emptied by the next one, no other."""

CALLED_AE_TITLE = "MERCURE"
QUIET_SECONDS = 2
RETRY_SECONDS = 2

SERIES = (
    Wanted("CT1", "CT", "Thorax", ("archive",)),
    Wanted("MR1", "MR", "Brain", ("archive", "research")),
    Wanted("CT2", "CT", "Emergency", ("workstation",)),
    Wanted("MR2", "MR", "Phantom", ()),
)

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
        """Take the folder, empty it if an earlier demo made it, and write the configurations.

        Raises `SpoolError` when the folder is not a demo's own or another demo runs in it.
        """
        self.folder = folder.absolute()
        self._exit = ExitStack()
        self._exit.callback(os.close, _take(self.folder))
        self.port, archive, workstation = _free_ports(3)
        self.ports = {"archive": archive, "workstation": workstation}
        self.config = _write(self.folder / "config" / "mercure.json", self._configuration())
        self.mercure = Node(self.config)

    def start(self) -> None:
        """Start the archive and the platform. The workstation stays off. Raises `SpoolError`."""
        self.switch_on("archive")
        self._run(self.mercure)

    def switch_on(self, name: str) -> None:
        """Start a receiver that stands for a PACS node, with a data folder of its own. Raises `SpoolError`."""
        home = self.folder / name
        receiver = {
            "host": "127.0.0.1",
            "port": self.ports[name],
            "called_ae_titles": [name.upper()],
            "workers": 1,
            "min_free_space_gb": 0.1,
        }
        config = {"mercure": {"data_folder": str(home / "data")}, "receiver": receiver}
        self._run(Node(_write(home / "mercure.json", config), ("receiver",)))

    def folders_of(self, target: str) -> tuple[Path, ...]:
        """Return where the instances that a target has got can stand."""
        if target == "research":
            return (self.folder / "research",)
        return (self.folder / target / "data" / "incoming",)

    @property
    def discarded(self) -> Path:
        """Where series stand that no rule took."""
        return self.mercure.platform.layout.discard

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.mercure.stop()  # first, so that it releases its associations with the others
        self._exit.close()

    def _run(self, node: Node) -> None:
        self._exit.callback(node.stop)
        node.start()

    def _configuration(self) -> dict[str, Any]:
        research = self.folder / "research"
        research.mkdir()
        dicom = {"target_type": "dicom", "host": "127.0.0.1"}
        return {
            "mercure": {"data_folder": str(self.folder / "data"), "series_complete_trigger": QUIET_SECONDS},
            "receiver": {
                "host": "127.0.0.1",
                "port": self.port,
                "called_ae_titles": [CALLED_AE_TITLE],
                "min_free_space_gb": 0.1,
            },
            "dispatcher": {"retry_delay": RETRY_SECONDS, "retry_max_delay": RETRY_SECONDS},
            "rules": [
                {
                    "name": "CT to the archive",
                    "condition": "@Modality@ == 'CT' and @SenderAET@ != 'CT2'",
                    "target": "archive",
                },
                {
                    "name": "Brains to archive and research",
                    "condition": "@Modality@ == 'MR' and 'brain' in @SeriesDescription@.lower()",
                    "target": ["archive", "research"],
                },
                {
                    "name": "Emergency",
                    "condition": "@SenderAET@ == 'CT2'",
                    "target": "workstation",
                    "priority": "urgent",
                },
            ],
            "targets": {
                "archive": {**dicom, "port": self.ports["archive"], "called_ae_title": "ARCHIVE"},
                "workstation": {**dicom, "port": self.ports["workstation"], "called_ae_title": "WORKSTATION"},
                "research": {"target_type": "folder", "folder": str(research)},
            },
        }


def log_to(path: Path) -> None:
    """Have everything that the services say go into a file; the screen shows what happens."""
    logging.basicConfig(filename=path, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.environ.setdefault("MERCURE_LOG_LEVEL", "error")  # of the receiver's workers, which write to the terminal


def _take(folder: Path) -> int:
    """Return the descriptor that holds the folder for this demo, empty but for its marker."""
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
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry != marker:
                entry.unlink()
    except OSError as error:
        os.close(lock)
        why = "another demo runs in it" if isinstance(error, BlockingIOError) else error.strerror
        raise SpoolError(f"{folder} cannot be used: {why}") from error
    return lock


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
