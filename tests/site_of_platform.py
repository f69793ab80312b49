"""A whole platform for a test: configuration, data folder, targets and a sender, on free ports of this machine."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests import peers
from tests.arrivals import Census, census
from tests.builders import BuiltSeries
from tests.peers import free_port, wait_until

from mercure.app.platform import SERVICES, Platform
from mercure.config.store import ConfigStore
from mercure.core.events import Event
from mercure.core.stages import Stage
from mercure.core.task import Job
from mercure.journal.reader import JournalReader
from mercure.spool import controls
from mercure.spool.job_files import read_task
from mercure.spool.layout import Layout, sop_instance_uid_of


class Site:
    """A running platform; `archive` and `research` are folder targets that are there from the start."""

    def __init__(self, folder: Path, data_folder: Path | None = None) -> None:
        self.folder = folder
        self.data = data_folder or folder / "data"
        self.layout = Layout.under(self.data)
        self.port = free_port()
        self.path = folder / "mercure.json"
        for name in ("archive", "research"):
            self.target(name).mkdir(parents=True, exist_ok=True)
        self.platform: Platform | None = None

    def target(self, name: str) -> Path:
        return self.folder / "targets" / name

    def configure(self, *rules: dict[str, Any], targets: dict[str, Any] | None = None, **sections: Any) -> None:
        """Write the configuration; a running platform takes it up at its next look."""
        folders = {
            name: {"target_type": "folder", "folder": str(self.target(name))} for name in ("archive", "research")
        }
        receiver = {"host": "127.0.0.1", "port": self.port, "workers": 1, "min_free_space_gb": 0}
        mercure = {"data_folder": str(self.data), "series_complete_trigger": 0.3, "dispatcher_scan_interval": 0.2}
        content = {
            "mercure": mercure | sections.pop("mercure", {}),
            "receiver": receiver | sections.pop("receiver", {}),
            "targets": folders | (targets or {}),
            "rules": [{"condition": "True", "target": "archive"} | rule for rule in rules],
            **sections,
        }
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(content))
        draft.rename(self.path)

    def send(self, *files: Path, calling: str = "SCANNER") -> peers.Finished:
        return peers.storescu(self.port, *files, extra_args=["-aet", calling, "-aec", "MERCURE"])

    def send_series(self, *series: BuiltSeries) -> None:
        for each in series:
            done = peers.dcmsend(self.port, *each.files)
            assert done.returncode == 0, done.output

    def census(self) -> Census:
        return census(self.layout)

    def jobs(self, stage: Stage) -> list[Job]:
        return [read_task(self.layout.stage(stage) / job) for job in sorted(self.census().jobs[stage])]

    def wait_for(self, stage: Stage, count: int = 1) -> list[Job]:
        """Wait until so many jobs stand in a stage and nothing gathers."""
        wait_until(lambda: len(self.census().jobs[stage]) >= count, f"{count} jobs in {stage.value}")
        return self.jobs(stage)

    def loose(self) -> list[list[str]]:
        """The instances of each reception, gathering or sealed; works also when a stage is elsewhere."""
        folders = [*self.layout.incoming.glob("*#*"), *self.layout.sealed.glob("*/received")]
        return [sorted(sop_instance_uid_of(path.name) for path in folder.glob("*.dcm")) for folder in folders]

    def retry(self, job: Job) -> None:
        controls.retry(self.layout, job.id, datetime.now(UTC))

    def delivered(self, name: str = "archive") -> list[str]:
        return sorted(path.name for path in self.target(name).glob("*/*.dcm"))

    def events(self) -> Sequence[Event]:
        return JournalReader(self.layout.journal).read().events


@contextmanager
def site(
    folder: Path, *rules: dict[str, Any], services: Sequence[str] = SERVICES, data: Path | None = None, **sections: Any
) -> Iterator[Site]:
    """Run a platform with these rules until the test leaves."""
    place = Site(folder, data)
    place.configure(*rules, **sections)
    with running(place, services):
        yield place


@contextmanager
def running(place: Site, services: Sequence[str] = SERVICES) -> Iterator[Platform]:
    """Run the platform of a site."""
    platform = Platform(ConfigStore(place.path), services)
    place.platform = platform
    thread = threading.Thread(target=platform.run)
    thread.start()
    try:
        if "receiver" in services:
            assert platform.service("receiver").listening.wait(30)
        yield platform
    finally:
        platform.stop()
        thread.join(40)
    assert not thread.is_alive()
