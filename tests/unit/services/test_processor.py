"""The processor with modules that are small programs of this machine."""

import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.arrivals import make_job
from tests.builders import BuiltSeries, small_series
from tests.processing_desk import Desk

from mercure import __version__
from mercure.core.events import EventKind
from mercure.core.module_result import DynamicRouting
from mercure.core.processing import Limits, ModuleSpec
from mercure.core.processing_steps import StepPlan
from mercure.core.stages import Stage
from mercure.core.task import FailStage, Job, Priority
from mercure.runners import process
from mercure.services.processing_settings import RuleProcessing
from mercure.spool import controls, module_results
from mercure.spool.instances import READ_ONLY
from mercure.spool.job_files import read_task
from mercure.spool.jobs import claim
from mercure.spool.layout import Layout


@pytest.fixture
def series(tmp_path: Path) -> BuiltSeries:
    return small_series(tmp_path / "series", 3)


@pytest.fixture
def desk(layout: Layout, tmp_path: Path) -> Desk:
    return Desk(layout, tmp_path)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


# -- the good way ------------------------------------------------------------------------------------------------------


def test_what_a_module_made_goes_to_the_targets(desk: Desk, series: BuiltSeries) -> None:
    desk.module("copy", "copy_all()\n(made / 'result.json').write_text('{\"volume\": 3}')")
    job = desk.job(series, "copy", targets=("pacs",))
    done = desk.ends_in(Stage.OUTGOING, job)
    place = desk.place(Stage.OUTGOING, job)
    assert done.results == tuple(sorted(job.instances)) == done.payload
    assert names_in(place / "results") == sorted([*job.instances, "result.json"])
    assert done.process["output"] == {"volume": 3}
    assert [delivery.target for delivery in done.deliveries] == ["pacs"]
    assert names_in(place / "received") == sorted(job.instances)
    assert not (place / "in").exists()
    assert not (place / "out").exists()
    assert desk.events.count(EventKind.PROCESSING_STARTED) == 1
    (complete,) = desk.events.of(EventKind.PROCESSING_COMPLETE)
    assert (complete.count, complete.detail) == (3, "copy")


def test_a_job_without_targets_is_done_and_keeps_its_results(desk: Desk, series: BuiltSeries) -> None:
    desk.module("measure", "(made / 'report.txt').write_text('42')")
    job = desk.job(series, "measure")
    done = desk.ends_in(Stage.SUCCESS, job)
    assert (done.results, done.fail_stage) == ((), None)
    assert (desk.place(Stage.SUCCESS, job) / "results" / "attachments" / "report.txt").read_text() == "42"
    assert done.settled_at == desk.clock.now()


def test_a_module_finds_what_the_contract_promises(desk: Desk, series: BuiltSeries) -> None:
    desk.module(
        "look", "print(json.dumps({'files': sorted(os.listdir(taken)), 'task': task, 'env': dict(os.environ)}))"
    )
    settings = {"threshold": 3, "text": "ä $(reboot) ; `x`"}
    job = desk.job(series, StepPlan("look", settings, retain_input_images=False))
    desk.ends_in(Stage.SUCCESS, job)
    seen = json.loads((desk.place(Stage.SUCCESS, job) / "logs" / "1-look.log").read_text())
    stems = [name.removesuffix(".dcm") for name in job.instances]
    assert seen["files"] == sorted([f"{s}.dcm" for s in stems] + [f"{s}.tags" for s in stems] + ["task.json"])
    assert seen["task"]["id"] == job.id
    assert seen["task"]["info"]["mercure_version"] == __version__
    assert seen["task"]["process"]["settings"] == settings
    assert seen["task"]["process"]["module_name"] == "look"
    variables = seen["env"]
    assert variables["MERCURE_IN_DIR"] == variables["MONAI_INPUTPATH"] == variables["HOLOSCAN_INPUT_PATH"]
    assert variables["MERCURE_OUT_DIR"] == variables["MONAI_OUTPUTPATH"] == variables["HOLOSCAN_OUTPUT_PATH"]
    assert "MODULE_PERSISTENCE_DIR" not in variables


TAGS_OF_MODULES = """
    Modality BodyPartExamined ProtocolName RetrieveAETitle StationAETitle Manufacturer ManufacturerModelName
    StudyDescription CodeValue CodeMeaning SeriesDescription PatientName PatientID PatientBirthDate PatientSex
    AccessionNumber ReferringPhysicianName StudyID SeriesNumber StudyInstanceUID SeriesDate SeriesTime AcquisitionDate
    AcquisitionTime SequenceName ScanningSequence SequenceVariant MagneticFieldStrength StationName DeviceSerialNumber
    DeviceUID SoftwareVersions ContrastBolusAgent ImageComments SliceThickness InstanceNumber AcquisitionNumber
    InstitutionName AcquisitionType ImageType MediaStorageSOPClassUID
"""


