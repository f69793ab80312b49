"""Mercure's receiver as a bench starts it: the service alone, as its own process, on its own configuration."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import peers

from bench.workplace import ROOT


@contextmanager
def start_receiver(data_folder: Path, port: int, *, fsync: bool) -> Iterator[subprocess.Popen[bytes]]:
    """Run `mercure run receiver` on an empty data folder until the block ends."""
    configuration = {
        "mercure": {"data_folder": str(data_folder)},
        "receiver": {"port": port, "host": "127.0.0.1", "fsync": fsync, "accept_compressed_images": True},
        "targets": {},
        "rules": [],
    }
    with start_service(["receiver"], configuration, data_folder, port=port) as process:
        yield process


@contextmanager
def start_service(
    services: list[str], configuration: dict[str, object], data_folder: Path, *, port: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `mercure run [SERVICE...]` with a configuration, ready when it listens on `port`."""
    folder = data_folder.parent / "config"
    folder.mkdir(parents=True, exist_ok=True)
    data_folder.mkdir(parents=True, exist_ok=True)
    (folder / "mercure.json").write_text(json.dumps(configuration, indent=2), encoding="utf-8")
    environment = {
        **os.environ,
        "MERCURE_CONFIG_FOLDER": str(folder),
        "PYTHONPATH": str(ROOT / "src"),
        "TCP_NODELAY": "1",
    }
    command = [sys.executable, "-m", "mercure.cli.main", "run", *services]
    with peers.server_process(command, port=port, log=data_folder.parent / "mercure.log", env=environment) as process:
        yield process
