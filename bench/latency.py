"""Part 3: how long a series waits inside Mercure, and how long it takes to be gone after its last instance came."""

import os
import time
from dataclasses import dataclass

from tests.builders import BuiltSeries

from bench import inputs
from bench.mercure_send import send_series
from bench.mercure_services import TRIGGER_SECONDS, Running, start_platform
from bench.results import Goal, Report
from bench.sender import send
from bench.size import Size
from bench.target import Target, watched_storescp
from bench.workplace import clean_folder
from mercure.core.events import EventKind

_SERIES = 20
_QUICK_SERIES = 5


@dataclass(frozen=True)
class Passage:
    """One series on its way: the last response to its sender, its first and its last instance at the target."""

    series_uid: str
    received: float
    first: float
    last: float


def measure(size: Size) -> Report:
    """All of part 3. The runs of its medians are the series."""
    report = Report("latency", "3. Latency")
    load = inputs.ct(_QUICK_SERIES if size.quick else _SERIES)
    passages: list[Passage] = []
    bare: list[float] = []
    own_association = {"associations_idle_seconds": 0}
    with (
        clean_folder("latency") as folder,
        watched_storescp(folder / "target") as target,
        watched_storescp(folder / "bare") as bare_target,
        start_platform(folder, target.port, dispatcher=own_association) as platform,
    ):
        for series in load.series:
            bare.append(_send_straight(series, bare_target))
            passages.append(_send_through(series, platform, target))
        complete = _complete_times(platform)
    first = [one.first - complete[one.series_uid] for one in passages]
    beyond = [one.last - one.received - TRIGGER_SECONDS for one in passages]
    per = f"{len(load.series[0].files)} CT"
    to_first = report.add(f"{per}: series complete to first instance at the target", "ms", [1000 * t for t in first])
    report.add(
        f"{per}: last response to first instance at the target, less the trigger",
        "ms",
        [1000 * (one.first - one.received - TRIGGER_SECONDS) for one in passages],
    )
    ours = report.add(f"{per}: last response to last instance at the target, less the trigger", "s", beyond)
    straight = report.add(f"{per}: the same series sent straight from files by Mercure's sender", "s", bare)
    report.goals += [
        Goal("3", "series complete to first instance at the target, ms", to_first.median, 50, at_least=False),
        Goal("3", f"{ours.what} / bare transfer", ours.median / straight.median, 1.2, at_least=False),
    ]
    report.notes += [
        f"{len(passages)} series, one after the other; each run is one of them. The trigger is {TRIGGER_SECONDS:g} s.",
        "The target is storescp --fork, TCP_NODELAY. An instance is there when its file was closed (inotify).",
        "Series complete is the time of that event in the journal.",
        "Both transfers open an association of their own (`dispatcher.associations_idle_seconds` is 0).",
        "The bare transfer begins with names of files and ends with the last file at the target, too.",
    ]
    return report


def _send_straight(series: BuiltSeries, target: Target) -> float:
    os.sync()
    started = time.monotonic()
    send_series(series.files, target.port)
    return target.arrivals.of(series.sop_instance_uids)[-1] - started


def _send_through(series: BuiltSeries, platform: Running, target: Target) -> Passage:
    os.sync()
    sent = send(series.files, platform.port)
    times = target.arrivals.of(series.sop_instance_uids)
    return Passage(series.series_instance_uid, sent.ended, times[0], times[-1])


def _complete_times(platform: Running) -> dict[str, float]:
    """When each series was complete, by the monotonic clock."""
    ahead = time.time() - time.monotonic()
    return {
        str(event.series_uid): event.at.timestamp() - ahead
        for event in platform.events()
        if event.kind is EventKind.SERIES_COMPLETE
    }
