"""What every runner of modules promises, whatever it runs them in."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.contract.runners import HOLD, INSTANCE, KINDS, SECONDS, Kind, Place, ended, in_thread, run_through, running
from tests.docker_engine import nothing_is_left_open_fixture
from tests.peers import wait_until

from mercure.core.errors import PermanentError
from mercure.core.processing import Limits, ModuleRunner

__all__ = ["nothing_is_left_open_fixture"]

pytestmark = pytest.mark.usefixtures("nothing_is_left_open")

ROOT = Path(__file__).parents[2]
ODD = (
    "plain",
    "",
    "a b\tc",
    "line\nline",
    "$(touch pwned) `touch pwned` ; touch pwned",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "${HOME} %s %d \\n \\",
    "--privileged",
    "ä 漢字 🫀",
    "{{ template }} ${NOMAD}",
)
STAY = "while :; do sleep 0.1; done"


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]()


@pytest.fixture
def runner(kind: Kind) -> ModuleRunner:
    return kind.make()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "job")
    yield made
    assert [path.name for path in made.folder.iterdir() if path.name not in {"in", "out", "kept"}] == []


def environment_in(written: bytes | bytearray) -> Mapping[str, str]:
    return dict(line.split("=", 1) for line in written.decode().splitlines() if "=" in line)


# -- the contract of modules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_the_exit_code_is_handed_on(kind: Kind, runner: ModuleRunner, place: Place, code: int) -> None:
    assert run_through(runner, place.order(kind.script(f"exit {code}"))) == code


def test_a_module_that_dies_by_a_signal_has_failed(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    assert run_through(runner, place.order(kind.script("kill -KILL $$"))) in {-9, 137}


def test_the_variables_name_the_folders(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    assert run_through(runner, place.order(kind.script("env", persistence="kept"))) == 0
    found = environment_in(place.written)
    assert found["MERCURE_IN_DIR"] == found["MONAI_INPUTPATH"] == found["HOLOSCAN_INPUT_PATH"]
    assert found["MERCURE_OUT_DIR"] == found["MONAI_OUTPUTPATH"] == found["HOLOSCAN_OUTPUT_PATH"]
    assert len({found["MERCURE_IN_DIR"], found["MERCURE_OUT_DIR"], found["MODULE_PERSISTENCE_DIR"]}) == 3


def test_without_persistence_there_is_no_folder_for_it(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    assert run_through(runner, place.order(kind.script("env"))) == 0
    assert "MODULE_PERSISTENCE_DIR" not in environment_in(place.written)


def test_nothing_of_the_environment_of_the_service_reaches_a_module(
    kind: Kind, runner: ModuleRunner, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SERVICE", "hidden")
    assert run_through(runner, place.order(kind.script("env", environment={"OWN": "seen"}))) == 0
    found = environment_in(place.written)
    assert found["OWN"] == "seen"
    assert "SECRET_OF_THE_SERVICE" not in found
    assert b"hidden" not in place.written


def test_the_variables_of_the_contract_win_over_those_of_the_module(
    kind: Kind, runner: ModuleRunner, place: Place
) -> None:
    module = kind.script('cat "$MERCURE_IN_DIR/task.json"', environment={"MERCURE_IN_DIR": "/etc"})
    assert run_through(runner, place.order(module)) == 0
    assert place.written == place.input()["task.json"]


@pytest.mark.parametrize("value", ODD)
def test_a_value_is_never_interpreted(kind: Kind, runner: ModuleRunner, place: Place, value: str) -> None:
    module = kind.script(
        'cd "$MERCURE_OUT_DIR" && printf %s "$ODD" >variable && printf %s "$1" >argument',
        value,
        environment={"ODD": value},
    )
    assert run_through(runner, place.order(module)) == 0
    assert (place.made / "variable").read_text() == value
    assert (place.made / "argument").read_text() == value
    assert sorted(path.name for path in place.made.iterdir()) == ["argument", "variable"]


def test_a_module_reads_its_whole_input(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    assert run_through(runner, place.order(kind.script('cp "$MERCURE_IN_DIR"/* "$MERCURE_OUT_DIR"'))) == 0
    assert {path.name: path.read_bytes() for path in place.made.iterdir()} == place.input()


@pytest.mark.parametrize(
    "attempt",
    [
        f'echo x >"$MERCURE_IN_DIR/{INSTANCE}"',
        f'chmod 0666 "$MERCURE_IN_DIR/{INSTANCE}"; echo x >>"$MERCURE_IN_DIR/{INSTANCE}"',
        f'rm -f "$MERCURE_IN_DIR/{INSTANCE}"',
        f'mv "$MERCURE_IN_DIR/{INSTANCE}" "$MERCURE_OUT_DIR/"',
        'rm -rf "$MERCURE_IN_DIR"',
        'echo x >"$MERCURE_IN_DIR/new"',
        'echo x >"$MERCURE_IN_DIR/task.json"',
        f'ln "$MERCURE_IN_DIR/{INSTANCE}" "$MERCURE_OUT_DIR/link" && echo x >"$MERCURE_OUT_DIR/link"',
    ],
)
def test_a_module_cannot_change_its_input(kind: Kind, runner: ModuleRunner, place: Place, attempt: str) -> None:
    before = place.input()
    run_through(runner, place.order(kind.script(f"{attempt}; exit 0")))
    assert place.input() == before


def test_a_module_that_declares_it_changes_its_input(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    os.chmod(place.taken / INSTANCE, 0o640)
    module = kind.script(f'cd "$MERCURE_IN_DIR" && echo x >{INSTANCE} && echo y >new', writes_input=True)
    assert run_through(runner, place.order(module)) == 0
    assert place.input()[INSTANCE] == b"x\n"
    assert place.input()["new"] == b"y\n"


def test_output_belongs_to_the_service_whatever_modes_it_has(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    script = """cd "$MERCURE_OUT_DIR" && mkdir -p "a/b c/d" && echo 1 >"a/b c/d/ä.dcm" && echo 2 >e
    chmod 000 e && chmod 500 "a/b c" """
    assert run_through(runner, place.order(kind.script(script))) == 0
    files = [path for path in place.made.rglob("*") if path.is_file()]
    assert sorted(str(path.relative_to(place.made)) for path in files) == ["a/b c/d/ä.dcm", "e"]
    assert {path.lstat().st_uid for path in place.made.rglob("*")} == {os.geteuid()}
    for path in (place.made / "a/b c", place.made / "e"):
        path.chmod(0o700)
    shutil.rmtree(place.made)
    place.made.mkdir()


def test_what_a_module_keeps_is_there_for_its_next_run(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    script = 'cat "$MODULE_PERSISTENCE_DIR"/* 2>/dev/null; echo kept >"$MODULE_PERSISTENCE_DIR/model"'
    module = kind.script(script, persistence="kept")
    assert run_through(runner, place.order(module)) == 0
    assert place.written == b""
    assert run_through(runner, place.order(module)) == 0
    assert place.written == b"kept\n"


def test_temporary_files_are_gone_after_the_run(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    script = 'd=$(mktemp -d) && echo x >"$d/file" && chmod 000 "$d/file" && chmod 500 "$d" && echo "$d"'
    assert run_through(runner, place.order(kind.script(script))) == 0
    folder = place.written.decode().strip()
    assert folder.startswith("/")
    assert not Path(folder).exists()


# -- what it writes ----------------------------------------------------------------------------------------------------


def test_what_a_module_writes_is_handed_on_while_it_runs(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    script = 'echo first; until [ -e "$MERCURE_OUT_DIR/go" ]; do sleep 0.05; done; echo last >&2'
    with running(runner, place.order(kind.script(script))) as run:
        wait_until(lambda: b"first\n" in place.written, "the first line", seconds=SECONDS)
        assert run.wait(0) is None
        (place.made / "go").touch()
        assert ended(run) == 0
    assert place.written == b"first\nlast\n"


def test_all_of_a_long_log_is_handed_on(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    script = "yes 'a line of a module that tells all it does' | head -n 200000; echo the end"
    assert run_through(runner, place.order(kind.script(script))) == 0
    assert place.written == b"a line of a module that tells all it does\n" * 200_000 + b"the end\n"


def test_what_is_no_text_is_handed_on_as_it_is(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    assert run_through(runner, place.order(kind.script(r"printf '\377\000\200 no line end'"))) == 0
    assert place.written == b"\xff\0\x80 no line end"


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_module_is_asked_to_end(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    script = f"trap 'echo bye; exit 7' TERM; echo ready; {STAY}"
    with running(runner, place.order(kind.script(script))) as run:
        wait_until(lambda: place.written == b"ready\n", "the module is ready", seconds=SECONDS)
        run.stop()
        assert ended(run) == 7
    assert place.written == b"ready\nbye\n"


def test_a_module_that_does_not_want_to_end_is_ended(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    script = f"trap 'echo no' TERM; {HOLD} echo ready; {STAY}"
    with running(runner, place.order(kind.script(script))) as run:
        wait_until(lambda: place.written == b"ready\n", "the module is ready", seconds=SECONDS)
        run.stop()
        wait_until(lambda: b"no\n" in place.written, "it was asked", seconds=SECONDS)
        assert run.wait(0) is None
        run.kill()
        assert ended(run) in {-9, 137}
    assert not place.held()


CHILD = """setsid sh -c 'trap "" TERM HUP; echo ready >&2; while :; do sleep 0.1; done' & """


def test_a_child_that_left_the_group_and_ignores_signals_is_ended(
    kind: Kind, runner: ModuleRunner, place: Place
) -> None:
    with running(runner, place.order(kind.script(f"{HOLD} {CHILD} wait"))) as run:
        wait_until(lambda: b"ready\n" in place.written, "the child runs", seconds=SECONDS)
        assert place.held()
        run.kill()
        ended(run)
    assert not place.held()


def test_nothing_of_a_module_outlives_its_end(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    script = f'{HOLD} {CHILD} until [ -e "$MERCURE_OUT_DIR/go" ]; do sleep 0.05; done; exit 4'
    with running(runner, place.order(kind.script(script))) as run:
        wait_until(lambda: b"ready\n" in place.written, "the child runs", seconds=SECONDS)
        (place.made / "go").touch()
        assert ended(run) == 4
        assert not place.held()


def test_a_module_is_ended_by_another_thread(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    with running(runner, place.order(kind.script(f"echo ready; {STAY}"))) as run:

        def kill_when_ready() -> None:
            wait_until(lambda: place.written == b"ready\n", "the module is ready", seconds=SECONDS)
            run.kill()

        thread = in_thread(kill_when_ready)
        assert ended(run) in {-9, 137}
        thread.join()


def test_an_end_can_be_asked_for_twice_and_too_late(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    run = runner.start(place.order(kind.script("exit 0")))
    assert ended(run) == 0
    for _ in range(2):
        run.stop()
        run.kill()
        assert run.wait(0) == 0
    run.close()
    run.close()
    run.kill()


# -- limits ------------------------------------------------------------------------------------------------------------


def test_a_module_that_forks_in_a_loop_is_ended(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    script = f"{HOLD} while :; do sleep 600 & done"
    assert run_through(runner, place.order(kind.script(script), Limits(processes=60))) != 0
    assert not place.held()


def test_a_fork_bomb_is_ended(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    script = f"{HOLD} bomb() {{ bomb | bomb & }}; bomb; {STAY}"
    with running(runner, place.order(kind.script(script), Limits(processes=60))) as run:
        run.wait(1.0)
        run.kill()
        ended(run)
    assert not place.held()


def test_memory_has_a_limit(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    script = "x=0123456789abcdef; while :; do x=$x$x; done"
    assert run_through(runner, place.order(kind.script(script), Limits(memory_bytes=200 << 20))) != 0


def test_a_module_has_no_privileges(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    assert run_through(runner, place.order(kind.script("cat /proc/self/status"))) == 0
    found = dict(line.split(":\t", 1) for line in place.written.decode().splitlines() if ":\t" in line)
    assert {found[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {""}
    assert found["NoNewPrivs"] == "1"
    assert found["Uid"].split() == [str(os.geteuid())] * 4


def test_four_modules_run_at_once(kind: Kind, runner: ModuleRunner, tmp_path: Path) -> None:
    places = [Place(tmp_path / f"job{number}") for number in range(4)]
    orders = [place.order(kind.script(f"echo ready; {STAY}")) for place in places]
    runs = [runner.start(order) for order in orders]
    try:
        for place in places:
            wait_until(lambda place=place: place.written == b"ready\n", "all run", seconds=SECONDS)  # type: ignore[misc]
    finally:
        for run in runs:
            run.kill()
            run.close()


# -- what cannot be started --------------------------------------------------------------------------------------------


def test_a_program_that_is_not_there_is_never_retried(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    with pytest.raises(PermanentError):
        runner.start(place.order(kind.nothing_there))
    assert place.written == b""


# -- a service that ends -----------------------------------------------------------------------------------------------


def end_of(runner: ModuleRunner, place: Place, script: str, kind: Kind) -> None:
    """Adopt what is there, and end it."""
    run = runner.adopt(place.order(kind.script(script)))
    if run is None:
        assert not place.held()
        return
    assert place.held()
    run.kill()
    ended(run)
    run.close()
    assert not place.held()


def test_a_service_that_dies_leaves_one_run_or_none(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    script = f'{HOLD} {CHILD} touch "$MERCURE_OUT_DIR/ready"; {STAY}'
    arguments = [sys.executable, "-m", "tests.contract.service_that_dies", kind.name, str(place.folder), script]
    environment = {**os.environ, **kind.environment}
    with subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as service:
        try:
            assert service.stdout
            assert service.stdout.readline() == b"started\n"
            wait_until((place.made / "ready").exists, "the module runs", seconds=SECONDS)
        finally:
            service.send_signal(signal.SIGKILL)
    end_of(runner, place, script, kind)


def test_a_service_that_leaves_lets_its_run_be_found_or_ended(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    script = f'{HOLD} touch "$MERCURE_OUT_DIR/ready"; {STAY}'
    run = kind.make().start(place.order(kind.script(script)))
    wait_until((place.made / "ready").exists, "the module runs", seconds=SECONDS)
    run.leave()
    end_of(runner, place, script, kind)


def test_nothing_is_adopted_where_nothing_ran(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    assert runner.adopt(place.order(kind.script("exit 0"))) is None
    assert list(place.made.iterdir()) == []


def test_there_are_never_two_runs_of_one_order(kind: Kind, runner: ModuleRunner, place: Place) -> None:
    order = place.order(kind.script(f"{HOLD} exec sleep 600"))
    with running(runner, order):
        wait_until(place.held, "the first runs", seconds=SECONDS)
        with running(kind.make(), order) as second:
            wait_until(place.held, "the second runs", seconds=SECONDS)
            assert place.holders() == 1
            assert second.wait(0) is None
    assert not place.held()
