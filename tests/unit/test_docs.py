"""The documents keep up with the code: names, samples of configuration, links and commands in them are real."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from tests.event_page import ALWAYS, PAGE, documented

from mercure.config.load import parse
from mercure.core.events import Event, EventKind
from mercure.core.stages import Stage
from mercure.spool import layout
from mercure.spool.layout import Layout

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
DATA_FOLDER = (ROOT / "docs" / "data-folder.md").read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def constants() -> dict[str, str]:
    """Every name in the data folder that `spool/layout.py` fixes."""
    return {
        name: value
        for name, value in vars(layout).items()
        if re.fullmatch(r"[A-Z][A-Z_]+", name) and isinstance(value, str)
    }


def test_there_are_names_and_pages_to_check() -> None:
    assert len(constants()) >= 15
    assert {"README.md", "docs/conformance.md", "docs/data-folder.md"} <= set(IDS)


@pytest.mark.parametrize("name", sorted(constants()))
def test_a_name_in_the_data_folder_is_documented(name: str) -> None:
    assert f"`{constants()[name]}`" in DATA_FOLDER


@pytest.mark.parametrize("folder", [*Layout.under(Path("/data")).folders(), *Stage])
def test_a_stage_is_documented_with_its_purpose_and_what_is_normal(folder: str) -> None:
    found = re.search(rf"^### `{folder}`\n(.*?)(?=^##)", DATA_FOLDER, re.MULTILINE | re.DOTALL)
    assert found
    assert "**Purpose.** " in found[1]
    assert "**Normal.** " in found[1]


def test_every_kind_of_event_and_every_field_is_documented() -> None:
    found = documented()
    assert found.keys() == {kind.value for kind in EventKind}
    assert all(len(meaning) > 10 for meaning, _ in found.values())
    fields = set(Event.__dataclass_fields__)
    assert fields >= ALWAYS
    for field in fields:
        assert f"`{field}`" in PAGE, field
    assert fields - ALWAYS - {"reception"} == {field for _, used in found.values() for field in used}


def test_every_variable_of_the_environment_is_documented() -> None:
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    names = {name for source in sources for name in re.findall(r"""["'](MERCURE_[A-Z_]+)["']""", source)}
    assert len(names) >= 8
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_sample_of_a_configuration_loads_without_a_problem(page: Path) -> None:
    for block in blocks(page, "json"):
        document = json.loads(block)
        if {"rules", "targets", "mercure", "receiver", "dispatcher"} & document.keys():
            assert parse(block, environment={}).problems == ()


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)|src=\"([^\"]+)\"", text):
        link = target[0] or target[1]
        if not re.match(r"[a-z]+:", link):
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_that_is_named_exists(page: Path) -> None:
    from mercure.cli.main import COMMANDS  # noqa: PLC0415 - only this test needs the command line

    named = set(
        re.findall(r"(?:`|^)(?:\.venv/bin/)?mercure ([a-z]+)\b", page.read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert named <= set(COMMANDS)


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    reasons = (ROOT / "docs" / "decisions" / "0007-dependencies.md").read_text(encoding="utf-8")
    for requirement in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        name = re.split(r"[<>=~]", requirement)[0]
        assert re.search(rf"\b{re.escape(name)}\b", reasons), name


def test_pictures_load_nothing_from_elsewhere() -> None:
    pictures = list((ROOT / "docs" / "pictures").glob("*.svg"))
    assert len(pictures) >= 2
    for picture in pictures:
        text = picture.read_text(encoding="utf-8")
        assert not re.search(r"(?:href|src|url)\s*[=(]\s*[\"']?https?:", text), picture
        assert "<script" not in text


def test_documents_are_of_the_readable_kind() -> None:
    for page in PAGES:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            assert line == line.rstrip(), f"{page}:{number}"
            assert "\t" not in line, f"{page}:{number}"
