"""What is special about modules that are processes of this machine; the rest is in tests/contract."""

import errno
import fcntl
import gc
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.contract.runners import HOLD, KINDS, SECONDS, Place, ended, run_through, running
from tests.peers import wait_until

from mercure.core.errors import PermanentError
from mercure.core.processing import Limits, ModuleSpec, Running
from mercure.runners import process_tree
from mercure.runners.process import PATH, ProcessRunner
from mercure.runners.process_claim import path_of
from mercure.runners.process_fence import NICE, landlock_version
from mercure.runners.process_run import ProcessRun

STAY = "while :; do sleep 0.1; done"
script = KINDS["process"]().script


def python(text: str, **changes: Any) -> ModuleSpec:
    return ModuleSpec("python", "process", command=(sys.executable, "-I", "-S", "-c", text), **changes)


@pytest.fixture
def runner() -> ProcessRunner:
    return ProcessRunner()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "job")


def guard_of(run: Running) -> int:
    assert isinstance(run, ProcessRun)
    return run._guard.process.pid


def test_the_whole_environment_is_known(runner: ProcessRunner, place: Place) -> None:
    limits = Limits(gpus=("1", "GPU-5"), gpu_memory_bytes=1 << 30)
    assert run_through(runner, place.order(script("env; pwd", environment={"OWN": "x", "LANG": "de"}), limits)) == 0
    *lines, folder = place.written.decode().splitlines()
    found = dict(line.split("=", 1) for line in lines)
    assert found.pop("PWD", folder) == folder
    assert {name: found.pop(name) for name in ("TMPDIR", "HOME")} == {"TMPDIR": folder, "HOME": folder}
    assert {found.pop(name) for name in ("MERCURE_IN_DIR", "MONAI_INPUTPATH", "HOLOSCAN_INPUT_PATH")} == {
        str(place.taken)
    }
    assert {found.pop(name) for name in ("MERCURE_OUT_DIR", "MONAI_OUTPUTPATH", "HOLOSCAN_OUTPUT_PATH")} == {
        str(place.made)
    }
    assert {name: value for name, value in found.items() if name not in {"_", "SHLVL", "OLDPWD"}} == {
        "PATH": PATH,
        "LANG": "de",
        "OWN": "x",
        "CUDA_VISIBLE_DEVICES": "1,GPU-5",
        "ROCR_VISIBLE_DEVICES": "1,GPU-5",
        "MERCURE_GPU_MEMORY_LIMIT_BYTES": str(1 << 30),
    }
    assert not Path(folder).exists()


def test_the_private_folder_is_private(runner: ProcessRunner, place: Place) -> None:
    assert run_through(runner, place.order(script('ls -ldn "$TMPDIR"'))) == 0
    assert place.written.startswith(b"drwx------")


def test_a_program_is_looked_for_where_the_module_says(runner: ProcessRunner, place: Place, tmp_path: Path) -> None:
    program = tmp_path / "own-program"
    program.write_text("#!/bin/sh\nexit 9\n")
    program.chmod(0o755)
    module = ModuleSpec("m", "process", command=("own-program",), environment={"PATH": str(tmp_path)})
    assert run_through(runner, place.order(module)) == 9


@pytest.mark.parametrize(
    ("content", "mode"), [("#!/bin/sh\nexit 0\n", 0o644), ("exit 0\n", 0o755), ("#!/nowhere/sh\n", 0o755)]
)
def test_what_cannot_be_run_is_never_retried(
    runner: ProcessRunner, place: Place, tmp_path: Path, content: str, mode: int
) -> None:
    program = tmp_path / "program"
    program.write_text(content)
    program.chmod(mode)
    with pytest.raises(PermanentError):
        runner.start(place.order(ModuleSpec("m", "process", command=(str(program),))))
    assert not Path(path_of(str(place.taken))).exists()


@pytest.mark.parametrize(
    "module",
    [
        ModuleSpec("m", "process"),
        ModuleSpec("m", "process", command=("/bin/true", "a\0b")),
        ModuleSpec("m", "process", command=("/bin/true",), environment={"A": "a\0b"}),
        ModuleSpec("m", "process", command=("/bin/true",), environment={"A=B": "c"}),
        ModuleSpec("m", "process", command=("/bin/true",), environment={"": "c"}),
        ModuleSpec("m", "process", command=("/bin/true",), volumes={"/srv": {"bind": "/srv", "mode": "rw"}}),
        ModuleSpec("m", "process", command=("/bin/true", "x" * (4 << 20))),
    ],
    ids=["no command", "zero", "zero in value", "name with =", "no name", "volumes", "too long"],
)
def test_what_no_program_can_be_given_is_refused(runner: ProcessRunner, place: Place, module: ModuleSpec) -> None:
    with pytest.raises(PermanentError):
        runner.start(place.order(module))


