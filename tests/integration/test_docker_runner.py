"""The runner `docker` against a real engine: fences, ends, crashes of service and engine, and nothing left behind."""

import os
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.docker_engine import Engine, OwnEngine, engine_fixture, nothing_is_left_open_fixture, own_engine
from tests.peers import wait_until

from mercure.core.errors import CancelledError, JobError, PermanentError, TransientError
from mercure.core.processing import Limits, ModuleSpec, Running, RunOrder
from mercure.runners import docker
from mercure.runners.docker import DockerRunner
from mercure.services.module_run import Watch, follow_run

__all__ = ["engine_fixture", "nothing_is_left_open_fixture"]

pytestmark = pytest.mark.usefixtures("nothing_is_left_open")

SECONDS = 60.0
DATA = "data-of-the-test"


@dataclass
class Site:
    """Folders of a job, a runner, and what the module has written."""

    engine: Engine
    folder: Path
    written: bytearray = field(default_factory=bytearray)
    runners: list[DockerRunner] = field(default_factory=list)
    runner: DockerRunner = field(init=False)

    def __post_init__(self) -> None:
        for name in ("in", "out", "kept", "volumes"):
            (self.folder / name).mkdir()
        (self.folder / "in" / "1.2.3#1.2.4.dcm").write_bytes(b"an instance")
        self.runner = self.new_runner()

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def text(self) -> str:
        return self.written.decode()

    def new_runner(self, **options: Any) -> DockerRunner:
        options = {"allowed_volumes": [str(self.folder / "volumes")], **options}
        self.runners.append(DockerRunner(DATA, host=self.engine.host, **options))
        return self.runners[-1]

    def order(
        self, script: str = "", *, step: int = 0, limits: Limits | None = None, kept: bool = False, **module: Any
    ) -> RunOrder:
        command = ("sh", "-c", script) if script else ()
        settings: dict[str, Any] = {"image": self.engine.busybox(), "pull": "never", "command": command, **module}
        spec = ModuleSpec("segment", "docker", **settings)
        persistence = str(self.folder / "kept") if kept else ""
        taken, made = str(self.folder / "in"), str(self.out)
        return RunOrder("job-1", step, spec, taken, made, persistence, limits or Limits(), self.written.extend)

    def run(self, script: str, **order: Any) -> int:
        """Run to the end and return the exit code."""
        running = self.runner.start(self.order(script, **order))
        try:
            return ended(running)
        finally:
            running.close()

    def until_written(self, text: str) -> None:
        wait_until(lambda: text in self.text, f"the module writes {text!r}", seconds=SECONDS)

    def containers(self) -> list[Any]:
        return list(self.engine.client.api.containers(all=True, filters={"label": f"mercure.data={DATA}"}))

    def inspect(self) -> dict[str, Any]:
        (container,) = self.containers()
        inspected: dict[str, Any] = self.engine.client.api.inspect_container(container["Id"])
        return inspected


def ended(running: Running) -> int:
    """Wait for the end."""
    codes: list[int] = []

    def has_ended() -> bool:
        code = running.wait(0.1)
        codes.extend([] if code is None else [code])
        return bool(codes)

    wait_until(has_ended, "the module ends", seconds=SECONDS)
    return codes[0]


@contextmanager
def site_on(engine: Engine, folder: Path) -> Iterator[Site]:
    """A site that must leave nothing on the engine: no container, no volume, no image."""
    engine.busybox()
    before = engine.left()
    site = Site(engine, folder)
    yield site
    for runner in site.runners:
        runner.close()
    left = engine.left()
    for container in site.containers():
        engine.client.api.remove_container(container["Id"], force=True, v=True)
    assert left == before


@pytest.fixture
def site(engine: Engine, tmp_path: Path) -> Iterator[Site]:
    """A site on the engine that all tests share."""
    with site_on(engine, tmp_path) as site:
        yield site


WAITS = "echo began; until [ -e /tmp/output/go ]; do sleep 0.05; done; echo went on; exit 5"


# -- what a module finds ---------------------------------------------------------------------------------------------


def test_a_module_finds_its_folders_and_variables_and_its_output_is_the_services(site: Site) -> None:
    code = site.run(
        'cat "$MERCURE_IN_DIR"/*.dcm; echo;'
        'echo "$MONAI_INPUTPATH $HOLOSCAN_OUTPUT_PATH $MODULE_PERSISTENCE_DIR $MODEL";'
        'cp "$MERCURE_IN_DIR"/*.dcm "$MERCURE_OUT_DIR"; echo kept > "$MODULE_PERSISTENCE_DIR/state"',
        kept=True,
        environment={"MODEL": "v2", "MERCURE_IN_DIR": "/etc"},
    )

    assert code == 0
    assert site.text == "an instance\n/tmp/data /tmp/output /tmp/persistence v2\n"
    (made,) = site.out.iterdir()
    assert made.name == "1.2.3#1.2.4.dcm"
    assert made.stat().st_uid == os.geteuid()
    assert (site.folder / "kept" / "state").read_text() == "kept\n"


