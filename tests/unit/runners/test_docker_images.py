"""Which image runs, and when the registry is asked: against a real engine and a registry on this machine."""

import gzip
import hashlib
import io
import json
import platform
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.docker_engine import Engine, engine_fixture
from tests.peers import wait_until

from mercure.core.errors import CancelledError, MercureError, PermanentError, TransientError
from mercure.core.processing import PullPolicy
from mercure.runners.docker import DockerRunner
from mercure.runners.docker_engine import DockerEngine
from mercure.runners.docker_images import Images, LocalImage, check_image_name

__all__ = ["engine_fixture"]

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
SECONDS = 60.0
POLICIES: tuple[PullPolicy, ...] = ("always", "missing")


class Registry:
    """A registry with one repository `segment`, of the part of the protocol that pulling needs."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.tags: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.status = 200
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry.answer(self)

            def do_HEAD(self) -> None:
                registry.answer(self)

            def log_message(self, *args: object) -> None:
                """Nothing is said of single requests."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.name = f"127.0.0.1:{self.server.server_port}/segment"

    def publish(self, content: str, tag: str = "latest") -> str:
        """Give a tag to an image with one file; return the digest under which the registry has it."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            entry = tarfile.TarInfo("version")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content.encode()))
        layer = gzip.compress(archive.getvalue())
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
        config = {
            "architecture": machine,
            "os": "linux",
            "config": {"Env": ["PATH=/bin", "HOME=/srv"], "StopSignal": "SIGINT"},
            "rootfs": {"type": "layers", "diff_ids": [digest(archive.getvalue())]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self._blob(json.dumps(config).encode(), "application/vnd.docker.container.image.v1+json"),
            "layers": [self._blob(layer, "application/vnd.docker.image.rootfs.diff.tar.gzip")],
        }
        data = json.dumps(manifest).encode()
        self.tags[tag] = self.tags[digest(data)] = data
        return digest(data)

    def pulls(self) -> int:
        """How often a tag was looked up by its name."""
        return len([path for path in self.asked if "/manifests/" in path and "/sha256:" not in path])

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(handler.path)
        kind, _, name = handler.path.removeprefix("/v2/segment/").partition("/")
        content = {"manifests": self.tags, "blobs": self.blobs}.get(kind, {}).get(name, b"")
        known = handler.path == "/v2/" or bool(content)
        if not known:
            content = b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
        status = self.status if self.status != 200 else 200 if known else 404
        handler.send_response(status)
        handler.send_header("Content-Type", MANIFEST_TYPE if kind == "manifests" and known else "application/json")
        handler.send_header("Content-Length", str(len(content)))
        if kind == "manifests" and known:
            handler.send_header("Docker-Content-Digest", digest(content))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(content)

    def close(self) -> None:
        """Stop answering, as a registry that is away."""
        self.server.shutdown()
        self.thread.join(SECONDS)
        self.server.server_close()

    def _blob(self, data: bytes, kind: str) -> dict[str, str | int]:
        self.blobs[digest(data)] = data
        return {"mediaType": kind, "size": len(data), "digest": digest(data)}


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def registry(engine: Engine) -> Iterator[Registry]:
    """A registry; the images that came from it are removed at the end."""
    registry = Registry()
    before = engine.left()[2]
    try:
        yield registry
    finally:
        if registry.thread.is_alive():
            registry.close()
        for image in engine.left()[2] - before:
            engine.client.images.remove(image, force=True)


@contextmanager
def images_on(engine: Engine, pull_interval_seconds: float = 3600.0) -> Iterator[Images]:
    connection = DockerEngine(engine.host)
    yield Images(connection, pull_interval_seconds=pull_interval_seconds)
    connection.close()


def test_a_missing_image_is_pulled_once_and_known_by_the_digest_of_its_registry(
    engine: Engine, registry: Registry
) -> None:
    published = registry.publish("one", "1.0")

    with images_on(engine) as images:
        image = images.get(f"{registry.name}:1.0", "missing")
        again = images.get(f"{registry.name}:1.0", "missing")

    assert image == again
    assert image == LocalImage(image.id, published, "SIGINT", frozenset({"PATH", "HOME"}))
    assert registry.pulls() == 1


def test_without_a_tag_the_latest_is_meant_and_no_other_is_pulled(engine: Engine, registry: Registry) -> None:
    registry.publish("old", "1.0")
    latest = registry.publish("new")

    with images_on(engine) as images:
        assert images.get(registry.name, "missing").digest == latest

    assert not [path for path in registry.asked if "1.0" in path or "tags" in path]


def test_an_image_can_be_named_by_the_digest_of_its_registry(engine: Engine, registry: Registry) -> None:
    first = registry.publish("first")
    registry.publish("second")

    with images_on(engine) as images:
        assert images.get(f"{registry.name}@{first}", "missing").digest == first


def test_always_asks_the_registry_once_an_hour(engine: Engine, registry: Registry) -> None:
    registry.publish("one")
    with images_on(engine) as images:
        first = images.get(registry.name, "always")
        registry.publish("two")
        assert images.get(registry.name, "always") == first
    assert registry.pulls() == 1


def test_always_takes_a_newer_image_when_the_hour_is_over_and_removes_none(engine: Engine, registry: Registry) -> None:
    registry.publish("one")
    with images_on(engine, pull_interval_seconds=0.0) as images:
        first = images.get(registry.name, "always")
        newer = registry.publish("two")
        second = images.get(registry.name, "always")

    assert second.digest == newer
    assert second.id != first.id
    assert engine.client.api.inspect_image(first.id)["Id"] == first.id


@pytest.mark.parametrize("status", [0, 404, 500])
def test_a_registry_that_fails_does_not_stop_modules_whose_image_is_here(
    engine: Engine, registry: Registry, status: int
) -> None:
    registry.publish("one")
    with images_on(engine) as images:
        first = images.pull(registry.name)
    if status:
        registry.status = status
    else:
        registry.close()
    asked = len(registry.asked)

    with images_on(engine) as images:
        assert images.get(registry.name, "always") == first
        tried = len(registry.asked)
        assert images.get(registry.name, "always") == first

    assert len(registry.asked) == tried
    assert (tried > asked) == bool(status)


def test_a_registry_that_is_away_may_come_back_and_an_image_that_it_does_not_have_will_not(
    engine: Engine, registry: Registry
) -> None:
    with images_on(engine) as images:
        for policy in POLICIES:
            with pytest.raises(PermanentError, match=r"not found|unknown"):
                images.get(f"{registry.name}:none", policy)
        registry.status = 503
        with pytest.raises(TransientError):
            images.get(f"{registry.name}:none", "missing")
        registry.close()
        for policy in POLICIES:
            with pytest.raises(TransientError):
                images.get(f"{registry.name}:none", policy)


def test_never_asks_no_registry(engine: Engine, registry: Registry) -> None:
    registry.publish("one")
    with images_on(engine) as images:
        with pytest.raises(PermanentError, match="not on this machine"):
            images.get(registry.name, "never")
        assert registry.asked == []
        images.pull(registry.name)
        asked = len(registry.asked)
        images.get(registry.name, "never")
    assert len(registry.asked) == asked


def test_jobs_that_begin_together_pull_once(engine: Engine, registry: Registry) -> None:
    registry.publish("one")
    found: list[LocalImage] = []
    with images_on(engine) as images:
        threads = [threading.Thread(target=lambda: found.append(images.get(registry.name, "always"))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)

    assert len(found) == 4
    assert registry.pulls() == 1


@contextmanager
def silent_registry() -> Iterator[tuple[str, list[socket.socket]]]:
    """The name of an image whose registry takes connections and never says a word; and those connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    taken.append(server.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}/segment", taken
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(SECONDS)
            for connection in taken:
                connection.close()


