"""The router: decides when a reception is complete, seals it, asks the rules and makes the jobs.

A heap of deadlines holds one entry for each gathering reception. When a deadline falls due, one `stat` of the folder
says whether instances came since; then the deadline moves. So ten thousand gathering series cost nothing while they
gather. New receptions are noticed by a folder notification, and by the scan in any case.
"""

import contextlib
import heapq
import json
import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from mercure.core.clock import Clock
from mercure.core.completion import CompletionPolicy, due_at
from mercure.core.errors import MercureError, SpoolError
from mercure.core.events import Event, EventKind, EventSink
from mercure.core.plan import Plan, PlannedJob, RoutingRule, make_plan
from mercure.core.stages import Stage
from mercure.core.tags import Tags
from mercure.core.task import Delivery, FailStage, Job
from mercure.services.folder_bell import FolderBell
from mercure.services.sealed_watch import SealedWatch
from mercure.services.series_tags import representative_tags, series_info
from mercure.services.service import Bell
from mercure.services.stored_plan import jobs_of, stored_plan
from mercure.spool import hints, sealing
from mercure.spool.layout import Layout, Origin
from mercure.spool.sealing import Contents, MissingInstancesError, PlacedJob, Sealed

log = logging.getLogger(__name__)

_FULL_SCAN_SECONDS = 60.0
_SCAN_SHARE = 20
"""Listing `incoming/` may cost one part in so many of the router's time, however many receptions there are."""

_RACY_SECONDS = 2.0
"""A folder whose time stamp is younger than this may change again within the same tick: it is listed again."""

_RETRY_SECONDS = 5.0
_ERROR_OF_OURS_SECONDS = 60.0
_BUSY_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """What the router follows. `targets` has each known target: "" when usable, else why not."""

    completion: CompletionPolicy
    rules: tuple[RoutingRule, ...] = ()
    targets: Mapping[str, str] = field(default_factory=dict)
    additional_tags: tuple[str, ...] = ()
    scan_interval_seconds: float = 1.0
    appliance: str = ""


