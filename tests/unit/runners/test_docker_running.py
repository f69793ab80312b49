"""A run that is followed while its engine breaks off at the worst moments: nothing is lost, doubled, or left behind."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.docker_engine import nothing_is_left_open_fixture
from tests.docker_engine_that_breaks import Answer, BreakingEngine, engine_that, gives, hangs_up, in_turn, streams
from tests.peers import wait_until

from mercure.core.errors import TransientError
from mercure.core.processing import Limits, ModuleSpec, Running, RunOrder
from mercure.runners.docker import DockerRunner
from mercure.runners.docker_engine import DockerEngine, EngineAwayError, MissingError, remove_container
from mercure.runners.docker_running import SIGNAL_SECONDS, DockerRunning, Followed

__all__ = ["nothing_is_left_open_fixture"]

pytestmark = pytest.mark.usefixtures("nothing_is_left_open")

SECONDS = 30.0
CONTAINER = "a" * 64
DIED = streams(b'{"Action": "die"}\r\n', whole=True)
GONE = gives({"message": f"No such container: {CONTAINER}"}, "404 Not Found")
BUSY = gives({"message": f"removal of container {CONTAINER} is already in progress"}, "409 Conflict")


def log(content: bytes, *, whole: bool = True) -> Answer:
    return streams(content, whole=whole, content_type="application/vnd.docker.multiplexed-stream")


def silent(link: socket.socket) -> bool:
    """A log into which nothing is written for the time being."""
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\nTransfer-Encoding: chunked"
    link.sendall(f"{head}\r\n\r\n".encode())
    return True


def frame(text: bytes) -> bytes:
    return struct.pack(">BxxxL", 1, len(text)) + text


def inspected(status: str, code: int = 0) -> dict[str, Any]:
    state = {"Status": status, "ExitCode": code, "FinishedAt": "2026-01-02T03:04:05.123456789Z"}
    return {"Id": CONTAINER, "Config": {"Tty": False}, "State": state}


@dataclass
class Followers:
    """Follows a container, and lets go of it at the end."""

    written: bytearray = field(default_factory=bytearray)
    begun: list[tuple[DockerEngine, DockerRunning]] = field(default_factory=list)

    def follow(self, host: str, **options: Any) -> DockerRunning:
        engine = DockerEngine(host, timeout_seconds=SECONDS)
        running = DockerRunning(engine, Followed(CONTAINER, "", ""), self.written.extend, **options)
        self.begun.append((engine, running))
        return running


@pytest.fixture
def followers() -> Iterator[Followers]:
    followers = Followers()
    yield followers
    for engine, running in followers.begun:
        running.leave()
        engine.close()


def ended(running: Running) -> int | None:
    code: int | None = None

    def has_ended() -> bool:
        nonlocal code
        code = running.wait(0.1)
        return code is not None

    wait_until(has_ended, "the module ends", seconds=SECONDS)
    return code


# -- output ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 3, 8, 9, 12], ids=lambda cut: f"after {cut} bytes")
@pytest.mark.parametrize("whole", [True, False], ids=["in order", "by a crash"])
def test_a_log_that_ends_anywhere_is_read_on_where_it_ended(
    tmp_path: Path, followers: Followers, cut: int, whole: bool
) -> None:
    told = frame(b"first\n") + frame(b"last\n")
    logs = in_turn(log(told[:cut], whole=whole), log(told[: 14 + cut], whole=whole), log(told))
    with engine_that(tmp_path, {"GET /logs": logs, "GET /events": DIED}) as breaking:

        def state(link: socket.socket) -> bool:
            has_ended = breaking.asked.count(f"GET /containers/{CONTAINER}/logs") > 2
            return gives(inspected("exited" if has_ended else "running", 5))(link)

        breaking.answers["GET /json"] = state

        assert ended(followers.follow(breaking.host)) == 5

    assert followers.written == b"first\nlast\n"


def test_a_log_that_can_never_be_read_is_a_failure_that_may_pass(tmp_path: Path, followers: Followers) -> None:
    answers = {"GET /logs": log(b"\1\0\0"), "GET /json": gives(inspected("exited"))}
    with engine_that(tmp_path, answers) as breaking:
        running = followers.follow(breaking.host)

        with pytest.raises(TransientError, match="could not be followed"):
            ended(running)


def test_a_run_that_is_left_while_its_log_is_being_opened_is_left_at_once(tmp_path: Path, followers: Followers) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def late(link: socket.socket) -> bool:
        asked.set()
        may_answer.wait(SECONDS)
        log(b"", whole=False)(link)
        return True  # It stays connected, as with a module that writes nothing.

    with engine_that(tmp_path, {"GET /logs": late, "GET /json": gives(inspected("running"))}) as breaking:
        running = followers.follow(breaking.host)
        assert asked.wait(SECONDS)
        leaving = threading.Thread(target=running.leave)
        leaving.start()
        wait_until(running._left.is_set, "the run is left", seconds=SECONDS)
        may_answer.set()
        leaving.join(SECONDS)

        assert not running._thread.is_alive()


# -- the end ---------------------------------------------------------------------------------------------------------


def test_a_container_that_could_be_removed_in_part_only_is_a_failure_that_may_pass(
    tmp_path: Path, followers: Followers
) -> None:
    answers = {"GET /logs": log(b""), "GET /json": gives(inspected("dead", 137)), "GET /events": DIED}
    with engine_that(tmp_path, answers) as breaking:
        running = followers.follow(breaking.host)

        with pytest.raises(TransientError, match="was removed"):
            ended(running)


def test_an_end_that_has_no_time_is_not_taken_for_the_modules_own(tmp_path: Path, followers: Followers) -> None:
    state = inspected("exited")
    state["State"]["FinishedAt"] = "soon"
    answers = {"GET /logs": log(b""), "GET /json": gives(state), "GET /info": gives({"LiveRestoreEnabled": False})}
    with engine_that(tmp_path, answers) as breaking:
        running = followers.follow(breaking.host)

        with pytest.raises(TransientError, match="from outside"):
            ended(running)


def test_an_engine_that_breaks_off_when_asked_how_it_ended_is_asked_again(tmp_path: Path, followers: Followers) -> None:
    answers = {
        "GET /logs": log(frame(b"all")),
        "GET /json": gives(inspected("exited", 5)),
        "GET /events": in_turn(hangs_up, streams(b"", whole=False), DIED),
        "GET /info": hangs_up,
    }
    with engine_that(tmp_path, answers) as breaking:
        running = followers.follow(breaking.host)

        assert ended(running) == 5

    assert followers.written == b"all"


# -- an engine that hangs --------------------------------------------------------------------------------------------


def hangs(link: socket.socket) -> bool:
    """Take the request and say nothing, until whoever asked has enough of it."""
    link.recv(1)
    return False


def test_a_module_is_not_ended_by_an_engine_that_hangs_and_nobody_waits_for_that(
    tmp_path: Path, followers: Followers
) -> None:
    owed: list[str] = []
    answers = {"GET /logs": silent, "GET /json": gives(inspected("running")), "POST /kill": hangs}
    with engine_that(tmp_path, answers) as breaking:
        running = followers.follow(breaking.host, owed=owed.append)
        wait_until(lambda: f"GET /containers/{CONTAINER}/logs" in breaking.asked, "it is followed", seconds=SECONDS)
        breaking.answers = dict.fromkeys(["GET /version", *answers, f"DELETE /{CONTAINER}"], hangs)
        began = time.monotonic()
        for call in (running.stop, running.kill, running.close):
            with pytest.raises(EngineAwayError, match="does not answer"):
                call()

        assert time.monotonic() - began < 2 * SIGNAL_SECONDS
        assert owed == [CONTAINER]


def test_an_engine_that_hung_once_is_given_its_time_again_when_it_answers(tmp_path: Path, followers: Followers) -> None:
    def late(link: socket.socket) -> bool:
        time.sleep(2.0)
        return gives({})(link)

    kill = in_turn(hangs, gives({}), late)
    answers = {"GET /logs": silent, "GET /json": gives(inspected("running")), "POST /kill": kill}
    with engine_that(tmp_path, answers) as breaking:
        running = followers.follow(breaking.host)
        with pytest.raises(EngineAwayError):
            running.stop()
        running.stop()
        running.stop()

        assert breaking.asked.count(f"POST /containers/{CONTAINER}/kill") == 3


def test_who_asks_an_engine_does_not_wait_for_another_who_waits_for_it(tmp_path: Path) -> None:
    with engine_that(tmp_path, {"GET /version": hangs}) as breaking:
        engine = DockerEngine(breaking.host, timeout_seconds=2 * SECONDS)
        outcomes: list[Exception] = []

        def patient() -> None:
            try:
                with engine.asked("waiting"):
                    pass
            except EngineAwayError as error:
                outcomes.append(error)

        waiting = threading.Thread(target=patient)
        waiting.start()
        wait_until(lambda: breaking.asked, "the engine is asked", seconds=SECONDS)
        began = time.monotonic()
        with pytest.raises(EngineAwayError), engine.asked("asking", connecting_seconds=0.2):
            pass
        assert time.monotonic() - began < SECONDS
        assert not outcomes
        breaking.close()
        waiting.join(SECONDS)
        assert len(outcomes) == 1


# -- removal ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def removing(tmp_path: Path) -> Iterator[Callable[[Answer, Answer], BreakingEngine]]:
    with engine_that(tmp_path, {}) as breaking:

        def made(delete: Answer, inspect: Answer) -> BreakingEngine:
            breaking.answers |= {f"DELETE /{CONTAINER}": delete, "GET /json": inspect}
            return breaking

        yield made


def test_what_is_being_removed_already_is_waited_for(
    removing: Callable[[Answer, Answer], BreakingEngine],
) -> None:
    inspect = in_turn(gives(inspected("running")), gives(inspected("removing")), GONE)
    breaking = removing(BUSY, inspect)
    engine = DockerEngine(breaking.host, timeout_seconds=SECONDS)

    remove_container(engine, CONTAINER)

    assert breaking.asked.count(f"GET /containers/{CONTAINER}/json") == 3
    engine.close()


def test_what_is_not_removed_by_then_is_not_said_to_be_gone(
    removing: Callable[[Answer, Answer], BreakingEngine],
) -> None:
    engine = DockerEngine(removing(BUSY, gives(inspected("removing"))).host, timeout_seconds=SECONDS)

    with pytest.raises(TransientError, match="still being removed"):
        remove_container(engine, CONTAINER, patience_seconds=0.1)

    engine.close()


def test_what_is_not_there_is_removed(removing: Callable[[Answer, Answer], BreakingEngine]) -> None:
    engine = DockerEngine(removing(GONE, GONE).host, timeout_seconds=SECONDS)

    remove_container(engine, CONTAINER)

    with pytest.raises(MissingError), engine.asked("looking") as api:
        api.inspect_container(CONTAINER)
    engine.close()


# -- the start -------------------------------------------------------------------------------------------------------


def order(folder: Path) -> RunOrder:
    spec = ModuleSpec("segment", "docker", image="segment:1", pull="never", command=("run",))
    return RunOrder("job-1", 0, spec, str(folder), str(folder), "", Limits(), lambda _: None)


def starting(**answers: Answer) -> dict[str, Answer]:
    return {
        "GET segment:1/json": gives({"Id": "sha256:" + "b" * 64, "Config": {}}),
        "POST /create": gives({"Id": CONTAINER}, "201 Created"),
        "POST /attach": log(b"", whole=False),
        "GET /json": gives(inspected("created")),
        f"DELETE /{CONTAINER}": gives({}),
        **{key.replace("_", " /"): answer for key, answer in answers.items()},
    }


def test_a_container_whose_start_was_cut_off_is_removed_when_the_engine_is_back(tmp_path: Path) -> None:
    removed: list[str] = []

    def removes(link: socket.socket) -> bool:
        removed.append(CONTAINER)
        return gives({})(link)

    answers = starting(POST_start=hangs_up) | {f"DELETE /{CONTAINER}": in_turn(hangs_up, removes)}
    with engine_that(tmp_path, answers) as breaking:
        runner = DockerRunner("data", host=breaking.host)
        with pytest.raises(TransientError, match="does not answer"):
            runner.start(order(tmp_path))
        assert removed == []
        breaking.answers["POST /create"] = gives({}, "500 Not now")

        with pytest.raises(TransientError):
            runner.start(order(tmp_path))

        assert removed == [CONTAINER]
        runner.close()


def test_a_run_that_nobody_can_follow_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def none_of_the_runner(thread: threading.Thread) -> None:
        if thread.name.startswith("docker-"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", none_of_the_runner)
    with engine_that(tmp_path, starting(POST_start=gives({}))) as breaking:
        runner = DockerRunner("data", host=breaking.host)

        with pytest.raises(TransientError, match="thread"):
            runner.start(order(tmp_path))

        assert f"DELETE /containers/{CONTAINER}" in breaking.asked
        runner.close()
