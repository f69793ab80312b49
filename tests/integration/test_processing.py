"""From an association to results at their targets: modules in the pipeline, in both runners and both forms."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
import pytest
from tests.arrivals import make_job
from tests.builders import BuiltSeries, small_series
from tests.docker_engine import own_engine, shared_engine
from tests.fake_clock import FakeClock, Recorded
from tests.peers import wait_until
from tests.site_of_platform import Site, site
from tests.small_disk import small_disk

from mercure.core.processing_steps import StepPlan, process_section
from mercure.core.stages import Stage
from mercure.core.task import FailStage
from mercure.runners.docker import DockerRunner
from mercure.services.processing_settings import ProcessorSettings
from mercure.services.processor import Processor
from mercure.spool import controls
from mercure.spool.identity import data_id
from mercure.spool.job_files import read_task

COPY = 'for file in "$MERCURE_IN_DIR"/*.dcm; do cp "$file" "$MERCURE_OUT_DIR"; done'


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"command": ["/bin/sh", "-c", script], **more}


def image(script: str, **more: Any) -> dict[str, Any]:
    """A module that is an image of the local engine; its manifest of start is the script."""
    engine = shared_engine()
    name = engine.make_image(engine.busybox(), {"/module.sh": script}, ['ENTRYPOINT ["/bin/sh", "/module.sh"]'])
    return {"docker_tag": name, "pull": "never", **more}


def processor(**more: Any) -> dict[str, Any]:
    return {"docker_host": shared_engine().host, **more}


@pytest.fixture
def series(tmp_path: Path) -> BuiltSeries:
    return small_series(tmp_path / "series", 3)


@pytest.mark.parametrize("made", [shell, image])
def test_what_a_module_makes_of_a_series_reaches_the_target(tmp_path: Path, series: BuiltSeries, made: Any) -> None:
    rule = {"name": "ai", "action": "both", "processing_module": "copy", "target": "archive"}
    with site(tmp_path, rule, modules={"copy": made(COPY)}, processor=processor()) as place:
        place.send_series(series)
        (job,) = place.wait_for(Stage.SUCCESS)
        assert place.delivered() == sorted(job.payload)
        assert job.results == tuple(sorted(job.instances))
        assert bool(job.process["image_digest"]) == (made is image)
        for path in place.target("archive").glob("*/*.dcm"):
            assert str(pydicom.dcmread(path).SeriesInstanceUID) == series.series_instance_uid


def test_a_target_of_the_guide_may_be_a_module(tmp_path: Path, series: BuiltSeries) -> None:
    rule = {"name": "Process CT Studies", "condition": "@Modality@ == 'CT'", "action": "process", "target": "ai"}
    target = {"processing_module": "look", "settings": {"batch_size": 16, "timeout": 600}}
    module = shell('cp "$MERCURE_IN_DIR/task.json" "$MERCURE_OUT_DIR/seen.json"')
    with site(tmp_path, {**rule, "timeout": 300}, targets={"ai": target}, modules={"look": module}) as place:
        place.send_series(series)
        (job,) = place.wait_for(Stage.SUCCESS)
        seen = json.loads((place.layout.success / job.id / "results" / "attachments" / "seen.json").read_text())
        assert seen["process"]["settings"] == {"batch_size": 16, "timeout": 600}
        assert seen["process"]["timeout_seconds"] == 300


def test_a_rule_that_names_an_unknown_module_keeps_the_series_and_goes_on_after_the_mend(
    tmp_path: Path, series: BuiltSeries
) -> None:
    rule = {"name": "ai", "action": "both", "processing_module": "typo"}
    with site(tmp_path, rule) as place:
        place.send_series(series)
        (failed,) = place.wait_for(Stage.ERROR)
        assert failed.fail_stage is FailStage.ROUTING
        assert "needs module 'typo', which is not in the configuration" in failed.reason
        place.configure(rule, modules={"typo": shell(COPY)})
        place.platform.poll_config()  # type: ignore[union-attr]
        place.retry(failed)
        place.wait_for(Stage.SUCCESS)
        assert len(place.delivered()) == 3


@pytest.mark.requirement("S9")
def test_a_module_that_hangs_holds_up_no_other_and_is_cancelled(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 2, SeriesDescription="SLOW")
    other = small_series(tmp_path / "other", 2, SeriesDescription="QUICK")
    rules = (
        {"name": "slow", "condition": "'SLOW' in @SeriesDescription@", "action": "process"},
        {"name": "quick", "condition": "'QUICK' in @SeriesDescription@", "action": "both"},
    )
    modules = {"hangs": shell("trap '' TERM; sleep 600"), "copy": shell(COPY)}
    slow, quick = {**rules[0], "processing_module": "hangs"}, {**rules[1], "processing_module": "copy"}
    with site(tmp_path, slow, quick, modules=modules) as place:
        place.send_series(series, other)
        (done,) = place.wait_for(Stage.SUCCESS)
        assert done.applied_rule == "quick"
        (hanging,) = place.wait_for(Stage.PROCESSING)
        controls.cancel(place.layout, hanging.id, hanging.created_at)
        (cancelled,) = place.wait_for(Stage.ERROR)
        assert cancelled.reason == "cancelled by an operator"


def test_no_secret_of_a_module_stands_in_the_job_or_the_journal(
    tmp_path: Path, series: BuiltSeries, caplog: pytest.LogCaptureFixture
) -> None:
    module = shell('test "$TOKEN" = s3cret-value && exit 3', environment={"TOKEN": "s3cret-value"})
    with site(tmp_path, {"name": "r", "action": "process", "processing_module": "m"}, modules={"m": module}) as place:
        place.send_series(series)
        (failed,) = place.wait_for(Stage.ERROR)
        assert "exit code 3" in failed.reason
        written = [path for path in place.data.rglob("*") if path.is_file() and path.suffix != ".dcm"]
        assert all(b"s3cret-value" not in path.read_bytes() for path in written)
    assert "s3cret-value" not in caplog.text


@pytest.mark.parametrize("made", [shell, image])
@pytest.mark.parametrize("odd", ["$(touch hole)", "`touch hole`", "'; touch hole", "{{ 7 * 7 }}", "${jndi:x}", "%(x)s"])
def test_what_tags_titles_and_settings_say_is_never_interpreted(tmp_path: Path, made: Any, odd: str) -> None:
    series = small_series(tmp_path / "series", 1, SeriesDescription=odd)
    module = made('cp "$MERCURE_IN_DIR/task.json" "$MERCURE_OUT_DIR/copied-task.json"')
    rule = {"name": odd, "action": "process", "processing_module": "look", "processing_settings": {"text": odd}}
    with site(tmp_path, rule, modules={"look": module}, processor=processor()) as place:
        assert place.send(*series.files, calling=odd[:16]).returncode == 0
        (job,) = place.wait_for(Stage.SUCCESS)
        kept = place.layout.success / job.id
        seen = json.loads((kept / "results" / "attachments" / "copied-task.json").read_text())
    assert seen["process"]["settings"] == {"text": odd}
    assert seen["info"]["sender_aet"] == odd[:16].strip()
    assert seen["info"]["applied_rule"] == odd
    assert not list(tmp_path.rglob("hole"))


def test_an_engine_that_is_away_is_waited_for(tmp_path: Path, series: BuiltSeries) -> None:
    rule = {"name": "ai", "action": "both", "processing_module": "copy"}
    away = {"docker_host": f"unix://{tmp_path}/nobody.sock"}
    module = image(COPY)
    with site(tmp_path, rule, modules={"copy": module}, processor=away) as place:
        place.send_series(series)
        (waiting,) = place.wait_for(Stage.PROCESSING)
        path = place.layout.processing / waiting.id
        wait_until(lambda: read_task(path).processing.attempts, "it was tried")
        assert read_task(path).processing.not_before is not None
        place.configure(rule, modules={"copy": module}, processor=processor())
        place.platform.poll_config()  # type: ignore[union-attr]
        place.retry(waiting)
        place.wait_for(Stage.SUCCESS)
        assert len(place.delivered()) == 3


def test_processing_may_lie_in_memory(tmp_path: Path, series: BuiltSeries) -> None:
    rule = {"name": "ai", "action": "both", "processing_module": "copy"}
    with (
        small_disk(tmp_path / "data" / "processing"),
        site(tmp_path, rule, modules={"copy": shell(COPY)}) as place,
    ):
        place.send_series(series)
        place.wait_for(Stage.SUCCESS)
        assert len(place.delivered()) == 3
        wait_until(lambda: place.loose() == [], "the sealed originals are removed")


def test_a_module_that_fills_the_disk_fails_alone(tmp_path: Path, series: BuiltSeries) -> None:
    rule = {"name": "r", "action": "process", "processing_module": "fills"}
    fills = shell('trap "" XFSZ; while :; do cat "$MERCURE_IN_DIR"/*.dcm >> "$MERCURE_OUT_DIR/big" || exit 1; done')
    with (
        small_disk(tmp_path / "data" / "processing", 4 << 20),
        site(tmp_path, rule, modules={"fills": fills}) as place,
    ):
        place.send_series(series)
        (failed,) = place.wait_for(Stage.ERROR)
        assert failed.fail_stage is FailStage.PROCESSING
        assert place.census().jobs[Stage.ERROR][failed.id] == sorted(series.sop_instance_uids)


# -- cancelled while nothing answers -----------------------------------------------------------------------------------


def cancelled_within(place: Site, job_id: str, seconds: float) -> None:
    began = time.monotonic()
    # It is cancelled at once when the processor has let go of it just now, to try it again later.
    assert controls.cancel(place.layout, job_id, datetime.now(UTC)) in {"is being stopped", "is cancelled"}
    (failed,) = place.wait_for(Stage.ERROR)
    assert failed.reason == "cancelled by an operator"
    assert time.monotonic() - began < seconds


def test_a_job_is_cancelled_while_its_image_is_pulled_from_a_registry_that_does_not_answer(
    tmp_path: Path, series: BuiltSeries
) -> None:
    rule = {"name": "ai", "action": "both", "processing_module": "silent"}
    with socket.create_server(("127.0.0.1", 0)) as registry:
        module = {"docker_tag": f"127.0.0.1:{registry.getsockname()[1]}/silent:1", "pull": "always"}
        with site(tmp_path, rule, modules={"silent": module}, processor=processor()) as place:
            place.send_series(series)
            (waiting,) = place.wait_for(Stage.PROCESSING)
            registry.settimeout(60)
            with registry.accept()[0]:
                cancelled_within(place, waiting.id, 10.0)  # two seconds, on a machine that does nothing else


def test_a_job_is_cancelled_while_its_engine_is_away_and_does_not_run_again_when_it_is_back(
    tmp_path: Path, series: BuiltSeries
) -> None:
    rule = {"name": "ai", "action": "both", "processing_module": "slow"}
    with own_engine("--live-restore") as engine:
        script = {"/module.sh": 'echo up > "$MERCURE_OUT_DIR/up"; sleep 600'}
        name = engine.make_image(engine.busybox(), script, ['ENTRYPOINT ["/bin/sh", "/module.sh"]'])
        module = {"docker_tag": name, "pull": "never"}
        with site(tmp_path, rule, modules={"slow": module}, processor={"docker_host": engine.host}) as place:
            place.send_series(series)
            (running,) = place.wait_for(Stage.PROCESSING)
            wait_until((place.layout.processing / running.id / "out" / "up").exists, "the module runs")
            engine.kill()
            cancelled_within(place, running.id, 10.0)
            engine.start()
            place.send_series(small_series(tmp_path / "next", 1))  # before its module starts, what is owed is removed
            ended = {"label": f"mercure.job={running.id}"}
            wait_until(lambda: not engine.client.api.containers(all=True, filters=ended), "the container is removed")
            assert (place.layout.processing / "process.log").read_text().count(f"{running.id} step 1/1 slow began") == 1


# -- a processor that is killed ----------------------------------------------------------------------------------------


@contextmanager
def service(place: Site) -> Iterator["subprocess.Popen[bytes]"]:
    """`mercure run processor` as a process of its own."""
    command = [sys.executable, "-m", "mercure.cli.main", "run", "processor"]
    environment = {**os.environ, "MERCURE_CONFIG_FOLDER": str(place.folder)}
    with (place.folder / "processor.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def waiting_site(tmp_path: Path, series: BuiltSeries, module: dict[str, Any], **step: Any) -> tuple[Site, Path]:
    """A site whose only job waits for its module."""
    place = Site(tmp_path)
    place.layout.create()
    place.configure(modules={"slow": module}, processor=processor())
    job = make_job(
        place.layout,
        series,
        stage=Stage.PROCESSING,
        process=process_section([StepPlan("slow", **step)]),
        applied_rule="r",
    )
    return place, place.layout.processing / job.id


def test_a_container_goes_on_when_the_processor_is_killed_and_is_taken_up_again(
    tmp_path: Path, series: BuiltSeries
) -> None:
    script = (
        'echo began >> "$MERCURE_OUT_DIR/runs.txt"; i=0; while [ $i -lt 600 ] && [ ! -e "$MERCURE_OUT_DIR/go" ]; do'
    )
    script += ' sleep 0.1; i=$((i+1)); done; rm -f "$MERCURE_OUT_DIR/go"'
    place, folder = waiting_site(tmp_path, series, image(script))
    with service(place) as first:
        wait_until((folder / "out" / "runs.txt").exists, "the module runs")
        first.kill()
    with service(place):
        (folder / "out" / "go").touch()
        done = place.layout.success / folder.name
        wait_until(done.is_dir, "the job is done")
    assert (done / "results" / "attachments" / "runs.txt").read_text() == "began\n"
    assert "goes on" in (place.layout.processing / "process.log").read_text()


def test_a_container_that_is_taken_up_has_the_time_that_is_left(tmp_path: Path, series: BuiltSeries) -> None:
    place, folder = waiting_site(
        tmp_path, series, image('echo up > "$MERCURE_OUT_DIR/up"; sleep 600'), timeout_seconds=6
    )
    with service(place) as first:
        wait_until((folder / "out" / "up").exists, "the module runs")
        first.kill()
        first.wait(30)
    began = time.monotonic()
    with service(place):
        wait_until((place.layout.error / folder.name).is_dir, "the module was ended")
    assert "took more than 6 s" in read_task(place.layout.error / folder.name).reason
    assert time.monotonic() - began < 30


def test_the_container_of_a_job_that_was_cancelled_meanwhile_is_ended_though_its_module_was_removed(
    tmp_path: Path, series: BuiltSeries
) -> None:
    place, folder = waiting_site(tmp_path, series, image('echo up > "$MERCURE_OUT_DIR/up"; sleep 600'))
    client = shared_engine().client
    label = {"label": f"mercure.job={folder.name}"}
    with service(place) as first:
        wait_until((folder / "out" / "up").exists, "the module runs")
        first.kill()
        first.wait(30)
    assert controls.cancel(place.layout, folder.name, datetime.now(UTC)) == "is cancelled"
    assert client.api.containers(filters=label)
    clock = FakeClock()
    runner = DockerRunner(data_id(place.layout), host=shared_engine().host)
    after = Processor(place.layout, ProcessorSettings(runners={"docker": runner}), clock, Recorded())
    after.step()

    def is_ended() -> bool:
        clock.advance(61.0)
        after.step()
        return not client.api.containers(all=True, filters=label)

    try:
        wait_until(is_ended, "the container is removed", interval=0.1)
    finally:
        runner.close()


def test_a_process_dies_with_the_processor_and_the_job_runs_again(tmp_path: Path, series: BuiltSeries) -> None:
    script = 'echo $$ > "$MERCURE_OUT_DIR/pid"; if [ -e "$MODULE_PERSISTENCE_DIR/again" ]; then exit 0; fi;'
    script += ' touch "$MODULE_PERSISTENCE_DIR/again"; sleep 600'
    place, folder = waiting_site(tmp_path, series, shell(script, requires_persistence=True))
    with service(place) as first:
        wait_until((place.data / "persistence" / "slow" / "again").exists, "the module runs")
        first.kill()
    with service(place):
        done = place.layout.success / folder.name
        wait_until(done.is_dir, "the job has run again")
    assert read_task(done).results == ()
