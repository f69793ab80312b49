"""`mercure modules`: what stands in the configuration, and what a module makes of a folder of images."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.builders import ct_series, dataset, encode, new_uid
from tests.peers import DEADLINE_SECONDS, wait_until
from tests.unit.cli.site import COMMAND, Site

from mercure.cli.exits import Exit
from mercure.config.load import load

PATIENT = "NOBODY^AT^ALL"

COPY = """
import json, os, pathlib, sys
taken, made = (pathlib.Path(os.environ[name]) for name in ("MERCURE_IN_DIR", "MERCURE_OUT_DIR"))
task = json.loads((taken / "task.json").read_text())
for path in sorted(taken.glob("*.dcm")):
    assert path.with_suffix(".tags").exists()
    (made / path.name).write_bytes(path.read_bytes())
(made / "report.txt").write_text("hello")
(made / "result.json").write_text(json.dumps({"task": task, "names": sorted(os.listdir(taken))}))
print("settings", json.dumps(task["process"]["settings"], sort_keys=True))
print("to stderr", file=sys.stderr)
"""


def python(code: str, **keys: Any) -> dict[str, Any]:
    """A module that is a program."""
    return {"command": [sys.executable, "-c", code], **keys}


def with_modules(site: Site, **modules: Any) -> Site:
    site.configuration["modules"] = modules
    site.write()
    return site


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with three instances of one series, one of them below another folder, and something else."""
    folder = tmp_path / "images"
    built = ct_series(folder, 3, size_bytes=6000, PatientName=PATIENT, SeriesDescription="Chest 1.0")
    (folder / "below").mkdir()
    built.files[2].rename(folder / "below" / "odd name.ima")
    (folder / "readme.txt").write_text("no image")
    return folder


# -- list ------------------------------------------------------------------------------------------------------------


def test_modules_are_listed_with_what_runs_them_and_the_rules_that_use_them(site: Site) -> None:
    site.configuration["targets"]["ai"] = {"processing_module": ["report", "segment"]}
    site.configuration["rules"] += [
        {"name": "own", "condition": "True", "action": "process", "processing_module": ["segment", "segment"]},
        {"name": "guide", "condition": "True", "action": "process", "target": "ai"},
    ]
    with_modules(
        site,
        segment={"command": ["/bin/true", "--fast"]},
        report={"command": ["true"]},
        unused={"command": ["/bin/false"]},
    )
    answer = site("modules", "list")
    assert answer.status == Exit.OK
    rows = {line.split()[0]: line for line in answer.out.splitlines()[1:]}
    assert "/bin/true --fast" in rows["segment"]
    assert "own, guide" in rows["segment"]
    listed = {one["module"]: one for one in site("modules", "list", "--json").json}
    assert listed["segment"]["command"] == ["/bin/true", "--fast"]
    assert (listed["report"]["rules"], listed["unused"]["rules"]) == (["guide"], [])
    assert listed["report"]["runner"] == "process"
    assert listed["report"]["image"] is listed["report"]["digest"] is None


def test_a_module_that_cannot_run_is_listed_with_the_reason(site: Site) -> None:
    with_modules(site, broken={}, root={"command": ["true"], "requires_root": True}, good={"command": ["true"]})
    answer = site("modules", "list")
    assert answer.status == Exit.FAILED
    assert "broken: needs either docker_tag" in answer.out
    assert "root: it requires root" in answer.out
    listed = {one["module"]: one["usable"] for one in site("modules", "list", "--json").json}
    assert listed == {"broken": False, "good": True, "root": False}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"command": ["relative/x"]}, "the program relative/x does not exist"),
        ({"command": ["no-such-program"]}, "the program no-such-program does not exist"),
        ({"command": ["true"], "environment": {"PATH": "/nowhere"}}, "the program true does not exist"),
        ({"command": ["/etc/passwd"]}, "the program /etc/passwd cannot be run by this user"),
        ({"command": ["true"], "environment": {"TOK": {"file": "/nonexistent"}}}, "/nonexistent"),
        ({"docker_tag": "a:1", "environment": {"TOK": {"file": "/nonexistent"}}}, "/nonexistent"),
    ],
)
def test_a_module_that_no_job_could_start_is_not_listed_as_usable(
    site: Site, keys: dict[str, Any], reason: str
) -> None:
    site.configuration["processor"] = {"docker_host": f"unix://{site.folder}/no-engine.sock"}
    with_modules(site, good={"command": ["true"]}, bad=keys)
    answer = site("modules", "list")
    assert answer.status == Exit.FAILED
    assert reason in " ".join(answer.out.split())
    listed = {one["module"]: one for one in site("modules", "list", "--json").json}
    assert listed["good"]["usable"]
    assert not listed["bad"]["usable"]
    assert reason in listed["bad"]["reason"]


