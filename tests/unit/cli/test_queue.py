"""`mercure queue`, on folders without running services."""

import json
import os
import re
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from tests.builders import dicom_bytes
from tests.unit.cli.site import COMMAND, JOB, SERIES, Site

from mercure.cli.exits import Exit
from mercure.core.delivery import InstanceResult, Outcome
from mercure.core.events import Event, EventKind
from mercure.core.stages import Stage
from mercure.core.task import Delivery, DeliveryState, FailStage, Processing
from mercure.journal.writer import JournalWriter
from mercure.spool.job_files import read_task
from mercure.spool.jobs import claim
from mercure.spool.layout import Origin
from mercure.spool.quarantine import quarantine

OTHER = "20260101T120000-9876543210-1"


def test_an_empty_queue_says_so(site: Site) -> None:
    answer = site("queue", "list")
    assert answer.status == Exit.OK
    assert answer.out.startswith("Nothing stands here.")
    assert site("queue", "list", "--json").json["jobs"] == []


def test_every_state_is_listed_with_what_it_waits_for(site: Site) -> None:
    later = datetime.now(UTC) + timedelta(minutes=30, seconds=30)
    site.job(Stage.OUTGOING, "waiting-1")
    site.job(
        Stage.OUTGOING, "deferred-1", deliveries=(Delivery("pacs", attempts=3, not_before=later, detail="no answer"),)
    )
    site.job(Stage.OUTGOING, "held-1")
    site.job(Stage.OUTGOING, "running-1")
    site.failed_job("failed-1")
    assert site("queue", "hold", "held-1").status == Exit.OK
    running = claim(site.layout, Stage.OUTGOING, "running-1")
    assert running is not None
    try:
        listed = {job["job"]: job for job in site("queue", "list", "--json").json["jobs"]}
        text = site("queue", "list").out
    finally:
        running.close()
    assert {name: job["state"] for name, job in listed.items()} == {
        "waiting-1": "waiting",
        "deferred-1": "deferred",
        "held-1": "held",
        "running-1": "running",
        "failed-1": "failed",
    }
    assert listed["deferred-1"]["next_attempt"] == later.isoformat()
    assert listed["failed-1"]["reason"] == "pacs: refused"
    row = next(line for line in text.splitlines() if line.startswith("deferred-1"))
    assert row.split()[:6] == ["deferred-1", "outgoing", "deferred", "ct", "pacs", "2"]
    assert "in 30 min" in row
    assert "no answer" in row
    assert "4 outgoing, 1 failed" in text


def test_a_gathering_series_is_listed_with_the_time_of_its_end(site: Site) -> None:
    folder = site.layout.incoming / f"{SERIES}#0123456789"
    folder.mkdir()
    (folder / f"{SERIES}#1.2.dcm").write_bytes(b"")
    (site.layout.sealed / "20260101T120000-0123456789" / "received").mkdir(parents=True)
    listed = site("queue", "list", "--json").json["series"]
    assert [(one["state"], one["instances"]) for one in listed] == [("gathering", 1), ("routing", 0)]
    text = site("queue", "list").out
    assert "gathering" in text
    assert " in " in text


def test_broken_dicom_is_listed_with_its_reason(site: Site) -> None:
    path = site.folder / "broken.dcm"
    path.write_bytes(b"nonsense")
    job = quarantine(site.layout, path, Origin("SCANNER", "MERCURE", "127.0.0.1"), "StudyInstanceUID is missing")
    (listed,) = site("queue", "list", "--json").json["jobs"]
    assert listed["job"] == job
    assert listed["fail_stage"] == "RECEIVING"
    assert "StudyInstanceUID is missing" in site("queue", "list").out
    shown = site("queue", "show", job)
    assert f"{job}/received/unreadable.dcm" in shown.out
    assert "SCANNER" in shown.out


def test_a_damaged_job_is_listed(site: Site) -> None:
    site.failed_job()
    (site.layout.error / JOB / "task.json").write_text("{")
    answer = site("queue", "list")
    assert answer.status == Exit.OK
    assert "damaged" in answer.out
    assert site("queue", "show", JOB).status == Exit.OK
    assert site("queue", "retry", JOB).status == Exit.FAILED


