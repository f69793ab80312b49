"""The router: decides when a reception is complete, seals it, asks the rules and makes the jobs.

A heap of deadlines holds one entry for each gathering reception. When a deadline falls due, one `stat` of the folder
says whether instances came since; then the deadline moves. So ten thousand gathering series cost nothing while they
gather. New receptions are noticed by a folder notification, and by the scan in any case.
"""

import heapq
import json
import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mercure.core.clock import Clock
from mercure.core.completion import CompletionPolicy, due_at
from mercure.core.errors import MercureError
from mercure.core.events import Event, EventKind, EventSink
from mercure.core.plan import Plan, PlannedJob, RoutingRule, make_plan, plan_to_json
from mercure.core.stages import Stage
from mercure.core.tags import Tags
from mercure.core.task import MISSING, Delivery, FailStage, Job, SeriesInfo, from_json, to_json
from mercure.dicom.tags_reader import read_tags
from mercure.services.folder_bell import FolderBell
from mercure.services.service import Bell
from mercure.spool import sealing
from mercure.spool.layout import Layout
from mercure.spool.sealing import Contents, PlacedJob, Sealed

log = logging.getLogger(__name__)

_FULL_SCAN_SECONDS = 60.0
_SCAN_SHARE = 20
"""Listing `incoming/` may cost one part in so many of the router's time, however many receptions there are."""

_RACY_SECONDS = 2.0
"""A folder whose time stamp is younger than this may change again within the same tick: it is listed again."""

_RETRY_SECONDS = 5.0
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
        self._resume_at = float("-inf")
        self._scanned_at = float("-inf")
        self._scan_again_at = float("-inf")
        self._incoming_mtime = 0
        self._not_before: dict[str, float] = {}
        self._server = socket.gethostname()

    def configure(self, settings: RouterSettings) -> None:
        """Follow new settings from the next series on. A shorter trigger holds for receptions that gather now, too."""
        self._settings = settings
        self._scanned_at = float("-inf")
        self._resume_at = float("-inf")
        self._bell.ring()

    def wake(self) -> None:
        """Look for work now."""
        self._bell.ring()

    def run(self, stop: threading.Event) -> None:
        """Route until `stop`."""
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
        self._scan()
        now = self._clock.now()
        while self._due and self._due[0][0] <= now.timestamp():
            _, reception = heapq.heappop(self._due)
            if self._settle_deadline(reception, now):
                return True
        return False

    # -- completion --------------------------------------------------------------------------------------------------

    def _seconds_to_wait(self) -> float:
        wait = self._settings.scan_interval_seconds
        if self._due:
            wait = min(wait, self._due[0][0] - self._clock.now().timestamp())
        return max(wait, 0.001)

    def _scan(self) -> None:
        """Notice new receptions. Lists `incoming/` only when it changed, and once a minute in any case."""
        moment = self._clock.monotonic()
        mtime = os.stat(self._layout.incoming).st_mtime_ns
        quiet = self._clock.now().timestamp() - mtime / 1e9 > _RACY_SECONDS
        changed = mtime != self._incoming_mtime
        if moment < self._scan_again_at:
            pass  # the last listing was long: others come first
        elif changed or moment - self._scanned_at >= _FULL_SCAN_SECONDS:
            listed = set(sealing.receptions(self._layout))
            if moment - self._scanned_at >= _FULL_SCAN_SECONDS:
                self._known.clear()
                self._due.clear()
            for reception in listed - self._known:
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
        for reception, released_at in sealing.released_hints(self._layout).items():
            sealing.forget_hint(self._layout, reception)
            if sealing.is_released(self._layout, reception):
                self._released[reception] = released_at
                self._schedule(reception)

    def _settle_deadline(self, reception: str, now: datetime) -> bool:
        """Seal and route a reception if nothing came since its deadline was set. True when it was sealed."""
        arrival = sealing.last_arrival(self._layout, reception)
        if arrival is None:
            self._forget(reception)
            return False
        if reception in self._released and not sealing.is_released(self._layout, reception):
            del self._released[reception]  # another association came since
        due = self._due_at(reception, arrival, now.timestamp())
        if due > now.timestamp():
            heapq.heappush(self._due, (due, reception))
            return False
        try:
            sealed = sealing.seal(self._layout, reception, now)
        except OSError as error:
            log.error("reception %s cannot be sealed: %s", reception, error.strerror)  # noqa: TRY400
            heapq.heappush(self._due, (now.timestamp() + _RETRY_SECONDS, reception))
            return False
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

    # -- routing -----------------------------------------------------------------------------------------------------

    def _resume_sealed(self) -> None:
        """Go on with what a dead router left, what failed here, and what an operator wants routed again."""
        moment = self._clock.monotonic()
        if moment < self._resume_at:
            return
        self._resume_at = moment + self._settings.scan_interval_seconds
        for sealed in sealing.open_sealed(self._layout):
            if self._not_before.get(sealed.id, 0.0) > moment:
                sealed.close()
            else:
                self._route(sealed)

    def _route(self, sealed: Sealed) -> None:
        """Bring a sealed reception to its jobs. When that fails it stays sealed and is tried again."""
        try:
            self._make_jobs(sealed)
        except (MercureError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            log.error("series of seal %s cannot be routed now: %s", sealed.id, reason)  # noqa: TRY400
            self._not_before[sealed.id] = self._clock.monotonic() + _RETRY_SECONDS
        else:
            self._not_before.pop(sealed.id, None)
        finally:
            sealed.close()

    def _make_jobs(self, sealed: Sealed) -> None:
        stored = sealed.read_plan()
        if stored is None:
            contents = sealed.contents()
            if contents is None or not contents.instances:
                sealed.remove()
                return
            jobs, plan = self._plan(sealed, contents)
            sealed.write_plan({**plan_to_json(plan), "made": [_placed_to_json(placed) for placed in jobs]})
        else:
            jobs = [_placed_from_json(data) for data in stored.get("made", [])]
        made = sealed.create_jobs(jobs, resumed=stored is not None)
        for placed in made:
            self._events.emit(_created(placed, self._clock.now()))
        if made:
            self._on_jobs()

    def _plan(self, sealed: Sealed, contents: Contents) -> tuple[list[PlacedJob], Plan]:
        settings = self._settings
        now = self._clock.now()
        earlier = sealed.earlier_job()
        done = earlier.done if earlier else ()
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
            tags = self._representative_tags(sealed, contents)
            plan = make_plan(Tags(tags), settings.rules, settings.targets, done)
        except MercureError as error:
            tags = {}
            reason = f"the header of no instance can be read: {error}"
            unknown = PlannedJob(Stage.ERROR, "none", fail_stage=FailStage.ROUTING, reason=reason)
            plan = Plan((unknown,), done=tuple(done))
        series = _series_info(tags, contents)
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
                complete_at=now,
                settled_at=now if planned.stage.is_final else None,
                done=plan.done if planned.stage is Stage.ERROR else (),
                appliance=settings.appliance,
                server=self._server,
            )
            jobs.append(PlacedJob(job, planned.stage))
        return jobs, plan

    def _representative_tags(self, sealed: Sealed, contents: Contents) -> dict[str, str]:
        """Return the tags that the rules are asked about.

        Instances of one kind are alike in what rules look at, so the first one that can be read speaks for all. A
        mixed series (a localizer among slices, a report among images) is read whole, and the kind with the most
        instances speaks, by its lowest instance number: never whichever file a folder happens to list first.
        """
        if contents.kinds > 1:
            return self._with_origin(self._majority_tags(sealed, contents), contents)
        problem: MercureError | None = None
        for name in contents.instances:
            try:
                return self._with_origin(self._read(sealed, name), contents)
            except MercureError as error:
                problem = error
        raise problem or MercureError("no instance")

    def _majority_tags(self, sealed: Sealed, contents: Contents) -> dict[str, str]:
        headers = []
        problem: MercureError | None = None
        for name in contents.instances:
            try:
                headers.append(self._read(sealed, name))
            except MercureError as error:
                problem = error
        if not headers:
            raise problem or MercureError("no instance")
        counts = Counter(map(_kind, headers))
        return min(headers, key=lambda tags: (-counts[_kind(tags)], _kind(tags), _instance_number(tags)))

    def _read(self, sealed: Sealed, name: str) -> dict[str, str]:
        return {**read_tags(sealed.received / name, self._settings.additional_tags), "Filename": name}

    @staticmethod
    def _with_origin(tags: dict[str, str], contents: Contents) -> dict[str, str]:
        origin = contents.origin
        tags["SenderAddress"] = origin.peer_address
        tags["SenderAET"] = origin.calling_ae_title
        tags["ReceiverAET"] = origin.called_ae_title
        return tags


