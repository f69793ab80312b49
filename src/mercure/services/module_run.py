"""One run of one module, watched: its time, its output, and whether an operator wants it to stop."""

import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mercure.core.errors import CancelledError, MercureError, PermanentError
from mercure.core.processing import Running, RunOrder
from mercure.services.settlement import STOPPING
from mercure.spool.module_results import output_bytes

log = logging.getLogger(__name__)

_TICK_SECONDS = 0.25
_MEASURE_SECONDS = 1.0
_MEASURE_SHARE = 0.1
"""Part of the time of a run that may go into measuring its output, which takes long when there are many files."""

_KILL_SECONDS = 30.0
_CANCEL_GRACE_SECONDS = 1.0
"""An operator who cancels waits for two seconds at most."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What ends a run early. `stopped` returns why an operator or the service wants it to end, or ""."""

    timeout_seconds: float | None
    output_limit_bytes: int | None
    kill_grace_seconds: float
    stopped: Callable[[], str]
    elapsed_seconds: float = 0.0
    """How long it ran before it was watched: part of the time-out."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended by itself."""

    exit_code: int
    seconds: float
    image_digest: str


def follow_run(running: Running, order: RunOrder, watch: Watch) -> Ended:
    """Wait until a run ends by itself.

    Raises `PermanentError` when it took too long or made too much, `CancelledError` when it was stopped, and
    `TransientError` when its engine went away. Nothing of the run is left then, with two exceptions that `adopt` finds
    later: the engine is away, or the service itself is stopping and the run can go on without it.
    """
    started = time.monotonic() - watch.elapsed_seconds
    try:
        code = _wait(running, order, watch, started)
        ended = Ended(code, time.monotonic() - started, running.image_digest)
    except BaseException as error:
        if isinstance(error, CancelledError) and str(error) == STOPPING:
            _all_of(order, running.leave)
        else:
            _all_of(order, running.kill, running.close)
        raise
    running.close()
    return ended


def _all_of(order: RunOrder, *ends: Callable[[], None]) -> None:
    """Do each, whatever becomes of the one before: why the run ended is what its job must be told."""
    for end in ends:
        try:
            end()
        except MercureError as error:  # the engine is away: the runner finds what is left when it is back
            log.warning("job %s: its module %s cannot be cleared away now: %s", order.job_id, order.module.name, error)
        except Exception:
            log.exception("job %s: its module %s cannot be cleared away", order.job_id, order.module.name)


def _wait(running: Running, order: RunOrder, watch: Watch, started: float) -> int:
    deadline = started + watch.timeout_seconds if watch.timeout_seconds else float("inf")
    measure_at = started + _MEASURE_SECONDS
    while True:
        code = running.wait(max(0.0, min(_TICK_SECONDS, deadline - time.monotonic())))
        if code is not None:
            return code
        now = time.monotonic()
        if why := watch.stopped():
            if why != STOPPING:
                grace = min(watch.kill_grace_seconds, _CANCEL_GRACE_SECONDS)
                _all_of(order, partial(_end, running, grace))
            raise CancelledError(why)
        if now >= deadline:
            _all_of(order, partial(_end, running, watch.kill_grace_seconds))
            raise PermanentError(f"module {order.module.name} took more than {watch.timeout_seconds:g} s and was ended")
        if now >= measure_at:
            _measure(running, order, watch, deadline)
            measured = time.monotonic()
            measure_at = measured + max(_MEASURE_SECONDS, (measured - now) / _MEASURE_SHARE)


def _measure(running: Running, order: RunOrder, watch: Watch, deadline: float) -> None:
    """End a run that made too much; give up early when it is to end for another reason."""

    def is_given_up() -> bool:
        return bool(watch.stopped()) or time.monotonic() >= deadline

    try:
        check_output(order, watch.output_limit_bytes, is_given_up)
    except PermanentError:
        _all_of(order, partial(_end, running, 0.0))
        raise


def check_output(order: RunOrder, limit_bytes: int | None, is_given_up: Callable[[], bool] = lambda: False) -> None:
    """Raise `PermanentError` when the output is larger than allowed, or has too many files and folders.

    It may stop looking once it `is_given_up`.
    """
    size = output_bytes(Path(order.output_folder), is_given_up)
    if limit_bytes is not None and size > limit_bytes:
        raise PermanentError(f"module {order.module.name} made more than {limit_bytes / 1e9:g} GB of output")


def _end(running: Running, grace_seconds: float) -> None:
    """Ask the module to end, and end it when it does not."""
    if grace_seconds > 0:
        running.stop()
        if running.wait(grace_seconds) is not None:
            return
    running.kill()
    running.wait(_KILL_SECONDS)


def describe_exit(code: int) -> str:
    """Say for a person how a program ended."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"