def test_labels_name_data_job_step_and_module_and_the_digest_is_told(site: Site) -> None:
    running = site.runner.start(site.order(WAITS, step=2, docker_arguments={"labels": {"site": "a"}}))
    try:
        labels = site.inspect()["Config"]["Labels"]
        assert labels == {
            "site": "a",
            "mercure.data": DATA,
            "mercure.job": "job-1",
            "mercure.step": "2",
            "mercure.module": "segment",
        }
        assert running.image_digest == site.engine.client.api.inspect_image(site.engine.busybox())["Id"]
    finally:
        running.close()


def test_without_a_command_the_images_own_runs(site: Site) -> None:
    image = site.engine.make_image(site.engine.busybox(), {}, ['ENTRYPOINT ["echo", "own"]', 'CMD ["command"]'])
    try:
        assert site.run("", image=image) == 0
    finally:
        site.engine.remove_image(image)
    assert site.text == "own command\n"


def test_a_monai_package_runs_what_its_manifest_says_in_place_of_the_images_entrypoint(site: Site) -> None:
    manifest = {"/etc/monai/app.json": '{"command": "echo of the manifest"}'}
    image = site.engine.make_image(site.engine.busybox(), dict(manifest), ['ENTRYPOINT ["echo", "of the image"]'])
    try:
        assert site.run("", image=image) == 0
    finally:
        site.engine.remove_image(image)
    assert site.text == "of the manifest\n"


def test_a_package_with_a_broken_manifest_is_refused_for_good(site: Site) -> None:
    image = site.engine.make_image(site.engine.busybox(), {"/etc/monai/app.json": "{}"})
    try:
        with pytest.raises(PermanentError, match=r"app\.json"):
            site.runner.start(site.order("", image=image))
    finally:
        site.engine.remove_image(image)


def test_a_module_has_a_home_that_it_can_write_to_unless_its_image_names_one(site: Site) -> None:
    image = site.engine.make_image(site.engine.busybox(), {}, ["ENV HOME=/srv"])
    try:
        assert site.run('echo x > "$HOME/file" && echo "$HOME"') == 0
        assert site.run('echo "$HOME"', image=image) == 0
    finally:
        site.engine.remove_image(image)
    assert site.text == "/tmp\n/srv\n"


def test_output_is_given_while_the_module_runs_and_all_of_it_before_its_end_is_told(site: Site) -> None:
    running = site.runner.start(site.order(f"{WAITS}; ".replace("exit 5", "seq 1 200000 >&2; exit 5")))
    try:
        site.until_written("began\n")
        assert running.wait(0.0) is None
        (site.out / "go").touch()
        assert ended(running) == 5
        numbers = "".join(f"{number}\n" for number in range(1, 200_001))
        assert site.text == f"began\nwent on\n{numbers}"
    finally:
        running.close()


# -- fences ----------------------------------------------------------------------------------------------------------


def test_a_module_cannot_change_its_input(site: Site) -> None:
    site.run("cd /tmp/data; rm -f *; echo x > new; echo x > 1.2.3#1.2.4.dcm; chmod 777 *; mount -o remount,rw .")

    assert (site.folder / "in" / "1.2.3#1.2.4.dcm").read_bytes() == b"an instance"
    assert len(list((site.folder / "in").iterdir())) == 1


def test_a_module_that_says_so_may_change_its_input(site: Site) -> None:
    assert site.run("rm /tmp/data/* && echo x > /tmp/data/new", writes_input=True) == 0

    assert [path.name for path in (site.folder / "in").iterdir()] == ["new"]


def test_the_root_file_system_is_read_only_and_folders_for_work_are_not(site: Site) -> None:
    code = site.run(
        "for d in / /bin /etc /var /root; do touch $d/x 2>/dev/null && echo wrote $d; done;"
        "for d in /tmp /var/tmp /run /tmp/output; do touch $d/x || exit 1; done;"
        "cp /bin/busybox /tmp/busybox && /tmp/busybox true"
    )

    assert code == 0
    assert site.text == ""


def test_work_folders_are_bounded(site: Site) -> None:
    site.runner = site.new_runner(work_bytes=1 << 20)

    assert site.run("dd if=/dev/zero of=/tmp/x bs=65536 count=32") != 0
    assert "No space left" in site.text


