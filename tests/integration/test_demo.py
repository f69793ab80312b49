"""`mercure demo`: it ends well by itself, goes on until it is told to stop, and does not call a loss a success.

Where nothing else is said no Docker engine is there: `DOCKER_HOST` names a socket that does not exist.
"""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest
from rich.console import Console
from tests.docker_engine import Engine, engine_fixture
from tests.peers import wait_until

from mercure.cli.demo.demonstration import Demonstration
from mercure.cli.demo.site import Site
from mercure.cli.demo.verify import Finding
from mercure.cli.exits import Exit
from mercure.core.errors import SpoolError

__all__ = ["engine_fixture"]

_DEADLINE_SECONDS = 240
_NO_ENGINE = "unix:///nowhere/docker.sock"


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", _NO_ENGINE)


@contextmanager
def demo(folder: Path, *options: str, docker_host: str = _NO_ENGINE) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "mercure.cli.main", "demo", "--folder", str(folder), "--slices", "100", *options]
    environment = {**os.environ, "TERM": "dumb", "PYTHONUNBUFFERED": "1", "DOCKER_HOST": docker_host}
    process = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        with process:
            yield process
            process.wait(_DEADLINE_SECONDS)
    finally:
        process.kill()


def ended(folder: Path, docker_host: str) -> str:
    """Run a whole demo that must end well; return what it showed."""
    with demo(folder, "--exit", docker_host=docker_host) as process:
        shown = process.communicate(timeout=_DEADLINE_SECONDS)[0]
    assert process.returncode == 0, shown
    return shown


def series_in(folder: Path, pattern: str) -> dict[str, list[pydicom.Dataset]]:
    """The instances that stand in a folder, by their descriptions."""
    found: dict[str, list[pydicom.Dataset]] = {}
    for file in folder.glob(pattern):
        image = pydicom.dcmread(file)
        found.setdefault(str(image.SeriesDescription), []).append(image)
    return found