def test_the_tags_beside_an_instance_are_those_that_modules_know(desk: Desk, series: BuiltSeries) -> None:
    desk.module("look", "print(sorted(taken.glob('*.tags'))[0].read_text())")
    job = desk.job(series, "look")
    desk.ends_in(Stage.SUCCESS, job)
    tags = json.loads((desk.place(Stage.SUCCESS, job) / "logs" / "1-look.log").read_text())
    first = ["SpecificCharacterSet", "SeriesInstanceUID", "SOPInstanceUID", "SenderAddress", "SenderAET", "ReceiverAET"]
    assert list(tags)[:6] == first
    assert " ".join(list(tags)[6:-1]) == " ".join(TAGS_OF_MODULES.split())
    assert list(tags)[-1] == "Filename"
    assert (tags["SequenceName"], tags["DeviceUID"]) == ("", ""), "what the instance lacks is empty, not absent"
    assert (tags["Modality"], tags["SenderAET"], tags["ReceiverAET"]) == ("CT", "SCANNER", "MERCURE")
    assert tags["SeriesInstanceUID"] == series.series_instance_uid


def test_in_a_chain_each_step_takes_what_the_last_one_made(desk: Desk, series: BuiltSeries) -> None:
    desk.module(
        "first", "copy_all()\n(made / 'mask.bin').write_text('m')\n(made / 'result.json').write_text('{\"n\": 1}')"
    )
    desk.module(
        "second",
        "assert (taken / 'mask.bin').read_text() == 'm' and not (taken / 'result.json').exists()\n"
        "assert len(list(taken.glob('*.tags'))) == 3 and task['process']['settings'] == {'b': 2}\n"
        "copy_all()\n(made / 'result.json').write_text('[2]')",
    )
    job = desk.job(series, StepPlan("first", {"a": 1}), StepPlan("second", {"b": 2}), targets=("pacs",))
    done = desk.ends_in(Stage.OUTGOING, job)
    assert [step["output"] for step in done.process] == [{"n": 1}, [2]]
    place = desk.place(Stage.OUTGOING, job)
    assert json.loads((place / "results" / "result.json").read_text()) == [["first", {"n": 1}], ["second", [2]]]
    assert names_in(place / "logs") == ["1-first.log", "2-second.log"]


def test_a_chain_ends_with_the_first_step_that_fails(desk: Desk, series: BuiltSeries) -> None:
    desk.module("bad", "sys.exit(3)")
    desk.module("never", "copy_all()")
    failed = desk.ends_in(Stage.ERROR, desk.job(series, "bad", "never"))
    assert failed.reason == "module bad failed: exit code 3; see logs/"


def test_received_instances_are_added_when_the_rule_wants_them(desk: Desk, series: BuiltSeries) -> None:
    desk.module("nothing", "pass")
    job = desk.job(series, StepPlan("nothing", retain_input_images=True), targets=("pacs",))
    assert desk.ends_in(Stage.OUTGOING, job).results == tuple(sorted(job.instances))


def test_the_log_for_operators_has_a_line_for_each_step(desk: Desk, series: BuiltSeries) -> None:
    desk.module("copy", "copy_all()")
    job = desk.job(series, "copy")
    desk.ends_in(Stage.SUCCESS, job)
    began, ended = (desk.layout.processing / "process.log").read_text().splitlines()
    assert began.endswith(f"{job.id} step 1/1 copy began")
    assert f"{job.id} step 1/1 copy ended: exit code 0 after" in ended


def told_of(desk: Desk, job: Job) -> list[str]:
    """What `process.log` has of a job, without the times."""
    lines = (desk.layout.processing / "process.log").read_text().splitlines()
    return [line.partition(f" {job.id} ")[2] for line in lines if f" {job.id} " in line]


def test_the_log_for_operators_says_that_a_program_could_not_be_begun(desk: Desk, series: BuiltSeries) -> None:
    desk.modules["gone"] = ModuleSpec("gone", "process", command=("/no/such/program",))
    desk.processor.configure(desk.settings())
    job = desk.job(series, "gone")
    failed = desk.ends_in(Stage.ERROR, job)
    assert told_of(desk, job) == ["step 1/1 gone began", f"step 1/1 gone ended: {failed.reason}"]


def test_the_log_for_operators_says_that_a_stop_left_a_step(desk: Desk, series: BuiltSeries) -> None:
    desk.module("hangs", "print('up', flush=True); time.sleep(600)")
    job = desk.job(series, "hangs")
    log = desk.place(Stage.PROCESSING, job) / "logs" / "1-hangs.log"
    desk.until(lambda: log.exists() and "up" in log.read_text(), "the module runs")
    stop = threading.Event()
    stop.set()
    desk.processor.run(stop)
    assert told_of(desk, job) == ["step 1/1 hangs began", "step 1/1 hangs left: the service stops"]


# -- modules that fail -------------------------------------------------------------------------------------------------


