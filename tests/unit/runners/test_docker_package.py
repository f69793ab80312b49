"""MONAI Application Packages: what is to be run is read from the image, and nothing of it runs before."""

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from tests.docker_engine import Engine, engine_fixture

from mercure.core.errors import PermanentError
from mercure.runners.docker_engine import DockerEngine
from mercure.runners.docker_package import MANIFEST, Packages, command_of

__all__ = ["engine_fixture"]


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ("python3 -u /opt/app", ("python3", "-u", "/opt/app")),
        ("sh -c 'a b'", ("sh", "-c", "a b")),
        (["sh", "-c", "a b"], ("sh", "-c", "a b")),
        ('["python3", "/opt/holoscan/app"]', ("python3", "/opt/holoscan/app")),
    ],
)
def test_a_command_is_text_or_a_list(command: Any, parts: tuple[str, ...]) -> None:
    assert command_of(json.dumps({"command": command, "version": "1"}).encode()) == parts


NO_COMMANDS: list[Any] = ["", [], [""], [1], "a 'b", "[1", {}, None, 7, ["a\0"], ["x"] * 1001]
BROKEN = [b"", b"{", b"[]", b"null", b"7", b"\xff", b'{"cmd": "x"}', b"[" * 100_000]


@pytest.mark.parametrize("manifest", [*BROKEN, *(json.dumps({"command": command}).encode() for command in NO_COMMANDS)])
def test_a_broken_manifest_is_a_failure_for_good(manifest: bytes) -> None:
    with pytest.raises(PermanentError, match=MANIFEST):
        command_of(manifest)


@pytest.fixture
def packages(engine: Engine) -> Iterator[Packages]:
    """Packages of the engine; no container may be left of looking into images."""
    connection = DockerEngine(engine.host)
    before = engine.left()
    yield Packages(connection, {"mercure.data": "data"})
    assert engine.left() == before
    connection.close()


def look(engine: Engine, packages: Packages, files: dict[str, str | bytes], *lines: str) -> tuple[str, ...]:
    image = engine.make_image(engine.busybox(), files, lines)
    try:
        return packages.command(engine.client.api.inspect_image(image)["Id"])
    finally:
        engine.remove_image(image)


def test_the_manifest_is_copied_out_of_the_image(engine: Engine, packages: Packages) -> None:
    manifest = {MANIFEST: json.dumps({"command": "python3 /app"})}

    assert look(engine, packages, dict(manifest)) == ("python3", "/app")


@pytest.mark.parametrize("lines", [(), ("CMD []", "ENTRYPOINT []")])
def test_an_image_without_manifest_is_no_package(engine: Engine, packages: Packages, lines: tuple[str, ...]) -> None:
    assert look(engine, packages, {"/etc/other": "x"}, *lines) == ()


def test_an_image_is_looked_into_once_and_never_started(engine: Engine) -> None:
    image = engine.client.api.inspect_image(engine.busybox())["Id"]
    connection = DockerEngine(engine.host)
    label = uuid.uuid4().hex
    packages = Packages(connection, {"mercure.data": label})
    since = int(time.time()) - 1

    for _ in range(3):
        assert packages.command(image) == ()

    told = engine.client.api.events(
        since=since, until=int(time.time()) + 1, filters={"label": f"mercure.data={label}"}, decode=True
    )
    done = [event["Action"] for event in told]
    assert done.count("create") == done.count("destroy") == 1
    assert "start" not in done
    connection.close()


@pytest.mark.parametrize(
    ("files", "line", "why"),
    [
        ({MANIFEST: "{"}, "LABEL a=b", "broken"),
        ({MANIFEST: "x" * (2 << 20)}, "LABEL a=b", "too long"),
        ({"/etc/monai/x": "x"}, f"RUN ln -s /etc/passwd {MANIFEST}", "no plain file"),
        ({f"{MANIFEST}/x": "x"}, "LABEL a=b", "no plain file"),
        ({"/etc/monai/x": "x"}, f"RUN mkfifo {MANIFEST}", "no plain file"),
    ],
    ids=["no JSON", "too long", "a link", "a folder", "a pipe"],
)
def test_a_manifest_that_is_none_is_a_failure_for_good(
    engine: Engine, packages: Packages, files: dict[str, str | bytes], line: str, why: str
) -> None:
    with pytest.raises(PermanentError, match=why):
        look(engine, packages, files, line)
