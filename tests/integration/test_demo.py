"""`mercure demo`: it ends well by itself, goes on until it is told to stop, and does not call a loss a success."""

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

import pytest
from rich.console import Console
from tests.peers import wait_until

from mercure.cli.demo.demonstration import Demonstration
from mercure.cli.demo.site import Site
from mercure.cli.demo.verify import Finding
from mercure.cli.exits import Exit
from mercure.core.errors import SpoolError

_DEADLINE_SECONDS = 120


@contextmanager
def demo(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "mercure.cli.main", "demo", "--folder", str(folder), "--slices", "100", *options]
    environment = {**os.environ, "TERM": "dumb", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        with process:
            yield process
            process.wait(_DEADLINE_SECONDS)
    finally:
        process.kill()


def test_the_demo_delivers_every_instance_and_ends_with_status_0(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "demo"
    with demo(folder, "--exit") as process:
        shown = process.communicate(timeout=_DEADLINE_SECONDS)[0]
    assert process.returncode == 0, shown
    assert "500 of 500 instances are where they must be" in shown
    assert "workstation is tried again soon" in shown
    assert "no rule takes it, so it goes to discard/" in shown
    assert "\x1b" not in shown  # nothing moves where nobody watches
    assert json.loads((folder / "config" / "mercure.json").read_text())["targets"].keys() == {
        "archive",
        "workstation",
        "research",
    }
    assert len(list(folder.glob("data/success/*/received/*.dcm"))) == 400
    assert len(list(folder.glob("data/discard/*/received/*.dcm"))) == 100
    assert len(list(folder.glob("archive/data/incoming/*/*.dcm"))) == 200
    assert len(list(folder.glob("research/*/*.dcm"))) == 100


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
    assert "23 of 25 instances are where they must be" in text


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
        (first.folder / "data" / "left").write_text("by the first")
    with Site(tmp_path / "demo") as second:
        assert not (second.folder / "data" / "left").exists()
