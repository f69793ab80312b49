"""The list of what stands where. Identifiers only: no patient is named."""

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from mercure.cli.output import Column, is_terminal, print_table, say, span
from mercure.cli.queue_waits import Waits
from mercure.config.load import Loaded
from mercure.core.errors import SpoolError
from mercure.core.processing_steps import steps_from
from mercure.core.stages import Stage
from mercure.core.task import FailStage, Job
from mercure.spool.controls import HOLDABLE
from mercure.spool.jobs import is_held, job_ids
from mercure.spool.layout import Layout
from mercure.spool.views import GatheringView, JobView, list_gathering, list_jobs

_INCOMING = "incoming"
_BY_DEFAULT = (_INCOMING, Stage.PROCESSING.value, Stage.OUTGOING.value, Stage.ERROR.value)

STATES = {
    "gathering": "cyan",
    "routing": "cyan",
    "running": "green bold",
    "waiting": "",
    "held": "yellow",
    "deferred": "yellow",
    "done": "green",
    "failed": "red",
    "damaged": "red bold",
    "discarded": "dim",
}
"""The states, and their colours."""

_UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)
"""What a job has whose file does not say when it was made."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What stands in the chosen stages now. `total` counts every stage, also what a limit leaves out."""

    now: datetime
    waits: Waits
    complete_after: timedelta
    gathering: tuple[GatheringView, ...]
    jobs: tuple[JobView, ...]
    total: dict[str, int]
    held: tuple[str, ...]
    hidden: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, layout: Layout, loaded: Loaded, places: Collection[str], most: int) -> "Listing":
        """Look at the chosen places, at the default ones when there are none; at most so many rows each, 0 for all."""
        now = datetime.now(UTC)
        chosen = places or _BY_DEFAULT
        gathering = list(list_gathering(layout))
        total = {_INCOMING: len(gathering)}
        if _INCOMING not in chosen:
            gathering = []
        jobs: list[JobView] = []
        for stage in Stage:
            total[stage.value] = sum(1 for _ in job_ids(layout, stage))
            if stage.value in chosen:
                jobs += _some(layout, stage, most, now)
        shown = gathering[:most] if most else gathering
        listed = {_INCOMING: len(shown)} | {s.value: sum(job.stage is s for job in jobs) for s in Stage}
        hidden = {place: total[place] - listed[place] for place in total if place in chosen}
        held = tuple(stage.value for stage in HOLDABLE if is_held(layout, stage))
        hidden = {place: count for place, count in hidden.items() if count > 0}
        quiet = timedelta(seconds=loaded.config.mercure.series_complete_trigger)
        return cls(now, Waits.of(loaded), quiet, tuple(shown), tuple(jobs), total, held, hidden)

    def to_json(self) -> dict[str, Any]:
        """Return it for a program."""
        return {
            "at": self.now,
            "count": self.total,
            "held_stages": list(self.held),
            "series": [self._series_json(view) for view in self.gathering],
            "jobs": [job_json(view, self.now, self.waits) for view in self.jobs],
        }

    def complete_at(self, view: GatheringView) -> datetime | None:
        """Return when a reception is complete if nothing more comes."""
        return view.last_arrival + self.complete_after if view.state == "gathering" else None

    def _series_json(self, view: GatheringView) -> dict[str, Any]:
        return {
            "reception": view.name,
            "state": view.state,
            "series_uid": view.series_uid,
            "instances": view.instances,
            "last_arrival": view.last_arrival,
            "complete_at": self.complete_at(view),
        }


def _some(layout: Layout, stage: Stage, most: int, now: datetime) -> list[JobView]:
    """Return the jobs of a stage: of waiting ones the first, of finished ones the last, always oldest first."""
    found: Iterator[JobView] = list_jobs(layout, (stage,), now=now)
    if stage.is_final:
        return list(deque(found, maxlen=most or None))
    return [view for number, view in enumerate(found) if not most or number < most]


def job_json(view: JobView, now: datetime, waits: Waits) -> dict[str, Any]:
    """Return what `queue list` and `queue show` say of a job."""
    data: dict[str, Any] = {"job": view.id, "stage": view.stage.value, "state": view.state, "folder": view.folder}
    if view.job is None:
        return data | {"reason": view.problem}
    job, age = view.job, age_of(view.job, now)
    return data | {
        "rules": list(job.triggered_rules),
        "action": job.action,
        "priority": job.priority.value,
        "series_uid": job.series.series_uid,
        "study_uid": job.series.study_uid,
        "sender": {
            "calling_ae_title": job.series.calling_ae_title,
            "called_ae_title": job.series.called_ae_title,
            "address": job.series.peer_address,
        },
        "instances": len(job.instances),
        "created_at": None if age is None else job.created_at,
        "settled_at": job.settled_at,
        "age_seconds": None if age is None else round(age.total_seconds(), 3),
        "modules": list(modules_of(job)),
        "next_attempt": waits.next_attempt(view, now),
        "fail_stage": job.fail_stage.value if job.fail_stage else None,
        "reason": waits.reason(view, now),
        "targets": [
            {
                "target": delivery.target,
                "state": delivery.state.value,
                "attempts": delivery.attempts,
                "not_before": delivery.not_before,
                "detail": delivery.detail,
            }
            for delivery in job.deliveries
        ],
    }