@pytest.mark.parametrize("keys", [{"command": ["true"]}, {"docker_tag": "a:1"}])
def test_a_module_that_requires_root_is_usable_only_where_the_service_is_root(
    site: Site, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.configuration["processor"] = {
        "docker_host": f"unix://{site.folder}/no-engine.sock",
        "support_root_modules": True,
    }
    with_modules(site, m={**keys, "requires_root": True})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert site("modules", "list").status == Exit.OK
    monkeypatch.setattr(os, "geteuid", lambda: 65_534)
    answer = site("modules", "list")
    assert answer.status == Exit.FAILED
    assert "m: it requires root, and user 65534" in " ".join(answer.out.split())


def test_no_modules_are_said(site: Site) -> None:
    answer = site("modules", "list")
    assert answer.status == Exit.OK
    assert "no modules" in answer.out
    assert site("modules", "list", "--json").json == []


# -- add -------------------------------------------------------------------------------------------------------------


def test_a_command_is_added_with_each_argument_by_itself(site: Site) -> None:
    secret = site.folder / "token"
    secret.write_text("hidden")
    answer = site(
        "modules", "add", "report", "--command", "/opt/report", "--settings", '{"short": true}', "--env", "A=b=c",
        "--env-file", f"TOKEN={secret}", "--timeout", "5", "--memory-limit", "2G", "--cpu-limit", "1.5", "--gpus", "0",
        "--max-parallel", "2", "--network", "--comment", "for tests", "--", "--flag", "a b; rm -rf /", "",
    )  # fmt: skip
    assert answer.status == Exit.OK, answer
    assert json.loads(site.config_file.read_text())["modules"]["report"] == {
        "command": ["/opt/report", "--flag", "a b; rm -rf /", ""],
        "settings": {"short": True},
        "environment": {"A": "b=c", "TOKEN": {"file": str(secret)}},
        "timeout": 5.0,
        "memory_limit": "2G",
        "cpu_limit": 1.5,
        "max_parallel": 2,
        "network_enabled": True,
        "comment": "for tests",
    }
    assert not load(site.config_file).problems
    assert "hidden" not in site.config_file.read_text()
    assert stat.S_IMODE(site.config_file.stat().st_mode) == 0o600


def test_an_image_is_added_and_the_rest_of_the_file_stays(site: Site) -> None:
    before = json.loads(site.config_file.read_text())
    assert site("modules", "add", "seg", "--docker-tag", "example/seg:1", "--pull", "never", "--json").json == {
        "module": "seg",
        "file": str(site.config_file),
        "warning": "",
    }
    after = json.loads(site.config_file.read_text())
    assert after.pop("modules") == {"seg": {"docker_tag": "example/seg:1", "pull": "never"}}
    assert after == before


def test_a_module_is_added_to_the_flat_form_without_the_network(site: Site) -> None:
    site.configuration = {"port": 11112, "rules": {"a": {"rule": "False"}}, "modules": {"old": {"docker_tag": "x"}}}
    site.write()
    assert site("modules", "add", "new", "--command", "/opt/new").status == Exit.OK
    assert site("modules", "add", "open", "--command", "/opt/new", "--network").status == Exit.OK
    loaded = load(site.config_file)
    assert loaded.form == "flat"
    assert {name: one.network_enabled for name, one in loaded.config.modules.items()} == {
        "old": True,
        "new": False,
        "open": True,
    }


def test_a_module_takes_the_place_of_another_only_when_it_is_told_to(site: Site) -> None:
    with_modules(site, seg={"command": ["/opt/old"]})
    answer = site("modules", "add", "seg", "--command", "/opt/new")
    assert answer.status == Exit.USAGE
    assert "--replace" in answer.err
    assert load(site.config_file).config.modules["seg"].command == ("/opt/old",)
    assert site("modules", "add", "seg", "--command", "/opt/new", "--replace").status == Exit.OK
    assert load(site.config_file).config.modules["seg"].command == ("/opt/new",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --docker-tag or --command"),
        (["--docker-tag", "a", "--command", "b"], "give either --docker-tag or --command"),
        (["--docker-tag", "a", "--", "argument"], "give either --docker-tag or --command"),
        (["--command", "a", "--settings", "[1]"], "no JSON object"),
        (["--command", "a", "--settings", "{"], "no JSON"),
        (["--command", "a", "--env", "A"], "--env needs NAME=VALUE"),
        (["--command", "a", "--env-file", "=x"], "--env-file needs NAME=PATH"),
        (["--command", "a", "--pull", "often"], "often"),
    ],
)
def test_a_module_that_is_half_given_is_a_usage_error(site: Site, arguments: list[str], message: str) -> None:
    before = site.config_file.read_bytes()
    answer = site("modules", "add", "m", *arguments)
    assert answer.status == Exit.USAGE
    assert message in answer.err
    assert site.config_file.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m", "--docker-tag", "a b"], "modules.m.docker_tag: has characters"),
        (["m", "--command", "x", "--memory-limit", "much"], "modules.m.memory_limit: must be a size"),
        (["m", "--command", "x", "--env-file", "A=relative"], "modules.m.environment.A: file must be an absolute path"),
        (["../m", "--command", "x"], "its name must be 1 to 128 printable characters"),
    ],
)
def test_a_module_with_a_fault_is_not_saved(site: Site, arguments: list[str], message: str) -> None:
    before = site.config_file.read_bytes()
    answer = site("modules", "add", *arguments)
    assert answer.status == Exit.CONFIGURATION
    assert message in answer.err
    assert site.config_file.read_bytes() == before