class Router:
    """The service `router`."""

    name = "router"

    def __init__(
        self,
        layout: Layout,
        settings: RouterSettings,
        clock: Clock,
        events: EventSink,
        *,
        on_jobs: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; `on_jobs` is called when there are new jobs in a stage."""
        self._layout = layout
        self._settings = settings
        self._clock = clock
        self._events = events
        self._on_jobs = on_jobs
        self._bell = Bell()
        self._due: list[tuple[float, str]] = []
        self._known: set[str] = set()
        self._released: dict[str, float] = {}
        self._seen: dict[str, tuple[float, float]] = {}
        self._sealed = SealedWatch(layout, clock)
        self._scanned_at = float("-inf")
        self._scan_again_at = float("-inf")
        self._is_put_off = False
        self._incoming_mtime = 0
        self._troubles: dict[str, str] = {}
        self._server = socket.gethostname()
        self._next_settings: deque[RouterSettings] = deque(maxlen=1)

    def configure(self, settings: RouterSettings) -> None:
        """Follow new settings from the next series on. A shorter trigger holds for receptions that gather now, too."""
        self._next_settings.append(settings)
        self._bell.ring()

    def wake(self) -> None:
        """Look for work now."""
        self._bell.ring()

    def run(self, stop: threading.Event) -> None:
        """Route until `stop`."""
        sealing.make_folders(self._layout)
        bell = FolderBell((self._layout.incoming, self._layout.released, self._layout.sealed), self._bell.ring)
        self._known.clear()
        self._due.clear()
        self._scanned_at = float("-inf")
        try:
            while not stop.is_set():
                if not self.step():
                    self._bell.wait(self._seconds_to_wait())
        finally:
            bell.close()

    def step(self) -> bool:
        """Look for new receptions, then route at most one that is due. True when there may be more to do at once."""
        if self._next_settings:
            self._settings = self._next_settings.pop()
            self._scanned_at = self._scan_again_at = float("-inf")
            self._sealed.look_at_once()
        self._scan()
        now = self._clock.now()
        while self._due and self._due[0][0] <= now.timestamp():
            _, reception = heapq.heappop(self._due)
            with self._guard(reception):
                if self._settle_deadline(reception, now):
                    return True
        return False

    # -- completion --------------------------------------------------------------------------------------------------

    def _seconds_to_wait(self) -> float:
        wait = self._settings.scan_interval_seconds
        if self._due:
            wait = min(wait, self._due[0][0] - self._clock.now().timestamp())
        if self._is_put_off:
            wait = min(wait, self._scan_again_at - self._clock.monotonic())
        return max(wait, 0.001)

    def _scan(self) -> None:
        """Notice new receptions. Lists `incoming/` only when it changed, and once a minute in any case."""
        moment = self._clock.monotonic()
        mtime = os.stat(self._layout.incoming).st_mtime_ns
        quiet = self._clock.now().timestamp() - mtime / 1e9 > _RACY_SECONDS
        changed = mtime != self._incoming_mtime
        self._is_put_off = changed and moment < self._scan_again_at
        if self._is_put_off:
            pass  # the last listing was long: others come first
        elif changed or moment - self._scanned_at >= _FULL_SCAN_SECONDS:
            listed = set(sealing.receptions(self._layout))
            if moment - self._scanned_at >= _FULL_SCAN_SECONDS:
                self._known.clear()
                self._due.clear()
            for reception in listed - self._known:
                with self._guard(reception):
                    self._schedule(reception)
            self._known = listed
            self._scanned_at = moment
            self._scan_again_at = moment + (self._clock.monotonic() - moment) * _SCAN_SHARE
            self._incoming_mtime = mtime if quiet else 0
        if self._settings.completion.on_release:
            self._follow_hints()
        self._resume_sealed()

    def _schedule(self, reception: str) -> float | None:
        """Compute when a reception is due, and remember it; None when it is gone."""
        arrival = sealing.last_arrival(self._layout, reception)
        if arrival is None:
            return None
        due = self._due_at(reception, arrival, self._clock.now().timestamp())
        heapq.heappush(self._due, (due, reception))
        return due

    def _due_at(self, reception: str, arrival: float, now: float) -> float:
        """Return when a reception is due, if nothing more comes."""
        known, seen_at = self._seen.get(reception, (arrival, now))
        if known != arrival:
            seen_at = now
        self._seen[reception] = (arrival, seen_at)
        return due_at(arrival, self._released.get(reception), self._settings.completion, seen_at)

    def _follow_hints(self) -> None:
        """An association that ended may have been the last one of its receptions."""
        for reception, released_at in hints.released_hints(self._layout).items():
            with self._guard(reception, again=False):  # without its hint it is complete after the quiet time
                hints.forget_hint(self._layout, reception)
                if hints.is_released(self._layout, reception):
                    self._released[reception] = released_at
                    self._schedule(reception)

    @contextlib.contextmanager
    def _guard(self, reception: str, *, again: bool = True) -> Iterator[None]:
        """Keep what goes wrong with a reception to that one. It is said once, and looked at `again` after a while."""
        pause = _RETRY_SECONDS
        try:
            yield
        except OSError as error:
            reason = error.strerror or type(error).__name__
            if self._troubles.get(reception) != reason:
                log.error("reception %s cannot be had now: %s", reception, reason)  # noqa: TRY400
            self._troubles[reception] = reason
        except Exception:
            log.exception("reception %s cannot be had by an error of ours", reception)
            pause = _ERROR_OF_OURS_SECONDS
        else:
            return
        if again:
            heapq.heappush(self._due, (self._clock.now().timestamp() + pause, reception))

    def _settle_deadline(self, reception: str, now: datetime) -> bool:
        """Seal and route a reception if nothing came since its deadline was set. True when it was sealed.

        Raises `OSError` when the disk does not let it.
        """
        arrival = sealing.last_arrival(self._layout, reception)
        if arrival is None:
            self._forget(reception)
            return False
        if reception in self._released and not hints.is_released(self._layout, reception):
            del self._released[reception]  # another association came since
        due = self._due_at(reception, arrival, now.timestamp())
        if due > now.timestamp():
            heapq.heappush(self._due, (due, reception))
            return False
        sealed = sealing.seal(self._layout, reception, now)
        if not isinstance(sealed, Sealed):
            if sealed == "busy":
                heapq.heappush(self._due, (now.timestamp() + _BUSY_SECONDS, reception))
            else:
                self._forget(reception)
            return False
        self._forget(reception)
        self._route(sealed)
        return True

    def _forget(self, reception: str) -> None:
        self._known.discard(reception)
        self._released.pop(reception, None)
        self._seen.pop(reception, None)
        self._troubles.pop(reception, None)

    # -- routing -----------------------------------------------------------------------------------------------------

    def _resume_sealed(self) -> None:
        """Go on with what a dead router left, what failed here, and what an operator wants routed again."""
        for sealed in self._sealed.series(self._settings.scan_interval_seconds):
            self._route(sealed)

    def _route(self, sealed: Sealed) -> None:
        """Bring a sealed reception to its jobs. When that fails it stays sealed and is tried again."""
        try:
            self._make_jobs(sealed)
        except (MercureError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            log.error("series of seal %s cannot be routed now: %s", sealed.id, reason)  # noqa: TRY400
            self._sealed.put_off(sealed.id, _RETRY_SECONDS)
        except Exception:
            # An error of ours in one series must not stop the others; it stays sealed and is seen.
            log.exception("series of seal %s cannot be routed by an error of ours", sealed.id)
            self._sealed.put_off(sealed.id, _ERROR_OF_OURS_SECONDS)
        else:
            self._sealed.settle(sealed.id)
        finally:
            sealed.close()

    def _make_jobs(self, sealed: Sealed) -> None:
        stored: Mapping[str, Any] | None
        contents: Contents | None = None
        try:
            stored = sealed.read_plan()
            jobs = jobs_of(stored) if stored is not None else []
        except SpoolError as error:
            # Not by a crash of ours: somebody changed it. Which jobs there were is not known any more.
            stored, jobs = {}, [self._damaged(sealed, str(error))]
        if stored is None:
            contents = sealed.contents()
            if contents is None or not contents.instances:
                if sealed.earlier_job():
                    # Made so from outside: kept where it is, and said again and again.
                    raise SpoolError("a job that is to be routed again holds no instance; it stays in .sealed/")
                sealed.remove()
                return
            if contents.problem:
                stored, jobs = {}, [self._damaged(sealed, contents.problem)]
        if stored is None and contents:
            jobs, plan = self._plan(sealed, contents)
            sealed.write_plan(stored_plan(plan, jobs))
        try:
            made = sealed.create_jobs(jobs, resumed=stored is not None)
        except MissingInstancesError as error:
            made = sealed.give_back(jobs, str(error), self._clock.now())
            if not made:
                raise
        for placed in made:
            self._events.emit(_created(placed, self._clock.now()))
            if placed.stage is Stage.ERROR:
                series_uid = placed.job.series.series_uid
                log.error("series %s waits in error/ as job %s: %s", series_uid, placed.job.id, placed.job.reason)
        if made:
            self._on_jobs()

    def _damaged(self, sealed: Sealed, reason: str) -> PlacedJob:
        now = self._clock.now()
        contents = sealed.contents() or Contents("", "", Origin("", "", ""), (), 0)
        earlier = sealed.earlier_job()
        job = Job(
            id=f"{sealed.id}-0",
            action="none",
            series=series_info({}, contents),
            created_at=now,
            instances=contents.instances,
            fail_stage=FailStage.ROUTING,
            reason=reason,
            complete_at=now,
            settled_at=now,
            done=earlier.done if earlier else (),
            appliance=self._settings.appliance,
            server=self._server,
        )
        return PlacedJob(job, Stage.ERROR)

    def _plan(self, sealed: Sealed, contents: Contents) -> tuple[list[PlacedJob], Plan]:
        settings = self._settings
        now = self._clock.now()
        earlier = sealed.earlier_job()
        done, forced = (earlier.done, earlier.forced_rule) if earlier else ((), "")
        self._events.emit(
            Event(
                EventKind.SERIES_COMPLETE,
                now,
                series_uid=contents.series_uid,
                study_uid=contents.study_uid,
                count=len(contents.instances),
                detail=sealed.id,
            )
        )
        try:
            tags = representative_tags(sealed, contents, settings.additional_tags)
            plan = make_plan(tags, settings.rules, settings.targets, done, forced)
        except MercureError as error:
            tags = Tags({})
            reason = f"the header of no instance can be read: {error}"
            unknown = PlannedJob(Stage.ERROR, "none", fail_stage=FailStage.ROUTING, reason=reason)
            plan = Plan((unknown,), done=tuple(done))
        series = series_info(tags, contents)
        trace = tuple(asdict(rule) for rule in plan.trace)
        jobs = []
        for number, planned in enumerate(plan.jobs, start=1):
            job = Job(
                id=f"{sealed.id}-{number}",
                action=planned.action,
                series=series,
                created_at=now,
                instances=contents.instances,
                triggered_rules=planned.rules,
                applied_rule=planned.applied_rule,
                priority=planned.priority,
                deliveries=tuple(Delivery(target) for target in planned.targets),
                fail_stage=planned.fail_stage,
                reason=planned.reason,
                process=planned.process if planned.process is not None else {},
                complete_at=now,
                settled_at=now if planned.stage.is_final else None,
                done=plan.done if planned.stage is Stage.ERROR else (),
                trace=trace,
                forced_rule=forced if planned.stage is Stage.ERROR else "",
                appliance=settings.appliance,
                server=self._server,
            )
            jobs.append(PlacedJob(job, planned.stage))
        return jobs, plan


def _created(placed: PlacedJob, now: datetime) -> Event:
    job = placed.job
    return Event(
        EventKind.JOB_CREATED,
        now,
        job_id=job.id,
        series_uid=job.series.series_uid,
        study_uid=job.series.study_uid,
        count=len(job.instances),
        detail=json.dumps({"stage": placed.stage.value, "rules": list(job.triggered_rules)}),
    )
