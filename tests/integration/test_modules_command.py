"""`mercure modules` with modules that are images, on a real engine."""

import hashlib
import io
import json
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.builders import ct_series
from tests.docker_engine import Engine, engine_fixture
from tests.peers import wait_until
from tests.unit.cli.site import COMMAND, Site

from mercure.cli.exits import Exit

__all__ = ["engine_fixture"]

COPY = """#!/bin/sh
for file in "$MERCURE_IN_DIR"/*.dcm; do cp "$file" "$MERCURE_OUT_DIR/"; done
echo '{"made": "'"$(whoami 2>/dev/null)"'"}' > "$MERCURE_OUT_DIR/result.json"
touch "$MERCURE_IN_DIR/new" 2>/dev/null && echo "the input can be changed"
echo "done with $(ls "$MERCURE_IN_DIR" | wc -l) files"
"""


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@contextmanager
def registry(content: bytes, architecture: str) -> Iterator[tuple[str, str]]:
    """A registry on this machine with one image, of one file; gives the name of the image and its digest."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        entry = tarfile.TarInfo("file")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    history = {"rootfs": {"type": "layers", "diff_ids": [digest_of(layer.getvalue())]}}
    config = json.dumps({"architecture": architecture, "os": "linux", "config": {}, **history}).encode()
    kinds = ("config.v1+json", config), ("layer.v1.tar", layer.getvalue())
    described, *layers = (
        {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest_of(blob), "size": len(blob)}
        for kind, blob in kinds
    )
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": described, "layers": layers}).encode()
    answers = {digest_of(blob): blob for _, blob in kinds} | {digest_of(manifest): manifest, "1": manifest}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            blob = answers.get(self.path.rpartition("/")[2], b"{}" if self.path == "/v2/" else None)
            self.send_response(404 if blob is None else 200)
            is_manifest = blob == manifest
            self.send_header("Content-Type", kind if is_manifest else "application/octet-stream")
            self.send_header("Content-Length", str(len(blob or b"")))
            if blob is not None:
                self.send_header("Docker-Content-Digest", digest_of(blob))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(blob or b"")

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is that of the base
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}/mercure-test-pulled:1", digest_of(manifest)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def image(engine: Engine) -> Iterator[str]:
    """An image that copies its input."""
    name = engine.make_image(engine.busybox(), {"/copy": COPY}, ['CMD ["/copy"]'])
    yield name
    engine.remove_image(name)


@pytest.fixture
def site(tmp_path: Path, engine: Engine, image: str) -> Site:
    """An installation whose modules are the image, and one that is nowhere."""
    return Site(
        tmp_path,
        processor={"docker_host": engine.host},
        modules={
            "copy": {"docker_tag": image, "pull": "never"},
            "gone": {"docker_tag": "mercure-test-nowhere:1", "pull": "never"},
        },
    )


def test_an_image_is_tried_on_a_folder_and_leaves_nothing_behind(site: Site, engine: Engine, tmp_path: Path) -> None:
    ct_series(tmp_path / "images", 3, size_bytes=6000, SeriesDescription="Chest")
    before = engine.left()
    found = site.process(
        "modules", "test", "copy", "--input", tmp_path / "images", "--output", tmp_path / "made", "--json"
    )
    assert found.status == Exit.OK, found
    assert found.json["runner"] == "docker"
    assert found.json["image_digest"].startswith("sha256:")
    assert [(one["modality"], one["instances"]) for one in found.json["series"]] == [("CT", 3)]
    assert "made" in found.json["result"]
    assert "done with 7 files" in found.json["log"]
    assert "can be changed" not in found.json["log"]
    assert len(list((tmp_path / "made").glob("*.dcm"))) == 3
    assert engine.left() == before


def test_the_container_of_a_killed_trial_is_removed_by_the_next_trial(
    site: Site, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ct_series(tmp_path / "images", 1, size_bytes=6000)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("TMPDIR", str(work))
    slow = engine.make_image(engine.busybox(), {"/slow": "#!/bin/sh\nexec sleep 600\n"}, ['CMD ["/slow"]'])
    site.configuration["modules"]["slow"] = {"docker_tag": slow, "pull": "never"}
    site.write()

    def containers() -> list[Any]:
        return list(engine.client.api.containers(filters={"ancestor": slow}))

    command = [*COMMAND, "modules", "test", "slow", "--input", str(tmp_path / "images")]
    with subprocess.Popen(command, env={**os.environ, **site.environment}) as killed:
        try:
            wait_until(containers, "the module runs")
        finally:
            killed.kill()
    assert containers()
    assert os.listdir(work)
    assert site.process("modules", "test", "copy", "--input", tmp_path / "images").status == Exit.OK
    assert not containers()
    assert os.listdir(work) == []
    engine.remove_image(slow)


def test_an_image_that_is_not_there_is_a_failure_with_its_name(site: Site, tmp_path: Path) -> None:
    ct_series(tmp_path / "images", 1, size_bytes=6000)
    answer = site.process("modules", "test", "gone", "--input", tmp_path / "images")
    assert answer.status == Exit.FAILED
    assert "mercure-test-nowhere:1 is not on this machine" in answer.err


def test_the_digest_of_an_image_that_is_here_is_listed(site: Site) -> None:
    listed = {one["module"]: one["digest"] for one in site.process("modules", "list", "--json").json}
    assert listed["copy"].startswith("sha256:")
    assert listed["gone"] is None
    assert listed["copy"][:19] in site.process("modules", "list").out


def test_an_image_that_no_registry_gives_is_not_fetched(site: Site) -> None:
    answer = site.process("modules", "pull", "gone", "--json")
    assert answer.status == Exit.FAILED
    (one,) = answer.json
    assert one["reason"].startswith("pulling image mercure-test-nowhere:1")


def test_an_image_is_fetched_from_its_registry_whatever_its_policy_says(site: Site, engine: Engine) -> None:
    with registry(b"content", engine.client.version()["Arch"]) as (name, digest):
        site.configuration["modules"] = {"far": {"docker_tag": name, "pull": "never"}, "here": {"command": ["x"]}}
        site.write()
        try:
            answer = site.process("modules", "pull")
            assert answer.status == Exit.OK, answer
            assert answer.out == f"far: {name} {digest}\n"
            (listed, _) = site.process("modules", "list", "--json").json
            assert listed["digest"] == digest
        finally:
            engine.remove_image(name)