def test_a_module_that_fails_leaves_its_job_in_error_with_its_output_in_the_log(
    desk: Desk, series: BuiltSeries
) -> None:
    desk.module("bad", "print('what went wrong'); sys.stderr.write('traceback'); sys.exit(7)")
    job = desk.job(series, "bad", targets=("pacs",))
    failed = desk.ends_in(Stage.ERROR, job)
    place = desk.place(Stage.ERROR, job)
    assert (failed.fail_stage, failed.results) == (FailStage.PROCESSING, None)
    assert "module bad failed: exit code 7" in (place / "error.log").read_text()
    text = (place / "logs" / "1-bad.log").read_text()
    assert "what went wrong" in text
    assert "traceback" in text
    assert names_in(place / "received") == sorted(job.instances)
    assert not (place / "in").exists()
    assert not (place / "out").exists()


def test_a_module_that_takes_too_long_is_asked_and_then_made_to_end(desk: Desk, series: BuiltSeries) -> None:
    desk.module("hangs", "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)")
    desk.module("obeys", "time.sleep(600)")
    stubborn = desk.job(series, StepPlan("hangs", timeout_seconds=1.0), job_id="stubborn")
    obedient = desk.job(series, StepPlan("obeys", timeout_seconds=1.0), job_id="obedient")
    for job in (stubborn, obedient):
        failed = desk.ends_in(Stage.ERROR, job)
        assert "took more than 1 s and was ended" in failed.reason
    for job, module in ((stubborn, "hangs"), (obedient, "obeys")):
        why = f"module {module} took more than 1 s and was ended"
        assert told_of(desk, job) == [f"step 1/1 {module} began", f"step 1/1 {module} ended: {why}"]


def test_a_running_job_is_cancelled_within_two_seconds(desk: Desk, series: BuiltSeries) -> None:
    desk.module("hangs", "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)")
    job = desk.job(series, "hangs")
    log = desk.place(Stage.PROCESSING, job) / "logs" / "1-hangs.log"
    desk.until(lambda: log.exists() and "up" in log.read_text(), "the module runs")
    started = time.monotonic()
    assert controls.cancel(desk.layout, job.id, desk.clock.now()) == "is being stopped"
    failed = desk.ends_in(Stage.ERROR, job)
    assert time.monotonic() - started < 10.0  # the bench holds it to two seconds, on a machine that does nothing else
    assert failed.reason == "cancelled by an operator"
    assert told_of(desk, job) == ["step 1/1 hangs began", "step 1/1 hangs ended: cancelled by an operator"]
    desk.module("hangs", "copy_all()")
    assert "is processed again" in controls.retry(desk.layout, job.id, desk.clock.now())
    desk.ends_in(Stage.SUCCESS, job)


def test_too_much_output_ends_a_module(desk: Desk, series: BuiltSeries) -> None:
    body = "for n in range(99999):\n    (made / str(n)).write_bytes(bytes(100_000)); time.sleep(0.01)"
    desk.module("fills", body, output_limit_bytes=3_000_000)
    failed = desk.ends_in(Stage.ERROR, desk.job(series, "fills"))
    assert failed.reason == "module fills made more than 0.003 GB of output"
    desk.module("fast", "for n in range(40): (made / str(n)).write_bytes(bytes(100_000))", output_limit_bytes=3_000_000)
    assert "made more than" in desk.ends_in(Stage.ERROR, desk.job(series, "fast", job_id="fast")).reason


@pytest.mark.parametrize("make", ["(made / str(n)).touch()", "(made / str(n)).mkdir()"])
@pytest.mark.parametrize("ends", ["False", "n == 2500"])
def test_a_module_that_makes_empty_files_or_folders_without_end_is_ended(
    desk: Desk, series: BuiltSeries, monkeypatch: pytest.MonkeyPatch, make: str, ends: str
) -> None:
    monkeypatch.setattr(module_results, "MAXIMUM_ENTRIES", 2000)
    desk.module("fills", f"n = 0\nwhile not ({ends}):\n    n += 1\n    {make}\n    time.sleep(0.0001)")
    failed = desk.ends_in(Stage.ERROR, desk.job(series, "fills"))
    assert failed.reason == "the module made more than 2000 files and folders"


def test_a_module_that_makes_files_with_holes_makes_what_they_are_long(desk: Desk, series: BuiltSeries) -> None:
    body = "for n in range(4):\n    with (made / str(n)).open('wb') as file: file.truncate(1_000_000)\n"
    desk.module("sparse", body, output_limit_bytes=3_000_000)
    failed = desk.ends_in(Stage.ERROR, desk.job(series, "sparse"))
    assert failed.reason == "module sparse made more than 0.003 GB of output"