def test_the_message_of_a_failure_names_the_module_only(runner: ProcessRunner, place: Place) -> None:
    module = ModuleSpec("lungs", "process", command=("/nowhere/secret-name",), environment={"TOKEN": "hidden"})
    with pytest.raises(PermanentError) as caught:
        runner.start(place.order(module))
    assert str(caught.value) == f"module lungs cannot be started: {os.strerror(errno.ENOENT)}"


# -- the fence ---------------------------------------------------------------------------------------------------------


def test_the_kernel_of_the_tests_has_landlock() -> None:
    assert landlock_version() >= 1


@pytest.mark.parametrize("where", ["elsewhere", "job", "job/in"])
def test_a_module_writes_to_its_own_folders_only(
    runner: ProcessRunner, place: Place, tmp_path: Path, where: str
) -> None:
    folder = tmp_path / where
    folder.mkdir(exist_ok=True)
    (folder / "there").write_text("as it was")
    before = sorted(folder.iterdir())
    attempts = "echo x >new; echo x >>there; rm there; mkdir d; ln -s /etc/passwd l; mkfifo f; mv there gone; true"
    assert run_through(runner, place.order(script(f'cd "$1" && {attempts}', str(folder)))) == 0
    assert [path for path in sorted(folder.iterdir()) if not path.name.endswith(".claim")] == before
    assert (folder / "there").read_text() == "as it was"


def test_a_module_moves_and_links_files_among_its_own_folders(runner: ProcessRunner, place: Place) -> None:
    text = """cd "$MERCURE_OUT_DIR" && mkdir a b && echo x >a/f && mv a/f b/f && ln b/f linked && mv b c && rmdir a
    echo y >"$TMPDIR/t" && mv "$TMPDIR/t" moved && echo z >"$MODULE_PERSISTENCE_DIR/kept" && truncate -s 1 moved"""
    assert run_through(runner, place.order(script(text, persistence="kept"))) == 0
    files = {str(path.relative_to(place.made)): path.read_text() for path in place.made.rglob("*") if path.is_file()}
    assert files == {"c/f": "x\n", "linked": "x\n", "moved": "y"}
    assert (place.kept / "kept").read_text() == "z\n"


def test_devices_that_programs_need_can_be_written_to(runner: ProcessRunner, place: Place) -> None:
    text = 'echo x >/dev/null && echo x >/dev/stderr && f=$(mktemp -p /dev/shm) && rm "$f"'
    assert run_through(runner, place.order(script(text))) == 0
    assert place.written == b"x\n"


def test_a_module_can_neither_end_nor_look_into_the_service(runner: ProcessRunner, place: Place) -> None:
    text = f"""kill -KILL $PPID && echo ended the guard
    kill -TERM {os.getpid()} && echo ended the service
    cat /proc/{os.getpid()}/environ && echo read the environment
    cat /proc/$PPID/environ /proc/$PPID/mem && echo read the guard
    exit 5"""
    assert run_through(runner, place.order(script(text))) == 5
    assert b"echo" not in place.written
    assert b"ended the" not in place.written
    assert b"read the" not in place.written