def test_settings_are_taken_from_a_file(site: Site) -> None:
    path = site.folder / "settings.json"
    path.write_text('{"threshold": 0.5}')
    assert site("modules", "add", "m", "--command", "x", "--settings", f"@{path}").status == Exit.OK
    assert load(site.config_file).config.modules["m"].settings == {"threshold": 0.5}
    for wrong, why in ((f"{path}.gone", "No such file"), (site.folder, "Is a directory")):
        answer = site("modules", "add", "n", "--command", "x", "--settings", f"@{wrong}")
        assert answer.status == Exit.USAGE
        assert f"{wrong} cannot be read: {why}" in answer.err
        assert "@FILE" in answer.err


def test_a_module_that_cannot_run_as_things_are_is_saved_with_a_note(site: Site) -> None:
    answer = site("modules", "add", "m", "--docker-tag", "a:1", "--gpus", "1")
    assert answer.status == Exit.OK
    assert "note: it cannot run yet: it needs 1 GPUs, and processor.gpus has 0" in answer.err
    answer = site("modules", "add", "n", "--command", "relative/x")
    assert answer.status == Exit.OK
    assert "note: it cannot run yet: the program relative/x does not exist" in answer.err


# -- pull ------------------------------------------------------------------------------------------------------------


def test_without_an_engine_images_are_listed_without_a_digest_and_cannot_be_fetched(site: Site, images: Path) -> None:
    site.configuration["processor"] = {"docker_host": f"unix://{site.folder}/no-engine.sock"}
    with_modules(site, a={"docker_tag": "example/a:1"}, b={"docker_tag": "example/b:1"}, c={"command": ["true"]})
    answer = site.process("modules", "list", "--json")
    assert answer.status == Exit.OK
    assert [one["digest"] for one in answer.json] == [None, None, None]
    answer = site.process("modules", "pull")
    assert answer.status == Exit.FAILED
    lines = answer.err.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["a", "b"]
    assert all("does not answer" in line for line in lines)
    found = site.process("modules", "pull", "b", "--json")
    assert found.status == Exit.FAILED
    assert [(one["module"], one["image"], one["digest"]) for one in found.json] == [("b", "example/b:1", None)]
    tried = site.process("modules", "test", "a", "--input", images)
    assert tried.status == Exit.FAILED
    assert "does not answer" in tried.err


def test_only_images_are_fetched(site: Site) -> None:
    with_modules(site, c={"command": ["x"]})
    assert site("modules", "pull").out == "No module is an image.\n"
    answer = site("modules", "pull", "c")
    assert answer.status == Exit.USAGE
    assert "module 'c' is a command" in answer.err
    assert site("modules", "pull", "unknown").status == Exit.USAGE


# -- test ------------------------------------------------------------------------------------------------------------


