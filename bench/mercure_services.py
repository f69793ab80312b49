"""Mercure as a bench starts it: `mercure run` as a process of its own, on its own configuration and data folder."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import peers

from bench.workplace import ROOT
from mercure.core.events import Event
from mercure.journal.reader import JournalReader

Configuration = dict[str, Any]

TRIGGER_SECONDS = 1.0


@dataclass(frozen=True)
class Running:
    """A platform or a service that runs: its process, where it listens (0: nowhere), and its folders."""

    process: subprocess.Popen[bytes]
    port: int
    data: Path
    config: Path

    def configure(self, configuration: Configuration) -> None:
        """Replace the configuration; it is taken up within a second or two."""
        _write(self.config, configuration)

    def events(self) -> list[Event]:
        """What the journal has so far."""
        return list(JournalReader(self.data / "jobs" / "journal").read(1_000_000).events)


@contextmanager
def start_receiver(data_folder: Path, port: int, *, fsync: bool) -> Iterator[subprocess.Popen[bytes]]:
    """Run `mercure run receiver` on an empty data folder until the block ends."""
    receiver = {"port": port, "host": "127.0.0.1", "fsync": fsync, "accept_compressed_images": True}
    configuration = {"mercure": {"data_folder": str(data_folder)}, "receiver": receiver}
    with start_services(["receiver"], configuration) as running:
        yield running.process


@contextmanager
def start_platform(
    folder: Path,
    target_port: int,
    *,
    general: Mapping[str, object] | None = None,
    receiver: Mapping[str, object] | None = None,
    dispatcher: Mapping[str, object] | None = None,
) -> Iterator[Running]:
    """Run all services until the block ends: a series is complete after a second and goes to the target.

    What is given is set in the sections `mercure`, `receiver` and `dispatcher`; all else has its default.
    """
    configuration = {
        "mercure": {
            "data_folder": str(folder / "data"),
            "series_complete_trigger": TRIGGER_SECONDS,
            **(general or {}),
        },
        "receiver": {"port": peers.free_port(), "host": "127.0.0.1", **(receiver or {})},
        "dispatcher": dict(dispatcher or {}),
        "targets": {"pacs": dicom_target(target_port)},
        "rules": [{"name": "images", "condition": "@Modality@ in ('CT', 'MR')", "action": "route", "target": "pacs"}],
    }
    with start_services([], configuration) as running:
        yield running


def dicom_target(port: int) -> dict[str, object]:
    """A DICOM target on this machine."""
    return {"target_type": "dicom", "host": "127.0.0.1", "port": port, "called_ae_title": "STORESCP"}


@contextmanager
def start_services(services: Sequence[str], configuration: Configuration) -> Iterator[Running]:
    """Run `mercure run [SERVICE...]` until the block ends; with a receiver it is ready when its port listens."""
    data = Path(configuration["mercure"]["data_folder"])
    config = data.parent / "config"
    config.mkdir(parents=True, exist_ok=True)
    data.mkdir(parents=True, exist_ok=True)
    _write(config, configuration)
    environment = {
        **os.environ,
        "MERCURE_CONFIG_FOLDER": str(config),
        "PYTHONPATH": str(ROOT / "src"),
        "TCP_NODELAY": "1",
    }
    command = [sys.executable, "-m", "mercure.cli.main", "run", *services]
    log = data.parent / "mercure.log"
    port = int(configuration.get("receiver", {}).get("port", 0))
    if port:
        with peers.server_process(command, port=port, log=log, env=environment) as process:
            yield Running(process, port, data, config)
        return
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        yield Running(process, 0, data, config)
    finally:
        peers.stop(process)


def _write(config: Path, configuration: Configuration) -> None:
    draft = config / ".mercure.json.new"
    draft.write_text(json.dumps(configuration, indent=2), encoding="utf-8")
    draft.replace(config / "mercure.json")