def age_of(job: Job, now: datetime) -> timedelta | None:
    """Return how old a job is; None for one of an existing installation, whose file does not say when it was made."""
    return None if job.created_at == _UNKNOWN_TIME else now - job.created_at


def modules_of(job: Job) -> tuple[str, ...]:
    """Return the modules that a job goes through, in order; none when it says so in no form that can be read."""
    try:
        return tuple(step.module for step in steps_from(job.process))
    except SpoolError:
        return ()


def print_listing(listing: Listing) -> None:
    """Print the list: on a terminal in few columns, else with all of them."""
    if listing.gathering:
        _print_gathering(listing)
    if listing.jobs:
        if listing.gathering:
            say()
        (_print_compact if is_terminal() else _print_wide)(listing)
    if not listing.gathering and not listing.jobs:
        say("Nothing stands here.")
    _print_summary(listing)


def _print_gathering(listing: Listing) -> None:
    columns = [
        Column("SERIES", wraps=True),
        Column("STATE", styles=STATES),
        Column("INSTANCES", numeric=True),
        Column("LAST"),
        Column("COMPLETE"),
    ]
    print_table(
        columns,
        [
            (
                view.series_uid or view.name,
                view.state,
                view.instances,
                _ago(view.last_arrival, listing.now),
                _ahead(listing.complete_at(view), listing.now),
            )
            for view in listing.gathering
        ],
    )


def _print_wide(listing: Listing) -> None:
    names = ("JOB", "STAGE", "STATE", "RULES", "TARGETS", "INSTANCES", "AGE", "NEXT", "REASON")
    columns = [Column(name, numeric=name == "INSTANCES") for name in names]
    rows = []
    for view in listing.jobs:
        job = view.job
        if job is None:
            rows.append((view.id, view.stage.value, view.state, "", "", "", "", "", view.problem))
            continue
        age, ahead, reason = _age(job, listing.now), _next(view, listing), listing.waits.reason(view, listing.now)
        named = (", ".join(job.triggered_rules), ", ".join(one.target for one in job.deliveries))
        rows.append((view.id, view.stage.value, view.state, *named, str(len(job.instances)), age, ahead, reason))
    print_table(columns, rows)


def _print_compact(listing: Listing) -> None:
    columns = [Column("STATE", styles=STATES), Column("INST", numeric=True), Column("AGE"), Column("JOB", wraps=True)]
    rows = []
    for view in listing.jobs:
        job = view.job
        count, age = (str(len(job.instances)), _age(job, listing.now)) if job else ("", "")
        what = _what(view, listing)
        rows.append((view.state, count, age, (view.id, what) if what else view.id))
    print_table(columns, rows)


def _what(view: JobView, listing: Listing) -> str:
    """Say in one sentence what a job is for and how it stands."""
    job = view.job
    if job is None:
        return view.problem
    parts = []
    if job.fail_stage is FailStage.RECEIVING:
        parts.append("broken DICOM")
    elif job.triggered_rules or job.deliveries:
        targets = ", ".join(delivery.target for delivery in job.deliveries)
        parts.append(", ".join(job.triggered_rules) + (f" -> {targets}" if targets else ""))
    if view.state == "deferred":
        parts.append(f"again {_next(view, listing)}")
    return " | ".join(filter(None, (*parts, listing.waits.reason(view, listing.now))))


def _print_summary(listing: Listing) -> None:
    total = listing.total
    say()
    say(
        f"{total[_INCOMING]:,} series incoming, "
        f"{total['processing']:,} jobs in processing, {total['outgoing']:,} outgoing, {total['error']:,} failed; "
        f"{total['success']:,} delivered, {total['discard']:,} discarded."
    )
    for place, count in listing.hidden.items():
        say(f"{count:,} more in {place}/ are not shown; --limit 0 shows all.")
    for stage in listing.held:
        say(f"{stage}/ is held; `mercure queue release --stage {stage}` lets it go on.")
    if total[Stage.ERROR.value]:
        say("`mercure queue show JOB` tells more of a job, `mercure queue retry JOB` lets it go on.")


def _age(job: Job, now: datetime) -> str:
    age = age_of(job, now)
    return "" if age is None else span(age)


def _ago(time: datetime, now: datetime) -> str:
    return f"{span(now - time)} ago"


def _next(view: JobView, listing: Listing) -> str:
    """Say when the next attempt is; one that is due waits for its turn, perhaps until the target answers others."""
    time = listing.waits.next_attempt(view, listing.now)
    return "waiting" if time is not None and time <= listing.now else _ahead(time, listing.now)


def _ahead(time: datetime | None, now: datetime) -> str:
    if time is None:
        return ""
    return "now" if time <= now else f"in {span(time - now)}"
