"""Kills a service before the n-th change that it makes to the data folder, for every n.

`python -m tests.kill_points` reads an `Order` as JSON from standard input, and for n = 1, 2, ... copies the template,
forks, and lets the child work on the copy until it asks the kernel for the n-th change: then it kills itself, as a
power cut would. It ends with the first child that finishes, and prints how many were killed. The test then lets a new
service go on with each of the copies. A process of its own because forking wants one without threads.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.arrivals import rule, settings
from tests.fake_clock import FakeClock, Recorded

from mercure.core.errors import SpoolError
from mercure.core.processing import ModuleSpec
from mercure.core.retry import RetryPolicy
from mercure.core.stages import Stage
from mercure.runners.process import ProcessRunner
from mercure.services.dispatch_settings import DispatcherSettings, TargetSetup
from mercure.services.dispatcher import Dispatcher
from mercure.services.processing_settings import ProcessorSettings
from mercure.services.processor import Processor
from mercure.services.router import Router, RouterSettings
from mercure.spool import controls
from mercure.spool.jobs import job_ids
from mercure.spool.layout import Layout
from mercure.spool.moves import sweep_removed
from mercure.targets.folder import FolderTarget

_CHANGES = ("rename", "link", "mkdir", "fsync", "unlink", "rmdir", "open", "write")
_MOST = 2000


@dataclass
class Order:
    """What to do: `work` is a name of `WORK`; `elsewhere` has folders of other file systems by name of the stage."""

    work: str
    template: str
    copies: str
    elsewhere: dict[str, str] = field(default_factory=dict)

    def layout(self, number: int) -> Layout:
        """The data folder of the n-th copy."""
        return self._layout(Path(self.copies) / str(number), str(number))

    def template_layout(self) -> Layout:
        """The data folder that is copied."""
        return self._layout(Path(self.template), "template")

    def _layout(self, folder: Path, mark: str) -> Layout:
        folders = dict(Layout.under(folder).folders())
        folders |= {name: Path(path) / mark / name for name, path in self.elsewhere.items()}
        return Layout(**folders)


def router_settings(*, mended: bool = False) -> RouterSettings:
    """Two rules whose targets are there, one for a series that is nobody's, one whose target is missing at first."""
    rules = (rule("first"), rule("second", targets=("research",)), rule("third", targets=("late",)))
    return settings(*rules, targets=("archive", "research", "late") if mended else ("archive", "research"))


def route(layout: Layout, *, mended: bool = False) -> None:
    """Let a new router do all there is to do."""
    clock = FakeClock()
    clock.advance(3600)
    router = Router(layout, router_settings(mended=mended), clock, Recorded())
    while router.step():
        pass


def retry_and_route(layout: Layout) -> None:
    """Let an operator retry what is in `error/` after the mend, and a router go on."""
    for job_id in list(job_ids(layout, Stage.ERROR)):
        with contextlib.suppress(SpoolError):  # an operator who is told that it is under way already
            controls.retry(layout, job_id, FakeClock().now())
    route(layout, mended=True)
    sweep_removed(layout)  # as each dispatcher does when it starts


def dispatch(layout: Layout) -> None:
    """Let a new dispatcher deliver everything to folders beside the data folder."""
    targets = {}
    for name in ("archive", "research"):
        folder = layout.incoming.parent / f"target-{name}"
        folder.mkdir(exist_ok=True)
        targets[name] = TargetSetup(FolderTarget(str(folder)), RetryPolicy(0.01, 0.01))
    clock = FakeClock()
    dispatcher = Dispatcher(layout, DispatcherSettings(targets), clock, Recorded())
    ended = threading.Event()
    while any(True for _ in job_ids(layout, Stage.OUTGOING)):
        dispatcher.step()
        clock.advance(3.0)
        ended.wait(0.001)


def cancel(layout: Layout) -> None:
    """Let an operator cancel everything that waits."""
    for job_id in list(job_ids(layout, Stage.OUTGOING)):
        controls.cancel(layout, job_id, FakeClock().now())


def process(layout: Layout) -> None:
    """Let a new processor run what waits in `processing/` through a module that copies."""
    copies = ModuleSpec("copy", "process", command=("/bin/sh", "-c", 'cp "$MERCURE_IN_DIR"/*.dcm "$MERCURE_OUT_DIR"'))
    clock = FakeClock()
    values = ProcessorSettings({"copy": copies}, runners={"process": ProcessRunner()})
    processor = Processor(layout, values, clock, Recorded())
    ended = threading.Event()
    while any(True for _ in job_ids(layout, Stage.PROCESSING)) or not processor.is_idle:
        processor.step()
        clock.advance(3.0)
        ended.wait(0.001)


WORK: dict[str, Callable[[Layout], None]] = {
    "route": route,
    "retry": retry_and_route,
    "dispatch": dispatch,
    "cancel": cancel,
    "process": process,
}


def kill_everywhere(order: Order) -> int:
    """Run it in a process of its own; return how many copies were killed (they have the numbers from 1 on)."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill_points"],
        input=json.dumps(asdict(order)),
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent.parent), *sys.path))},
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    return int(done.stdout)


def kill_at(number: int, changes: Sequence[str] = _CHANGES) -> None:
    """Have this process kill itself when it asks the kernel for the n-th of these changes."""
    count = itertools.count(1)

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*arguments: Any, **keywords: Any) -> Any:
            if next(count) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **keywords)

        return change

    for name in changes:
        setattr(os, name, wrapped(getattr(os, name)))


def _copy(order: Order, number: int) -> Layout:
    source, target = order.template_layout(), order.layout(number)
    for name, folder in target.folders().items():
        shutil.copytree(source.folders()[name], folder)
    return target


def _main() -> None:
    order = Order(**json.load(sys.stdin))
    for number in range(1, _MOST):
        layout = _copy(order, number)
        child = os.fork()
        if child == 0:
            try:
                kill_at(number)
                WORK[order.work](layout)
            except BaseException as error:
                sys.stderr.write(f"{error!r}\n")
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                sys.exit(f"change {number}: the work failed")
            sys.stdout.write(str(number - 1))
            return
    sys.exit("it never ends")


if __name__ == "__main__":
    _main()