def test_stages_are_chosen_and_rows_are_limited(site: Site) -> None:
    for number in range(5):
        site.failed_job(f"2026010{number + 1}T120000-aa-1")
        site.job(Stage.SUCCESS, f"2026020{number + 1}T120000-aa-1")
    default = site("queue", "list", "--json").json
    assert {job["stage"] for job in default["jobs"]} == {"error"}
    assert default["count"]["success"] == 5
    limited = site("queue", "list", "--stage", "error", "--limit", "2")
    assert "20260105T120000-aa-1" in limited.out
    assert "20260104T120000-aa-1" in limited.out
    assert "20260103T120000-aa-1" not in limited.out
    assert "3 more in error/ are not shown" in limited.out
    both = site("queue", "list", "--stage", "success", "--stage", "error", "--json").json["jobs"]
    assert len(both) == 10
    assert site("queue", "list", "--stage", "nowhere").status == Exit.USAGE


def test_no_patient_is_named_anywhere(site: Site) -> None:
    site.failed_job()
    everything = "".join(
        site("queue", *words).out
        for words in (["list"], ["list", "--json"], ["show", JOB], ["show", JOB, "--json"], ["retry", JOB])
    )
    assert JOB in everything
    assert "DOE" not in everything
    assert "PAT-1" not in everything


def test_what_came_from_outside_cannot_control_the_terminal(site: Site) -> None:
    site.failed_job(reason="bad \x1b]0;owned\x07 \x1b[2J")
    assert "\x1b" not in site("queue", "list").out
    assert "\x1b" not in site("queue", "show", JOB).out


def test_a_job_is_shown_with_its_timeline_targets_and_ledger(site: Site) -> None:
    job = site.failed_job(
        deliveries=(Delivery("pacs", DeliveryState.ERROR, 2, detail="1 of 2 instances refused"),), instances=2
    )
    site.record(
        Stage.ERROR,
        job,
        ("pacs", InstanceResult(job.instances[0], Outcome.DELIVERED)),
        ("pacs", InstanceResult(job.instances[1], Outcome.REFUSED, "status 0x0122, SOP class not supported")),
    )
    site("queue", "retry", "unknown")  # the journal has events of others
    answer = site("queue", "show", JOB)
    assert answer.status == Exit.OK
    for text in (
        "failed, in error/",
        "pacs: refused",
        "1 of 2",
        "status 0x0122, SOP class not supported",
        "first instance received",
        "series complete",
        "2 instances,",
        str(site.layout.error / JOB),
    ):
        assert text in answer.out
    data = site("queue", "show", JOB, "--json").json
    (target,) = data["targets"]
    assert target["outcomes"] == {"delivered": 1, "refused": 1}
    assert target["confirmed"] == 1
    assert data["files"]["received"] == 2
    assert [moment["at"] for moment in data["timeline"]] == sorted(moment["at"] for moment in data["timeline"])


def test_the_timeline_has_what_an_operator_did(site: Site) -> None:
    site.failed_job()
    site("queue", "retry", JOB)
    site("queue", "hold", JOB)
    site("queue", "release", JOB)
    what = [moment["what"] for moment in site("queue", "show", JOB, "--json").json["timeline"]]
    assert [one.partition(":")[0] for one in what[-3:]] == ["retried", "held", "released"]


@pytest.mark.parametrize("detail", ["gave up after 5 attempts: no connection", "1 of 2 instances refused"])
def test_the_timeline_does_not_say_refused_of_a_target_that_never_answered(site: Site, detail: str) -> None:
    site.failed_job()
    writer = JournalWriter(site.layout.journal, "dispatcher")
    writer.emit(Event(EventKind.DELIVERY_FAILED, datetime.now(UTC), job_id=JOB, target="pacs", detail=detail))
    writer.close()
    timeline = site("queue", "show", JOB, "--json").json["timeline"]
    assert [one["what"] for one in timeline if detail in one["what"]] == [f"pacs: given up: {detail}"]


@pytest.mark.parametrize("name", ["20991231T000000-00-1", "../../etc", ".hidden", ""])
def test_an_unknown_job_is_said(site: Site, name: str) -> None:
    answer = site("queue", "show", name)
    assert answer.status in (Exit.FAILED, Exit.USAGE)
    assert "mercure queue list" in answer.err


def test_a_failed_job_goes_on_when_it_is_retried(site: Site) -> None:
    site.failed_job()
    answer = site("queue", "retry", JOB)
    assert answer.status == Exit.OK
    assert f"{JOB} is dispatched again" in answer.out
    assert site.where(JOB) == ["outgoing"]
    assert [(event.kind, event.job_id) for event in site.events()] == [(EventKind.JOB_RETRIED, JOB)]
    assert site.layout.control.exists()


