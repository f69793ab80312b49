"""The runners that the suite of the port runs over, each with a way to say a module as a script of the POSIX shell.

Only what dash and busybox both know is used in scripts. Whether something of a module is alive is asked of the kernel:
a script has descriptor 9 open on a file of its output folder, and so has all that it starts (`HOLD`).
"""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.docker_engine import shared_engine
from tests.peers import wait_until

from mercure.core.processing import Limits, ModuleRunner, ModuleSpec, Running, RunOrder
from mercure.runners.docker import DockerRunner
from mercure.runners.process import ProcessRunner

SECONDS = 60.0
HOLD = 'exec 9>"$MERCURE_OUT_DIR/held"; '
INSTANCE = "1.2.3#1.2.3.1.dcm"


@dataclass(frozen=True)
class Kind:
    """A runner, made anew as after a restart of the service, and what a module of it is."""

    name: str
    make: Callable[[], ModuleRunner]
    base: ModuleSpec
    nothing_there: ModuleSpec
    """A module whose program or image does not exist."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What another process needs to use the same engine."""

    def script(self, text: str, *arguments: str, **changes: Any) -> ModuleSpec:
        """Return a module that runs a script."""
        return replace(self.base, command=("/bin/sh", "-c", text, "module", *arguments), **changes)


def process_kind() -> Kind:
    return Kind(
        "process",
        ProcessRunner,
        ModuleSpec("contract", "process"),
        ModuleSpec("contract", "process", command=("/nowhere/to-be-found",)),
    )


def docker_kind() -> Kind:
    engine = shared_engine()
    base = ModuleSpec("contract", "docker", image=engine.busybox(), pull="never")
    return Kind(
        "docker",
        lambda: DockerRunner("contract", host=engine.host),
        base,
        replace(base, image="mercure-test-not-there:latest"),
        {"DOCKER_HOST": engine.host},
    )


KINDS: dict[str, Callable[[], Kind]] = {"process": process_kind, "docker": docker_kind}


@dataclass
class Place:
    """The folders of one job, and what its module wrote."""

    folder: Path
    written: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        for path in (self.taken, self.made, self.kept):
            path.mkdir(parents=True, exist_ok=True)
        instance = self.taken / INSTANCE
        if not instance.exists():
            instance.write_bytes(b"an instance")
            instance.chmod(0o440)
            (self.taken / "task.json").write_text(json.dumps({"process": {"settings": {"odd": "ä'\"$(x)"}}}))

    @property
    def taken(self) -> Path:
        return self.folder / "in"

    @property
    def made(self) -> Path:
        return self.folder / "out"

    @property
    def kept(self) -> Path:
        return self.folder / "kept"

    def order(self, module: ModuleSpec, limits: Limits | None = None, *, job: str = "job") -> RunOrder:
        kept = str(self.kept) if module.persistence else ""
        return RunOrder(
            f"{job}-{self.folder.name}",
            0,
            module,
            str(self.taken),
            str(self.made),
            kept,
            limits or Limits(),
            self.written.extend,
        )

    def holders(self) -> int:
        """How many processes of the module, and of what it started, are alive: those that have `held` open."""
        return len([pid for pid in os.listdir("/proc") if pid.isdigit() and self._has_open(pid)])

    def held(self) -> bool:
        return self.holders() > 0

    def _has_open(self, pid: str) -> bool:
        try:
            return os.path.samefile(f"/proc/{pid}/fd/9", self.made / "held")
        except OSError:
            return False

    def input(self) -> Mapping[str, bytes]:
        return {path.name: path.read_bytes() for path in self.taken.iterdir()}


@contextmanager
def running(runner: ModuleRunner, order: RunOrder) -> Iterator[Running]:
    """Start a module; whatever happens, nothing of it is left."""
    run = runner.start(order)
    try:
        yield run
    finally:
        run.kill()
        run.close()


def ended(run: Running) -> int:
    """Wait for the end of a run and return its exit code."""
    codes: list[int] = []

    def over() -> bool:
        code = run.wait(1.0)
        if code is not None:
            codes.append(code)
        return bool(codes)

    wait_until(over, "the module has ended", seconds=SECONDS)
    return codes[0]


def run_through(runner: ModuleRunner, order: RunOrder) -> int:
    """Run a module from start to end."""
    with running(runner, order) as run:
        return ended(run)


def in_thread(call: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread
