"""What has become of each series so far: taken from the journal, the folders and the ledgers, never from a script."""

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mercure.cli.demo.series import DemoSeries, Sent
from mercure.core.errors import SpoolError
from mercure.core.events import Event, EventKind
from mercure.core.processing_steps import steps_from
from mercure.core.stages import Stage
from mercure.journal.reader import JournalReader
from mercure.spool.job_files import read_ledger
from mercure.spool.layout import Layout
from mercure.spool.views import find_job, list_gathering


@dataclass(slots=True)
class TargetStory:
    """One target of one series. `state` is waiting, sending, deferred, delivered or failed.

    `total` is how many instances a module made for it; None where it gets what was received.
    """

    state: str = "waiting"
    total: int | None = None
    delivered: int = 0
    attempts: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class JobStory:
    """One job of a series: the rules that asked for it, its targets, its modules, and where it stands.

    `stage` is "" as long as no event names it. `began_at` and `processed_at` are when its modules began and ended.
    """

    rules: tuple[str, ...]
    targets: tuple[str, ...]
    stage: str
    modules: tuple[str, ...] = ()
    began_at: float | None = None
    processed_at: float | None = None

    @property
    def processing_seconds(self) -> float:
        """How long its modules took, 0.0 as long as that is not known."""
        return 0.0 if self.began_at is None or self.processed_at is None else self.processed_at - self.began_at


@dataclass(slots=True)
class SeriesStory:
    """One series. Times are seconds since the demo began; None as long as the thing has not happened.

    `received_at` is when its last instance was acknowledged, `complete_at` when it was sealed.
    """

    series: DemoSeries | None
    series_uid: str
    received: int = 0
    sent: Sent | None = None
    sent_at: float | None = None
    received_at: float | None = None
    complete_at: float | None = None
    routed_at: float | None = None
    settled_at: float | None = None
    jobs: dict[str, JobStory] = field(default_factory=dict)
    targets: dict[str, TargetStory] = field(default_factory=dict)
    is_counted: bool = False

    @property
    def is_over(self) -> bool:
        """Whether all its jobs have come to their last stage."""
        return self.settled_at is not None

    @property
    def processed(self) -> dict[str, JobStory]:
        """Its jobs that go through modules, by id."""
        return {job_id: job for job_id, job in self.jobs.items() if job.modules}

    @property
    def processed_at(self) -> float | None:
        """When the last of its modules ended, None before that and where none works on it."""
        ends = [job.processed_at for job in self.processed.values()]
        return max((end for end in ends if end is not None), default=None) if None not in ends else None

    @property
    def name(self) -> str:
        """Who sent it and what it is, or the end of its UID when it is none of the demo's own."""
        return f"{self.series.wanted.sender} {self.series.wanted.description}" if self.series else self.series_uid[-16:]


