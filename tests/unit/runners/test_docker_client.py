"""The client of the engine leaves no connection open, whatever the engine does: what is left is a failure here."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.docker_engine import nothing_is_left_open_fixture
from tests.docker_engine_that_breaks import Answer, engine_that, gives, hangs_up, streams

from mercure.core.errors import PermanentError, TransientError
from mercure.runners.docker_engine import DockerEngine, EngineAwayError, MissingError
from mercure.runners.docker_images import Images

SECONDS = 30.0
NO_LOG = streams(b"", whole=False, content_type="application/octet-stream")


__all__ = ["nothing_is_left_open_fixture"]

pytestmark = pytest.mark.usefixtures("nothing_is_left_open")


def test_an_engine_that_goes_away_while_it_is_asked_leaves_no_socket_open(tmp_path: Path) -> None:
    """One place is left in the queue of an engine that accepts nobody: after that nobody can connect."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen(0)
        engine = DockerEngine(f"unix://{tmp_path}/socket", timeout_seconds=0.5)
        for _ in range(3):
            with pytest.raises(EngineAwayError), engine.asked("asking") as api:
                api.ping()
        engine.close()


@pytest.mark.parametrize("answer", [hangs_up, gives({}), gives({}, "500 Oh"), streams(b'{"ApiV', whole=False)])
def test_an_engine_that_breaks_off_before_it_told_its_version_is_away(tmp_path: Path, answer: Answer) -> None:
    with engine_that(tmp_path, {"GET /version": answer}) as breaking:
        engine = DockerEngine(breaking.host, timeout_seconds=SECONDS)
        with pytest.raises(EngineAwayError), engine.asked("asking"):
            pass
        engine.close()


@pytest.mark.parametrize(
    "ask",
    [
        lambda api: api.logs("a" * 64, stream=True, follow=True),
        lambda api: api.attach("a" * 64, stream=True),
    ],
    ids=["logs", "attach"],
)
@pytest.mark.parametrize(
    ("inspect", "error"), [(hangs_up, EngineAwayError), (gives({"message": ""}, "404 No"), MissingError)]
)
def test_a_stream_that_was_opened_before_the_engine_broke_off_is_closed(
    tmp_path: Path, ask: Callable[[Any], Any], inspect: Answer, error: type[Exception]
) -> None:
    answers = {"GET /logs": NO_LOG, "POST /attach": NO_LOG, "GET /json": inspect}
    with engine_that(tmp_path, answers) as breaking:
        engine = DockerEngine(breaking.host, timeout_seconds=SECONDS)
        with pytest.raises(error), engine.asked("following") as api:
            ask(api)
        engine.close()


@pytest.mark.parametrize("begun", [b"", b'{"status": "a"}\r\n', b'{"status": "a"}\r\n{"stat'])
@pytest.mark.parametrize("whole", [True, False])
def test_a_pull_that_is_cut_off_may_succeed_later(tmp_path: Path, begun: bytes, whole: bool) -> None:
    with engine_that(tmp_path, {"POST /images/create": streams(begun, whole=whole)}) as breaking:
        engine = DockerEngine(breaking.host, timeout_seconds=SECONDS)
        images = Images(engine)
        with pytest.raises(TransientError, match="pulling image module:1"):
            images.pull("module:1")
        with pytest.raises(TransientError, match="pulling image module:1"):
            images.get("module:1", "missing")
        engine.close()


def test_a_pull_that_fails_is_not_read_to_its_end(tmp_path: Path) -> None:
    told = b'{"error": "manifest unknown"}\r\n'
    with engine_that(tmp_path, {"POST /images/create": streams(told, whole=False)}) as breaking:
        engine = DockerEngine(breaking.host, timeout_seconds=SECONDS)
        with pytest.raises(PermanentError, match="manifest unknown"):
            Images(engine).pull("module:1")
        engine.close()
