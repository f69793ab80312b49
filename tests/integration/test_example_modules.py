"""The modules in examples/modules run on folders as the processor lays them out, as processes and in containers."""

import csv
import json
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from tests import builders
from tests.contract.runners import run_through
from tests.docker_engine import Engine, shared_engine
from tests.peers import program
from tests.unit.cli.site import Site

from mercure.config.load import parse
from mercure.config.modules import module_spec
from mercure.config.rules import Module
from mercure.core.module_result import NOTIFICATION_KEY, DynamicRouting, notification_in, route_result
from mercure.core.processing import Limits, ModuleRunner, ModuleSpec, RunOrder
from mercure.core.processing_steps import StepPlan, step_section
from mercure.core.task import SeriesInfo
from mercure.runners.docker import DockerRunner
from mercure.runners.process import ProcessRunner
from mercure.services.module_output import identify, tags_for_module
from mercure.spool.module_folders import lay_out_input, write_task_of_step
from mercure.spool.module_results import store_results

EXAMPLES = Path(__file__).parents[2] / "examples" / "modules"
GUIDE = (Path(__file__).parents[2] / "docs" / "modules.md").read_text(encoding="utf-8")
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
Modules = Callable[[str], tuple[ModuleRunner, ModuleSpec]]


def as_processes(name: str) -> tuple[ModuleRunner, ModuleSpec]:
    return ProcessRunner(), ModuleSpec(name, "process", command=(sys.executable, str(EXAMPLES / name / "module.py")))


def built(engine: Engine, name: str) -> str:
    """Build the image of an example from its own Dockerfile, on a base that needs no registry."""
    tag = f"mercure-test-{uuid.uuid4().hex[:12]}:latest"
    engine.client.images.build(
        path=str(EXAMPLES / name),
        tag=tag,
        rm=True,
        forcerm=True,
        network_mode="none",
        buildargs={"BASE": engine.python()},
    )
    return tag


@pytest.fixture(scope="module", params=["process", "docker"])
def modules(request: pytest.FixtureRequest) -> Iterator[Modules]:
    if request.param == "process":
        yield as_processes
        return
    engine = shared_engine()
    tags: dict[str, str] = {}

    def as_containers(name: str) -> tuple[ModuleRunner, ModuleSpec]:
        tag = tags.setdefault(name, "") or built(engine, name)
        tags[name] = tag
        return DockerRunner("examples", host=engine.host), ModuleSpec(name, "docker", image=tag, pull="never")

    yield as_containers
    for tag in tags.values():
        engine.remove_image(tag)


def series_info(series: builders.BuiltSeries) -> SeriesInfo:
    return SeriesInfo(series.series_instance_uid, series.study_instance_uid)


def task_of(name: str, settings: Mapping[str, Any]) -> Any:
    return {"id": "1", "process": step_section(StepPlan(name, settings))}


def laid_out(folder: Path, series: builders.BuiltSeries, name: str, settings: Mapping[str, Any]) -> Path:
    """Lay out the input of a job: links by the names that instances have in a job, tags beside, the task."""
    received = folder / "received"
    received.mkdir(parents=True)
    sources = []
    for file, uid in zip(series.files, series.sop_instance_uids, strict=True):
        sources.append(received / f"{series.series_instance_uid}#{uid}.dcm")
        sources[-1].hardlink_to(file)
    info = series_info(series)
    lay_out_input(
        folder / "in", sources, task_of(name, settings), copy=False, tags=lambda path: tags_for_module(path, info)
    )
    (folder / "out").mkdir()
    return folder


def run(modules: Modules, name: str, folder: Path) -> Any:
    """Run a module on a folder that is laid out; return what its result.json says."""
    runner, module = modules(name)
    written = bytearray()
    order = RunOrder(folder.name, 0, module, str(folder / "in"), str(folder / "out"), "", Limits(), written.extend)
    assert run_through(runner, order) == 0, written.decode()
    return json.loads((folder / "out" / "result.json").read_bytes())


def made_in(folder: Path) -> list[Path]:
    return sorted((folder / "out").glob("*.dcm"))