@pytest.mark.parametrize("policy", POLICIES)
def test_who_is_stopped_leaves_a_registry_that_does_not_answer_and_others_go_on_waiting(
    engine: Engine, policy: PullPolicy
) -> None:
    failed: list[MercureError] = []
    enough, all_over = threading.Event(), threading.Event()

    def get(images: Images, name: str, stopped: Callable[[], str]) -> None:
        try:
            images.get(name, policy, stopped)
        except MercureError as error:
            failed.append(error)

    with silent_registry() as (name, taken), images_on(engine) as images:
        first = threading.Thread(target=get, args=(images, name, lambda: "enough" if enough.is_set() else ""))
        other = threading.Thread(target=get, args=(images, name, lambda: "over" if all_over.is_set() else ""))
        first.start()
        wait_until(lambda: taken, "the registry was asked")
        other.start()
        enough.set()
        first.join(SECONDS)
        assert [(type(error), str(error)) for error in failed] == [(CancelledError, "enough")]
        assert other.is_alive()
        with pytest.raises(CancelledError, match="at once"):
            images.get(name, policy, lambda: "at once")
        all_over.set()
        other.join(SECONDS)
        assert not other.is_alive()


def test_the_runner_pulls_on_demand_and_tells_the_digest(engine: Engine, registry: Registry) -> None:
    runner = DockerRunner("data", host=engine.host)
    digests = [registry.publish("one"), registry.publish("two", "2")]

    assert [runner.pull(registry.name), runner.pull(f"{registry.name}:2")] == digests

    runner.close()


def test_an_image_of_this_machine_is_known_by_its_id(engine: Engine) -> None:
    busybox = engine.busybox()
    identity = engine.client.api.inspect_image(busybox)["Id"]
    with images_on(engine) as images:
        assert images.get(busybox, "missing").digest == identity
        assert images.get(identity, "always").id == identity
        with pytest.raises(PermanentError, match="no registry knows"):
            images.pull(identity)


@pytest.mark.parametrize(
    "name",
    [
        "busybox", "library/busybox:1.35", "localhost:5000/a/b_c-d.e:Tag_1.0-x", "ghcr.io/o/app@sha256:" + "a" * 64,
        "registry.example.org/app:1@sha256:" + "0" * 64, "sha256:" + "f" * 64, "[::1]:5000/app",
    ],
)  # fmt: skip
def test_names_of_images_are_taken(name: str) -> None:
    check_image_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "Busybox", "a b", "a;reboot", "a:", "a@", "a@sha256:12", "-a", "a//b", "/a", "a:b:c", "a\n", "../a",
        "a" * 600, "http://x/y", "--privileged", "a:$(id)", "a\0b", "ä",
    ],
)  # fmt: skip
def test_other_texts_are_no_names_of_images(name: str) -> None:
    with pytest.raises(PermanentError, match="not valid"):
        check_image_name(name)


def test_a_name_that_is_no_name_is_refused_before_the_engine_is_asked(tmp_path: Path) -> None:
    images = Images(DockerEngine(f"unix://{tmp_path}/none.sock"))

    with pytest.raises(PermanentError, match="not valid"):
        images.get("a b", "always")