def test_a_job_that_failed_at_routing_is_routed_again(site: Site) -> None:
    site.failed_job(fail_stage=FailStage.ROUTING, deliveries=())
    assert "routed again" in site("queue", "retry", JOB).out
    assert site.where(JOB) == []
    assert len(list(site.layout.sealed.iterdir())) == 1


def test_a_job_in_the_hands_of_its_modules_says_which_and_what_it_waits_for(site: Site) -> None:
    later = datetime.now(UTC) + timedelta(hours=2)
    chain = [{"module_name": "segment"}, {"module_name": "report"}]
    waits = Processing(attempts=2, not_before=later, detail="the engine does not answer")
    site.job(Stage.PROCESSING, action="both", process=chain, processing=waits)
    (listed,) = site("queue", "list", "--json").json["jobs"]
    assert listed["modules"] == ["segment", "report"]
    assert (listed["next_attempt"], listed["reason"]) == (later.isoformat(), "the engine does not answer")
    assert "in 120 min" in site("queue", "list").out or "in 2 h" in site("queue", "list").out
    answer = site("queue", "show", JOB)
    assert "Modules   segment, then report" in answer.out
    assert "Reason    the engine does not answer" in answer.out


def test_a_job_whose_steps_cannot_be_read_is_shown_all_the_same(site: Site) -> None:
    site.job(Stage.PROCESSING, process=[{"settings": {}}])
    assert site("queue", "list", "--json").json["jobs"][0]["modules"] == []
    assert site("queue", "show", JOB).status == Exit.OK


def test_what_a_target_has_is_counted_in_results_once_there_are_any(site: Site) -> None:
    made = tuple(f"{SERIES}#9.{number}.dcm" for number in range(3))
    job = site.job(Stage.OUTGOING, process={"module_name": "segment"}, results=made)
    site.record(Stage.OUTGOING, job, ("pacs", InstanceResult(made[0], Outcome.DELIVERED)))
    (target,) = site("queue", "show", JOB, "--json").json["targets"]
    assert target["confirmed"] == 1
    assert "1 of 3" in site("queue", "show", JOB).out


@pytest.mark.parametrize(("option", "when", "word"), [((), "today", "now"), (("--as-then",), "then", "then")])
def test_a_job_that_failed_in_its_modules_is_processed_anew(
    site: Site, option: tuple[str, ...], when: str, word: str
) -> None:
    process = {"module_name": "segment", "settings": {"threshold": 0.5}}
    site.failed_job(fail_stage=FailStage.PROCESSING, action="process", process=process, deliveries=())
    answer = site("queue", "retry", JOB, *option)
    assert answer.status == Exit.OK
    assert f"is processed again with the settings of {word}" in answer.out
    assert site.where(JOB) == ["processing"]
    job = read_task(site.layout.processing / JOB)
    assert job.processing.uses_today is (when == "today")
    assert job.process == process
    assert [(event.kind, event.detail) for event in site.events()] == [
        (EventKind.JOB_RETRIED, f"by an operator, from error, with the settings of {when}")
    ]


def test_settings_are_told_only_of_jobs_that_failed_in_their_modules(site: Site) -> None:
    site.failed_job()
    assert site("queue", "retry", JOB, "--as-then").status == Exit.OK
    assert [event.detail for event in site.events()] == ["by an operator, from error"]


def test_one_job_that_cannot_be_retried_stops_no_other(site: Site) -> None:
    path = site.folder / "broken.dcm"
    path.write_bytes(b"nonsense")
    broken = quarantine(site.layout, path, Origin("A", "B", "127.0.0.1"), "no UID")
    site.failed_job()
    answer = site("queue", "retry", broken, JOB, "unknown-1")
    assert answer.status == Exit.FAILED
    assert f"mercure: job {broken} is broken DICOM and cannot be retried: have it sent again" in answer.err
    assert answer.err.count(broken) == 1
    assert "unknown-1: there is no such job" in answer.err
    assert site.where(JOB) == ["outgoing"]


def test_all_failed_jobs_are_retried_at_once(site: Site) -> None:
    site.failed_job()
    site.failed_job(OTHER)
    results = site("queue", "retry", "--all-failed", "--json").json
    assert [(one["subject"], one["done"]) for one in results] == [(JOB, True), (OTHER, True)]
    answer = site("queue", "retry", "--all-failed")
    assert answer.status == Exit.OK
    assert answer.out == "No job has failed.\n"


