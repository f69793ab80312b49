"""What `task.json` says: a job, what is to be done with it, and what has been done so far.

Inside Mercure the words are those of the standard; on disk the keys are those that existing modules and tools know
(`mrn`, `acc`, `sender_aet` ...). This file is the only one that knows both. Keys of our own stand below `mercure`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from mercure.core.errors import SpoolError

MISSING = "MISSING"
"""What existing tools find in `info` for a tag that the series does not have."""

Json = Any
"""A value that came from JSON; narrowed where it is used."""


class Priority(StrEnum):
    """When a job may run, and before which others."""

    NORMAL = "normal"
    URGENT = "urgent"
    OFFPEAK = "offpeak"


class FailStage(StrEnum):
    """What a job in `error/` failed at; decides where a retry begins."""

    RECEIVING = "RECEIVING"
    ROUTING = "ROUTING"
    PROCESSING = "PROCESSING"
    DISPATCHING = "DISPATCHING"


class DeliveryState(StrEnum):
    """How far a job is with one target."""

    WAITING = "waiting"
    COMPLETE = "complete"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One target of a job. `attempts` counts those that failed; `not_before` is the time of the next one."""

    target: str
    state: DeliveryState = DeliveryState.WAITING
    attempts: int = 0
    not_before: datetime | None = None
    updated_at: datetime | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Processing:
    """How far a job is with its modules. `attempts` counts those that failed for a cause that may pass."""

    attempts: int = 0
    not_before: datetime | None = None
    detail: str = ""
    uses_today: bool = False
    """An operator wants the job processed anew with the rule and the modules as they are configured by now."""