def test_read_only_root_can_be_switched_off_for_modules_that_need_it(site: Site) -> None:
    assert site.run("touch /etc/x /tmp/x", docker_arguments={"read_only": False}) == 0


def networks_of(site: Site, script: str, **module: Any) -> tuple[str, set[str]]:
    """The network mode of a container that runs a script, and the networks of the engine that it is in."""
    running = site.runner.start(site.order(f"{script}; {WAITS}", **module))
    try:
        site.until_written("began\n")
        inspected = site.inspect()
        (site.out / "go").touch()
        assert ended(running) == 5
        return inspected["HostConfig"]["NetworkMode"], set(inspected["NetworkSettings"]["Networks"])
    finally:
        running.close()


def test_a_module_has_no_network(site: Site) -> None:
    script = "ls /sys/class/net; echo x | nc -w 5 192.0.2.1 80; wc -l < /proc/net/route"

    # An engine without a bridge gives no container a network: what the module sees does not say whose doing that is.
    assert networks_of(site, script) == ("none", {"none"})
    # What goes to stdout and to stderr comes on two streams: their order says nothing.
    assert site.text.count("Network is unreachable") == 1
    seen = [line for line in site.text.splitlines() if "unreachable" not in line]
    assert sorted(seen) == ["1", "began", "lo", "went on"]


def test_a_module_that_says_so_is_in_the_network_of_the_engine(site: Site) -> None:
    mode, networks = networks_of(site, "true", network_enabled=True)

    assert mode not in {"none", "host"}
    assert networks == {"bridge"}