def errors_of(path: Path) -> set[str]:
    found = subprocess.run(
        [program("dciodvfy", package="dicom3tools"), str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    return {line for line in found.stderr.splitlines() if line.startswith("Error")}


@pytest.fixture
def series(tmp_path: Path) -> builders.BuiltSeries:
    return builders.small_series(tmp_path / "series", 3)


def test_there_are_a_single_module_and_a_chain() -> None:
    assert NAMES == ["report", "smooth", "threshold"]


def test_the_template_has_forty_lines_of_code() -> None:
    lines = (EXAMPLES / "smooth" / "module.py").read_text(encoding="utf-8").split('"""', 2)[2].splitlines()
    assert len([line for line in lines if line.strip()]) <= 40


def test_the_template_makes_a_series_of_its_own(modules: Modules, series: builders.BuiltSeries, tmp_path: Path) -> None:
    folder = laid_out(tmp_path / "job", series, "smooth", {"passes": 2})
    assert run(modules, "smooth", folder) == {"images": 3, "passes": 2}
    before = {int(image.InstanceNumber): image for image in map(pydicom.dcmread, series.files)}
    after = [pydicom.dcmread(path) for path in made_in(folder)]
    assert len({image.SOPInstanceUID for image in after}) == 3
    assert len({image.SeriesInstanceUID for image in after}) == 1
    for image in after:
        source = before[int(image.InstanceNumber)]
        assert image.SeriesInstanceUID != source.SeriesInstanceUID
        assert image.SOPInstanceUID != source.SOPInstanceUID
        assert image.SOPInstanceUID == image.file_meta.MediaStorageSOPInstanceUID
        assert image.StudyInstanceUID == source.StudyInstanceUID
        assert list(image.ImageType)[:2] == ["DERIVED", "SECONDARY"]
        assert image.pixel_array.shape == source.pixel_array.shape
        assert image.pixel_array.dtype == source.pixel_array.dtype
        assert np.ptp(np.diff(image.pixel_array.astype(int))) < np.ptp(np.diff(source.pixel_array.astype(int)))


def test_what_the_template_makes_is_as_valid_as_what_it_got(
    modules: Modules, series: builders.BuiltSeries, tmp_path: Path
) -> None:
    folder = laid_out(tmp_path / "job", series, "smooth", {})
    run(modules, "smooth", folder)
    known = {error for file in series.files for error in errors_of(file)}
    assert [errors_of(path) - known for path in made_in(folder)] == [set()] * 3


@pytest.mark.parametrize("syntax", [builders.IMPLICIT_LITTLE, builders.RLE, builders.DEFLATED])
def test_the_template_reads_what_scanners_send(tmp_path: Path, syntax: str) -> None:
    series = builders.small_series(tmp_path / "series", 1, transfer_syntax=syntax)
    folder = laid_out(tmp_path / "job", series, "smooth", {"passes": 0})
    assert run(as_processes, "smooth", folder)["images"] == 1
    assert np.array_equal(pydicom.dcmread(made_in(folder)[0]).pixel_array, pydicom.dcmread(series.files[0]).pixel_array)


@pytest.mark.parametrize("name", ["smooth", "threshold"])
def test_a_job_that_runs_again_makes_the_same_instances(
    name: str, series: builders.BuiltSeries, tmp_path: Path
) -> None:
    once, again = (laid_out(tmp_path / folder, series, name, {}) for folder in ("once", "again"))
    run(as_processes, name, once)
    run(as_processes, name, again)
    assert {path.name: path.read_bytes() for path in made_in(once)} == {
        path.name: path.read_bytes() for path in made_in(again)
    }
    assert len(made_in(once)) == 3


def test_what_a_module_makes_is_taken_as_the_result_of_a_job(series: builders.BuiltSeries, tmp_path: Path) -> None:
    folder = laid_out(tmp_path / "job", series, "smooth", {})
    run(as_processes, "smooth", folder)
    expected = tuple(path.name for path in made_in(folder))
    assert store_results(folder, folder / "out", identify) == expected


def chain(modules: Modules, folder: Path, series: builders.BuiltSeries, settings: Mapping[str, Any]) -> Any:
    """Run both steps, as the processor does: what the first made is what the second gets, without result.json."""
    laid_out(folder, series, "threshold", settings)
    first = run(modules, "threshold", folder)
    second = folder / "second"
    second.mkdir()
    (folder / "out").rename(second / "in")
    (second / "in" / "result.json").unlink()
    write_task_of_step(second / "in", task_of("report", settings))
    (second / "out").mkdir()
    return first, run(modules, "report", second), second


def test_the_chain_measures_what_its_first_step_marked(
    modules: Modules, series: builders.BuiltSeries, tmp_path: Path
) -> None:
    images = [pydicom.dcmread(path) for path in series.files]
    values = [image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept) for image in images]
    threshold = float(np.median(values))
    first, second, folder = chain(modules, tmp_path / "job", series, {"threshold": threshold, "alert_fraction": 1})
    assert first == {"masks": 3, "threshold": threshold}
    above, pixels = sum(int((value > threshold).sum()) for value in values), sum(value.size for value in values)
    assert 0 < above < pixels
    assert second == {"masks": 3, "fraction": round(above / pixels, 6)}
    with (folder / "out" / "report.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert sum(int(line["marked"]) for line in lines) == above
    assert {line["SOPInstanceUID"] for line in lines} == {
        pydicom.dcmread(path).SOPInstanceUID for path in made_in(folder)
    }


def test_the_masks_are_valid_secondary_captures(series: builders.BuiltSeries, tmp_path: Path) -> None:
    _, _, folder = chain(as_processes, tmp_path / "job", series, {})
    assert len(made_in(folder)) == 3
    for path in made_in(folder):
        assert errors_of(path) == set()
        assert set(np.unique(pydicom.dcmread(path).pixel_array)) <= {0, 255}


def test_the_chain_says_who_is_to_know(series: builders.BuiltSeries, tmp_path: Path) -> None:
    settings = {"threshold": -5000, "alert_fraction": 0.5, "alert_target": "stroke"}
    _, second, _ = chain(as_processes, tmp_path / "job", series, settings)
    wish = notification_in(second)
    assert wish.requested
    assert wish.text == second[NOTIFICATION_KEY]["text"] == "100.0% of all pixels are above the threshold"
    routed = route_result(second, DynamicRouting(enabled=True), ["archive"], {"archive", "stroke"})
    assert routed.targets == ("stroke",)


def test_the_chain_is_silent_when_there_is_nothing_to_say(series: builders.BuiltSeries, tmp_path: Path) -> None:
    _, second, _ = chain(as_processes, tmp_path / "job", series, {"threshold": 50_000, "alert_target": "stroke"})
    assert second == {"masks": 3, "fraction": 0.0}


def test_instances_without_pixels_are_left_alone(tmp_path: Path) -> None:
    series = builders.small_series(tmp_path / "series", 1, PixelData=None)
    for name in ("smooth", "threshold"):
        folder = laid_out(tmp_path / name, series, name, {})
        assert 0 in run(as_processes, name, folder).values()
        assert made_in(folder) == []


# -- docs/modules.md ---------------------------------------------------------------------------------------------------


def block(language: str, number: int = 0) -> str:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    texts: list[str] = [text for kind, text in found if kind == language]
    return texts[number]


@pytest.fixture
def program_of_guide(tmp_path: Path) -> Path:
    path = tmp_path / "relabel.py"
    path.write_text(block("python"), encoding="utf-8")
    return path


def test_the_module_of_the_guide_runs(series: builders.BuiltSeries, tmp_path: Path, program_of_guide: Path) -> None:
    def module(name: str) -> tuple[ModuleRunner, ModuleSpec]:
        return ProcessRunner(), ModuleSpec(name, "process", command=(sys.executable, str(program_of_guide)))

    folder = laid_out(tmp_path / "job", series, "relabel", {"description": "own"})
    assert run(module, "relabel", folder) == {"images": 3}
    made = [pydicom.dcmread(path) for path in made_in(folder)]
    assert {image.SeriesDescription for image in made} == {"own"}
    assert len({image.SOPInstanceUID for image in made}) == 3
    assert len({image.SeriesInstanceUID for image in made} - {series.series_instance_uid}) == 1
    assert len(store_results(folder, folder / "out", identify)) == 3


def test_the_commands_of_the_guide_add_and_test_its_module(
    series: builders.BuiltSeries, tmp_path: Path, program_of_guide: Path
) -> None:
    site = Site(tmp_path / "site")
    places = {
        "/opt/modules/python/bin/python": sys.executable,
        "/opt/modules/relabel.py": str(program_of_guide),
        "~/images": str(series.files[0].parent),
        "~/made": str(tmp_path / "made"),
    }
    for command in re.findall(r"^mercure (.*)$", block("", 1), re.MULTILINE):
        answer = site.process(*(places.get(word, word) for word in shlex.split(command)))
        assert answer.status == 0, answer
    made = sorted((tmp_path / "made").rglob("*.dcm"))
    assert {pydicom.dcmread(path).SeriesDescription for path in made} == {"my first"}
    assert len(made) == 3


def test_the_python_that_the_guide_runs_its_modules_with_is_one_that_it_makes_with_what_they_need() -> None:
    (folder,) = re.findall(r"^python3 -m venv (/\S+)$", GUIDE, re.MULTILINE)
    ((pip, packages),) = re.findall(r"^(/\S+/pip) install (.+)$", GUIDE, re.MULTILINE)
    assert pip == f"{folder}/bin/pip"
    assert shlex.split(packages) == ["numpy", "pydicom>=3"]
    commands = re.findall(r"--command (\S+)|\"command\": \[\"([^\"]+)\"", GUIDE)
    assert {one or other for one, other in commands} == {f"{folder}/bin/python"}
    imported = re.findall(
        r"^(?:import|from) (\w+)", "".join(path.read_text() for path in EXAMPLES.glob("*/module.py")), re.MULTILINE
    )
    assert set(imported) - sys.stdlib_module_names <= {"numpy", "pydicom"}


def test_the_dockerfile_of_the_guide_is_that_of_the_examples() -> None:
    for name in NAMES:
        assert (EXAMPLES / name / "Dockerfile").read_text(encoding="utf-8") == block("dockerfile")


def test_the_limits_of_the_guide_are_keys_of_the_configuration() -> None:
    section = GUIDE.partition("## Limits")[2].partition("## ")[0]
    named = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert len(named) >= 9
    assert [name for name in named if name not in Module.model_fields] == []
    assert {name for name in Module.model_fields if name.endswith("limit") or "limit_" in name} <= set(named)


@pytest.mark.parametrize("number", [0, 1])
def test_the_configurations_of_the_guide_can_be_used_as_they_stand(number: int) -> None:
    loaded = parse(block("json", number), environment={})
    assert loaded.problems == ()
    specs = [module_spec(name, module, loaded.config.processor) for name, module in loaded.config.modules.items()]
    assert {spec.runner for spec in specs} == [{"docker"}, {"process"}][number]