@pytest.mark.parametrize("arguments", [["retry"], ["retry", "--all-failed", JOB], ["cancel"], ["hold"], ["release"]])
def test_a_call_that_names_nothing_or_too_much_is_a_usage_error(site: Site, arguments: list[str]) -> None:
    assert site("queue", *arguments).status == Exit.USAGE


def test_a_waiting_job_is_cancelled_and_can_be_retried(site: Site) -> None:
    site.job(Stage.OUTGOING)
    answer = site("queue", "cancel", JOB)
    assert answer.status == Exit.OK
    assert site.where(JOB) == ["error"]
    assert [event.kind for event in site.events()] == [EventKind.JOB_CANCELLED, EventKind.JOB_SETTLED]
    assert "cancelled by an operator" in site("queue", "show", JOB).out
    assert site("queue", "retry", JOB).status == Exit.OK
    assert site.where(JOB) == ["outgoing"]


def test_a_running_job_is_asked_to_stop(site: Site) -> None:
    site.job(Stage.OUTGOING)
    running = claim(site.layout, Stage.OUTGOING, JOB)
    assert running is not None
    try:
        assert "is being stopped" in site("queue", "cancel", JOB).out
        assert running.is_cancelled()
        assert site.events() == ()
        assert f"job {JOB} is being stopped; retry it once" in site("queue", "retry", JOB).err
    finally:
        running.close()


def test_a_running_job_is_asked_to_try_again_what_fails(site: Site) -> None:
    site.job(Stage.OUTGOING)
    running = claim(site.layout, Stage.OUTGOING, JOB)
    assert running is not None
    try:
        answer = site("queue", "retry", JOB)
        assert answer.status == Exit.OK
        assert "what fails of it is tried again at once" in answer.out
        assert running.takes_up_retry()
        assert not running.takes_up_retry()
    finally:
        running.close()


def test_a_finished_job_cannot_be_cancelled(site: Site) -> None:
    site.job(Stage.SUCCESS)
    answer = site("queue", "cancel", JOB)
    assert answer.status == Exit.FAILED
    assert f"{JOB}: the job has ended, in success/: only waiting or running jobs can be cancelled" in answer.err
    assert "there is nothing to retry" in site("queue", "retry", JOB).err


def test_a_stage_is_held_and_released(site: Site) -> None:
    site.job(Stage.OUTGOING)
    assert "queue release --stage outgoing" in site("queue", "hold", "--stage", "outgoing").out
    listed = site("queue", "list", "--json").json
    assert listed["held_stages"] == ["outgoing"]
    assert listed["jobs"][0]["state"] == "held"
    assert "outgoing/ is held" in site("queue", "list").out
    assert site("queue", "release", "--stage", "outgoing").status == Exit.OK
    assert site("queue", "list", "--json").json["held_stages"] == []
    assert [event.kind for event in site.events()] == [EventKind.JOB_HELD, EventKind.JOB_RELEASED]


def test_a_finished_job_cannot_be_held(site: Site) -> None:
    site.job(Stage.SUCCESS)
    for command, what in (("hold", "held"), ("release", "released")):
        answer = site("queue", command, JOB)
        assert answer.status == Exit.FAILED
        assert f"{JOB}: the job has ended, in success/: only waiting or running jobs can be {what}" in answer.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("list", "--stage", "eror"), "there is no stage 'eror'. Did you mean error?"),
        (("list", "--stage", "x"), "there is no stage 'x'. Use one of incoming, processing, outgoing, success, error"),
        (("hold", "--stage", "x"), "there is no stage 'x' that can be held. Use one of processing, outgoing"),
        (("release", "--stage", "success"), "no stage 'success' that can be held. Use one of processing, outgoing"),
    ],
)
def test_a_wrong_stage_is_told_in_plain_words(site: Site, words: tuple[str, ...], message: str) -> None:
    answer = site("queue", *words)
    assert answer.status == Exit.USAGE
    assert message in answer.err
    assert answer.err.count("\n") == 1


