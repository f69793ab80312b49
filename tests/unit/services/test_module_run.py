"""A run that is watched, with a module that ends, and an engine that fails, when the test wants."""

import logging
import os
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mercure.core.errors import CancelledError, PermanentError, TransientError
from mercure.core.processing import Limits, ModuleSpec, RunOrder
from mercure.services import module_run
from mercure.services.module_run import Watch, describe_exit, follow_run
from mercure.services.settlement import BY_OPERATOR, STOPPING
from mercure.spool import module_results

ORDER = RunOrder("job-1", 0, ModuleSpec("module", "docker"), "/in", "/out", "", Limits(), lambda _: None)


@dataclass
class ScriptedRun:
    """A run as the port `Running` has it; remembers what it was told, and raises what the test wants."""

    code: int | None = None
    raises: dict[str, Exception] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    image_digest: str = "sha256:0"

    def wait(self, seconds: float) -> int | None:
        del seconds
        self._tell("wait")
        return self.code

    def stop(self) -> None:
        self._tell("stop")

    def kill(self) -> None:
        self._tell("kill")

    def leave(self) -> None:
        self._tell("leave")

    def close(self) -> None:
        self._tell("close")

    def _tell(self, what: str) -> None:
        self.told.append(what)
        if what in self.raises:
            raise self.raises[what]


def watch(why: str = "", timeout: float | None = None) -> Watch:
    return Watch(timeout, None, 0.0, lambda: why)


def test_a_run_that_ends_is_closed_and_says_how_it_ended() -> None:
    run = ScriptedRun(code=3)
    ended = follow_run(run, ORDER, watch())
    assert (ended.exit_code, ended.image_digest) == (3, "sha256:0")
    assert run.told == ["wait", "close"]


def test_a_run_is_ended_and_closed_when_it_is_cancelled_and_left_when_the_service_stops() -> None:
    cancelled, left = ScriptedRun(), ScriptedRun()
    with pytest.raises(CancelledError, match=BY_OPERATOR):
        follow_run(cancelled, ORDER, watch(BY_OPERATOR))
    assert cancelled.told[-2:] == ["kill", "close"]
    with pytest.raises(CancelledError, match=STOPPING):
        follow_run(left, ORDER, watch(STOPPING))
    assert left.told == ["wait", "leave"]


@pytest.mark.parametrize(
    "trouble", [TransientError("the engine is away"), PermanentError("refused"), ValueError("odd")]
)
def test_a_run_that_cannot_be_killed_is_closed_nevertheless_and_its_own_error_is_told(
    trouble: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    run = ScriptedRun(raises={"wait": TransientError("the first error"), "kill": trouble, "close": trouble})
    with caplog.at_level(logging.WARNING), pytest.raises(TransientError, match="the first error"):
        follow_run(run, ORDER, watch())
    assert run.told == ["wait", "kill", "close"]
    assert caplog.text.count("job-1: its module module cannot be cleared away") == 2


def test_how_a_program_ended_is_said_for_a_person() -> None:
    assert [describe_exit(code) for code in (0, 7, -9, -1000)] == [
        "exit code 0",
        "exit code 7",
        "ended by SIGKILL",
        "ended by signal 1000",
    ]


@pytest.mark.parametrize("asked", ["stop", "kill"])
def test_a_run_whose_engine_is_away_is_cancelled_nevertheless(asked: str, caplog: pytest.LogCaptureFixture) -> None:
    run = ScriptedRun(raises={asked: TransientError("the engine is away"), "close": TransientError("still away")})
    grace = Watch(None, None, 0.01, lambda: BY_OPERATOR)
    with caplog.at_level(logging.WARNING), pytest.raises(CancelledError, match=BY_OPERATOR):
        follow_run(run, ORDER, grace)
    assert run.told[-1] == "close"
    assert "job-1: its module module cannot be cleared away" in caplog.text


def test_a_run_that_took_too_long_is_not_tried_again_because_its_engine_went_away_then() -> None:
    run = ScriptedRun(raises={"kill": TransientError("the engine is away")})
    with pytest.raises(PermanentError, match="took more than"):
        follow_run(run, ORDER, watch(timeout=1e-9))


@dataclass
class TimedRun(ScriptedRun):
    """A run that waits on the clock of the test, and goes on until a time on it, or until it is killed."""

    until: float = 0.0
    now: float = 0.0

    def wait(self, seconds: float) -> int | None:
        self._tell("wait")
        if "kill" in self.told:
            return -9
        self.now += max(seconds, 0.01)
        return 0 if self.now >= self.until else self.code


def measures_of(
    run: TimedRun, seconds_each: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limits: Watch
) -> list[float]:
    """Follow a run whose output takes so long to list; return when it was."""
    began: list[float] = []
    scandir = os.scandir

    def slow(path: str) -> Any:
        began.append(run.now)
        run.now += seconds_each
        return scandir(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", slow)
        patched.setattr(module_run, "time", SimpleNamespace(monotonic=lambda: run.now))
        follow_run(run, replace(ORDER, output_folder=str(tmp_path)), limits)
    return began


@pytest.mark.parametrize("limit", [None, 10**9])
def test_an_output_that_takes_long_to_measure_is_measured_less_often(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: int | None
) -> None:
    limits = replace(watch(), output_limit_bytes=limit)
    quick = measures_of(TimedRun(until=100.0), 0.001, monkeypatch, tmp_path, limits)
    assert 80 <= len(quick) <= 100
    slow = measures_of(TimedRun(until=1000.0), 3.0, monkeypatch, tmp_path, limits)
    assert min(later - earlier for earlier, later in pairwise(slow)) >= 33.0
    assert len(slow) >= 25


def test_a_run_is_ended_when_it_has_made_too_much(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / str(number)).mkdir()
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(5_000_000_000)
    large, many = TimedRun(until=100.0), TimedRun(until=100.0)
    limits = replace(watch(), output_limit_bytes=4_000_000_000)
    with pytest.raises(PermanentError, match="module module made more than 4 GB of output"):
        measures_of(large, 0.0, monkeypatch, tmp_path, limits)
    monkeypatch.setattr(module_results, "MAXIMUM_ENTRIES", 20)
    with pytest.raises(PermanentError, match="made more than 20 files and folders"):
        measures_of(many, 0.0, monkeypatch, tmp_path, watch())
    for run in (large, many):
        assert "kill" in run.told
        assert run.told[-1] == "close"
        assert run.now < 5.0


def test_a_run_is_cancelled_while_its_output_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / str(number)).touch()
    answers = iter([*[""] * 4, BY_OPERATOR])  # at the first measure, after some of the files
    limits = replace(watch(), output_limit_bytes=2500 * 4096, stopped=lambda: next(answers, BY_OPERATOR))
    with pytest.raises(CancelledError, match=BY_OPERATOR):
        measures_of(TimedRun(until=100.0), 0.0, monkeypatch, tmp_path, limits)
    assert next(answers, None) is None
