"""The engine as runners see it: errors that say whether waiting helps, and nothing needed before the first call."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mercure.core.errors import PermanentError, TransientError
from mercure.runners.docker_engine import (
    ConflictError,
    DockerEngine,
    EngineAwayError,
    MissingError,
    close_stream,
    refusal,
    remove_container,
)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, PermanentError), (403, PermanentError), (404, MissingError), (409, ConflictError), (500, TransientError)],
)
def test_the_status_of_an_answer_says_whether_waiting_helps(status: int, kind: type[Exception]) -> None:
    error = refusal("starting", status, "some\n  reason")

    assert type(error) is kind
    assert str(error) == "starting: some reason"


def test_an_explanation_is_one_short_line() -> None:
    assert len(str(refusal("starting", 400, "x\n" * 5000))) < 400
    assert str(refusal("starting", 418, "")) == "starting: refused with status 418"


def test_an_engine_that_is_not_there_is_a_failure_that_may_pass(tmp_path: Path) -> None:
    engine = DockerEngine(f"unix://{tmp_path}/none.sock")

    with pytest.raises(EngineAwayError, match="asking: the Docker engine does not answer"), engine.asked("asking"):
        pass
    with pytest.raises(TransientError):
        remove_container(engine, "any")
    engine.close()


def test_an_engine_that_is_reached_by_network_is_a_failure_that_may_pass_too(free_port: int) -> None:
    engine = DockerEngine(f"tcp://127.0.0.1:{free_port}")

    with pytest.raises(EngineAwayError), engine.asked("asking"):
        pass


def test_a_stream_that_has_ended_by_itself_can_be_closed() -> None:
    class Ended:
        def close(self) -> None:
            raise AttributeError("no socket any more")

    close_stream(Ended())


def test_a_service_starts_without_docker_and_without_its_package() -> None:
    script = (
        "import sys; sys.modules['docker'] = None\n"
        "from mercure.runners.docker import DockerRunner\n"
        "from mercure.core.errors import PermanentError\n"
        "from mercure.core.processing import Limits, ModuleSpec, RunOrder\n"
        "runner = DockerRunner('data')\n"
        "assert 'requests' not in sys.modules\n"
        "spec = ModuleSpec('m', 'docker', image='m:1')\n"
        "try:\n"
        "    runner.start(RunOrder('j', 0, spec, '/i', '/o', '', Limits(), print))\n"
        "except PermanentError as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "src")}

    told = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True
    )

    assert told.stdout == "the Python package 'docker' is not installed\n"


def test_an_engine_whose_socket_is_not_there_is_known_to_be_away_without_the_sdk(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from mercure.runners.docker import DockerRunner\n"
        "from mercure.runners.docker_engine import EngineAwayError\n"
        "try: DockerRunner('data', host=sys.argv[1]).sweep(lambda _: True)\n"
        "except EngineAwayError as error: print(error)\n"
        "print([name for name in ('docker', 'requests', 'urllib3') if name in sys.modules])\n"
    )
    socket = f"unix://{tmp_path}/none.sock"
    for argument, variable in ((socket, ""), ("", socket)):
        done = subprocess.run(
            [sys.executable, "-c", program, argument],
            env={**os.environ, "DOCKER_HOST": variable},
            capture_output=True,
            text=True,
            check=False,
        )
        away = "looking for containers that no job has: the Docker engine does not answer (no socket)"
        assert done.stdout.splitlines() == [away, "[]"], done.stderr
