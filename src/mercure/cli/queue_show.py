"""One job in full: timeline, targets, files, reason. Identifiers only: no patient is named."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mercure.cli.exits import CommandError, Exit
from mercure.cli.output import Column, clean, counted, print_table, say, size, span
from mercure.cli.queue_list import STATES, job_json, modules_of
from mercure.cli.queue_waits import Waits
from mercure.core.delivery import InstanceResult, Outcome
from mercure.core.errors import SpoolError
from mercure.core.events import Event, EventKind
from mercure.core.task import FailStage, Job
from mercure.journal.files import start_of
from mercure.journal.reader import JournalReader
from mercure.spool import layout as names
from mercure.spool.job_files import read_ledger
from mercure.spool.layout import Layout
from mercure.spool.views import JobView, find_job

_REFUSALS_SHOWN = 5
_MARGIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Moment:
    """One line of the timeline."""

    at: datetime
    what: str


@dataclass(frozen=True, slots=True)
class TargetState:
    """What one target has of a job. `refused` are the instances that it will not take, with the reason."""

    target: str
    state: str
    attempts: int
    confirmed: int
    instances: int
    outcomes: dict[str, int]
    detail: str
    refused: tuple[InstanceResult, ...]


@dataclass(frozen=True, slots=True)
class Details:
    """A job, its history, and what is in its folder."""

    now: datetime
    waits: Waits
    view: JobView
    timeline: tuple[Moment, ...]
    targets: tuple[TargetState, ...]
    files: int
    size_bytes: int
    results: int

    @classmethod
    def of(cls, layout: Layout, job_id: str, waits: Waits) -> "Details":
        """Gather everything about a job. Raises `CommandError` when there is none."""
        now = datetime.now(UTC)
        try:
            view = find_job(layout, job_id, now=now)
        except SpoolError as error:
            raise CommandError(f"{clean(job_id)[:100]!r}: {error}", _WHERE, Exit.USAGE) from None
        if view is None:
            raise CommandError(f"there is no job {job_id}", _WHERE)
        received = list(_stats(view.folder / names.RECEIVED))
        return cls(
            now,
            waits,
            view,
            tuple(_timeline(layout, view, received)),
            tuple(_targets(view)),
            len(received),
            sum(found.st_size for found in received),
            sum(1 for _ in _stats(view.folder / names.RESULTS)),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it for a program."""
        data = job_json(self.view, self.now, self.waits)
        data["targets"] = [
            {
                "target": one.target,
                "state": one.state,
                "attempts": one.attempts,
                "confirmed": one.confirmed,
                "outcomes": one.outcomes,
                "detail": one.detail,
                "refused": [{"name": result.name, "detail": result.detail} for result in one.refused],
            }
            for one in self.targets
        ]
        data["files"] = {"received": self.files, "bytes": self.size_bytes, "results": self.results}
        data["rules_asked"] = [dict(rule) for rule in self.view.job.trace] if self.view.job else []
        data["timeline"] = [{"at": one.at, "what": one.what} for one in self.timeline]
        return data


_WHERE = "`mercure queue list` shows the jobs, with --stage success the delivered ones."


