"""A whole installation in one folder: each service a process of its own, which may be killed and is started again."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.arrivals import census
from tests.peers import DEADLINE_SECONDS, free_port, listens, stop, wait_until

from mercure.core.stages import Stage
from mercure.spool import layout as names
from mercure.spool.layout import Layout

FULL = os.environ.get("MERCURE_TORTURE") == "full"
SERVICES = ("receiver", "router", "dispatcher")

_COMMAND = (sys.executable, "-m", "mercure.cli.main")
_ROOT = Path(__file__).parents[2]


class Installation:
    """A configuration, a data folder and the processes of the services. `sections` are merged into short settings."""

    def __init__(
        self, folder: Path, *, data: Path | None = None, **sections: Mapping[str, Any] | Sequence[Any]
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.layout = Layout.under(data or folder / "data")
        self.config: dict[str, Any] = {
            "mercure": {
                "data_folder": str(self.layout.incoming.parent),
                "series_complete_trigger": 0.5,
                "router_scan_interval": 0.2,
                "dispatcher_scan_interval": 0.2,
            },
            "receiver": {"host": "127.0.0.1", "port": self.port, "min_free_space_gb": 0},
            "dispatcher": {"retry_delay": 0.3, "retry_max_delay": 1.0, "retry_max": 0},
            "rules": [],
            "targets": {},
        }
        for name, section in sections.items():
            if isinstance(section, Mapping):
                self.config[name].update(section)
            else:
                self.config[name] = list(section)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "config").mkdir(parents=True, exist_ok=True)
        self.layout.incoming.parent.mkdir(parents=True, exist_ok=True)
        self.write()

    def write(self) -> None:
        """Write the configuration in one step; running services take it up."""
        draft = self.folder / "config" / ".mercure.json"
        draft.write_text(json.dumps(self.config, indent=2), encoding="utf-8")
        os.replace(draft, self.folder / "config" / "mercure.json")

    # -- processes -----------------------------------------------------------------------------------------------------

    def start(self, *services: str) -> None:
        """Start services; the receiver listens when this returns."""
        for name in services or SERVICES:
            with (self.folder / f"{name}.log").open("ab") as log:
                self._processes[name] = subprocess.Popen(
                    [*_COMMAND, "run", *(SERVICES if name == "all" else [name])],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment(),
                    start_new_session=True,
                )
        if {"receiver", "all"} & set(services or SERVICES):
            self.wait_for_receiver()

    def wait_for_receiver(self) -> None:
        """Wait until the port is open; a service that ended instead is an error that says why."""
        wait_until(lambda: listens(self.port) or self._ended(), "the receiver listens")
        self.check_alive()

    def pid(self, service: str) -> int:
        return self._processes[service].pid

    def workers(self) -> list[int]:
        """The receiver's worker processes."""
        return [pid for name in ("receiver", "all") if name in self._processes for pid in _children(self.pid(name))]

    def kill(self, service: str) -> None:
        """SIGKILL a service, as it is: its workers must notice by themselves."""
        process = self._processes.pop(service)
        process.kill()
        process.wait()

    def restart(self, service: str) -> None:
        """Start a service again that was killed, as an init system does."""
        self.start(service)

    def stop(self, *services: str) -> None:
        """Stop services in order."""
        for name in services or tuple(self._processes):
            stop(self._processes.pop(name), seconds=DEADLINE_SECONDS)

    def check_alive(self) -> None:
        """Every service that was started and not stopped still runs."""
        assert not self._ended(), f"ended by themselves: {self._ended()}\n{self.log()[-3000:]}"

    def _ended(self) -> dict[str, int]:
        return {name: process.returncode for name, process in self._processes.items() if process.poll() is not None}

    def log(self) -> str:
        """What all services have said."""
        return "".join(path.read_text("utf-8", "replace") for path in sorted(self.folder.glob("*.log")))

    def command(self, *arguments: str) -> Any:
        """What `mercure ARGUMENTS --json` prints."""
        done = subprocess.run(
            [*_COMMAND, *arguments, "--json"], capture_output=True, text=True, env=self._environment(), check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "MERCURE_CONFIG_FOLDER": str(self.folder / "config"), "PYTHONPATH": str(_ROOT / "src")}

    # -- the data folder -----------------------------------------------------------------------------------------------

    def is_quiet(self) -> bool:
        """Whether nothing gathers, is sealed or waits to be delivered."""
        busy = (self.layout.outgoing, self.layout.sealed)
        gathering = [entry for entry in os.listdir(self.layout.incoming) if not entry.startswith(".")]
        return not gathering and not any(os.listdir(folder) for folder in busy)

    def wait_until_quiet(self, seconds: float) -> None:
        wait_until(self.is_quiet, "everything is delivered", seconds=seconds, interval=0.1)

    def jobs_by_target(self) -> dict[str, dict[str, list[str]]]:
        """For each target and SOP Instance UID the jobs that hold it, read from every task.json of every stage."""
        found: dict[str, dict[str, list[str]]] = {}
        for stage, jobs in census(self.layout).jobs.items():
            for job, uids in jobs.items():
                for target in _targets(self.layout, stage, job):
                    for uid in uids:
                        found.setdefault(target, {}).setdefault(uid, []).append(job)
        return found

    def drafts(self) -> list[Path]:
        """Instances below `.new/`: in no reception, so never acknowledged or about to be recovered."""
        return [path for path in self.layout.drafts.glob("*/*") if path.name != names.LOCK_FILE]

    def jobs(self, stage: Stage) -> list[Path]:
        return sorted(path for path in self.layout.stage(stage).iterdir() if not path.name.startswith("."))


@contextmanager
def installation(folder: Path, *services: str, data: Path | None = None, **sections: Any) -> Iterator[Installation]:
    """Run an installation; whatever happens, all its processes are gone afterwards."""
    made = Installation(folder, data=data, **sections)
    try:
        made.start(*services)
        yield made
    finally:
        made.stop()


def resident_bytes(pid: int) -> int:
    """The resident memory of a process, by proc(5)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def kill_process(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    """Children of a process; the kernel lists them for each thread that made them."""
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def _targets(layout: Layout, stage: Stage, job: str) -> list[str]:
    task = json.loads((layout.stage(stage) / job / names.TASK_FILE).read_text())
    found: list[str] = (task["dispatch"] or {}).get("target_name", [])
    return found