def test_a_module_is_tried_on_a_folder_and_what_it_made_is_shown(site: Site, images: Path) -> None:
    with_modules(site, copy=python(COPY, settings={"a": 1, "b": 1}))
    answer = site("modules", "test", "copy", "--input", images, "--settings", '{"b": 2}')
    assert answer.status == Exit.OK, answer
    assert "copy ended: exit code 0 after " in answer.out
    assert '  settings {"a": 1, "b": 2}' in answer.out
    assert "  to stderr" in answer.out
    assert any(line.split() == ["CT", "Chest", "1.0", "3"] for line in answer.out.splitlines())
    assert "report.txt  5 bytes" in answer.out
    assert 'result.json: {"task":' in answer.out


def test_a_trial_tells_everything_to_a_program(site: Site, images: Path) -> None:
    with_modules(site, copy=python(COPY))
    answer = site("modules", "test", "copy", "--input", images, "--called", "az_PROJECT", "--calling", "CT1", "--json")
    assert answer.status == Exit.OK, answer
    found = answer.json
    assert (found["exit_code"], found["failed"], found["reason"]) == (0, False, "")
    assert found["seconds"] > 0
    (series,) = found["series"]
    assert (series["modality"], series["description"], series["instances"]) == ("CT", "Chest 1.0", 3)
    assert {one["path"]: one["bytes"] for one in found["files"]}["report.txt"] == 5
    task = found["result"]["task"]
    assert task["process"]["module_name"] == "copy"
    assert (task["info"]["receiver_aet"], task["info"]["sender_aet"]) == ("az_PROJECT", "CT1")
    assert task["info"]["patient_name"] == PATIENT
    taken = found["result"]["names"]
    assert len(taken) == 7
    assert all(name.startswith(series["series_uid"] + "#") for name in taken if name != "task.json")


