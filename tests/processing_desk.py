"""A processor for tests, whose modules are small Python programs and whose steps and clock the test makes."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.arrivals import make_job
from tests.builders import BuiltSeries
from tests.fake_clock import FakeClock, Recorded
from tests.peers import wait_until

from mercure.core.processing import ModuleSpec
from mercure.core.processing_steps import StepPlan, process_section
from mercure.core.stages import Stage
from mercure.core.task import Job
from mercure.runners.process import ProcessRunner
from mercure.services.processing_settings import ProcessorSettings
from mercure.services.processor import Processor
from mercure.spool.job_files import read_task
from mercure.spool.jobs import job_ids
from mercure.spool.layout import Layout

HEAD = """
import glob, json, os, pathlib, shutil, signal, sys, time
taken, made = pathlib.Path(os.environ["MERCURE_IN_DIR"]), pathlib.Path(os.environ["MERCURE_OUT_DIR"])
task = json.loads((taken / "task.json").read_text())
def copy_all():
    for file in taken.glob("*.dcm"):
        shutil.copyfile(file, made / file.name)
"""


class Desk:
    """A processor whose steps the test makes."""

    def __init__(self, layout: Layout, folder: Path, events: Recorded | None = None, **more: Any) -> None:
        self.layout = layout
        self.folder = folder
        self.clock = FakeClock()
        self.events = events or Recorded()
        self.modules: dict[str, ModuleSpec] = {}
        self.more: dict[str, Any] = {
            "persistence_folder": str(folder / "persistence"),
            "kill_grace_seconds": 1.0,
            **more,
        }
        self.processor = Processor(layout, self.settings(), self.clock, self.events, draw=lambda: 0.5)

    def settings(self) -> ProcessorSettings:
        return ProcessorSettings(dict(self.modules), runners={"process": ProcessRunner()}, **self.more)

    def module(self, name: str, body: str, **spec: Any) -> None:
        """Give the processor a module that is a Python program."""
        program = self.folder / f"{name}.py"
        program.write_text(HEAD + body)
        self.modules[name] = ModuleSpec(name, "process", command=(sys.executable, "-I", str(program)), **spec)
        self.processor.configure(self.settings())

    def job(self, series: BuiltSeries, *steps: StepPlan | str, targets: Sequence[str] = (), **values: Any) -> Job:
        plans = tuple(StepPlan(step) if isinstance(step, str) else step for step in steps)
        values.setdefault("applied_rule", "rule")
        return make_job(self.layout, series, *targets, stage=Stage.PROCESSING, process=process_section(plans), **values)

    def until(self, condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        def stepped() -> object:
            self.processor.step()
            return condition()

        wait_until(stepped, what, seconds=seconds)

    def ends_in(self, stage: Stage, job: Job) -> Job:
        """Let the processor work until the job stands in a stage."""
        ended = [self.layout.stage(one) / job.id for one in (stage, Stage.ERROR)]
        self.until(lambda: any(folder.is_dir() for folder in ended), f"the job is in {stage.value}/")
        if not ended[0].is_dir():
            logs = [log.read_text() for log in sorted(ended[1].glob("logs/*"))]
            raise AssertionError([read_task(ended[1]).reason, *logs])
        return read_task(self.layout.stage(stage) / job.id)

    def place(self, stage: Stage, job: Job) -> Path:
        return self.layout.stage(stage) / job.id

    def waiting(self) -> list[str]:
        return sorted(job_ids(self.layout, Stage.PROCESSING))