@dataclass(frozen=True, slots=True)
class SeriesInfo:
    """What a job knows of its series without opening a file. Holds patient data: belongs into `task.json` only."""

    series_uid: str = ""
    study_uid: str = ""
    calling_ae_title: str = ""
    called_ae_title: str = ""
    peer_address: str = ""
    patient_name: str = MISSING
    patient_id: str = MISSING
    accession_number: str = MISSING
    device_serial_number: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A folder of work, as a value. `instances` are the file names that belong to it, the promise of the job."""

    id: str
    action: str
    series: SeriesInfo
    created_at: datetime
    instances: tuple[str, ...] = ()
    triggered_rules: tuple[str, ...] = ()
    applied_rule: str = ""
    priority: Priority = Priority.NORMAL
    deliveries: tuple[Delivery, ...] = ()
    fail_stage: FailStage | None = None
    reason: str = ""
    process: Json = field(default_factory=dict)
    """What modules do with it: one object, or one for each step of a chain (see `core.processing_steps`)."""
    processing: Processing = Processing()
    results: tuple[str, ...] | None = None
    """Names of the instances in `results/`, or None while no module has made any: then `instances` are what counts."""
    study: Json = field(default_factory=dict)
    complete_at: datetime | None = None
    """When the reception was sealed; with `created_at` and the deliveries the timeline of the job."""
    settled_at: datetime | None = None
    """When the job came to its final stage."""
    done: tuple[str, ...] = ()
    """What earlier plans of the same series have made into jobs already (see `core.plan`)."""
    trace: tuple[Mapping[str, Json], ...] = ()
    """What each rule answered and why (`core.plan.RuleTrace` as JSON): names of rules and tags, never values."""
    forced_rule: str = ""
    """The rule that an operator chose for a series that is routed again; it alone is followed then."""
    appliance: str = ""
    server: str = ""

    @property
    def payload(self) -> tuple[str, ...]:
        """The names of what is delivered: the results of the modules, else the instances as received."""
        return self.instances if self.results is None else self.results

    def with_delivery(self, delivery: Delivery) -> "Job":
        """Return the job with the delivery to the same target replaced."""
        kept = tuple(delivery if old.target == delivery.target else old for old in self.deliveries)
        return replace(self, deliveries=kept)

    def due_again(self, now: datetime, *, but: Collection[str] = ()) -> "Job":
        """Return the job with every target that lacks something due at once, its attempts counted anew.

        The targets in `but` stay as they are.
        """
        deliveries = tuple(
            delivery
            if delivery.state is DeliveryState.COMPLETE or delivery.target in but
            else replace(delivery, state=DeliveryState.WAITING, attempts=0, not_before=None, updated_at=now, detail="")
            for delivery in self.deliveries
        )
        return replace(self, deliveries=deliveries)


def to_json(job: Job, *, version: str = "") -> dict[str, Json]:
    """Return the content of `task.json`."""
    series = job.series
    return {
        "id": job.id,
        "info": {
            "action": job.action,
            "uid": series.series_uid,
            "uid_type": "series",
            "triggered_rules": dict.fromkeys(job.triggered_rules, True),
            "applied_rule": job.applied_rule,
            "patient_name": series.patient_name,
            "mrn": series.patient_id,
            "acc": series.accession_number,
            "sender_address": series.peer_address or MISSING,
            "sender_aet": series.calling_ae_title or MISSING,
            "receiver_aet": series.called_ae_title or MISSING,
            "device_serial_number": series.device_serial_number,
            "mercure_version": version,
            "mercure_appliance": job.appliance,
            "mercure_server": job.server,
            "fail_stage": job.fail_stage.value if job.fail_stage else None,
        },
        "dispatch": _dispatch_json(job.deliveries),
        "process": job.process,
        "study": job.study,
        "nomad_info": None,
        "mercure": {
            "study_uid": series.study_uid,
            "priority": job.priority.value,
            "created_at": job.created_at.isoformat(),
            "complete_at": job.complete_at.isoformat() if job.complete_at else None,
            "settled_at": job.settled_at.isoformat() if job.settled_at else None,
            "instances": list(job.instances),
            "results": None if job.results is None else list(job.results),
            "processing": _processing_json(job.processing),
            "reason": job.reason,
            "done": list(job.done),
            "trace": [dict(rule) for rule in job.trace],
            "forced_rule": job.forced_rule,
        },
    }


def _processing_json(state: Processing) -> dict[str, Json]:
    return {
        "attempts": state.attempts,
        "not_before": state.not_before.isoformat() if state.not_before else None,
        "detail": state.detail,
        "uses_today": state.uses_today,
    }


def _dispatch_json(deliveries: Sequence[Delivery]) -> dict[str, Json]:
    if not deliveries:
        return {}
    waiting = [d.not_before for d in deliveries if d.not_before and d.state is DeliveryState.WAITING]
    return {
        "target_name": [delivery.target for delivery in deliveries],
        "status": {
            delivery.target: {
                "state": delivery.state.value,
                "time": delivery.updated_at.strftime("%Y-%m-%d %H:%M:%S") if delivery.updated_at else None,
                "attempts": delivery.attempts,
                "not_before": delivery.not_before.isoformat() if delivery.not_before else None,
                "detail": delivery.detail,
            }
            for delivery in deliveries
        },
        "retries": max(delivery.attempts for delivery in deliveries),
        "next_retry_at": min(waiting).timestamp() if waiting else None,
        "series_uid": None,
    }


def from_json(data: Json) -> Job:
    """Read the content of a `task.json`. Raises `SpoolError` naming what is wrong; keys it does not know are kept out.

    Files that existing installations wrote are read too: what only ours say has a sensible default.
    """
    try:
        info = _mapping(data, "the file")["info"]
        ours = _mapping(data.get("mercure") or {}, "mercure")
        return Job(
            id=_text(data, "id"),
            action=_text(info, "action"),
            series=_series(info, ours),
            created_at=_time(ours.get("created_at")) or datetime.fromtimestamp(0, UTC),
            instances=tuple(_strings(ours.get("instances") or [], "instances")),
            triggered_rules=tuple(_strings(list(info.get("triggered_rules") or {}), "triggered_rules")),
            applied_rule=str(info.get("applied_rule") or ""),
            priority=Priority(ours.get("priority", "normal")),
            deliveries=_deliveries(_mapping(data.get("dispatch") or {}, "dispatch")),
            fail_stage=FailStage(info["fail_stage"]) if info.get("fail_stage") else None,
            reason=str(ours.get("reason") or ""),
            process=data.get("process") or {},
            processing=_processing(_mapping(ours.get("processing") or {}, "processing")),
            results=_results(ours.get("results")),
            study=data.get("study") or {},
            complete_at=_time(ours.get("complete_at")),
            settled_at=_time(ours.get("settled_at")),
            done=tuple(_strings(ours.get("done") or [], "done")),
            trace=tuple(dict(_mapping(rule, "trace")) for rule in ours.get("trace") or []),
            forced_rule=str(ours.get("forced_rule") or ""),
            appliance=str(info.get("mercure_appliance") or ""),
            server=str(info.get("mercure_server") or ""),
        )
    except KeyError as error:
        raise SpoolError(f"task.json lacks the key {error}") from error
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise SpoolError(f"task.json is not valid ({type(error).__name__})") from error


def _processing(data: Mapping[str, Json]) -> Processing:
    return Processing(
        int(data.get("attempts") or 0),
        _time(data.get("not_before")),
        str(data.get("detail") or ""),
        data.get("uses_today") is True,
    )


def _results(value: Json) -> tuple[str, ...] | None:
    return None if value is None else tuple(_strings(value, "results"))


def _series(info: Mapping[str, Json], ours: Mapping[str, Json]) -> SeriesInfo:
    serial = info.get("device_serial_number")
    return SeriesInfo(
        series_uid=_text(info, "uid"),
        study_uid=str(ours.get("study_uid") or ""),
        calling_ae_title=_unless_missing(info.get("sender_aet")),
        called_ae_title=_unless_missing(info.get("receiver_aet")),
        peer_address=_unless_missing(info.get("sender_address")),
        patient_name=str(info.get("patient_name") or MISSING),
        patient_id=str(info.get("mrn") or MISSING),
        accession_number=str(info.get("acc") or MISSING),
        device_serial_number=None if serial is None else str(serial),
    )


def _deliveries(dispatch: Mapping[str, Json]) -> tuple[Delivery, ...]:
    if not dispatch:
        return ()
    names = dispatch.get("target_name") or []
    status = _mapping(dispatch.get("status") or {}, "status")
    return tuple(
        _delivery(name, _mapping(status.get(name) or {}, "status"))
        for name in _strings([names] if isinstance(names, str) else names, "target_name")
    )


def _delivery(name: str, status: Mapping[str, Json]) -> Delivery:
    return Delivery(
        name,
        DeliveryState(status.get("state", "waiting")),
        int(status.get("attempts") or 0),
        _time(status.get("not_before")),
        None if not status.get("time") else datetime.fromisoformat(status["time"]).replace(tzinfo=UTC),
        str(status.get("detail") or ""),
    )


def _mapping(value: Json, what: str) -> Mapping[str, Json]:
    if not isinstance(value, Mapping):
        raise SpoolError(f"task.json: {what} is no object")
    return value


def _strings(value: Json, what: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise SpoolError(f"task.json: {what} is no list of names")
    return value


def _text(data: Mapping[str, Json], key: str) -> str:
    value = data[key]
    if not isinstance(value, str):
        raise SpoolError(f"task.json: {key} is no text")
    return value


def _unless_missing(value: Json) -> str:
    return "" if value in (None, MISSING) else str(value)


def _time(value: Json) -> datetime | None:
    """Read an aware time; a naive one counts as UTC."""
    if not value:
        return None
    time = datetime.fromisoformat(value)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
