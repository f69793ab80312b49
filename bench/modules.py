"""Part 6: what the processor adds to a module, beside the same module run by hand."""

import itertools
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.arrivals import make_job
from tests.builders import BuiltSeries
from tests.docker_engine import shared_engine
from tests.peers import wait_until

from bench import inputs
from bench.mercure_services import Running, start_services
from bench.results import Goal, Report
from bench.size import Size
from bench.workplace import clean_folder
from mercure.core.events import EventKind
from mercure.core.processing_steps import StepPlan, process_section
from mercure.core.stages import Stage
from mercure.spool import controls
from mercure.spool.layout import Layout
from mercure.spool.module_folders import lay_out_input

_SCRIPT = 'cat "$MERCURE_IN_DIR"/*.dcm | wc -c > "$MERCURE_OUT_DIR/size.txt"'
_SLEEP = "sleep 2"
_RUNS = 15
_WAITING = 1000
_SECONDS = 300.0
_numbers = itertools.count()


def measure(size: Size) -> Report:
    """All of part 6."""
    report = Report("modules", "6. Modules")
    runs = 5 if size.quick else _RUNS
    series = inputs.ct(1, 100).series[0]
    image = _image(_SCRIPT)
    _overhead(report, series, "process", {"command": ["/bin/sh", "-c", _SCRIPT]}, runs, 20)
    _overhead(report, series, "docker", {"docker_tag": image, "pull": "never"}, runs, 80)
    _cancel(report, series, 3 if size.quick else 5)
    _parallel(report, series)
    _claims(report, 100 if size.quick else _WAITING)
    _layout(report, 200 if size.quick else 2000)
    report.notes += [
        "The module reads all instances of a series of 100 CT and writes one file, as a script of the shell.",
        "A job is timed from its claim to its commit, by the journal.",
        "By hand, the same script runs on the same files: as a process, and as `docker run --rm` fenced in likewise.",
        "Engine and image are local; nothing is pulled.",
    ]
    return report


def _image(script: str) -> str:
    engine = shared_engine()
    return engine.make_image(engine.busybox(), {"/module.sh": script}, ['ENTRYPOINT ["/bin/sh", "/module.sh"]'])


@contextmanager
def _processor(folder: Path, modules: Mapping[str, Any], **more: Any) -> Any:
    configuration = {
        "mercure": {"data_folder": str(folder / "data")},
        "processor": {"docker_host": shared_engine().host, **more},
        "modules": dict(modules),
    }
    layout = Layout.under(folder / "data")
    layout.create()
    with start_services(["processor"], configuration) as running:
        wait_until(lambda: EventKind.SERVICE_STARTED in {event.kind for event in running.events()}, "it runs")
        yield running, layout


def _copy_of(series: BuiltSeries, folder: Path) -> BuiltSeries:
    """Copy the instances: jobs link to them, and what is in the folder of a measurement is emptied afterwards."""
    folder.mkdir(parents=True)
    return replace(series, files=tuple(Path(shutil.copy(file, folder / file.name)) for file in series.files))


def _job(layout: Layout, series: BuiltSeries, module: str) -> str:
    job_id = f"job-{next(_numbers):05d}"
    make_job(layout, series, stage=Stage.PROCESSING, job_id=job_id, process=process_section([StepPlan(module)]))
    return job_id


def _times(running: Running, kind: EventKind) -> dict[str, float]:
    return {event.job_id or "": event.at.timestamp() for event in running.events() if event.kind is kind}


def _wait_for(running: Running, jobs: Sequence[str]) -> dict[str, float]:
    """Wait until all these jobs have ended; return when each did."""
    wanted = set(jobs)

    def ended() -> bool:
        return wanted <= _times(running, EventKind.JOB_SETTLED).keys()

    wait_until(ended, f"{len(jobs)} jobs end", seconds=_SECONDS, interval=0.05)
    failed = [event.detail for event in running.events() if event.kind is EventKind.PROCESSING_FAILED]
    if failed:
        raise RuntimeError(str(failed[0]))
    return _times(running, EventKind.JOB_SETTLED)


def _overhead(
    report: Report, series: BuiltSeries, kind: str, module: Mapping[str, Any], runs: int, limit_ms: float
) -> None:
    ours, by_hand = [], []
    with clean_folder("modules") as folder, _processor(folder, {"module": module}) as (running, layout):
        series = _copy_of(series, folder / "source")
        hand = folder / "by-hand"
        (hand / "out").mkdir(parents=True)
        lay_out_input(hand / "in", series.files, {}, copy=False, tags=lambda path: {"Filename": path.name})
        run = _process_by_hand(hand) if kind == "process" else _docker_by_hand(hand, str(module["docker_tag"]))
        for number in range(runs + 1):
            os.sync()
            job = _job(layout, series, "module")
            ended = _wait_for(running, [job])[job] - _times(running, EventKind.PROCESSING_STARTED)[job]
            started = time.perf_counter()
            run()
            taken = time.perf_counter() - started
            if number:  # the first of each finds everything cold
                ours.append(1000 * ended)
                by_hand.append(1000 * taken)
    job_ms = report.add(f"{kind}: a job, from claim to commit", "ms", ours)
    hand_ms = report.add(f"{kind}: the same by hand", "ms", by_hand)
    beyond = statistics.median(one - other for one, other in zip(ours, by_hand, strict=True))
    report.goals.append(Goal("overhead", f"{job_ms.what} beyond {hand_ms.what}, ms", beyond, limit_ms, at_least=False))