def test_the_demo_delivers_every_instance_and_ends_with_status_0(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "demo"
    shown = ended(folder, _NO_ENGINE)
    assert "600 of 600 instances are where they must be" in shown
    assert "workstation is tried again soon" in shown
    assert "no rule takes it, so it goes to discard/" in shown
    assert "no Docker engine answers, so none runs in a container" in shown
    assert "\x1b" not in shown  # nothing moves where nobody watches
    assert json.loads((folder / "config" / "mercure.json").read_text())["targets"].keys() == {
        "archive",
        "workstation",
        "research",
    }
    assert len(list(folder.glob("data/success/*/received/*.dcm"))) == 500
    assert len(list(folder.glob("data/discard/*/received/*.dcm"))) == 100
    assert len(list(folder.glob("archive/data/incoming/*/*.dcm"))) == 300
    assert len(list(folder.glob("research/*/*.dcm"))) == 100


def test_the_demo_processes_a_series_and_says_where_everything_is(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    shown = ended(folder, _NO_ENGINE)
    order = ["routed to smooth, then archive", "smooth made 100 instances in", "MR3 Knee: 100 instances at archive in"]
    places = [shown.index(line) for line in order]
    assert places == sorted(places)
    seconds = float(shown.split("smooth made 100 instances in ")[1].split()[0])
    assert 0 < seconds < _DEADLINE_SECONDS
    (results,) = folder.glob("data/success/*/results")
    assert json.loads((results / "result.json").read_text()) == {"images": 100, "passes": 2}
    assert str(results.parent) in shown
    assert f"{folder}/data/processing/process.log" in shown
    assert "smooth ended: exit code 0" in (folder / "data" / "processing" / "process.log").read_text()
    assert (results.parent / "logs" / "1-smooth.log").exists()
    at_archive = series_in(folder, "archive/data/incoming/*/*.dcm")
    assert at_archive.keys() == {"Thorax", "Brain", "smoothed Knee"}
    sent = {str(image.SOPInstanceUID) for image in series_in(folder, "senders/MR3/*.dcm")["Knee"]}
    made = {str(image.SOPInstanceUID) for image in at_archive["smoothed Knee"]}
    assert len(made) == len(sent) == 100
    assert not made & sent


def test_with_an_engine_a_module_runs_in_a_container_too_and_nothing_of_it_is_left(
    engine: Engine, tmp_path: Path
) -> None:
    before = engine.left()
    folder = tmp_path / "demo"
    shown = ended(folder, engine.host)
    assert "800 of 800 instances are where they must be" in shown
    assert "threshold made 100 instances in" in shown
    assert "threshold ended: exit code 0" in (folder / "data" / "processing" / "process.log").read_text()
    assert len(series_in(folder, "research/*/*.dcm")["above 300"]) == 100
    assert engine.left() == before


def test_a_demo_that_is_interrupted_leaves_no_container_behind(engine: Engine, tmp_path: Path) -> None:
    before = engine.left()
    with demo(tmp_path / "demo", "--exit", docker_host=engine.host) as process:
        assert process.stdout is not None
        assert any("threshold works on it" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=_DEADLINE_SECONDS)
    assert process.returncode == Exit.INTERRUPTED
    assert engine.left() == before


def test_the_demo_goes_on_running_and_takes_a_changed_configuration_until_it_is_interrupted(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    lines: list[str] = []

    def read(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        lines.extend(process.stdout)

    with demo(folder) as process:
        reader = threading.Thread(target=read, args=(process,))
        reader.start()
        wait_until(
            lambda: any("until Ctrl-C" in line for line in lines[:]), "the demo follows", seconds=_DEADLINE_SECONDS
        )
        config = folder / "config" / "mercure.json"
        config.write_text(config.read_text().replace("Brains", "Heads"))
        wait_until(lambda: any("changed mercure.json holds" in line for line in lines[:]), "it took the change")
        process.send_signal(signal.SIGINT)
        process.wait(_DEADLINE_SECONDS)
        reader.join(_DEADLINE_SECONDS)
    assert process.returncode == 0, "".join(lines)


def test_the_demo_finds_what_a_target_lost_and_what_it_changed(tmp_path: Path) -> None:
    shown = io.StringIO()
    with Site(tmp_path / "demo") as site:
        run = Demonstration(site, Console(file=shown, width=120, force_terminal=True), 5)
        run.prepare()
        run.play(threading.Event())
        assert all(finding.is_complete for finding in run.check())
        lost, changed = sorted((site.folder / "research").glob("*/*.dcm"))[:2]
        lost.unlink()
        changed.write_bytes(changed.read_bytes()[:-1] + b"\xff")
        (research,) = [finding for finding in run.check() if not finding.is_complete]
    assert research == Finding("research", run.series[1].series_uid, 5, 1, 1)
    raw = shown.getvalue()
    assert "\x1b[1A" in raw  # on a terminal the table is drawn again in its place
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw)
    assert "1 of 5 missing, 1 changed: MR1 Brain at research" in text
    assert "28 of 30 instances are where they must be" in text


def test_the_demo_finds_what_a_module_did_not_make_and_what_a_target_lost_of_it(tmp_path: Path) -> None:
    shown = io.StringIO()
    with Site(tmp_path / "demo") as site:
        run = Demonstration(site, Console(file=shown, width=120), 5)
        run.prepare()
        run.play(threading.Event())
        (results,) = site.layout.success.glob("*/results")
        made = sorted(results.glob("*.dcm"))
        made[0].unlink()  # not made: what is at the archive stands for nothing
        (at_archive,) = (site.folder / "archive").glob(f"data/incoming/*/{made[1].name}")
        at_archive.unlink()
        (at_archive,) = (site.folder / "archive").glob(f"data/incoming/*/{made[2].name}")
        at_archive.write_bytes(at_archive.read_bytes()[:-1] + b"\xff")
        (smoothed,) = [finding for finding in run.check() if not finding.is_complete]
        said = '{"images": 5, "passes": 2}'
        assert smoothed == Finding("archive", run.series[4].series_uid, 5, 2, 1, "smooth", said)
        made[1].write_bytes(run.series[4].files[0].read_bytes())  # what came is no result
        (results / "result.json").unlink()
        (smoothed,) = [finding for finding in run.check() if not finding.is_complete]
        assert smoothed == Finding("archive", run.series[4].series_uid, 5, 2, 1, "smooth", "")
    assert "2 of 5 missing, 1 changed of what smooth made, no result.json: MR3 Knee at archive" in shown.getvalue()


def test_a_demo_never_empties_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with demo(tmp_path, "--exit") as process:
        shown = process.communicate(timeout=_DEADLINE_SECONDS)[0]
    assert process.returncode == Exit.DATA_FOLDER
    assert "holds other files" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_demos_do_not_share_a_folder_and_the_next_one_takes_it_over(tmp_path: Path) -> None:
    with Site(tmp_path / "demo") as first:
        with pytest.raises(SpoolError, match="another demo runs in it"):
            Site(tmp_path / "demo")
        assert first.earlier is None
    with Site(tmp_path / "demo") as second:
        assert second.earlier is None


def test_the_next_demo_loses_nothing_of_what_was_left_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    Site(folder).__exit__()
    aside = []
    for number in (1, 2):
        (folder / "config").mkdir()
        (folder / "config" / "mercure.json").write_text(f"rules of my own {number}")
        (folder / "my.dcm").write_text(f"series of my own {number}")
        (folder / "link").symlink_to(tmp_path)
        with Site(folder) as site:
            assert site.earlier == folder / f"old-{number}"
            aside.append(site.earlier)
            assert {path.name for path in folder.iterdir()} == {".mercure-demo", *(path.name for path in aside)}
    for number, earlier in enumerate(aside, 1):
        assert {path.name for path in earlier.iterdir()} == {"config", "my.dcm", "link"}
        assert (earlier / "config" / "mercure.json").read_text() == f"rules of my own {number}"
        assert (earlier / "my.dcm").read_text() == f"series of my own {number}"


def test_what_a_demo_made_that_ended_by_itself_is_removed_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with Site(folder) as site:
        (folder / "data").mkdir()
        (folder / "data" / "instance").write_text("made by the demo")
        (folder / "mercure.log").write_text("of the demo")
        site.note_replaceable()
    (folder / "own").mkdir()
    (folder / "own" / "series").write_text("of the user")
    with Site(folder) as second:
        assert second.earlier == folder / "old-1"
        assert {path.name for path in folder.iterdir()} == {".mercure-demo", "old-1"}
    assert [path.name for path in (folder / "old-1").iterdir()] == ["own"]
    assert (folder / "old-1" / "own" / "series").read_text() == "of the user"


def test_a_note_in_a_folder_reaches_nothing_outside_of_it(tmp_path: Path) -> None:
    folder, outside = tmp_path / "demo", tmp_path / "outside"
    Site(folder).__exit__()
    outside.write_text("kept")
    (folder / "link").symlink_to(tmp_path)
    (folder / ".mercure-demo").write_text("../outside\n..\n.\n\nlink\n.mercure-demo\n")
    with Site(folder) as site:
        assert site.earlier is None
        assert [path.name for path in folder.iterdir()] == [".mercure-demo"]
    assert outside.read_text() == "kept"


def test_a_second_demo_in_a_folder_says_where_the_first_is_now(tmp_path: Path) -> None:
    shown = io.StringIO()
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / ".mercure-demo").touch()
    (tmp_path / "demo" / "mercure.log").write_text("of the first")
    with Site(tmp_path / "demo") as site:
        Demonstration(site, Console(file=shown, width=500), 5).prepare()
    assert f"what it left is in {tmp_path}/demo/old-1" in shown.getvalue()
    assert (tmp_path / "demo" / "old-1" / "mercure.log").read_text() == "of the first"
