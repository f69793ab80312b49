"""Stage folders, and folder targets, that are in each other's way."""

from pathlib import Path
from typing import Any

import pytest
from tests.unit.config.samples import text_of

from mercure.config.load import Loaded, parse
from mercure.config.problems import InvalidConfigError


def _loaded(value: Any) -> Loaded:
    return parse(text_of(value), environment={})


def _refused(value: Any) -> list[str]:
    with pytest.raises(InvalidConfigError) as caught:
        _loaded(value)
    return [f"{problem.path} {problem.message}" for problem in caught.value.problems]


def test_two_stages_of_one_folder_are_refused_with_both_keys() -> None:
    (problem,) = _refused({"mercure": {"outgoing_folder": "/srv/out", "success_folder": "/srv/x/../out"}})
    assert problem.startswith("mercure.success_folder is the same folder as that of mercure.outgoing_folder (/srv/out)")


@pytest.mark.parametrize("inner", ["success", "incoming"])
def test_a_stage_below_another_is_refused_whichever_comes_first(inner: str) -> None:
    (problem,) = _refused({"mercure": {"outgoing_folder": "/srv/out", f"{inner}_folder": "/srv/out/deep/inner"}})
    assert problem.startswith(f"mercure.{inner}_folder lies in that of mercure.outgoing_folder (/srv/out)")


def test_a_stage_that_is_in_the_way_of_the_data_folder_is_refused() -> None:
    problems = _refused({"mercure": {"data_folder": "/srv/data", "incoming_folder": "/srv/data"}})
    assert len(problems) == 7
    assert "mercure.jobs_folder lies in that of mercure.incoming_folder (/srv/data)" in problems[-1]


def test_the_flat_form_names_its_own_keys() -> None:
    (problem,) = _refused({"port": 11112, "outgoing_folder": "/srv/out", "success_folder": "/srv/out"})
    assert problem.startswith("success_folder is the same folder as that of outgoing_folder (/srv/out)")


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (problem,) = _refused(
        {"mercure": {"error_folder": str(tmp_path / "real"), "discard_folder": str(tmp_path / "link" / "in")}}
    )
    assert "mercure.discard_folder lies in" in problem


def test_folders_with_names_that_begin_alike_are_apart() -> None:
    assert not _loaded({"mercure": {"outgoing_folder": "/srv/out", "success_folder": "/srv/out2"}}).problems


@pytest.mark.parametrize("folder", ["/srv/data/incoming", "/srv/data/success/export", "/srv/data/jobs/x"])
def test_a_folder_target_in_a_stage_is_set_aside(folder: str) -> None:
    loaded = _loaded(
        {
            "mercure": {"data_folder": "/srv/data"},
            "targets": {
                "bad": {"target_type": "folder", "folder": folder},
                "good": {"target_type": "folder", "folder": "/srv/data/export"},
            },
        }
    )
    stage = folder.split("/")[3]
    assert loaded.broken_targets == {
        "bad": f"folder lies in /srv/data/{stage} (mercure.{stage}_folder): what is delivered there would be taken for "
        "work to do",
    }
    assert list(loaded.config.targets) == ["good"]
    (problem,) = loaded.problems
    assert (problem.path, problem.severity, problem.kind) == ("targets.bad.folder", "error", "schema")