def _process_by_hand(folder: Path) -> Callable[[], None]:
    variables = {
        "PATH": os.environ["PATH"],
        "MERCURE_IN_DIR": str(folder / "in"),
        "MERCURE_OUT_DIR": str(folder / "out"),
    }
    return lambda: _run(["/bin/sh", "-c", _SCRIPT], variables)


def _docker_by_hand(folder: Path, image: str) -> Callable[[], None]:
    options = ["--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--pids-limit", "1024", "--init"]
    options += ["--security-opt", "no-new-privileges", "--user", f"{os.geteuid()}:{os.getegid()}"]
    options += ["-v", f"{folder / 'in'}:/tmp/data:ro", "-v", f"{folder / 'out'}:/tmp/output"]
    options += ["-e", "MERCURE_IN_DIR=/tmp/data", "-e", "MERCURE_OUT_DIR=/tmp/output"]
    host = shared_engine().host
    environment = {**os.environ, **({"DOCKER_HOST": host} if host else {})}
    return lambda: _run(["docker", "run", *options, image], environment)


def _run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    subprocess.run(command, env=dict(environment), check=True, stdout=subprocess.DEVNULL)


def _cancel(report: Report, series: BuiltSeries, runs: int) -> None:
    """From the command of an operator to the job in `error/`, of modules that do not obey."""
    stubborn = "trap '' TERM; touch \"$MERCURE_OUT_DIR/up\"; while :; do sleep 1; done"
    modules = {
        "process": {"command": ["/bin/sh", "-c", stubborn]},
        "docker": {"docker_tag": _image(stubborn), "pull": "never"},
    }
    with clean_folder("modules") as folder, _processor(folder, modules) as (_, layout):
        series = _copy_of(series, folder / "source")
        for kind in modules:
            seconds = []
            for _ in range(runs):
                job = _job(layout, series, kind)
                up = layout.processing / job / "out" / "up"
                wait_until(up.exists, "the module runs")
                started = time.perf_counter()
                controls.cancel(layout, job, datetime.now(UTC))
                wait_until((layout.error / job).exists, "the job is cancelled", interval=0.002)
                seconds.append(time.perf_counter() - started)
            what = report.add(f"{kind}: cancel of a module that does not obey, to the job in error/", "s", seconds)
            report.goals.append(Goal("cancel", f"{what.what}, s", what.median, 2, at_least=False))


def _parallel(report: Report, series: BuiltSeries) -> None:
    """16 jobs of two seconds, four at a time."""
    modules = {"sleeps": {"command": ["/bin/sh", "-c", _SLEEP]}}
    with clean_folder("modules") as folder, _processor(folder, modules, max_parallel_jobs=4) as (running, layout):
        series = _copy_of(series, folder / "source")
        began = time.time()
        jobs = [_job(layout, series, "sleeps") for _ in range(16)]
        seconds = max(_wait_for(running, jobs).values()) - began
    what = "16 jobs of 2 s, 4 at a time: the last one has ended after"
    report.add(what, "s", [seconds])
    report.goals.append(Goal("parallel", f"{what}, s", seconds, 8.6, at_least=False))


def _claims(report: Report, count: int) -> None:
    """From the end of a job to the start of the next, while many wait."""
    series = inputs.small(1, 1).series[0]
    modules = {"nothing": {"command": ["/bin/true"]}}
    with clean_folder("modules") as folder:
        layout = Layout.under(folder / "data")
        layout.create()
        series = _copy_of(series, folder / "source")
        jobs = [_job(layout, series, "nothing") for _ in range(count)]
        with _processor(folder, modules, max_parallel_jobs=1) as (running, _):
            ended = sorted(_wait_for(running, jobs).values())
            began = sorted(_times(running, EventKind.PROCESSING_STARTED).values())
    gaps = [1000 * (after - before) for before, after in zip(ended[: count // 4], began[1:], strict=False)]
    what = f"{count:,} jobs wait: end of one to claim of the next"
    report.add(what, "ms", gaps)
    report.goals.append(Goal("claim", f"{what}, ms", statistics.median(gaps), 5, at_least=False))


def _layout(report: Report, count: int) -> None:
    """The input of a large job: how long it takes, and what of it was copied."""
    series = inputs.small(1, count).series[0]
    with clean_folder("modules") as folder:
        series = _copy_of(series, folder / "source")
        started = time.perf_counter()
        lay_out_input(folder / "in", series.files, {}, copy=False, tags=lambda path: {"Filename": path.name})
        seconds = time.perf_counter() - started
        copied = sum(not (folder / "in" / file.name).samefile(file) for file in series.files)
    report.add(f"input of {count:,} instances laid out", "s", [seconds])
    report.goals.append(Goal("layout", f"of {count:,} instances, copied", copied, 0, at_least=False))