def test_a_log_is_bounded(layout: Layout, tmp_path: Path, series: BuiltSeries) -> None:
    desk = Desk(layout, tmp_path, log_limit_bytes=1000)
    desk.module("talks", "print('x' * 100_000)")
    job = desk.job(series, "talks")
    desk.ends_in(Stage.SUCCESS, job)
    text = (desk.place(Stage.SUCCESS, job) / "logs" / "1-talks.log").read_text()
    assert text.startswith("x" * 1000 + "\n... ")
    assert text.endswith("bytes more were not kept\n")
    assert len(text) < 1100


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("os.symlink('/etc/passwd', made / 'a.dcm')", "a symbolic link"),
        ("os.mkfifo(made / 'a')", "a pipe"),
        ("os.mkdir(made / 'result.json')", "a folder of the name result.json"),
        ("(made / 'a.dcm').write_text('x')", "cannot be read"),
        ("pass", "made no DICOM instance, and there are targets"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
    ],
)
def test_what_cannot_be_taken_fails_the_job(desk: Desk, series: BuiltSeries, body: str, reason: str) -> None:
    desk.module("odd", body)
    job = desk.job(series, "odd", targets=("pacs",))
    failed = desk.ends_in(Stage.ERROR, job)
    assert reason in failed.reason
    assert failed.fail_stage is FailStage.PROCESSING


def test_a_result_that_is_no_json_is_noted_and_nothing_more(desk: Desk, series: BuiltSeries) -> None:
    desk.module("odd", "copy_all()\n(made / 'result.json').write_text('{')")
    job = desk.job(series, "odd")
    assert desk.ends_in(Stage.SUCCESS, job).process["output"] is None
    assert "result.json is no JSON" in (desk.layout.processing / "process.log").read_text()


def test_a_result_that_is_a_link_is_refused(desk: Desk, series: BuiltSeries) -> None:
    desk.module("odd", "os.symlink('/etc/hostname', made / 'result.json')")
    assert "a symbolic link" in desk.ends_in(Stage.ERROR, desk.job(series, "odd")).reason


def test_a_module_cannot_harm_what_was_received(desk: Desk, series: BuiltSeries) -> None:
    desk.module("overwrites", "open(sorted(taken.glob('*.dcm'))[0], 'wb').write(b'gone')")
    body = "try:\n    for file in taken.iterdir(): file.unlink()\nexcept OSError: pass\n(made / 'x').write_text('x')"
    desk.module("deletes", body)
    content = {file.name: file.read_bytes() for file in series.files}
    first = desk.job(series, "overwrites", job_id="first")
    second = desk.job(series, "deletes", job_id="second")
    desk.ends_in(Stage.ERROR, first)
    desk.ends_in(Stage.SUCCESS, second)
    for stage, job in ((Stage.ERROR, first), (Stage.SUCCESS, second)):
        kept = desk.place(stage, job) / "received"
        assert sorted(path.read_bytes() for path in kept.iterdir()) == sorted(content.values())


@pytest.mark.parametrize("ends", ["(made / 'x').write_text('x')", "sys.exit(3)"])
def test_modes_that_a_module_changes_are_set_back(desk: Desk, series: BuiltSeries, ends: str) -> None:
    body = "first, second, *_ = sorted(taken.glob('*.dcm'))\nfirst.chmod(0)\nsecond.chmod(0o777)\n"
    desk.module("closes", body + ends)
    job = desk.job(series, "closes")
    stage = Stage.ERROR if "exit" in ends else Stage.SUCCESS
    desk.ends_in(stage, job)
    received = desk.place(stage, job) / "received"
    assert {path.stat().st_mode & 0o777 for path in received.glob("*.dcm")} == {READ_ONLY}


def test_on_a_kernel_that_cannot_protect_files_a_module_gets_copies(
    desk: Desk, series: BuiltSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "landlock_version", lambda: 2)
    desk.module("looks", "(made / 'links').write_text(str({file.stat().st_nlink for file in taken.glob('*.dcm')}))")
    job = desk.job(series, "looks")
    desk.ends_in(Stage.SUCCESS, job)
    assert (desk.place(Stage.SUCCESS, job) / "results" / "attachments" / "links").read_text() == "{1}"


def test_a_module_that_says_so_may_change_its_input(desk: Desk, series: BuiltSeries) -> None:
    body = "for file in taken.glob('*.dcm'):\n    file.write_bytes(b'changed')\n(made / 'x').write_text('x')"
    desk.module("changes", body, writes_input=True)
    job = desk.job(series, "changes")
    desk.ends_in(Stage.SUCCESS, job)
    assert b"changed" not in {path.read_bytes() for path in (desk.place(Stage.SUCCESS, job) / "received").iterdir()}


# -- what a module decides ---------------------------------------------------------------------------------------------


