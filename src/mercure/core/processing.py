"""Modules and how they run: values, and the two ports behind which every runner stands.

A module sees folders and variables only (`MODULE_PATHS`); what starts it, and how it is fenced in, is the runner's
business. The processor owns time, cancel and output size: a runner starts, stops and cleans up, and decides nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Json = Any
"""A value that came from JSON; narrowed where it is used."""

RunnerKind = Literal["docker", "process"]
PullPolicy = Literal["always", "missing", "never"]

INPUT_IN_CONTAINER = "/tmp/data"  # noqa: S108 - the contract of existing modules
OUTPUT_IN_CONTAINER = "/tmp/output"  # noqa: S108
PERSISTENCE_IN_CONTAINER = "/tmp/persistence"  # noqa: S108


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run of a module may use. None: no limit but the machine."""

    cpus: float | None = None
    memory_bytes: int | None = None
    processes: int | None = 1024
    shared_memory_bytes: int | None = None
    gpu_memory_bytes: int | None = None
    gpus: tuple[str, ...] = ()
    """Ids of the GPUs that this run has for itself, chosen by the processor; empty: none."""


@dataclass(frozen=True, slots=True)
class ModuleSpec:
    """A module as it is configured, secrets resolved. Holds secrets: never logged, never written to a job."""

    name: str
    runner: RunnerKind
    image: str = ""
    """Of the runner docker."""
    command: tuple[str, ...] = ()
    """Of the runner process: program and arguments, never through a shell. Of docker: in place of the image's own."""
    environment: Mapping[str, str] = field(default_factory=dict)
    docker_arguments: Mapping[str, Json] = field(default_factory=dict)
    """Allowed ones only; checked again by the runner."""
    volumes: Mapping[str, Json] = field(default_factory=dict)
    """Host path to `{"bind": path in the container, "mode": "ro" or "rw"}`; checked again by the runner."""
    network_enabled: bool = False
    requires_root: bool = False
    writes_input: bool = False
    """The module changes its input: it gets a copy of the instances."""
    persistence: str = ""
    """Name of the folder that stays between jobs; empty: none."""
    pull: PullPolicy = "always"
    gpu_count: int = 0
    takes_all_gpus: bool = False
    """Its own arguments give it GPUs that nobody chose, so that it counts as having all of the machine."""
    limits: Limits = field(default_factory=Limits)
    timeout_seconds: float | None = None
    output_limit_bytes: int | None = None
    max_parallel: int | None = None
    settings: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunOrder:
    """One run of one module: a step of a job."""

    job_id: str
    step: int
    module: ModuleSpec
    input_folder: str
    output_folder: str
    persistence_folder: str
    """Empty: none."""
    limits: Limits
    output: Callable[[bytes], None]
    """Takes what the module writes to stdout and stderr, as it comes, on a thread of the runner. Does not raise."""
    stopped: Callable[[], str] = lambda: ""
    """Says why the start is not wanted any more, or "": asked while the runner waits for something to start with."""


class Running(Protocol):
    """A module that runs. Used by one thread, but for `kill`."""

    @property
    def image_digest(self) -> str:
        """What exactly runs: the digest of the image, or empty."""

    def wait(self, seconds: float) -> int | None:
        """Wait so long for the end; return the exit code, or None while it runs (negative: the number of a signal).

        Raises `TransientError` when it cannot be known, because the engine went away.
        """

    def stop(self) -> None:
        """Ask the module to end (SIGTERM). Returns at once."""

    def kill(self) -> None:
        """End the module and all that it started (SIGKILL)."""

    def leave(self) -> None:
        """Stop following the run because the service ends: it goes on where `adopt` finds it, or is ended."""

    def close(self) -> None:
        """Remove what the run left behind outside its folders. Everything it wrote has gone to `output` afterwards.

        All files in the output folder belong to, and can be removed by, the service afterwards.
        """


class ModuleRunner(Protocol):
    """Starts modules of one kind. Safe to use from many threads."""

    @property
    def protects_input(self) -> bool:
        """Whether a module cannot write to the files of its input, whatever their modes. Without it, it gets copies."""

    def start(self, order: RunOrder) -> Running:
        """Start the module.

        Raises `TransientError` (engine away, image not to be had just now), `PermanentError` (not allowed, no such
        image or program) or `CancelledError` (the order was stopped while an image was waited for).
        """

    def adopt(self, order: RunOrder) -> Running | None:
        """Return the run of this order that a service which died has left behind, or None after making sure of none.

        Never two runs for one order: what cannot be adopted is killed before None is returned.
        """

    def sweep(self, is_wanted: Callable[[str], bool]) -> None:
        """End and remove the runs of jobs that are not wanted any more, by their ids. Raises as `start` does.

        Those are of jobs that were cancelled, or failed, while no service followed their runs.
        """


def module_variables(order: RunOrder, paths: tuple[str, str, str]) -> dict[str, str]:
    """Return the environment of a module: its own, and the folders as `paths` (input, output, persistence) names them.

    The variables of the contract win over the module's own, as they always did.
    """
    taken, made, kept = paths
    variables = dict(order.module.environment)
    for name in ("MERCURE_IN_DIR", "MONAI_INPUTPATH", "HOLOSCAN_INPUT_PATH"):
        variables[name] = taken
    for name in ("MERCURE_OUT_DIR", "MONAI_OUTPUTPATH", "HOLOSCAN_OUTPUT_PATH"):
        variables[name] = made
    if order.persistence_folder:
        variables["MODULE_PERSISTENCE_DIR"] = kept
    return variables
