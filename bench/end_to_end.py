"""Part 5: the whole platform from sender to target, against the same files sent straight to the target."""

import statistics
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests import peers

from bench import inputs, processes
from bench.inputs import Load
from bench.mercure_services import TRIGGER_SECONDS, Running, start_platform
from bench.results import Goal, Report
from bench.sender import send
from bench.size import Size
from bench.target import Target, watched_storescp
from bench.workplace import clean_folder, warm_memory

_STRAIGHT = "straight to the target"
_MERCURE = "Mercure"
_MERCURE_NO_FSYNC = "Mercure, no fsync at its receiver"
_MERCURE_ON_RELEASE = "Mercure, series complete on release"
_SMALL = "60 series of 20 small instances, 4 associations: last response to last instance at the target"
_IDLE_SECONDS = 20.0
_QUICK_IDLE_SECONDS = 5.0


@dataclass(frozen=True)
class Setting:
    """What a platform has set apart from the defaults: keys of the sections `mercure` and `receiver`."""

    general: Mapping[str, object] = field(default_factory=dict)
    receiver: Mapping[str, object] = field(default_factory=dict)


_DEFAULT = Setting()
_PLATFORMS = {
    _MERCURE: _DEFAULT,
    _MERCURE_NO_FSYNC: Setting(receiver={"fsync": False}),
    _MERCURE_ON_RELEASE: Setting(general={"series_complete_on_release": True, "release_grace_seconds": 0.1}),
}


@dataclass(frozen=True)
class Way:
    """A running target, and where the senders send: to Mercure, or straight to it."""

    port: int
    target: Target
    platform: Running | None
    folder: Path

    def state(self) -> str:
        """What stands where, for a measurement that does not come to its end."""
        lines = [f"the target {'listens' if peers.listens(self.target.port) else 'does not listen'}"]
        stored = [path.name for path in (self.folder / "target").iterdir()]
        lines.append(f"its folder holds {len(stored)} files, such as {stored[:2]}")
        for name in ("incoming", "processing", "outgoing", "success", "error", "discard"):
            for stage in self.folder.rglob(name):
                lines.append(f"{stage.relative_to(self.folder)}: {len(list(stage.iterdir()))} entries")
        lines += [path.read_text(errors="replace")[-3000:] for path in self.folder.rglob("*.log")]
        journals = [path.read_text(errors="replace")[-3000:] for path in self.folder.rglob("journal/*.jsonl")]
        return "\n".join([*lines, *journals])


@dataclass(frozen=True)
class Passage:
    """Seconds from the start of the senders until all instances are at the target, and until the last sender ended."""

    seconds: float
    sender_seconds: float


def measure(size: Size) -> Report:
    """All of part 5."""
    report = Report("end_to_end", "5. End to end")
    load = inputs.ct()
    memory: list[float] = []
    for associations in (1, 4):
        _large(report, load, associations, size, memory)
    if not size.peers_only:
        _small(report, size)
        _idle(report, size, memory)
    report.notes += [
        f"The trigger is {TRIGGER_SECONDS:g} s. The CT are 20 series of 100, of 0.53 MB each.",
        "An association is a process of dcmsend. Counted is from the start of all to the last file at the target.",
        "The target is storescp --fork, TCP_NODELAY. An instance is there when its file was closed (inotify).",
        "Mercure has its default configuration: durable before each acknowledgement, one job at a time to each target.",
        "On release: with `series_complete_on_release` and a grace of 0.1 s, the last series wait for no trigger.",
        "With --quick the CT are as many as without, for the trigger does not shrink with them.",
    ]
    return report


