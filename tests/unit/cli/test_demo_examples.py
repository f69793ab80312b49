"""The demo finds the example modules beside the sources, and in an installation without them."""

import sys
from pathlib import Path

import pytest

from mercure.cli.demo import examples
from mercure.core.errors import ConfigError

PLACE = "share/mercure/examples/modules/smooth/module.py"


def installation(root: Path, *files: str) -> Path:
    """Lay out a package as pip does: what it has put where stands in its RECORD."""
    site = root / "lib" / "site-packages"
    info = site / "mercure-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mercure\nVersion: 0.1.0\n")
    (info / "RECORD").write_text("".join(f"../../{file},,\n" for file in files))
    return site


def test_beside_the_sources_the_modules_are_those_of_the_sources() -> None:
    assert examples.example("smooth") == Path(__file__).parents[3] / "examples" / "modules" / "smooth" / "module.py"


def test_an_installed_package_has_its_modules_where_pip_has_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = installation(tmp_path, PLACE)
    (tmp_path / PLACE).parent.mkdir(parents=True)
    (tmp_path / PLACE).write_text("pass")
    monkeypatch.setattr(examples, "_CHECKOUT", tmp_path / "nowhere")
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    assert examples.example("smooth") == tmp_path / PLACE


@pytest.mark.parametrize("listed", [(), (PLACE,)])
def test_an_installation_that_lacks_them_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: tuple[str, ...]
) -> None:
    monkeypatch.setattr(examples, "_CHECKOUT", tmp_path / "nowhere")
    monkeypatch.setattr(sys, "path", [str(installation(tmp_path, *listed)), *sys.path])
    with pytest.raises(ConfigError, match=r"lacks examples/modules/smooth/module\.py"):
        examples.example("smooth")


def test_what_the_demo_runs_is_part_of_the_package() -> None:
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    for name in ("smooth", "threshold"):
        assert f'"examples/modules/{name}/module.py"' in text