def test_broken_dicom_is_skipped_when_all_are_retried(site: Site) -> None:
    path = site.folder / "broken.dcm"
    path.write_bytes(b"nonsense")
    quarantine(site.layout, path, Origin("A", "B", "127.0.0.1"), "no UID")
    site.failed_job()
    answer = site("queue", "retry", "--all-failed")
    assert answer.status == Exit.OK
    assert site.where(JOB) == ["outgoing"]
    assert "skipped 1 job of broken DICOM" in answer.err
    answer = site("queue", "retry", "--all-failed", "--json")
    assert (answer.status, answer.json) == (Exit.OK, [])
    assert site("queue", "retry", "--all-failed").out == "No job can be retried.\n"


def test_a_job_that_is_due_and_waits_is_not_said_to_go_now(site: Site) -> None:
    past = datetime.now(UTC) - timedelta(seconds=5)
    site.job(Stage.OUTGOING, deliveries=(Delivery("pacs", attempts=1, not_before=past, detail="no answer"),))
    row = next(line for line in site("queue", "list").out.splitlines() if line.startswith(JOB))
    assert row.split()[2] == "waiting"
    assert " waiting  " in row[row.index("min") :]
    assert " now " not in row


def test_a_missing_data_folder_is_said(site: Site) -> None:
    site.remove_data()
    for words in (["list"], ["show", JOB], ["retry", JOB], ["hold", "--stage", "outgoing"]):
        answer = site("queue", *words)
        assert answer.status == Exit.DATA_FOLDER
        assert "there is no folder" in answer.err


def test_a_foreign_task_file_is_listed(site: Site) -> None:
    site.job(Stage.ERROR)
    (site.layout.error / JOB / "task.json").write_text(
        json.dumps({"id": JOB, "info": {"action": "route", "uid": SERIES, "uid_type": "series"}})
    )
    assert site("queue", "list", "--json").json["jobs"][0]["state"] == "failed"


def test_the_size_of_the_files_is_shown(site: Site) -> None:
    site.job(Stage.OUTGOING, instances=1)
    size = len(dicom_bytes(rows=8, columns=8))
    assert abs(site("queue", "show", JOB, "--json").json["files"]["bytes"] - size) < 200


def test_a_list_on_a_narrow_terminal_keeps_the_ids_whole(site: Site) -> None:
    site.failed_job(reason="one two three four five six seven eight nine ten eleven twelve thirteen fourteen")
    command = f"stty cols 60; {' '.join(COMMAND)} queue list"
    env = {**os.environ, **site.environment, "TERM": "xterm"}
    env.pop("COLUMNS", None)
    done = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True, text=True, check=True, env=env)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in done.stdout.splitlines()]
    assert any(line.startswith("failed") and line.endswith(JOB) for line in lines)
    assert max(len(line) for line in lines[:5]) <= 60


def test_the_queue_can_be_looked_at_while_the_rest_of_the_configuration_is_broken(site: Site) -> None:
    site.failed_job("failed-1")
    site.configuration["receiver"] = {"prot": 1}
    site.write()
    answer = site("queue", "list", "--json")
    assert answer.status == Exit.OK
    assert [job["job"] for job in answer.json["jobs"]] == ["failed-1"]
    assert "only its folders are; `mercure config check` shows why" in answer.err


def test_the_queue_refuses_when_not_even_the_folders_can_be_read(site: Site) -> None:
    site.config_file.write_text("{")
    answer = site("queue", "list")
    assert answer.status == Exit.CONFIGURATION
    assert "config check" in answer.err


def test_a_job_shows_what_each_rule_answered(site: Site) -> None:
    trace = (
        {"rule": "ct", "outcome": "not_matched", "reason": "", "read": ["Modality"], "missing": []},
        {"rule": "mr", "outcome": "failed", "reason": "int() of text (column 3)", "read": [], "missing": []},
        {"rule": "us", "outcome": "not_matched", "reason": "", "read": [], "missing": ["BodyPartExamined"]},
    )
    site.job(Stage.DISCARD, "discarded-1", trace=trace)
    text = site("queue", "show", "discarded-1").out
    assert re.search(r"^ct +not matched", text, re.MULTILINE)
    assert re.search(r"^mr +failed +int\(\) of text \(column 3\)", text, re.MULTILINE)
    assert re.search(r"^us +not matched +missing: BodyPartExamined", text, re.MULTILINE)
    asked = site("queue", "show", "discarded-1", "--json").json["rules_asked"]
    assert [rule["outcome"] for rule in asked] == ["not_matched", "failed", "not_matched"]