def _large(report: Report, load: Load, associations: int, size: Size, memory: list[float]) -> None:
    ways: dict[str, Setting | None] = {_STRAIGHT: None} if size.peers_only else {_STRAIGHT: None, **_PLATFORMS}
    runs: dict[str, list[Passage]] = {name: [] for name in ways}
    for _ in range(size.runs):
        for name, setting in ways.items():
            with _way(setting) as way:
                runs[name].append(_dcmsend(load, associations, way))
                if way.platform and setting is _DEFAULT:
                    memory.append(processes.proportional_kb(way.platform.process.pid) / 1024)
    plural = "s" if associations > 1 else ""
    base = f"2,000 CT, {associations} association{plural}: "
    for name, passages in runs.items():
        report.add(base + name, "instances/s", [len(load.files) / one.seconds for one in passages])
        report.add(f"{base}{name}: dcmsend done after", "s", [one.sender_seconds for one in passages])
    if not size.peers_only:
        ratio = report.median(base + _MERCURE) / report.median(base + _STRAIGHT)
        report.goals.append(Goal("5", f"{base}{_MERCURE} / {_STRAIGHT}", ratio, 0.7))
        straight = statistics.median(one.seconds for one in runs[_STRAIGHT])
        report.notes.append(
            f"{base}a platform that took and sent as fast as the target, and only waited for the trigger, would reach"
            f" {straight / (straight + TRIGGER_SECONDS):.2f} of it."
        )


@contextmanager
def _way(setting: Setting | None) -> Iterator[Way]:
    """A fresh target with a platform before it, or without one when `setting` is None."""
    with clean_folder("end-to-end") as folder, watched_storescp(folder / "target") as target:
        if setting is None:
            yield Way(target.port, target, None, folder)
            return
        with start_platform(folder, target.port, general=setting.general, receiver=setting.receiver) as platform:
            processes.wait_until_idle(platform.process.pid)
            yield Way(platform.port, target, platform, folder)


def _dcmsend(load: Load, associations: int, way: Way) -> Passage:
    """Send the series by so many processes at once."""
    folders = [series.files[0].parent for series in load.series]
    parts = [folders[number::associations] for number in range(associations)]
    warm_memory((2 if way.platform else 1) * load.size_bytes)
    started = time.monotonic()
    with ThreadPoolExecutor(associations) as pool:
        finished = list(pool.map(lambda part: peers.dcmsend(way.port, *part), parts))
    ended = time.monotonic()
    for one in finished:
        if one.returncode != 0:
            raise RuntimeError(one.output[-2000:])
    try:
        arrived = way.target.arrivals.of(uid for _, uid in load.identities)
    except peers.PeerError as error:
        said = "\n".join(one.output[-1000:] for one in finished)
        raise RuntimeError(f"{error}\n{way.state()}\ndcmsend said: {said}") from error
    return Passage(arrived[-1] - started, ended - started)


def _small(report: Report, size: Size) -> None:
    load = inputs.small()
    seconds = []
    for _ in range(size.runs):
        with _way(_DEFAULT) as way:
            sent = send(load.files, way.port, associations=4)
            arrived = way.target.arrivals.of(uid for _, uid in load.identities)
            seconds.append(arrived[-1] - sent.ended)
    last = report.add(_SMALL, "s", seconds)
    report.goals.append(Goal("5", f"{_SMALL}, s", last.median, 2, at_least=False))


def _idle(report: Report, size: Size, memory: list[float]) -> None:
    with _way(_DEFAULT) as way:
        if way.platform is None:
            raise RuntimeError("there is no platform")
        pid = way.platform.process.pid
        share = processes.cpu_share(pid, _QUICK_IDLE_SECONDS if size.quick else _IDLE_SECONDS)
        resident, proportional = processes.resident_kb(pid) / 1024, processes.proportional_kb(pid) / 1024
    report.add("idle platform: resident memory, all processes added up (RSS)", "MB", [resident])
    report.add("idle platform: memory, shared pages once (PSS)", "MB", [proportional])
    report.add("platform after 2,000 CT: memory, shared pages once (PSS)", "MB", memory)
    report.add("idle platform: share of a core", "%", [100 * share])
    report.goals += [
        Goal("5", "idle platform: resident memory (RSS), MB", resident, 250, at_least=False),
        Goal("5", "idle platform: % of a core", 100 * share, 1, at_least=False),
    ]