def _kind(tags: Mapping[str, str]) -> tuple[str, str, str]:
    return tags.get("Modality", ""), tags.get("MediaStorageSOPClassUID", ""), tags.get("ImageType", "")


def _instance_number(tags: Mapping[str, str]) -> tuple[int, str]:
    number = tags.get("InstanceNumber", "").strip()
    return (int(number), "") if number.isdecimal() and len(number) < 12 else (1 << 62, tags.get("SOPInstanceUID", ""))


def _series_info(tags: Mapping[str, str], contents: Contents) -> SeriesInfo:
    origin = contents.origin
    return SeriesInfo(
        series_uid=contents.series_uid or tags.get("SeriesInstanceUID", ""),
        study_uid=contents.study_uid or tags.get("StudyInstanceUID", ""),
        calling_ae_title=origin.calling_ae_title,
        called_ae_title=origin.called_ae_title,
        peer_address=origin.peer_address,
        patient_name=tags.get("PatientName") or MISSING,
        patient_id=tags.get("PatientID") or MISSING,
        accession_number=tags.get("AccessionNumber") or MISSING,
        device_serial_number=tags.get("DeviceSerialNumber") or None,
    )


def _placed_to_json(placed: PlacedJob) -> dict[str, Any]:
    return {"stage": placed.stage.value, "task": to_json(placed.job)}


def _placed_from_json(data: Any) -> PlacedJob:
    return PlacedJob(from_json(data["task"]), Stage(data["stage"]))


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