def _stats(folder: Path) -> Iterator[os.stat_result]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".dcm") and entry.is_file(follow_symlinks=False):
                    yield entry.stat(follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return


def _targets(view: JobView) -> Iterator[TargetState]:
    """Sum up the ledger for each target."""
    if view.job is None:
        return
    ledger = read_ledger(view.folder)
    instances = set(view.job.payload)
    for delivery in view.job.deliveries:
        results = [one for (target, name), one in ledger.items() if target == delivery.target and name in instances]
        outcomes = Counter(one.outcome.value for one in results)
        yield TargetState(
            delivery.target,
            delivery.state.value,
            delivery.attempts,
            sum(one.outcome.is_there for one in results),
            len(instances),
            dict(outcomes),
            delivery.detail,
            tuple(one for one in results if one.outcome is Outcome.REFUSED),
        )


def _timeline(layout: Layout, view: JobView, received: list[os.stat_result]) -> Iterator[Moment]:
    moments = []
    if received:
        first, last = (pick(found.st_mtime for found in received) for pick in (min, max))
        moments.append(Moment(datetime.fromtimestamp(first, UTC), "first instance received"))
        if len(received) > 1:
            moments.append(Moment(datetime.fromtimestamp(last, UTC), "last instance received"))
    job = view.job
    if job:
        if job.complete_at:
            moments.append(Moment(job.complete_at, "series complete, job made"))
        if job.settled_at and job.fail_stage is FailStage.RECEIVING:
            moments.append(Moment(job.settled_at, "kept in error/"))
        moments += [Moment(event.at, _in_words(event)) for event in _events(layout, job)]
    yield from sorted(moments, key=lambda one: one.at)


def _events(layout: Layout, job: Job) -> Iterator[Event]:
    """Return what the journal has of a job; files that ended before it began are passed over."""
    reader = JournalReader(layout.journal, _read_before(layout.journal, job.created_at.timestamp() - _MARGIN_SECONDS))
    while (batch := reader.read()).events or batch.corrupted:
        yield from (event for event in batch.events if event.job_id == job.id and event.kind not in _TOLD_BY_THE_JOB)


def _read_before(journal: Path, time: float) -> dict[str, int]:
    positions = {}
    try:
        with os.scandir(journal) as entries:
            for entry in entries:
                if start_of(entry.name) is not None and entry.stat().st_mtime < time:
                    positions[entry.name] = entry.stat().st_size
    except FileNotFoundError:
        pass
    return positions


_TOLD_BY_THE_JOB = (EventKind.JOB_CREATED, EventKind.SERIES_COMPLETE)
_WORDS = {
    EventKind.DELIVERY_STARTED: "sending began",
    EventKind.DELIVERY_COMPLETE: "target has everything",
    EventKind.DELIVERY_DEFERRED: "attempt failed, again later",
    EventKind.DELIVERY_FAILED: "given up",
    EventKind.JOB_SETTLED: "moved to",
    EventKind.JOB_RETRIED: "retried",
    EventKind.JOB_CANCELLED: "cancelled",
    EventKind.JOB_HELD: "held",
    EventKind.JOB_RELEASED: "released",
}


def _in_words(event: Event) -> str:
    words = _WORDS.get(event.kind, event.kind.value.replace("_", " "))
    if event.kind is EventKind.JOB_SETTLED:
        return f"{words} {event.detail}/"
    target = f"{event.target}: " if event.target else ""
    took = f" ({event.duration_seconds:.3f} s)" if event.duration_seconds is not None else ""
    count = f", {counted(event.count, 'instance')}" if event.count and event.duration_seconds is not None else ""
    why = f": {event.detail}" if event.detail else ""
    return f"{target}{words}{count}{took}{why}"


def print_details(details: Details) -> None:
    """Print everything about a job."""
    view, job = details.view, details.view.job
    say(f"Job       {view.id}")
    say(f"State     {view.state}, in {view.stage.value}/")
    if why := details.waits.reason(view, details.now):
        say(f"Reason    {clean(why)}")
    if job:
        _print_job(job)
    extra = f", {counted(details.results, 'result')}" if details.results else ""
    say(f"Files     {counted(details.files, 'instance')}, {size(details.size_bytes)}{extra}")
    say(f"Folder    {view.folder}")
    if job and job.fail_stage is FailStage.RECEIVING:
        say(f"File      {view.folder / names.RECEIVED / clean(job.instances[0] if job.instances else '')}")
    if details.targets:
        say()
        _print_targets(details)
    if job and job.trace:
        say()
        _print_trace(job)
    if details.timeline:
        say()
        _print_timeline(details.timeline)


def _print_job(job: Job) -> None:
    if job.triggered_rules:
        say(f"Rules     {clean(', '.join(job.triggered_rules))} ({job.action}, {job.priority.value})")
    if modules := modules_of(job):
        say(f"Modules   {clean(', then '.join(modules))}")
    if job.series.series_uid:
        say(f"Series    {clean(job.series.series_uid)}")
    if job.series.study_uid:
        say(f"Study     {clean(job.series.study_uid)}")
    if job.series.calling_ae_title:
        series = job.series
        say(f"Sender    {clean(f'{series.calling_ae_title} ({series.peer_address}), to {series.called_ae_title}')}")


def _print_targets(details: Details) -> None:
    columns = [
        Column("TARGET"),
        Column("STATE", styles={"complete": STATES["done"], "error": STATES["failed"]}),
        Column("HAS", numeric=True),
        Column("FAILED ATTEMPTS", numeric=True),
        Column("DETAIL", wraps=True),
    ]
    rows = [
        (one.target, one.state, f"{one.confirmed} of {one.instances}", one.attempts, one.detail)
        for one in details.targets
    ]
    print_table(columns, rows)
    for one in details.targets:
        for result in one.refused[:_REFUSALS_SHOWN]:
            say(clean(f"  {one.target} refused {result.name}: {result.detail}"))
        if len(one.refused) > _REFUSALS_SHOWN:
            say(f"  and {len(one.refused) - _REFUSALS_SHOWN} more")


def _print_trace(job: Job) -> None:
    """Print what each rule answered: why the series went where it is."""
    rows = []
    for rule in job.trace:
        missing = ", ".join(map(str, rule.get("missing") or ()))
        why = str(rule.get("reason") or "") or (f"missing: {missing}" if missing else "")
        rows.append((rule.get("rule", ""), str(rule.get("outcome", "")).replace("_", " "), why))
    print_table([Column("RULE"), Column("ANSWER"), Column("WHY", wraps=True)], rows)


def _print_timeline(timeline: tuple[Moment, ...]) -> None:
    rows = []
    before: datetime | None = None
    for moment in timeline:
        later = f"+{span(moment.at - before)}" if before else ""
        rows.append((moment.at.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3], later, moment.what))
        before = moment.at
    print_table([Column("TIME"), Column("AFTER", numeric=True), Column("WHAT", wraps=True)], rows)
