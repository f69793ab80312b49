"""An installation in a temporary folder, and the command line that works on it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.builders import dicom_bytes
from tests.peers import DEADLINE_SECONDS, stop, wait_until
from typer.testing import CliRunner

from mercure.cli.main import app
from mercure.core.delivery import InstanceResult
from mercure.core.events import Event
from mercure.core.stages import Stage
from mercure.core.task import Delivery, FailStage, Job, SeriesInfo
from mercure.journal.reader import JournalReader
from mercure.spool.job_files import Ledger, write_error_log, write_task
from mercure.spool.layout import Layout

SERIES = "1.2.3.4"
JOB = "20260101T120000-0123456789-1"
COMMAND = [sys.executable, "-m", "mercure.cli.main"]


class Answer:
    """What a command printed, and its exit status."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        """The output read as JSON."""
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"status {self.status}\n{self.out}\n--- stderr\n{self.err}"


class Site:
    """A configuration and a data folder below one folder."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.config_file = folder / "config" / "mercure.json"
        self.layout = Layout.under(self.data)
        self.configuration: dict[str, Any] = {"mercure": {"data_folder": str(self.data)}, **sections}
        self.write()
        self.layout.create()

    def write(self) -> None:
        """Write the configuration."""
        self.config_file.parent.mkdir(parents=True, exist_ok=True)
        self.config_file.write_text(json.dumps(self.configuration, indent=1), encoding="utf-8")
        self.config_file.chmod(0o600)

    @property
    def environment(self) -> dict[str, str]:
        return {"MERCURE_CONFIG_FOLDER": str(self.config_file.parent)}

    def __call__(self, *arguments: str | Path) -> Answer:
        """Call the command line in this process."""
        done = CliRunner().invoke(app, [str(one) for one in arguments], env=self.environment, catch_exceptions=False)
        return Answer(done.exit_code, done.stdout, done.stderr)

    def process(self, *arguments: str | Path, wrapper: Sequence[str] = (), **environment: str) -> Answer:
        """Call the command line in a process of its own."""
        done = subprocess.run(
            [*wrapper, *COMMAND, *map(str, arguments)],
            env={**os.environ, **self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def running(self, *services: str, until: str = "ready", **environment: str) -> Iterator["Running"]:
        """Run services, wait until their log says so, stop them at the end."""
        log = self.folder / "run.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*COMMAND, "run", *services],
                env={**os.environ, **self.environment, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        running = Running(process, log)
        try:
            running.wait_for(until)
            yield running
        finally:
            stop(process, seconds=DEADLINE_SECONDS)

    def job(
        self, stage: Stage, job_id: str = "20260101T120000-0123456789-1", *, instances: int = 2, **values: Any
    ) -> Job:
        """Put a job into a stage. `values` replace those of a job of a rule for one target."""
        folder = self.layout.stage(stage) / job_id
        (folder / "received").mkdir(parents=True)
        names = tuple(f"{SERIES}#{SERIES}.{number}.dcm" for number in range(instances))
        for name in names:
            (folder / "received" / name).write_bytes(dicom_bytes(rows=8, columns=8))
        now = datetime.now(UTC)
        job = Job(
            job_id,
            "route",
            SeriesInfo(SERIES, "1.2.3", "SCANNER", "MERCURE", "127.0.0.1", "DOE^JOHN", "PAT-1"),
            now - timedelta(minutes=5),
            names,
            triggered_rules=("ct",),
            applied_rule="ct",
            deliveries=(Delivery("pacs"),),
            complete_at=now - timedelta(minutes=5),
        )
        job = replace(job, **values)
        if job.reason:
            write_error_log(folder, job.reason, now)
        write_task(folder, job)
        return job

    def failed_job(self, job_id: str = JOB, **values: Any) -> Job:
        """Put a job into error/ that failed at dispatching."""
        given = {"fail_stage": FailStage.DISPATCHING, "reason": "pacs: refused", "settled_at": datetime.now(UTC)}
        return self.job(Stage.ERROR, job_id, **{**given, **values})

    def record(self, stage: Stage, job: Job, *results: tuple[str, InstanceResult]) -> None:
        """Write the ledger of a job."""
        ledger = Ledger(self.layout.stage(stage) / job.id)
        for target, result in results:
            ledger.record(target, result)
        ledger.close()

    def events(self) -> tuple[Event, ...]:
        """Everything in the journal."""
        return JournalReader(self.layout.journal).read().events

    def where(self, job_id: str) -> list[str]:
        """The stages in which a job stands."""
        return [stage.value for stage in Stage if (self.layout.stage(stage) / job_id).is_dir()]

    def remove_data(self) -> None:
        """Make the data folder vanish."""
        shutil.rmtree(self.data)


class Running:
    """Services in a process of their own."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def wait_for(self, text: str) -> None:
        """Wait until the log has the text; the end of the process before that is an error."""
        wait_until(lambda: text in self.log or self.process.poll() is not None, f"{text!r} in the log: {self.log}")
        assert text in self.log, self.log