def test_a_module_has_no_capability_and_gets_no_privilege(site: Site) -> None:
    site.run("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; mknod /tmp/null c 1 3; chown 1:1 /tmp/output")

    lines = dict(line.split(":\t") for line in site.text.splitlines() if ":\t" in line)
    assert {lines[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert lines["NoNewPrivs"] == "1"
    assert lines["Seccomp"] == "2"
    assert site.text.count("Operation not permitted") == 2


def test_a_module_runs_as_the_user_of_the_service(site: Site) -> None:
    uid, gid = (12_345, 23_456) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(site.out, uid, gid)
    site.runner = site.new_runner(user=(uid, gid))

    assert site.run("id -u; id -g; id -G; touch /tmp/output/made") == 0

    assert site.text == f"{uid}\n{gid}\n{gid}\n"
    assert (site.out / "made").stat().st_uid == uid


def test_a_module_that_requires_root_is_refused_by_a_service_that_is_not(site: Site) -> None:
    site.runner = site.new_runner(user=(12_345, 12_345))

    with pytest.raises(PermanentError, match="requires root, and user 12345"):
        site.runner.start(site.order("true", requires_root=True))


def test_a_fork_bomb_ends_at_the_limit_of_processes_and_is_killed_whole(site: Site) -> None:
    running = site.runner.start(site.order("b() { b | b & }; b; sleep 1000", limits=Limits(processes=40)))
    try:
        site.until_written("can't fork")
        processes = site.engine.client.api.top(site.inspect()["Id"], "-eo pid")["Processes"] or []
        assert len(processes) <= 41
        running.kill()
        assert ended(running) == -9
    finally:
        running.close()


def test_more_memory_than_allowed_ends_the_module_and_says_so(site: Site) -> None:
    code = site.run("dd if=/dev/zero of=/tmp/x bs=1M count=200", limits=Limits(memory_bytes=32 << 20))

    assert code == -9
    assert "used more memory than it may" in site.text


def test_limits_reach_the_engine(site: Site) -> None:
    limits = Limits(
        cpus=0.5, memory_bytes=64 << 20, processes=50, shared_memory_bytes=8 << 20, gpu_memory_bytes=1 << 30
    )
    running = site.runner.start(site.order(f"df -k /dev/shm | tail -1; env | grep GPU; {WAITS}", limits=limits))
    try:
        site.until_written("began")
        host = site.inspect()["HostConfig"]
        assert (host["NanoCpus"], host["PidsLimit"]) == (500_000_000, 50)
        assert host["Memory"] == host["MemorySwap"] == 64 << 20
        assert " 8192 " in site.text
        assert "MERCURE_GPU_MEMORY_LIMIT_BYTES=1073741824\n" in site.text
    finally:
        running.close()


def test_a_module_weighs_less_than_the_services_where_processors_are_short(site: Site) -> None:
    script = "cat /sys/fs/cgroup/cpu/cpu.shares || cat /sys/fs/cgroup/cpu.weight"
    usual = 1024 if Path("/sys/fs/cgroup/cpu/cpu.shares").exists() else 100

    assert site.run(f"({script}) 2>/dev/null") == 0

    assert 1 <= int(site.text) < usual / 2


def test_more_cpus_than_the_machine_has_are_as_many_as_it_has(site: Site) -> None:
    assert site.run("true", limits=Limits(cpus=4096.0)) == 0


def test_docker_arguments_of_existing_modules_hold(site: Site) -> None:
    arguments = {"environment": {"A": "1"}, "env": ["B=2"], "runtime": "runc", "pids_limit": 77, "shm_size": "4m"}
    script = 'echo "$A$B$C"; df -k /dev/shm | tail -1'

    code = site.run(script, docker_arguments=arguments, environment={"A": "own", "C": "3"})

    assert code == 0
    assert site.text.startswith("own23\n")
    assert " 4096 " in site.text


@pytest.mark.parametrize(
    "arguments",
    [{"privileged": True}, {"network_mode": "host"}, {"labels": {"mercure.job": "x"}}, {"volumes": {"/": {}}}],
)
def test_arguments_that_lead_out_of_the_container_are_refused_at_the_start(site: Site, arguments: Any) -> None:
    with pytest.raises(PermanentError, match="docker_arguments"):
        site.runner.start(site.order("true", docker_arguments=arguments))


def test_secrets_of_a_module_are_in_no_error_and_in_no_label(site: Site) -> None:
    order = site.order("true", environment={"TOKEN": "s3cret"}, docker_arguments={"runtime": "no-such-runtime"})

    with pytest.raises(PermanentError, match="no-such-runtime") as raised:
        site.runner.start(order)

    assert "s3cret" not in str(raised.value)
    running = site.runner.start(site.order(WAITS, environment={"TOKEN": "s3cret"}))
    assert "s3cret" not in str(site.containers())
    running.close()


@pytest.mark.parametrize("name", ["in", "out"])
def test_a_folder_that_the_engine_does_not_find_is_an_error_and_leaves_nothing(site: Site, name: str) -> None:
    (site.folder / name).rename(site.folder / "elsewhere")

    with pytest.raises(JobError):
        site.runner.start(site.order("true"))

    assert not (site.folder / name).exists()


def test_a_module_that_closes_its_output_is_followed_to_its_end(site: Site) -> None:
    running = site.runner.start(site.order(f"{WAITS.replace('until', 'exec >&- 2>&-; until')}"))
    try:
        site.until_written("began")
        (site.out / "go").touch()
        assert ended(running) == 5
        assert site.text == "began\n"
    finally:
        running.close()


def test_a_gpu_that_the_engine_does_not_know_is_refused_for_good(site: Site) -> None:
    with pytest.raises(PermanentError, match="GPU"):
        site.runner.start(site.order("true", limits=Limits(gpus=("0",))))


# -- volumes ---------------------------------------------------------------------------------------------------------


def test_a_volume_below_an_allowed_folder_is_mounted_as_its_mode_says(site: Site) -> None:
    for name in ("models", "cache"):
        (site.folder / "volumes" / name).mkdir()
    (site.folder / "volumes" / "models" / "weights").write_text("weights")
    volumes = {
        str(site.folder / "volumes" / "models"): {"bind": "/models", "mode": "ro"},
        str(site.folder / "volumes" / "cache"): {"bind": "/tmp/cache", "mode": "rw"},
    }

    assert site.run("cat /models/weights; touch /models/x; touch /tmp/cache/x", volumes=volumes) == 0

    assert "weights" in site.text
    assert [path.name for path in (site.folder / "volumes" / "models").iterdir()] == ["weights"]
    assert [path.name for path in (site.folder / "volumes" / "cache").iterdir()] == ["x"]


def test_a_volume_that_a_symbolic_link_leads_elsewhere_is_refused_at_the_start(site: Site) -> None:
    link = site.folder / "volumes" / "models"
    link.mkdir()
    order = site.order("ls /models", volumes={str(link): {"bind": "/models", "mode": "ro"}})
    link.rmdir()
    link.symlink_to(site.folder / "in")

    with pytest.raises(PermanentError, match="not below a folder"):
        site.runner.start(order)


def test_a_volume_that_is_a_device_or_pipe_is_refused_and_one_that_is_not_there_is_waited_for(site: Site) -> None:
    pipe = site.folder / "volumes" / "pipe"
    os.mkfifo(pipe)

    with pytest.raises(PermanentError, match="neither a folder nor a file"):
        site.runner.start(site.order("true", volumes={str(pipe): {"bind": "/pipe"}}))
    with pytest.raises(TransientError, match="not there now"):
        site.runner.start(site.order("true", volumes={str(site.folder / "volumes" / "nfs"): {"bind": "/nfs"}}))


# -- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("exit 200", 200), ("kill -SEGV $$", -11), ("kill -KILL $$", -9)],
)
def test_the_exit_code_or_the_signal_is_told(site: Site, script: str, code: int) -> None:
    assert site.run(script) == code


def test_a_program_that_the_image_does_not_have_is_an_exit_code_that_shells_give(site: Site) -> None:
    assert site.run("", command=("no-such-program",)) == 127


def test_stop_asks_and_the_module_may_end_in_order(site: Site) -> None:
    running = site.runner.start(site.order("trap 'echo ending; exit 3' TERM; echo began; while :; do sleep 0.05; done"))
    try:
        site.until_written("began")
        running.stop()
        assert ended(running) == 3
        assert site.text.endswith("ending\n")
        running.stop()
        running.kill()
    finally:
        running.close()


def test_stop_uses_the_signal_that_module_or_image_name(site: Site) -> None:
    script = "trap 'exit 3' TERM; trap 'exit 4' INT; trap 'exit 5' USR1; echo began; while :; do sleep 0.05; done"
    image = site.engine.make_image(site.engine.busybox(), {}, ["STOPSIGNAL SIGUSR1"])
    codes = []
    try:
        for module in ({"image": image}, {"docker_arguments": {"stop_signal": "SIGINT"}}):
            site.written.clear()
            running = site.runner.start(site.order(script, **module))
            site.until_written("began")
            running.stop()
            codes.append(ended(running))
            running.close()
    finally:
        site.engine.remove_image(image)
    assert codes == [5, 4]


def test_kill_ends_a_module_that_does_not_listen_and_what_it_started(site: Site) -> None:
    running = site.runner.start(site.order("trap '' TERM INT HUP; setsid sleep 1000 & echo began; wait; sleep 1000"))
    try:
        site.until_written("began")
        running.stop()
        assert running.wait(0.2) is None
        running.kill()
        assert ended(running) == -9
        assert site.inspect()["State"]["Pid"] == 0
    finally:
        running.close()


def test_close_ends_what_still_runs_and_gives_all_output_first(site: Site) -> None:
    running = site.runner.start(site.order("echo began; sleep 1000"))

    running.close()

    assert site.containers() == []


def test_volumes_that_an_image_makes_are_removed_with_the_container(site: Site) -> None:
    image = site.engine.make_image(site.engine.busybox(), {}, ["VOLUME /cache"])
    try:
        assert site.run("touch /cache/x", image=image) == 0
    finally:
        site.engine.remove_image(image)


def test_a_container_that_somebody_else_removes_is_a_failure_that_may_pass(site: Site) -> None:
    running = site.runner.start(site.order(WAITS))
    site.engine.client.api.remove_container(site.inspect()["Id"], force=True)

    with pytest.raises(TransientError):
        ended(running)
    running.close()


# -- one container for one order -------------------------------------------------------------------------------------


def test_a_second_start_of_an_order_ends_the_first(site: Site) -> None:
    first = site.runner.start(site.order(WAITS))
    before = site.inspect()["Id"]

    second = site.new_runner().start(site.order(WAITS))

    assert site.inspect()["Id"] != before
    with pytest.raises(TransientError):
        ended(first)
    first.close()
    assert second.wait(0.0) is None
    second.close()


def test_starts_at_the_same_time_never_make_two_containers(site: Site) -> None:
    ready = threading.Barrier(4)
    started: list[Running] = []
    most = 0

    def start() -> None:
        ready.wait(SECONDS)
        with suppress(JobError):
            started.append(site.new_runner().start(site.order(WAITS)))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most = max(most, len([entry for entry in site.containers() if entry["State"] == "running"]))
    for thread in threads:
        thread.join(SECONDS)

    assert most <= 1
    assert len(site.containers()) <= 1
    for running in started:
        running.close()


CRASHES = """
import os, sys, time
from tests.integration.test_docker_runner import DATA
from mercure.core.processing import Limits, ModuleSpec, RunOrder
from mercure.runners.docker import DockerRunner
from mercure.services.module_run import Watch, follow_run
host, image, folder, script = sys.argv[1:]
spec = ModuleSpec("segment", "docker", image=image, pull="never", command=("sh", "-c", script))
order = RunOrder("job-1", 0, spec, f"{folder}/in", f"{folder}/out", "", Limits(), lambda data: None)
DockerRunner(DATA, host=host).start(order)
os._exit(9)
"""


def crash_while_it_runs(site: Site, script: str) -> None:
    """Start the module in a service of its own that dies at once."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", CRASHES, site.engine.host, site.engine.busybox(), str(site.folder), script]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    assert subprocess.run(command, env=environment, timeout=SECONDS, check=False).returncode == 9


def test_a_module_whose_service_died_is_adopted_with_all_its_output(site: Site) -> None:
    crash_while_it_runs(site, WAITS)
    before = site.inspect()["Id"]

    running = site.runner.adopt(site.order(WAITS))

    assert running is not None
    assert running.image_digest.startswith("sha256:")
    site.until_written("began")
    (site.out / "go").touch()
    assert ended(running) == 5
    assert site.text == "began\nwent on\n"
    assert site.inspect()["Id"] == before
    running.close()


def test_a_module_that_ended_after_its_service_died_gives_its_exit_code_and_output(site: Site) -> None:
    crash_while_it_runs(site, "echo all; exit 6")
    wait_until(lambda: site.inspect()["State"]["Status"] == "exited", "the module ends", seconds=SECONDS)

    running = site.runner.adopt(site.order())

    assert running is not None
    assert ended(running) == 6
    assert site.text == "all\n"
    running.close()


def test_a_run_that_the_service_leaves_goes_on_and_is_adopted(site: Site) -> None:
    first = site.runner.start(site.order(WAITS))
    site.until_written("began")
    first.leave()
    (site.out / "go").touch()

    second = site.new_runner().adopt(site.order(WAITS))

    assert second is not None
    assert ended(second) == 5
    assert site.text == "began\nbegan\nwent on\n"
    second.close()


def test_nothing_to_adopt_is_none(site: Site) -> None:
    assert site.runner.adopt(site.order()) is None


Change = Callable[[RunOrder], RunOrder]


@pytest.mark.parametrize(
    "change",
    [
        lambda order: replace(order, step=1),
        lambda order: replace(order, module=replace(order.module, name="another")),
        lambda order: replace(order, output_folder=order.input_folder),
    ],
    ids=["another step", "another module", "another folder"],
)
def test_what_is_not_of_this_order_is_killed_and_removed(site: Site, change: Change) -> None:
    site.runner.start(site.order(WAITS)).leave()

    assert site.runner.adopt(change(site.order(WAITS))) is None

    assert site.containers() == []


def test_a_container_that_never_began_is_removed(site: Site) -> None:
    site.runner.start(site.order("true")).leave()
    inspected = site.inspect()
    site.engine.client.api.remove_container(inspected["Id"], force=True)
    config = {"Image": inspected["Image"], "Cmd": ["true"], "Labels": inspected["Config"]["Labels"]}
    site.engine.client.api.create_container_from_config(config, inspected["Name"].lstrip("/"))

    assert site.runner.adopt(site.order("true")) is None

    assert site.containers() == []


def test_a_container_that_never_began_does_not_hinder_a_start(site: Site) -> None:
    site.runner.start(site.order("true")).leave()

    assert site.run("exit 3") == 3


def test_containers_of_another_data_folder_are_left_alone(site: Site) -> None:
    another = DockerRunner("another folder", host=site.engine.host)
    site.runners.append(another)
    running = another.start(site.order(WAITS))
    try:
        assert site.runner.adopt(site.order(WAITS)) is None
        assert site.run("true") == 0
        assert running.wait(0.0) is None
    finally:
        running.close()


def test_a_container_that_was_only_to_be_looked_into_is_swept_up_when_nobody_can_be_at_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = site.engine.client.api.inspect_image(site.engine.busybox())["Id"]
    config = {"Image": image, "Cmd": ["-"], "Labels": {"mercure.data": DATA}}
    site.engine.client.api.create_container_from_config(config)
    site.runner.sweep(lambda _job_id: False)
    assert len(site.containers()) == 1
    monkeypatch.setattr(docker, "_LOOKING_SECONDS", -1.0)
    site.runner.sweep(lambda _job_id: True)
    assert site.containers() == []


# -- an engine that goes away ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", name="living_engine")
def living_engine_fixture() -> Iterator[OwnEngine]:
    """An engine of this file's own, whose containers live on when it is killed."""
    with own_engine("--live-restore") as engine:
        yield engine


@dataclass
class Living:
    """A site on an engine that may be killed."""

    engine: OwnEngine
    site: Site


@pytest.fixture
def living(living_engine: OwnEngine, tmp_path: Path) -> Iterator[Living]:
    with site_on(living_engine, tmp_path) as site:
        yield Living(living_engine, site)


def test_a_run_goes_on_through_a_crash_of_the_engine_and_no_output_is_lost_or_doubled(
    living: Living,
) -> None:
    site = living.site
    running = site.runner.start(site.order(WAITS))
    site.until_written("began")

    living.engine.kill()
    assert running.wait(0.3) is None
    living.engine.start()
    (site.out / "go").touch()

    assert ended(running) == 5
    assert site.text == "began\nwent on\n"
    running.close()
    assert site.containers() == []


def test_an_engine_that_stays_away_is_a_transient_failure_and_what_was_left_is_removed_later(
    living: Living,
) -> None:
    site = living.site
    site.runner = site.new_runner(engine_grace_seconds=0.2)
    order = site.order(WAITS)
    running = site.runner.start(order)
    site.until_written("began")
    living.engine.kill()
    try:
        with pytest.raises(TransientError, match="went away"):
            ended(running)
        for call in (running.stop, running.kill, running.close):
            with pytest.raises(TransientError, match="does not answer"):
                call()
        with pytest.raises(TransientError):
            site.runner.start(order)
        with pytest.raises(TransientError):
            site.runner.adopt(order)
    finally:
        living.engine.start()
    assert len(site.containers()) == 1

    another = site.runner.start(replace(site.order("true"), job_id="job-2"))
    ended(another)
    another.close()

    assert site.containers() == []


def test_a_job_is_cancelled_although_the_engine_hangs_and_its_container_is_ended_later(living: Living) -> None:
    site = living.site
    order = site.order(WAITS)
    running = site.runner.start(order)
    site.until_written("began")
    with living.engine.hanging():
        began = time.monotonic()
        with pytest.raises(CancelledError, match="by the operator"):
            follow_run(running, order, Watch(None, None, 10.0, lambda: "by the operator"))
        assert time.monotonic() - began < 20.0

    another = site.runner.start(replace(site.order("true"), job_id="job-2"))
    ended(another)
    another.close()

    assert site.containers() == []


def test_a_run_that_could_not_be_removed_and_is_adopted_after_all_is_removed_by_nobody(living: Living) -> None:
    site = living.site
    site.runner = site.new_runner(engine_grace_seconds=0.2)
    first = site.runner.start(site.order(WAITS))
    site.until_written("began")
    living.engine.kill()
    try:
        with pytest.raises(TransientError, match="went away"):
            ended(first)
        with pytest.raises(TransientError, match="does not answer"):
            first.close()
    finally:
        living.engine.start()

    adopted = site.runner.adopt(site.order(WAITS))
    assert adopted is not None
    another = site.runner.start(replace(site.order("true"), job_id="job-2"))
    ended(another)
    another.close()

    assert adopted.wait(0.0) is None
    (site.out / "go").touch()
    assert ended(adopted) == 5
    adopted.close()


def test_a_module_that_outlived_service_and_engine_is_adopted(living: Living) -> None:
    site = living.site
    crash_while_it_runs(site, WAITS)
    living.engine.kill()
    living.engine.start()

    running = site.runner.adopt(site.order(WAITS))

    assert running is not None
    (site.out / "go").touch()
    assert ended(running) == 5
    running.close()


def test_a_module_that_ended_while_the_engine_was_away_gives_its_exit_code(living: Living) -> None:
    site = living.site
    running = site.runner.start(site.order(WAITS.replace("exit 5", "touch /tmp/output/done; exit 5")))
    site.until_written("began")

    living.engine.kill()
    (site.out / "go").touch()
    wait_until((site.out / "done").exists, "the module ends", seconds=SECONDS)
    living.engine.start()

    assert ended(running) == 5
    running.close()


ENDS_IN_ORDER = f"trap 'exit 0' TERM; {WAITS}"


@pytest.fixture(scope="module", name="mortal_engine")
def mortal_engine_fixture() -> Iterator[OwnEngine]:
    """An engine of this file's own, whose containers end with it."""
    with own_engine() as engine:
        yield engine


@pytest.fixture
def mortal(mortal_engine: OwnEngine, tmp_path: Path) -> Iterator[Living]:
    with site_on(mortal_engine, tmp_path) as site:
        yield Living(mortal_engine, site)


@pytest.mark.parametrize("script", [WAITS, ENDS_IN_ORDER], ids=["by the signal", "with exit code 0"])
@pytest.mark.parametrize(
    "end", [OwnEngine.stop, OwnEngine.kill, OwnEngine.cut_power], ids=["in order", "by a crash", "power cut"]
)
def test_modules_that_ended_with_their_engine_are_begun_anew_and_not_failed(
    mortal: Living, end: Callable[[OwnEngine], None], script: str
) -> None:
    site = mortal.site
    running = site.runner.start(site.order(script))
    site.until_written("began")

    end(mortal.engine)
    mortal.engine.start()

    with pytest.raises(TransientError):
        ended(running)
    running.leave()
    assert site.new_runner().adopt(site.order(script)) is None
    assert site.containers() == []


@pytest.mark.parametrize("script", [WAITS, "exit 0"], ids=["cut off", "ended just before"])
def test_what_the_power_cut_off_is_not_adopted_where_modules_outlive_their_engine(living: Living, script: str) -> None:
    site = living.site
    crash_while_it_runs(site, script)
    status = "running" if script == WAITS else "exited"
    wait_until(lambda: site.inspect()["State"]["Status"] == status, f"the module is {status}", seconds=SECONDS)

    living.engine.cut_power()
    living.engine.start()

    assert site.inspect()["State"]["Status"] == "exited"
    assert site.runner.adopt(site.order(script)) is None
    assert site.containers() == []


@pytest.mark.parametrize("script", [WAITS, ENDS_IN_ORDER], ids=["by the signal", "with exit code 0"])
def test_a_module_that_somebody_else_stops_is_a_failure_that_may_pass(site: Site, script: str) -> None:
    running = site.runner.start(site.order(script))
    site.until_written("began")

    site.engine.client.api.kill(site.inspect()["Id"], signal="SIGTERM")

    with pytest.raises(TransientError, match="from outside"):
        ended(running)
    running.leave()
    assert site.runner.adopt(site.order(script)) is None
    assert site.containers() == []


def test_without_an_engine_a_start_may_succeed_later(tmp_path: Path) -> None:
    runner = DockerRunner(DATA, host=f"unix://{tmp_path}/none.sock")
    spec = ModuleSpec("segment", "docker", image="segment:1", pull="never")
    order = RunOrder("job-1", 0, spec, str(tmp_path), str(tmp_path), "", Limits(), lambda _: None)

    with pytest.raises(TransientError, match="does not answer"):
        runner.start(order)
    with pytest.raises(TransientError, match="does not answer"):
        runner.adopt(order)
    runner.close()


# -- a service in a container ----------------------------------------------------------------------------------------

IN_A_CONTAINER = """
import sys
from mercure.core.processing import Limits, ModuleSpec, RunOrder
from mercure.core.errors import PermanentError
from mercure.runners.docker import DockerRunner
from mercure.services.module_run import Watch, follow_run
image, allowed = sys.argv[1:]
runner = DockerRunner("data-of-the-test", host="unix:///engine.sock", allowed_volumes=[allowed])
def run(folder, volumes):
    script = "cat /tmp/data/*; cat /models/weights; cp /tmp/data/* /tmp/output"
    spec = ModuleSpec("inner", "docker", image=image, pull="never", command=("sh", "-c", script), volumes=volumes)
    order = RunOrder("job-1", 0, spec, folder + "/in", folder + "/out", "", Limits(), sys.stdout.buffer.write)
    running = runner.start(order)
    while (code := running.wait(1.0)) is None:
        pass
    running.close()
    return code
print("code", run("/data", {allowed + "/models": {"bind": "/models", "mode": "ro"}}), flush=True)
for folder, volumes in (("/var", {}), ("/data", {"/srv/unseen": {"bind": "/models"}})):
    try:
        run(folder, volumes)
    except PermanentError as error:
        print("refused:", error, flush=True)
"""


@pytest.fixture
def python(engine: Engine) -> str:
    return engine.python()


def test_a_service_in_a_container_finds_the_folders_of_the_host(python: str, site: Site) -> None:
    packages = sysconfig.get_path("purelib")
    code = Path(__file__).parents[2] / "src"
    (site.folder / "volumes" / "models").mkdir()
    (site.folder / "volumes" / "models" / "weights").write_text("weights")
    socket = site.engine.host.removeprefix("unix://")
    binds = {socket: "/engine.sock", str(site.folder): "/data", str(code): "/src", packages: "/site"}

    told = site.engine.client.containers.run(
        python,
        ["python3", "-c", IN_A_CONTAINER, site.engine.busybox(), str(site.folder / "volumes")],
        volumes=[f"{host}:{inside}" for host, inside in binds.items()],
        environment={"PYTHONPATH": "/src:/site"},
        network_mode="none",
        remove=True,
        stderr=True,
    ).decode()

    lines = told.splitlines()
    assert lines[0] == "an instanceweightscode 0"
    assert "inside of the service's own container" in lines[1]
    assert "cannot be checked" in lines[2]
    assert len(lines) == 3
    assert (site.out / "1.2.3#1.2.4.dcm").read_bytes() == b"an instance"
