import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from mercure.core.errors import SpoolError
from mercure.core.stages import Stage
from mercure.core.task import (
    MISSING,
    Delivery,
    DeliveryState,
    FailStage,
    Job,
    Priority,
    SeriesInfo,
    from_json,
    to_json,
)

NOON = datetime(2024, 5, 6, 12, tzinfo=UTC)
SERIES = SeriesInfo("1.2.3", "1.2", "SCANNER", "MERCURE", "10.0.0.7", "DOE^J", "4711", "A1", "SN9")
JOB = Job(
    "j-1",
    "route",
    SERIES,
    NOON,
    ("a.dcm", "b.dcm"),
    triggered_rules=("ct", "all"),
    priority=Priority.URGENT,
    deliveries=(
        Delivery("pacs", DeliveryState.COMPLETE, 1, None, NOON),
        Delivery("ai", DeliveryState.WAITING, 3, NOON.replace(hour=13), NOON, "no answer"),
        Delivery("late", DeliveryState.WAITING, 1, NOON.replace(hour=14)),
        Delivery("dead", DeliveryState.ERROR, 9, NOON.replace(hour=1)),
    ),
)


def stored(job: Job) -> Any:
    return json.loads(json.dumps(to_json(job, version="1.0")))


def test_the_file_has_the_keys_that_existing_modules_and_tools_read() -> None:
    data = stored(JOB)
    assert data["id"] == "j-1"
    assert set(data) == {"id", "info", "dispatch", "process", "study", "nomad_info", "mercure"}
    info = data["info"]
    assert (info["uid"], info["uid_type"], info["action"]) == ("1.2.3", "series", "route")
    assert (info["mrn"], info["acc"], info["patient_name"]) == ("4711", "A1", "DOE^J")
    assert (info["sender_aet"], info["receiver_aet"], info["sender_address"]) == ("SCANNER", "MERCURE", "10.0.0.7")
    assert info["triggered_rules"] == {"ct": True, "all": True}
    assert (info["device_serial_number"], info["mercure_version"], info["fail_stage"]) == ("SN9", "1.0", None)


def test_the_dispatch_section_says_who_has_what_and_when_the_next_attempt_is() -> None:
    dispatch = stored(JOB)["dispatch"]
    assert dispatch["target_name"] == ["pacs", "ai", "late", "dead"]
    assert dispatch["status"]["pacs"]["state"] == "complete"
    assert dispatch["status"]["ai"]["time"] == "2024-05-06 12:00:00"
    assert dispatch["retries"] == 9
    assert dispatch["next_retry_at"] == NOON.replace(hour=13).timestamp()
    assert stored(replace(JOB, deliveries=()))["dispatch"] == {}


def test_what_a_series_does_not_have_is_missing_in_the_file_and_nothing_in_the_value() -> None:
    job = replace(JOB, series=SeriesInfo("1.2.3"))
    info = stored(job)["info"]
    assert {info[key] for key in ("mrn", "acc", "patient_name", "sender_aet", "receiver_aet", "sender_address")} == {
        MISSING
    }
    assert from_json(stored(job)) == job


def test_a_job_in_error_keeps_where_and_why_it_failed() -> None:
    job = replace(JOB, fail_stage=FailStage.ROUTING, reason="target 'x' is not in the configuration", settled_at=NOON)
    data = stored(job)
    assert data["info"]["fail_stage"] == "ROUTING"
    assert from_json(data) == job


def test_the_file_of_an_existing_installation_is_read() -> None:
    job = from_json(
        {
            "id": "0f6e",
            "info": {
                "action": "route",
                "uid": "1.2.3",
                "uid_type": "series",
                "triggered_rules": {"ct": True},
                "applied_rule": None,
                "patient_name": "DOE^J",
                "mrn": "4711",
                "acc": "MISSING",
                "sender_address": "MISSING",
                "sender_aet": "SCANNER",
                "mercure_version": "0.4.1",
                "mercure_appliance": "master",
                "mercure_server": "main",
            },
            "dispatch": {
                "target_name": "pacs",
                "status": {"pacs": {"state": "waiting", "time": "2024-05-06 12:00:00"}},
                "retries": 0,
                "next_retry_at": None,
                "series_uid": "1.2.3",
            },
            "process": {},
            "study": {},
            "nomad_info": None,
        }
    )
    assert job.deliveries == (Delivery("pacs", DeliveryState.WAITING, updated_at=NOON),)
    assert job.triggered_rules == ("ct",)
    assert job.series == SeriesInfo("1.2.3", calling_ae_title="SCANNER", patient_name="DOE^J", patient_id="4711")
    assert (job.priority, job.applied_rule, job.appliance, job.server) == (Priority.NORMAL, "", "master", "main")


def test_a_serial_number_is_text_whatever_the_file_says() -> None:
    assert from_json(_changed("info", "device_serial_number", 99)).series.device_serial_number == "99"
    assert from_json(_changed("info", "device_serial_number", None)).series.device_serial_number is None


def test_a_time_without_a_zone_counts_as_utc() -> None:
    data = stored(JOB)
    data["mercure"]["created_at"] = "2024-05-06T12:00:00"
    assert from_json(data).created_at == NOON


def _changed(section: str | None, key: str, value: Any) -> Any:
    data = stored(JOB)
    (data if section is None else data[section])[key] = value
    return data


def _lacking(key: str) -> Any:
    data = stored(JOB)
    del data[key]
    return data


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (None, "no object"),
        ([], "no object"),
        ({}, "'info'"),
        (_lacking("id"), "'id'"),
        (_lacking("info"), "'info'"),
        (_changed(None, "id", 7), "id is no text"),
        (_changed(None, "info", []), "not valid"),
        (_changed(None, "mercure", "x"), "mercure is no object"),
        (_changed(None, "dispatch", ["pacs"]), "dispatch is no object"),
        (_changed("info", "action", None), "action is no text"),
        (_changed("info", "fail_stage", "LUNCH"), "not valid"),
        (_changed("mercure", "instances", "a.dcm"), "instances is no list"),
        (_changed("mercure", "instances", [1]), "instances is no list"),
        (_changed("mercure", "priority", "high"), "not valid"),
        (_changed("mercure", "created_at", "yesterday"), "not valid"),
        (_changed("dispatch", "target_name", 5), "target_name is no list"),
        (_changed("dispatch", "status", {"ai": {"state": "lost"}}), "not valid"),
    ],
)
def test_a_file_that_is_not_valid_is_refused_by_name_of_what_is_wrong(data: Any, what: str) -> None:
    with pytest.raises(SpoolError, match=what):
        from_json(data)


def test_a_refusal_repeats_nothing_of_the_patient() -> None:
    with pytest.raises(SpoolError) as refused:
        from_json(_changed("mercure", "created_at", "DOE^JOHN"))
    assert "DOE" not in str(refused.value)


def test_a_delivery_replaces_the_one_to_the_same_target_and_keeps_the_order() -> None:
    job = JOB.with_delivery(Delivery("ai", DeliveryState.COMPLETE))
    assert [(one.target, one.state.value) for one in job.deliveries] == [
        ("pacs", "complete"),
        ("ai", "complete"),
        ("late", "waiting"),
        ("dead", "error"),
    ]


def test_a_retry_makes_due_what_is_not_complete_and_not_excepted() -> None:
    job = replace(
        JOB,
        deliveries=(
            Delivery("there", DeliveryState.COMPLETE, attempts=1),
            Delivery("refused", DeliveryState.ERROR, attempts=3, detail="refused"),
            Delivery("busy", DeliveryState.WAITING, attempts=2, detail="no answer"),
        ),
    )
    again = job.due_again(JOB.created_at, but=("busy",))
    assert again.deliveries[0] == job.deliveries[0]
    assert again.deliveries[1] == Delivery("refused", updated_at=JOB.created_at)
    assert again.deliveries[2] == job.deliveries[2]


def test_only_success_error_and_discard_are_final() -> None:
    assert {stage for stage in Stage if stage.is_final} == {Stage.SUCCESS, Stage.ERROR, Stage.DISCARD}