class Story:
    """Follows the platform. `update` returns the events that are new, in the order in which they make sense."""

    def __init__(self, layout: Layout, series: Sequence[DemoSeries]) -> None:
        """Begin now."""
        self._layout = layout
        self._reader = JournalReader(layout.journal)
        self._created: set[str] = set()
        self._early: dict[str, Event] = {}
        self._began = time.monotonic()
        self._began_at = datetime.now(UTC)
        self.series = {one.series_uid: SeriesStory(one, one.series_uid) for one in series}

    @property
    def now(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._began

    def time_of(self, event: Event) -> float:
        """Return when an event happened, in seconds since the demo began."""
        return (event.at - self._began_at).total_seconds()

    def note_sent(self, series: DemoSeries, sent: Sent) -> None:
        """Take what a sender saw."""
        story = self.series[series.series_uid]
        story.sent = sent
        story.received = sent.acknowledged
        story.sent_at, story.received_at = sent.started_at - self._began, sent.ended_at - self._began

    def update(self) -> list[Event]:
        """Look at what the platform has written. Raises `SpoolError` when the journal cannot be read."""
        events = sorted(self._reader.read().events, key=lambda event: event.at)  # of several services
        for event in events:
            if event.series_uid:
                story = self.series.setdefault(event.series_uid, SeriesStory(None, event.series_uid))
                self._follow(story, event)
        for gathering in list_gathering(self._layout):
            known = self.series.get(gathering.series_uid)
            if known and known.complete_at is None:
                known.received = max(known.received, gathering.instances)
        for story in self.series.values():
            if not story.is_counted:
                story.is_counted = story.is_over
                self._count(story)
        return list(self._in_order(events))

    def _in_order(self, events: Iterable[Event]) -> Iterator[Event]:
        """The processor may begin with a job before the router tells that it made it: then that is told first."""
        for event in events:
            job_id = event.job_id or ""
            if event.kind is EventKind.PROCESSING_STARTED and job_id not in self._created:
                self._early[job_id] = event
                continue
            yield event
            if event.kind is EventKind.JOB_CREATED:
                self._created.add(job_id)
                if job_id in self._early:
                    yield self._early.pop(job_id)

    def _follow(self, story: SeriesStory, event: Event) -> None:
        at = self.time_of(event)
        match event.kind:
            case EventKind.SERIES_COMPLETE:
                story.complete_at, story.received = at, event.count or 0
            case EventKind.JOB_CREATED:
                self._follow_job(story, event, at)
            case EventKind.PROCESSING_STARTED | EventKind.PROCESSING_COMPLETE:
                self._follow_processing(story, event, at)
            case EventKind.JOB_SETTLED:
                self._settle(story, event.job_id or "", event.detail or "", at)
            case _ if event.target:
                self._follow_delivery(story.targets.setdefault(event.target, TargetStory()), event)

    def _follow_job(self, story: SeriesStory, event: Event, at: float) -> None:
        made = json.loads(event.detail or "{}")
        job = self._job(story, event.job_id or "")
        job.rules = tuple(made["rules"])
        job.stage = job.stage or made["stage"]
        story.routed_at = at
        self._look_at_end(story, at)

    def _job(self, story: SeriesStory, job_id: str) -> JobStory:
        """Return a job of a series. A service may tell what it does with a job before the router tells of it."""
        if job_id not in story.jobs:
            view = find_job(self._layout, job_id, now=datetime.now(UTC))
            job = view.job if view else None
            targets = tuple(delivery.target for delivery in job.deliveries) if job else ()
            modules = tuple(step.module for step in steps_from(job.process)) if job else ()
            story.jobs[job_id] = JobStory((), targets, "", modules)
            for target in targets:
                story.targets.setdefault(target, TargetStory())
        return story.jobs[job_id]

    def _follow_processing(self, story: SeriesStory, event: Event, at: float) -> None:
        job = self._job(story, event.job_id or "")
        if event.kind is EventKind.PROCESSING_STARTED:
            job.began_at, job.stage = at, Stage.PROCESSING
            return
        job.processed_at, job.stage = at, Stage.OUTGOING
        for target in job.targets:
            story.targets[target].total = event.count

    def _settle(self, story: SeriesStory, job_id: str, stage: str, at: float) -> None:
        if job_id in story.jobs:
            story.jobs[job_id].stage = stage
        self._look_at_end(story, at)

    @staticmethod
    def _look_at_end(story: SeriesStory, at: float) -> None:
        is_over = all(job.stage and Stage(job.stage).is_final for job in story.jobs.values())
        story.settled_at = at if is_over else None

    @staticmethod
    def _follow_delivery(target: TargetStory, event: Event) -> None:
        match event.kind:
            case EventKind.DELIVERY_STARTED:
                target.state, target.attempts = "sending", target.attempts + 1
            case EventKind.DELIVERY_COMPLETE:
                target.state, target.seconds = "delivered", event.duration_seconds or 0.0
            case EventKind.DELIVERY_DEFERRED:
                target.state = "deferred"
            case EventKind.DELIVERY_FAILED:
                target.state = "failed"

    def _count(self, story: SeriesStory) -> None:
        """Count what targets have confirmed, by the ledgers; a job that settles meanwhile is counted next time."""
        for job_id in story.jobs:
            for stage in (Stage.OUTGOING, Stage.SUCCESS):
                with contextlib.suppress(OSError, SpoolError):
                    results = read_ledger(self._layout.stage(stage) / job_id)
                    for name, target in story.targets.items():
                        there = sum(1 for (at, _), result in results.items() if at == name and result.outcome.is_there)
                        target.delivered = max(target.delivered, there)

    def unfinished(self) -> Iterator[SeriesStory]:
        """Return the series of the demo that are not at their end."""
        return (story for story in self.series.values() if story.series and not story.is_over)
