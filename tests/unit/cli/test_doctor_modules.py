"""What `mercure doctor` says about modules."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tests import peers
from tests.docker_engine import Engine, engine_fixture
from tests.unit.cli.site import Site

from mercure.cli.exits import Exit

__all__ = ["engine_fixture"]

TRUE = "/bin/true"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An installation in which all is well, with a module of its own."""
    (tmp_path / "out").mkdir()
    return Site(
        tmp_path,
        receiver={"port": peers.free_port(), "min_free_space_gb": 0.001},
        targets={"store": {"target_type": "folder", "folder": str(tmp_path / "out")}},
        rules=[{"name": "all", "condition": "True", "action": "both", "target": "store", "processing_module": "mine"}],
        modules={"mine": {"command": [TRUE]}},
    )


def found(site: Site) -> list[dict[str, Any]]:
    """What is said of modules."""
    return [one for one in site("doctor", "--json").json["findings"] if one["check"] == "modules"]


def test_a_target_that_is_a_module_is_no_fault(site: Site) -> None:
    site.configuration["targets"]["ai"] = {"processing_module": "mine"}
    site.configuration["rules"][0] |= {"target": ["store", "ai"], "processing_module": []}
    site.write()
    answer = site("doctor", "--json")
    assert answer.status == Exit.OK
    assert "target ai" not in answer.out
    assert [one["severity"] for one in found(site)] == ["ok"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["/no/such/program"], "the program /no/such/program does not exist"),
        (["no-such-program"], "the program no-such-program does not exist"),
        (["bin/relative"], "the program bin/relative does not exist"),
        (["/etc/passwd"], "the program /etc/passwd cannot be run by this user"),
    ],
)
def test_a_program_that_cannot_be_run_is_an_error_when_a_rule_asks_for_it(
    site: Site, command: list[str], message: str
) -> None:
    site.configuration["modules"]["mine"] = {"command": command}
    site.write()
    (finding,) = found(site)
    assert (finding["severity"], finding["message"]) == ("error", f"module mine: {message}")
    assert finding["remedy"]
    site.configuration["rules"][0]["disabled"] = True
    site.write()
    assert [one["severity"] for one in found(site)] == ["warning"]


def test_a_module_that_requires_root_is_an_error_for_services_that_are_not(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.configuration["processor"] = {"support_root_modules": True}
    site.configuration["modules"]["mine"]["requires_root"] = True
    site.write()
    user = {"id": 0}
    monkeypatch.setattr(os, "geteuid", lambda: user["id"])
    assert [one["severity"] for one in found(site)] == ["ok"]
    user["id"] = 65_534
    root, _ = found(site)
    assert root["severity"] == "error"
    assert "module mine cannot run: it requires root, and user 65534" in root["message"]
    assert "Run the services as root" in root["remedy"]


def test_a_program_is_looked_for_where_the_module_looks(site: Site, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "segment").symlink_to(sys.executable)
    site.configuration["modules"]["mine"] = {"command": ["segment"]}
    site.write()
    assert [one["severity"] for one in found(site)] == ["error"]
    site.configuration["modules"]["mine"]["environment"] = {"PATH": str(tmp_path / "own")}
    site.write()
    assert [one["severity"] for one in found(site)] == ["ok"]


def test_a_secret_that_cannot_be_had_is_named_without_its_content(site: Site) -> None:
    site.configuration["modules"]["mine"]["environment"] = {"TOKEN": {"file": str(site.folder / "gone")}, "B": "hush"}
    site.write()
    (finding,) = found(site)
    assert finding["severity"] == "error"
    assert f"{site.folder}/gone" in finding["message"]
    assert "hush" not in str(finding)


def test_an_engine_that_does_not_answer_is_an_error_only_when_a_rule_needs_it(site: Site) -> None:
    host = f"unix://{site.folder}/no-engine.sock"
    site.configuration["processor"] = {"docker_host": host}
    site.configuration["modules"]["other"] = {"docker_tag": "example/other:1"}
    site.write()
    (away,) = [one for one in found(site) if "engine" in one["message"]]
    assert away["severity"] == "warning"
    assert host in away["message"]
    assert "module other cannot run" in away["message"]
    assert "processor.docker_host" in away["remedy"]
    site.configuration["rules"][0]["processing_module"] = ["mine", "other"]
    site.write()
    assert [one["severity"] for one in found(site) if "engine" in one["message"]] == ["error"]


def test_an_engine_that_answers_is_well(site: Site, engine: Engine) -> None:
    site.configuration["processor"] = {"docker_host": engine.host}
    site.configuration["modules"]["mine"] = {"docker_tag": "example/mine:1"}
    site.write()
    (finding,) = found(site)
    assert (finding["severity"], finding["message"]) == ("ok", "the Docker engine answers, for module mine")


def test_without_images_no_engine_is_asked(site: Site) -> None:
    site.configuration["processor"] = {"docker_host": f"unix://{site.folder}/no-engine.sock"}
    site.write()
    assert [one["severity"] for one in found(site)] == ["ok"]


def test_what_modules_keep_must_have_a_place_that_can_be_written(site: Site) -> None:
    site.configuration["modules"]["mine"] |= {"requires_persistence": True, "persistence_folder_name": "kept"}
    site.write()
    assert {one["severity"] for one in found(site)} == {"ok"}
    kept = site.data / "persistence" / "kept"
    kept.parent.mkdir()
    kept.write_bytes(b"")
    (fault,) = [one for one in found(site) if one["severity"] != "ok"]
    assert (fault["severity"], str(kept) in fault["message"]) == ("error", True)
    assert "is not a folder" in fault["message"]
    kept.unlink()
    kept.mkdir()
    assert {one["severity"] for one in found(site)} == {"ok"}


def test_a_place_that_cannot_be_made_comes_with_the_command_that_makes_it(site: Site) -> None:
    site.configuration["modules"]["mine"] |= {"requires_persistence": True}
    site.configuration["mercure"]["persistence_folder"] = "/proc/persistence"
    site.write()
    (fault,) = [one for one in found(site) if one["severity"] == "error"]
    assert "/proc/persistence does not exist and cannot be made" in fault["message"]
    assert "mkdir -p /proc/persistence" in fault["remedy"]