def test_a_module_routes_its_result_if_the_rule_allows_it(layout: Layout, tmp_path: Path, series: BuiltSeries) -> None:
    allowed = RuleProcessing(routing=DynamicRouting(enabled=True, allowed_targets=("stroke",)))
    desk = Desk(layout, tmp_path, rules={"rule": allowed}, targets=frozenset({"pacs", "stroke"}))
    desk.module("decides", "copy_all()\n(made / 'result.json').write_text(json.dumps(task['process']['settings']))")

    def targets_after(wish: dict[str, Any], job_id: str, *targets: str) -> list[str]:
        job = desk.job(series, StepPlan("decides", {"__mercure_routing": wish}), targets=targets, job_id=job_id)
        stage = Stage.SUCCESS if wish.get("discard") else Stage.OUTGOING
        return [delivery.target for delivery in desk.ends_in(stage, job).deliveries]

    assert targets_after({"target": "stroke"}, "a", "pacs") == ["stroke"]
    assert targets_after({"target": "stroke"}, "b") == ["stroke"]
    assert targets_after({"target": "pacs"}, "c", "pacs") == ["pacs"]
    assert targets_after({"discard": True}, "d", "pacs") == []


# -- what jobs share ---------------------------------------------------------------------------------------------------


NOTES = "print(time.monotonic(), 1, flush=True); time.sleep(0.3); print(time.monotonic(), -1)\n"


def notes_of(desk: Desk, job: Job) -> list[tuple[float, int]]:
    """When a module began and ended, by what it printed."""
    desk.ends_in(Stage.SUCCESS, job)
    (log,) = (desk.place(Stage.SUCCESS, job) / "logs").iterdir()
    return [(float(line.split()[0]), int(line.split()[1])) for line in log.read_text().splitlines()]


def running_at_once(desk: Desk, jobs: Sequence[Job]) -> int:
    """The most modules that ran at the same time."""
    most = now = 0
    for _, change in sorted(note for job in jobs for note in notes_of(desk, job)):
        now += change
        most = max(most, now)
    return most


def test_jobs_run_in_parallel_up_to_the_limits(layout: Layout, tmp_path: Path, series: BuiltSeries) -> None:
    desk = Desk(layout, tmp_path, max_parallel=3)
    desk.module("note", NOTES)
    jobs = [desk.job(series, "note", job_id=f"job-{number}") for number in range(7)]
    assert 2 <= running_at_once(desk, jobs) <= 3