@pytest.mark.parametrize("allowed", [False, True])
def test_tcp_needs_network_enabled(runner: ProcessRunner, place: Place, allowed: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = f"import socket; socket.create_connection(('127.0.0.1', {port})).close()"
        code = run_through(runner, place.order(python(text, network_enabled=allowed)))
    assert (code == 0) is allowed
    assert (b"PermissionError" in place.written) is not allowed


def test_files_have_the_size_of_the_output_at_most(runner: ProcessRunner, place: Place) -> None:
    module = script('head -c 2000000 /dev/zero >"$MERCURE_OUT_DIR/large"', output_limit_bytes=1_000_000)
    assert run_through(runner, place.order(module)) != 0
    assert (place.made / "large").stat().st_size == 1_000_000


def test_a_module_leaves_no_core_and_gives_way(runner: ProcessRunner, place: Place) -> None:
    assert run_through(runner, place.order(script("ulimit -c; nice"))) == 0
    assert place.written.decode().split() == ["0", str(os.nice(0) + NICE)]


def test_memory_is_that_of_the_limit(runner: ProcessRunner, place: Place) -> None:
    text = "import sys\ntry:\n    b = bytearray(300 << 20)\nexcept MemoryError:\n    sys.exit(42)"
    assert run_through(runner, place.order(python(text), Limits(memory_bytes=256 << 20))) == 42
    assert run_through(runner, place.order(python(text), Limits(memory_bytes=1 << 30))) == 0


def test_modules_with_one_cpu_each_take_turns_on_all(runner: ProcessRunner, place: Place) -> None:
    mine = sorted(os.sched_getaffinity(0))
    text = "import os; print(*os.sched_getaffinity(0))"
    for _ in mine:
        assert run_through(runner, place.order(python(text), Limits(cpus=0.5))) == 0
    assert sorted(int(cpu) for cpu in place.written.split()) == mine


def test_without_a_limit_a_module_has_all_cpus(runner: ProcessRunner, place: Place) -> None:
    assert run_through(runner, place.order(python("import os; print(*os.sched_getaffinity(0))"))) == 0
    assert {int(cpu) for cpu in place.written.split()} == os.sched_getaffinity(0)


def test_nothing_of_the_service_is_open_in_a_module(runner: ProcessRunner, place: Place, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    try:
        text = "import os; print(*filter(os.path.exists, (f'/proc/self/fd/{n}' for n in range(3, 1000))))"
        assert run_through(runner, place.order(python(text))) == 0
    finally:
        os.close(descriptor)
    assert place.written == b"\n"


def test_a_module_that_has_too_many_threads_is_told_so(runner: ProcessRunner, place: Place) -> None:
    text = "import _thread, time\nfor _ in range(200): _thread.start_new_thread(time.sleep, (600,))\ntime.sleep(600)"
    assert run_through(runner, place.order(python(text), Limits(processes=50))) == -signal.SIGKILL
    assert place.written == b"mercure: ended, because it had more than 50 processes and threads\n"


def test_many_short_children_are_not_too_many(runner: ProcessRunner, place: Place) -> None:
    text = "for i in 1 2 3 4 5 6 7 8 9 10; do for j in 1 2 3 4 5 6 7 8 9 10; do (setsid true &); done; done; exit 6"
    assert run_through(runner, place.order(script(text), Limits(processes=200))) == 6


BOMB = """import os
while True:
    try:
        os.fork()
        os.setsid()
    except OSError:
        pass
"""


def test_a_fork_bomb_whose_processes_all_leave_the_group_is_ended(runner: ProcessRunner, place: Place) -> None:
    module = script(f'{HOLD} exec "$1" -I -S -c "$2"', sys.executable, BOMB)
    assert run_through(runner, place.order(module, Limits(processes=100))) == -signal.SIGKILL
    assert (place.made / "held").exists()
    assert not place.held()


def test_no_program_gives_capabilities_back(runner: ProcessRunner, place: Place) -> None:
    assert run_through(runner, place.order(script("grep CapBnd /proc/self/status"))) == 0
    empty = place.written.split()[-1].strip(b"0") == b""
    assert empty or os.geteuid() != 0  # only who could have them may drop them, and need


# -- guard, claim, spare -----------------------------------------------------------------------------------------------


def test_a_guard_that_dies_takes_all_with_it(runner: ProcessRunner, place: Place) -> None:
    text = f"{HOLD} setsid sh -c 'echo ready; {STAY}' & wait"
    with running(runner, place.order(script(text))) as run:
        wait_until(lambda: place.written == b"ready\n", "the module runs", seconds=SECONDS)
        os.kill(guard_of(run), signal.SIGKILL)
        assert ended(run) == -signal.SIGKILL
        assert not place.held()
    assert not Path(path_of(str(place.taken))).exists()


def test_a_guard_that_hangs_is_ended_by_who_needs_the_claim(
    runner: ProcessRunner, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mercure.runners.process_claim._END_SECONDS", 0.2)
    order = place.order(script(f"{HOLD} setsid sh -c 'echo ready; {STAY}' & wait"))
    with running(runner, order) as run:
        wait_until(lambda: place.written == b"ready\n", "the module runs", seconds=SECONDS)
        os.kill(guard_of(run), signal.SIGSTOP)
        runner.adopt(order)
        assert not place.held()
        assert run.wait(0) == -signal.SIGKILL


def test_the_next_start_of_an_order_ends_the_run_before(runner: ProcessRunner, place: Place) -> None:
    order = place.order(script(f"{HOLD} echo ready; {STAY}"))
    with running(runner, order) as first:
        wait_until(lambda: place.written == b"ready\n", "the first runs", seconds=SECONDS)
        with running(runner, order) as second:
            assert ended(first) == -signal.SIGKILL
            wait_until(lambda: place.written == b"ready\n" * 2, "the second runs", seconds=SECONDS)
            assert second.wait(0) is None
            first.close()
            assert place.held()


def test_a_run_that_ended_and_was_not_closed_gives_way(runner: ProcessRunner, place: Place) -> None:
    order = place.order(script("exit 3"))
    with running(runner, order) as first:
        assert ended(first) == 3
        assert run_through(runner, order) == 3
        assert first.wait(0) == 3


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"[1]", b'{"guard": 1, "started": 0, "folder": 3}', b"[" * 60_000]
)
def test_a_claim_with_nonsense_in_it_is_taken(runner: ProcessRunner, place: Place, content: bytes) -> None:
    Path(path_of(str(place.taken))).write_bytes(content)
    assert run_through(runner, place.order(script("exit 0"))) == 0
    assert not Path(path_of(str(place.taken))).exists()


@pytest.mark.parametrize("name", ["precious", "mercure-module-link"])
def test_a_claim_has_no_folder_removed_that_is_none_of_a_run(
    runner: ProcessRunner, place: Place, tmp_path: Path, name: str
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (tmp_path / "mercure-module-link").symlink_to(precious)
    content = json.dumps({"guard": os.getpid(), "started": 1, "folder": str(tmp_path / name)})
    Path(path_of(str(place.taken))).write_text(content)
    runner.adopt(place.order(script("exit 0")))
    assert precious.is_dir()


def test_a_claim_that_is_a_link_is_not_followed(runner: ProcessRunner, place: Place, tmp_path: Path) -> None:
    Path(path_of(str(place.taken))).symlink_to(tmp_path / "victim")
    with pytest.raises(PermanentError):
        runner.start(place.order(script("exit 0")))
    assert not (tmp_path / "victim").exists()


def test_a_process_that_is_not_the_guard_is_never_ended_for_a_claim(
    runner: ProcessRunner, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mercure.runners.process_claim._KILL_SECONDS", 0.2)
    with subprocess.Popen(["sleep", "600"]) as innocent, open(path_of(str(place.taken)), "w+b") as claim:
        content = {"guard": innocent.pid, "started": process_tree.started(innocent.pid) + 1, "folder": ""}
        claim.write(json.dumps(content).encode())
        claim.flush()
        fcntl.flock(claim, fcntl.LOCK_EX)
        with pytest.raises(Exception, match="cannot be ended"):
            runner.start(place.order(script("exit 0")))
        assert innocent.poll() is None
        innocent.kill()


def test_an_order_whose_folder_is_gone_has_no_run(runner: ProcessRunner, tmp_path: Path) -> None:
    place = Place(tmp_path / "job")
    order = place.order(script("exit 0"))
    for path in sorted(place.folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    place.folder.rmdir()
    assert runner.adopt(order) is None  # type: ignore[func-returns-value]
    assert not place.folder.exists()


def test_the_guard_that_is_ready_ends_with_its_runner(place: Place) -> None:
    runner = ProcessRunner()
    assert run_through(runner, place.order(script("exit 0"))) == 0
    ready = runner._spare._ready
    assert ready is not None
    assert process_tree.started(ready.process.pid)
    del runner
    gc.collect()
    assert ready.process.poll() == 0


def test_a_guard_that_was_ready_and_died_is_replaced(runner: ProcessRunner, place: Place) -> None:
    assert run_through(runner, place.order(script("exit 0"))) == 0
    ready = runner._spare._ready
    assert ready is not None
    ready.process.kill()
    ready.process.wait()
    assert run_through(runner, place.order(script("exit 8"))) == 8


def guards() -> int:
    """How many guards this process has; a container engine that other tests started is none of them."""
    found = (Path(f"/proc/{pid}/cmdline") for pid in process_tree.descendants(os.getpid()))
    return len([path for path in found if path.exists() and b"process_guard" in path.read_bytes()])


def test_runs_leave_neither_descriptors_nor_processes(runner: ProcessRunner, place: Place) -> None:
    run_through(runner, place.order(script("exit 0")))
    before = len(os.listdir("/proc/self/fd")), guards()
    for _ in range(5):
        run_through(runner, place.order(script(f"{HOLD} setsid sleep 600 & exit 0")))
        assert not place.held()
        with pytest.raises(PermanentError):
            runner.start(place.order(ModuleSpec("m", "process", command=("/nowhere/x",))))
        runner.adopt(place.order(script("exit 0")))
    runner._spare.prepare()
    assert (len(os.listdir("/proc/self/fd")), guards()) == before


def test_a_service_that_dies_leaves_nothing_even_before_the_next_one_starts(place: Place) -> None:
    text = (
        f"{HOLD} cd $TMPDIR; for n in $(seq 1500); do mkdir d; cd -P d; done;"
        f' echo "$TMPDIR" >"$MERCURE_OUT_DIR/new"; mv "$MERCURE_OUT_DIR/new" "$MERCURE_OUT_DIR/folder"; {STAY}'
    )
    arguments = [sys.executable, "-m", "tests.contract.service_that_dies", "process", str(place.folder), text]
    with subprocess.Popen(arguments, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE) as service:
        wait_until((place.made / "folder").exists, "the module runs", seconds=SECONDS)
        folder = Path((place.made / "folder").read_text().strip())
        assert folder.is_dir()
        service.kill()
    wait_until(lambda: not place.held(), "the module is gone", seconds=SECONDS)
    wait_until(lambda: not folder.exists(), "its private folder is gone", seconds=SECONDS)