def test_a_trial_leaves_the_images_and_the_machine_as_they_were(
    site: Site, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("TMPDIR", str(work))
    monkeypatch.setattr("tempfile.tempdir", None)
    spoil = "import os, pathlib\nfor p in pathlib.Path(os.environ['MERCURE_IN_DIR']).iterdir():\n    p.unlink()"
    with_modules(site, spoil=python(spoil, writes_input=True), copy=python(COPY))
    before = {path: (path.read_bytes(), path.stat().st_mode) for path in images.rglob("*") if path.is_file()}
    for name in ("spoil", "copy"):
        assert site("modules", "test", name, "--input", images).status == Exit.OK
    assert {path: (path.read_bytes(), path.stat().st_mode) for path in before} == before
    assert list(work.iterdir()) == []
    assert all(list(folder.iterdir()) == [] for folder in (site.layout.processing, site.layout.success))


def test_what_a_module_made_is_kept_when_it_is_asked_for(site: Site, images: Path, tmp_path: Path) -> None:
    with_modules(site, copy=python(COPY + "\n(made / 'deep' / 'er').mkdir(parents=True)\n"
                                          "(made / 'deep' / 'er' / 'x.bin').write_bytes(b'123')"))  # fmt: skip
    output = tmp_path / "made"
    assert site("modules", "test", "copy", "--input", images, "--output", output).status == Exit.OK
    assert len(list(output.glob("*.dcm"))) == 3
    assert (output / "deep" / "er" / "x.bin").read_bytes() == b"123"
    answer = site("modules", "test", "copy", "--input", images, "--output", output)
    assert answer.status == Exit.USAGE
    assert "is not empty" in answer.err


@pytest.mark.parametrize(
    ("code", "keys", "reason"),
    [
        ("import sys; print('it went wrong'); sys.exit(3)", {}, "the module failed: exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", {}, "the module failed: ended by SIGKILL"),
        ("import time; time.sleep(600)", {"timeout": 0.5}, "module bad took more than 0.5 s and was ended"),
        ("import os; os.symlink('/etc/passwd', os.environ['MERCURE_OUT_DIR'] + '/x')", {}, "a symbolic link"),
        ("import os; open(os.environ['MERCURE_OUT_DIR'] + '/x.dcm', 'w').write('no')", {}, "cannot be read"),
        ("import os\nfor n in '0123456789':\n  open(os.environ['MERCURE_OUT_DIR'] + '/' + n, 'wb').write(b'x' * 1500)",
         {"output_limit_gb": 2e-6}, "more than 2e-06 GB of output"),
    ],
)  # fmt: skip
def test_a_module_that_fails_says_why_a_job_would_fail(
    site: Site, images: Path, code: str, keys: dict[str, Any], reason: str
) -> None:
    with_modules(site, bad=python(code, **keys))
    site.configuration["processor"] = {"kill_grace_seconds": 0.1}
    site.write()
    answer = site("modules", "test", "bad", "--input", images)
    assert answer.status == Exit.FAILED
    assert reason in answer.err
    found = site("modules", "test", "bad", "--input", images, "--json")
    assert found.status == Exit.FAILED
    assert reason in found.json["reason"]


def test_a_module_that_makes_no_instance_is_good_for_jobs_without_targets_only(site: Site, images: Path) -> None:
    with_modules(site, silent=python("print('done')"), copy=python(COPY))
    answer = site("modules", "test", "silent", "--input", images)
    assert answer.status == Exit.OK, answer
    assert "It made no DICOM instance." in answer.out
    assert "note: without an instance there is nothing to send: a job with targets would go to error" in answer.err
    notes = {
        name: site("modules", "test", name, "--input", images, "--json").json["note"] for name in ("silent", "copy")
    }
    assert "would go to error" in notes["silent"]
    assert notes["copy"] == ""
    assert "note:" not in site("modules", "test", "copy", "--input", images).err


def test_a_program_that_is_not_there_is_said(site: Site, images: Path) -> None:
    with_modules(site, gone={"command": ["/nowhere/program"]})
    answer = site("modules", "test", "gone", "--input", images)
    assert answer.status == Exit.FAILED
    assert "module gone" in answer.err
    assert site("modules", "test", "gone", "--input", images, "--json").json["exit_code"] is None


def test_a_link_in_the_output_is_never_handed_over(site: Site, images: Path, tmp_path: Path) -> None:
    code = (
        "import os\nmade = os.environ['MERCURE_OUT_DIR']\nos.symlink('/etc', made + '/folder')\n"
        "os.symlink('/etc/passwd', made + '/file')\nos.mkfifo(made + '/pipe')\nopen(made + '/good', 'w').write('x')"
    )
    with_modules(site, bad=python(code))
    output = tmp_path / "made"
    assert site("modules", "test", "bad", "--input", images, "--output", output).status == Exit.FAILED
    assert os.listdir(output) == ["good"]


def test_folders_deeper_than_any_path_are_told_and_cleared_up(site: Site, images: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    deep = "\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')"
    with_modules(site, deep=python(f"import os\nos.chdir(os.environ['MERCURE_OUT_DIR']){deep}"))
    answer = subprocess.run(
        [*COMMAND, "modules", "test", "deep", "--input", str(images), "--output", str(tmp_path / "made")],
        env={**os.environ, **site.environment, "TMPDIR": str(work)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert answer.returncode == Exit.FAILED
    assert "too deep" in answer.stderr
    assert os.listdir(tmp_path / "made") == ["d"]
    assert not os.listdir(work)


def test_the_end_of_a_long_log_is_shown_and_cannot_control_the_terminal(site: Site, images: Path) -> None:
    with_modules(site, loud=python("for n in range(50000): print('line', n)\nprint('\\x1b[31m  red')"))
    answer = site("modules", "test", "loud", "--input", images)
    assert "the last 20 lines" in answer.out
    assert "line 49999" in answer.out
    assert "line 1\n" not in answer.out
    assert "\x1b" not in answer.out
    log = site("modules", "test", "loud", "--input", images, "--json").json["log"]
    assert len(log) <= 65536
    assert "line 49999\n" in log


def test_a_time_out_of_the_command_line_goes_before_that_of_the_module(site: Site, images: Path) -> None:
    site.configuration["processor"] = {"kill_grace_seconds": 0}
    with_modules(site, slow=python("import time; time.sleep(600)", timeout=500))
    answer = site("modules", "test", "slow", "--input", images, "--timeout", "0.3")
    assert answer.status == Exit.FAILED
    assert "took more than 0.3 s" in answer.err


def test_a_result_that_is_no_json_is_said(site: Site, images: Path) -> None:
    code = "import os; open(os.environ['MERCURE_OUT_DIR'] + '/result.json', 'w').write('{')"
    with_modules(site, odd=python(code))
    answer = site("modules", "test", "odd", "--input", images)
    assert answer.status == Exit.OK
    assert "result.json is no JSON" in answer.err
    found = site("modules", "test", "odd", "--input", images, "--json").json
    assert (found["result"], bool(found["result_fault"])) == (None, True)


def test_a_folder_that_stays_is_an_empty_one_in_a_trial(site: Site, images: Path) -> None:
    code = (
        "import os, pathlib\nkept = pathlib.Path(os.environ['MODULE_PERSISTENCE_DIR'])\nprint(os.listdir(kept))\n"
        "(kept / 'x').write_text('y')"
    )
    with_modules(site, keeps=python(code, requires_persistence=True))
    for _ in range(2):
        assert "  []" in site("modules", "test", "keeps", "--input", images).out
    assert not (site.data / "persistence").exists()


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, Exit.INTERRUPTED),
        (signal.SIGTERM, Exit.TERMINATED),
        (signal.SIGHUP, Exit.HUNG_UP),
    ],
)
def test_an_interrupted_trial_ends_the_module_and_clears_up(
    number: signal.Signals, status: int, site: Site, images: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    code = (
        "import os, time\nos.chdir(os.environ['MERCURE_OUT_DIR'])\nopen('new', 'w').write(str(os.getpid()))\n"
        "os.rename('new', 'pid')\ntime.sleep(600)"
    )
    with_modules(site, slow=python(code))
    process = subprocess.Popen(
        [*COMMAND, "modules", "test", "slow", "--input", str(images)],
        env={**os.environ, **site.environment, "TMPDIR": str(work)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        wait_until(lambda: list(work.glob("*/out/pid")), "the module runs")
        (sign,) = work.glob("*/out/pid")
        module = Path("/proc") / sign.read_text()
        assert module.exists()
        process.send_signal(number)
        process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == status
    wait_until(lambda: not module.exists(), "the module has ended")
    assert os.listdir(work) == []


def test_what_a_killed_trial_left_is_removed_by_the_next_one_and_a_living_trial_stays(
    site: Site, images: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    slow = "import os, time\nopen(os.environ['MERCURE_OUT_DIR'] + '/up', 'w').close()\ntime.sleep(600)"
    with_modules(site, slow=python(slow), quick=python("pass"))
    environment = {**os.environ, **site.environment, "TMPDIR": str(work)}
    command = [*COMMAND, "modules", "test", "slow", "--input", str(images)]
    with subprocess.Popen(command, env=environment) as killed, subprocess.Popen(command, env=environment) as living:
        try:
            wait_until(lambda: len(list(work.glob("*/out/up"))) == 2, "both modules run")
            killed.kill()
            killed.wait(DEADLINE_SECONDS)
            assert len(list(work.glob("mercure-trial-*"))) == 2
            tried = [*COMMAND, "modules", "test", "quick", "--input", str(images)]
            subprocess.run(tried, env=environment, check=True, timeout=DEADLINE_SECONDS)
            assert [folder.parent.parent.exists() for folder in work.glob("*/out/up")] == [True]
            assert living.poll() is None
        finally:
            killed.kill()
            living.terminate()
    assert living.returncode == Exit.TERMINATED
    assert not list(work.glob("mercure-trial-*"))


def test_several_series_are_told_apart(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, modality in enumerate(("CT", "MR", "MR")):
        made = dataset("CT", Modality=modality, SeriesInstanceUID=new_uid(), SeriesDescription=f"s{number}")
        (folder / f"{number}.dcm").write_bytes(encode(made))
    with_modules(site, copy=python(COPY))
    found = site("modules", "test", "copy", "--input", folder, "--json").json
    assert sorted((one["modality"], one["description"]) for one in found["series"]) == [
        ("CT", "s0"),
        ("MR", "s1"),
        ("MR", "s2"),
    ]


def test_a_call_that_cannot_be_followed_is_said(site: Site, images: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with_modules(site, copy=python(COPY), broken={}, root=python(COPY, requires_root=True))
    for arguments, status, message in (
        (("cpoy", "--input", images), Exit.USAGE, "Did you mean copy?"),
        (("broken", "--input", images), Exit.CONFIGURATION, "needs either docker_tag"),
        (("root", "--input", images), Exit.CONFIGURATION, "support_root_modules"),
        (("copy", "--input", empty), Exit.USAGE, "no DICOM file"),
        (("copy", "--input", tmp_path / "gone"), Exit.USAGE, "does not exist"),
        (("copy",), Exit.USAGE, "--input"),
        (("copy", "--input", images, "--settings", "5"), Exit.USAGE, "no JSON object"),
        (("copy", "--input", images, "--called", "X" * 17), Exit.USAGE, "is no AE title"),
    ):
        answer = site("modules", "test", *arguments)
        assert answer.status == status, answer
        assert message in answer.err


def test_nothing_of_a_trial_shows_a_patient(site: Site, images: Path) -> None:
    with_modules(site, quiet=python("print('done')"))
    for option in ((), ("--json",)):
        answer = site("modules", "test", "quiet", "--input", images, *option)
        assert answer.status == Exit.OK
        assert PATIENT not in answer.out + answer.err