def test_a_module_has_a_limit_of_its_own_and_holds_up_nobody_else(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    desk = Desk(layout, tmp_path, max_parallel=4)
    desk.module("note", NOTES, max_parallel=1)
    desk.module("other", "copy_all()")
    jobs = [desk.job(series, "note", job_id=f"job-{number}") for number in range(4)]
    desk.ends_in(Stage.SUCCESS, desk.job(series, "other", job_id="other"))
    assert desk.waiting()
    assert running_at_once(desk, jobs) == 1


def test_two_jobs_never_get_the_same_gpu(layout: Layout, tmp_path: Path, series: BuiltSeries) -> None:
    desk = Desk(layout, tmp_path, max_parallel=4, gpus=("0", "1"))
    desk.module("note", NOTES, gpu_count=1, limits=Limits())
    jobs = [desk.job(series, "note", job_id=f"job-{number}") for number in range(5)]
    assert running_at_once(desk, jobs) <= 2
    desk.module("greedy", "pass", gpu_count=3)
    assert (
        "needs 3 GPUs, and there are 2" in desk.ends_in(Stage.ERROR, desk.job(series, "greedy", job_id="greedy")).reason
    )


@pytest.mark.parametrize("gpus", [(), ("0", "1")])
def test_jobs_that_get_gpus_unchosen_run_one_at_a_time(
    layout: Layout, tmp_path: Path, series: BuiltSeries, gpus: tuple[str, ...]
) -> None:
    desk = Desk(layout, tmp_path, max_parallel=4, gpus=gpus)
    desk.module("note", NOTES, takes_all_gpus=True)
    jobs = [desk.job(series, "note", job_id=f"job-{number}") for number in range(4)]
    assert running_at_once(desk, jobs) == 1


def test_a_persistence_folder_is_for_one_job_at_a_time(layout: Layout, tmp_path: Path, series: BuiltSeries) -> None:
    desk = Desk(layout, tmp_path, max_parallel=4)
    body = "kept = pathlib.Path(os.environ['MODULE_PERSISTENCE_DIR']) / 'count'\n" + NOTES
    body += "kept.write_text(str(int(kept.read_text()) + 1) if kept.exists() else '1')"
    desk.module("counts", body, persistence="shared")
    desk.module("counts_too", body, persistence="shared")
    jobs = [desk.job(series, "counts" if n % 2 else "counts_too", job_id=f"job-{n}") for n in range(4)]
    assert running_at_once(desk, jobs) == 1
    assert (tmp_path / "persistence" / "shared" / "count").read_text() == "4"


def test_urgent_jobs_go_first(layout: Layout, tmp_path: Path, series: BuiltSeries) -> None:
    desk = Desk(layout, tmp_path, max_parallel=1)
    desk.module("note", NOTES)
    normal = desk.job(series, "note", job_id="normal")
    urgent = desk.job(series, "note", job_id="urgent", priority=Priority.URGENT)
    assert notes_of(desk, urgent)[1] < notes_of(desk, normal)[0]


def test_held_jobs_wait(desk: Desk, series: BuiltSeries) -> None:
    desk.module("copy", "copy_all()")
    held = desk.job(series, "copy", job_id="held")
    controls.hold(desk.layout, Stage.PROCESSING, "held")
    desk.ends_in(Stage.SUCCESS, desk.job(series, "copy", job_id="free"))
    assert desk.waiting() == ["held"]
    controls.release(desk.layout, Stage.PROCESSING, "held")
    desk.clock.advance(3.0)
    desk.ends_in(Stage.SUCCESS, held)


# -- configuration that changes, and jobs that are damaged -------------------------------------------------------------


def test_a_job_whose_module_is_gone_waits_in_error_and_goes_on_after_the_mend(desk: Desk, series: BuiltSeries) -> None:
    job = desk.job(series, "gone")
    failed = desk.ends_in(Stage.ERROR, job)
    assert failed.reason == "module 'gone' is not in the configuration"
    desk.module("gone", "copy_all()")
    controls.retry(desk.layout, job.id, desk.clock.now())
    assert desk.ends_in(Stage.SUCCESS, job).results == tuple(sorted(job.instances))


def test_a_retry_takes_the_settings_of_today_or_those_of_then(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    rules = {"rule": RuleProcessing(steps=(StepPlan("tell", {"value": "today"}),))}
    desk = Desk(layout, tmp_path, rules=rules)
    desk.module("tell", "print(task['process']['settings']['value']); sys.exit(1)")
    job = desk.job(series, StepPlan("tell", {"value": "then"}))
    log = desk.layout.error / job.id / "logs" / "1-tell.log"
    desk.ends_in(Stage.ERROR, job)
    controls.retry(desk.layout, job.id, desk.clock.now(), as_then=True)
    desk.ends_in(Stage.ERROR, job)
    assert log.read_text().split() == ["then", "then"]
    controls.retry(desk.layout, job.id, desk.clock.now())
    desk.until(lambda: log.exists() and len(log.read_text().split()) == 3, "it has run again")
    assert log.read_text().split()[-1] == "today"


@pytest.mark.parametrize("process", [[], {}, "text", [1], {"module_name": 3}])
def test_a_damaged_job_goes_to_error(desk: Desk, series: BuiltSeries, process: Any) -> None:
    job = make_job(desk.layout, series, stage=Stage.PROCESSING)
    path = desk.place(Stage.PROCESSING, job) / "task.json"
    task = json.loads(path.read_text())
    task["process"] = process
    path.write_text(json.dumps(task))
    assert desk.ends_in(Stage.ERROR, job).fail_stage is not None


def test_a_job_that_a_dead_processor_had_finished_is_moved_on(desk: Desk, series: BuiltSeries) -> None:
    desk.module("never", "sys.exit(1)")
    job = desk.job(series, "never", targets=("pacs",), results=("a.dcm",))
    assert desk.ends_in(Stage.OUTGOING, job).results == ("a.dcm",)


def test_what_an_interrupted_run_left_is_cleared_and_the_job_runs_again(desk: Desk, series: BuiltSeries) -> None:
    desk.module("copy", "assert not list(made.iterdir())\ncopy_all()")
    controls.hold(desk.layout, Stage.PROCESSING)
    job = desk.job(series, "copy")
    place = desk.place(Stage.PROCESSING, job)
    for name in ("in", "out"):
        (place / name).mkdir()
        (place / name / "left").write_text("over")
    (place / ".step").write_text('{"done": [], "gpus": []}')
    controls.release(desk.layout, Stage.PROCESSING)
    assert desk.ends_in(Stage.SUCCESS, job).results == tuple(sorted(job.instances))


def test_a_job_that_another_processor_has_is_left_alone(desk: Desk, series: BuiltSeries) -> None:
    desk.module("copy", "copy_all()")
    taken_by_other = desk.job(series, "copy", job_id="other")
    lock = claim(desk.layout, Stage.PROCESSING, "other")
    assert lock is not None
    desk.ends_in(Stage.SUCCESS, desk.job(series, "copy", job_id="own"))
    assert desk.waiting() == ["other"]
    lock.close()
    desk.clock.advance(3.0)
    desk.ends_in(Stage.SUCCESS, taken_by_other)


def test_nothing_of_a_module_reaches_the_environment_of_another(
    desk: Desk, series: BuiltSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "SERVICE_SECRET", "s3cret")
    desk.module("look", "print(json.dumps(dict(os.environ)))", environment={"TOKEN": "own"})
    job = desk.job(series, "look")
    desk.ends_in(Stage.SUCCESS, job)
    seen = json.loads((desk.place(Stage.SUCCESS, job) / "logs" / "1-look.log").read_text())
    assert seen["TOKEN"] == "own"
    assert "SERVICE_SECRET" not in seen
    assert "own" not in (desk.place(Stage.SUCCESS, job) / "task.json").read_text()


def test_a_job_of_an_existing_installation_is_processed(desk: Desk, series: BuiltSeries) -> None:
    desk.module("old", "copy_all()\n(made / 'result.json').write_text(json.dumps(task['process']['settings']))")
    old = desk.layout.processing / "4f1c-old"
    old.mkdir()
    names = [f"{series.series_instance_uid}#{uid}.dcm" for uid in series.sop_instance_uids]
    for name, path in zip(names, series.files, strict=True):
        (old / name).write_bytes(path.read_bytes())
        (old / name.replace(".dcm", ".tags")).write_text("{}")
    process = {
        "module_name": "old",
        "module_config": {"docker_tag": "x", "settings": "{}"},
        "settings": {"a": 1},
        "retain_input_images": False,
        "output": None,
    }
    info = {"action": "both", "uid": "1.2", "uid_type": "series", "triggered_rules": {"r": True}, "applied_rule": "r"}
    dispatch = {"target_name": ["pacs"], "status": {"pacs": {"state": "waiting", "time": None}}}
    (old / "task.json").write_text(
        json.dumps({"id": "4f1c-old", "info": info, "dispatch": dispatch, "process": process})
    )
    desk.until((desk.layout.outgoing / "4f1c-old").is_dir, "the job is processed")
    done = read_task(desk.layout.outgoing / "4f1c-old")
    assert (done.results, done.process["output"]) == (tuple(sorted(names)), {"a": 1})


def test_a_job_that_an_existing_installation_was_running_keeps_what_it_holds(desk: Desk, series: BuiltSeries) -> None:
    desk.module("old", "copy_all()")
    old = desk.layout.processing / "4f1c-run"
    for folder in ("in", "as_received"):
        (old / folder).mkdir(parents=True)
        (old / folder / "1.2#3.dcm").write_bytes(series.files[0].read_bytes())
    info = {"action": "process", "uid": "1.2", "uid_type": "series", "triggered_rules": {"r": True}}
    process = {"module_name": "old", "settings": {}}
    (old / "task.json").write_text(json.dumps({"id": "4f1c-run", "info": info, "dispatch": {}, "process": process}))
    desk.until((desk.layout.error / "4f1c-run").is_dir, "the job is in error/")
    assert "holds no instance" in read_task(desk.layout.error / "4f1c-run").reason
    kept = sorted(str(path.relative_to(desk.layout.error)) for path in desk.layout.error.rglob("*.dcm"))
    assert kept == ["4f1c-run/as_received/1.2#3.dcm", "4f1c-run/in/1.2#3.dcm"]


def test_instances_that_vanished_are_said(desk: Desk, series: BuiltSeries) -> None:
    desk.module("copy", "copy_all()")
    controls.hold(desk.layout, Stage.PROCESSING)
    job = desk.job(series, "copy")
    (desk.place(Stage.PROCESSING, job) / "received" / job.instances[0]).unlink()
    controls.release(desk.layout, Stage.PROCESSING)
    assert desk.ends_in(Stage.ERROR, job).reason == "1 instances of the job are not there any more"


def test_a_retry_whose_module_of_today_is_busy_waits_and_stops_nothing(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    desk = Desk(layout, tmp_path, rules={"rule": RuleProcessing(steps=(StepPlan("today"),))})
    desk.module("then", "sys.exit(1)")
    desk.module("today", "time.sleep(1)", max_parallel=1)
    failed = desk.job(series, "then", job_id="failed")
    desk.ends_in(Stage.ERROR, failed)
    busy = desk.job(series, "today", job_id="busy")
    desk.until(lambda: not desk.processor.is_idle, "the module of today is busy")
    controls.retry(desk.layout, failed.id, desk.clock.now())
    desk.ends_in(Stage.SUCCESS, busy)
    desk.until((desk.layout.success / failed.id).is_dir, "the retry had its turn")


def test_a_job_that_was_begun_goes_first_and_has_its_gpus(layout: Layout, tmp_path: Path, series: BuiltSeries) -> None:
    desk = Desk(layout, tmp_path, gpus=("0", "1"))
    desk.module("note", NOTES, gpu_count=1)
    begun = desk.job(series, "note", job_id="begun")
    (desk.place(Stage.PROCESSING, begun) / ".step").write_text('{"done": [], "gpus": ["1"]}')
    urgent = desk.job(series, "note", job_id="urgent", priority=Priority.URGENT)
    controls.hold(desk.layout, Stage.PROCESSING)
    desk.processor.step()
    assert {job: active.slot.gpus for job, active in desk.processor._active.items()} == {"begun": ("1",)}
    controls.release(desk.layout, Stage.PROCESSING)
    desk.processor.step()
    assert desk.processor._active["urgent"].slot.gpus == ("0",)
    desk.ends_in(Stage.SUCCESS, begun)
    desk.ends_in(Stage.SUCCESS, urgent)


def test_what_a_module_made_is_taken_whatever_modes_it_gave(desk: Desk, series: BuiltSeries) -> None:
    body = "(made / 'd').mkdir(); shutil.copy(sorted(taken.glob('*.dcm'))[0], made / 'd' / 'a.dcm')\n"
    desk.module("odd", body + "(made / 'd' / 'a.dcm').chmod(0); (made / 'd').chmod(0o500); made.chmod(0o500)")
    assert len(desk.ends_in(Stage.SUCCESS, desk.job(series, "odd")).results or ()) == 1


# -- nobody waits for ever ---------------------------------------------------------------------------------------------


UNTIL_TOLD = "while not (pathlib.Path(task['process']['settings']['folder']) / task['id']).exists(): time.sleep(0.01)"


class Stream:
    """Jobs that run until the test lets them end."""

    def __init__(self, desk: Desk, series: BuiltSeries) -> None:
        self.desk = desk
        self.series = series
        self.told = desk.folder / "told"
        self.told.mkdir()

    def job(self, module: str, job_id: str, **values: Any) -> Job:
        return self.desk.job(self.series, StepPlan(module, {"folder": str(self.told)}), job_id=job_id, **values)

    def ends(self, job: Job) -> None:
        (self.told / job.id).touch()
        self.desk.ends_in(Stage.SUCCESS, job)

    def running(self) -> set[str]:
        self.desk.processor.step()
        return set(self.desk.processor._active)


@pytest.mark.parametrize("passes", [0, 2])
def test_a_job_that_needs_more_than_the_others_leave_free_gets_it_after_a_minute(
    layout: Layout, tmp_path: Path, series: BuiltSeries, passes: int
) -> None:
    """Beside a stream of jobs that are like it or urgent; as many urgent ones as may, pass it in the meantime."""
    desk = Desk(layout, tmp_path, gpus=("0", "1"), max_parallel=4)
    desk.module("small", UNTIL_TOLD, gpu_count=1)
    desk.module("large", UNTIL_TOLD, gpu_count=2)
    desk.module("free", "copy_all()")
    stream = Stream(desk, series)
    small = [stream.job("small", f"first-{number}") for number in range(2)]
    assert stream.running() == {job.id for job in small}
    large = stream.job("large", "large")
    stream.running()
    for number in range(passes):
        small.append(stream.job("small", f"urgent-{number}", priority=Priority.URGENT))
        stream.ends(small.pop(0))
        assert small[-1].id in stream.running()
    desk.clock.advance(61.0)
    priority = Priority.URGENT if passes else Priority.NORMAL
    later = stream.job("small", "later", priority=priority)
    desk.ends_in(Stage.SUCCESS, desk.job(series, "free", job_id="free"))
    while small:
        stream.ends(small.pop(0))
        assert "later" not in stream.running()
    assert stream.running() == {"large"}
    stream.ends(large)
    stream.ends(later)


def test_a_job_that_was_begun_keeps_its_gpus_although_its_lock_was_not_free_at_first(
    layout: Layout, tmp_path: Path, series: BuiltSeries
) -> None:
    desk = Desk(layout, tmp_path, gpus=("0", "1"))
    desk.module("note", NOTES, gpu_count=1)
    begun = desk.job(series, "note", job_id="begun")
    (desk.place(Stage.PROCESSING, begun) / ".step").write_text('{"done": [], "gpus": ["1"]}')
    lock = claim(desk.layout, Stage.PROCESSING, "begun")
    assert lock is not None
    desk.processor.step()
    assert desk.processor.is_idle
    lock.close()
    desk.clock.advance(3.0)
    controls.hold(desk.layout, Stage.PROCESSING)
    desk.processor.step()
    assert {job: active.slot.gpus for job, active in desk.processor._active.items()} == {"begun": ("1",)}
    desk.ends_in(Stage.SUCCESS, begun)


def test_nothing_is_kept_for_a_job_that_is_held(layout: Layout, tmp_path: Path, series: BuiltSeries) -> None:
    desk = Desk(layout, tmp_path, gpus=("0", "1"), max_parallel=4)
    desk.module("small", UNTIL_TOLD, gpu_count=1)
    desk.module("large", UNTIL_TOLD, gpu_count=2)
    stream = Stream(desk, series)
    small = [stream.job("small", f"first-{number}") for number in range(2)]
    assert stream.running() == {job.id for job in small}
    large = stream.job("large", "large")
    controls.hold(layout, Stage.PROCESSING, large.id)
    for _ in range(8):
        stream.running()
        desk.clock.advance(10.0)
    small.append(stream.job("small", "later"))
    stream.ends(small.pop(0))
    assert stream.running() == {job.id for job in small}
    for job in small:
        stream.ends(job)
    controls.release(layout, Stage.PROCESSING, large.id)
    desk.clock.advance(3.0)
    assert stream.running() == {large.id}
    stream.ends(large)
