"""`mercure modules` with modules that are images, on a real engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.builders import ct_series
from tests.docker_engine import Engine, engine_fixture
from tests.unit.cli.site import Site

from mercure.cli.exits import Exit

__all__ = ["engine_fixture"]

COPY = """#!/bin/sh
for file in "$MERCURE_IN_DIR"/*.dcm; do cp "$file" "$MERCURE_OUT_DIR/"; done
echo '{"made": "'"$(whoami 2>/dev/null)"'"}' > "$MERCURE_OUT_DIR/result.json"
touch "$MERCURE_IN_DIR/new" 2>/dev/null && echo "the input can be changed"
echo "done with $(ls "$MERCURE_IN_DIR" | wc -l) files"
"""


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
