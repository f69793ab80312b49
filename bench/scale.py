"""Part 4: ten thousand series at once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import builders, peers

from bench import processes, rule_cost
from bench.mercure_services import Configuration, Running, dicom_target, start_services
from bench.results import Goal, Report
from bench.size import Size
from bench.workplace import clean_folder
from mercure.core.events import EventKind
from mercure.spool.intake import Intake
from mercure.spool.layout import Layout, Origin

_IDLE_SECONDS = 10.0
_FAR_SECONDS = 86_400.0
_SOON_SECONDS = 0.5
_LIMIT_SECONDS = 600


@dataclass(frozen=True)
class Routed:
    """How some gathering series were routed."""

    idle_share: float
    per_second: float
    cpu_seconds: float


def measure(size: Size) -> Report:
    """All of part 4."""
    report = Report("scale", "4. Scale")
    if size.peers_only:
        return report
    counts = (100, 1_000) if size.quick else (100, 1_000, 10_000)
    runs: dict[int, list[Routed]] = {count: [] for count in counts}
    for run in range(size.runs):
        for count in counts:
            watched = run == 0 and count == counts[-1]
            runs[count].append(_route(count, _IDLE_SECONDS if watched else 0))
    for count, routed in runs.items():
        report.add(f"{count:,} series: routed", "series/s", [one.per_second for one in routed])
        report.add(f"{count:,} series: cost of each", "ms", [1000 / one.per_second for one in routed])
        report.add(
            f"{count:,} series: processor time of each", "ms", [1000 * one.cpu_seconds / count for one in routed]
        )
    most = counts[-1]
    idle = report.add(
        f"{most:,} series gathering: share of a core of the idle router",
        "%",
        [100 * runs[most][0].idle_share],
    )
    report.goals += [
        Goal("4", f"{most:,} series gathering: idle router, % of a core", idle.median, 5, at_least=False),
        Goal("4", f"{most:,} series due at once: routed per second", report.median(f"{most:,} series: routed"), 300),
    ]
    few = report.median(f"{counts[0]:,} series: cost of each")
    report.goals += [
        Goal(
            "4",
            f"cost of a series among {count:,} / among {counts[0]:,}",
            report.median(f"{count:,} series: cost of each") / few,
            1.3,
            at_least=False,
        )
        for count in counts[1:]
    ]
    rule_cost.measure(report, size)
    report.notes += [
        "The router runs alone (`mercure run router`) with ten rules, of which the last fits.",
        "Each series has one small instance; the spool's own intake places them.",
        f"It is idle with a trigger of a day, watched for {_IDLE_SECONDS:g} s in the first run.",
        "Then the configuration changes to a trigger of half a second, and all are due.",
        "Series per second are those between the first and the last job in the journal, with default durability.",
    ]
    return report


def _route(count: int, idle_seconds: float) -> Routed:
    with clean_folder("scale") as folder:
        layout = Layout.under(folder / "data")
        layout.create()
        _place(layout, count)
        with _router(folder, layout) as router:
            pid = router.process.pid
            processes.wait_until_idle(pid)
            idle = processes.cpu_share(pid, idle_seconds) if idle_seconds else 0.0
            before = processes.cpu_seconds(pid)
            router.configure(_configuration(layout.incoming.parent, _SOON_SECONDS))
            peers.wait_until(
                lambda: sum(not name.startswith(".") for name in os.listdir(layout.outgoing)) == count,
                f"{count} jobs",
                seconds=_LIMIT_SECONDS,
                interval=0.1,
            )
            used = processes.cpu_seconds(pid) - before
            made = [event.at.timestamp() for event in router.events() if event.kind is EventKind.JOB_CREATED]
    if len(made) != count:
        message = f"the journal has {len(made)} jobs of {count}"
        raise RuntimeError(message)
    return Routed(idle, (count - 1) / (max(made) - min(made)), used)


def _place(layout: Layout, count: int) -> None:
    """Put series of one instance each into `incoming/`, as a receiver does."""
    series_uid, study_uid = builders.new_uid(), builders.new_uid()
    template = builders.dicom_bytes(SeriesInstanceUID=series_uid, StudyInstanceUID=study_uid, **rule_cost.ELEMENTS)
    intake = Intake(layout, fsync=False)
    session = intake.session(Origin("SCANNER", "MERCURE", "127.0.0.1"))
    for _ in range(count):
        series, study = builders.new_uid(), builders.new_uid()
        draft = intake.draft()
        draft.write(
            [template.replace(series_uid.encode(), series.encode()).replace(study_uid.encode(), study.encode())]
        )
        session.publish(draft, study, series, builders.new_uid(), b"CT")
    session.close()
    intake.close()


@contextmanager
def _router(folder: Path, layout: Layout) -> Iterator[Running]:
    with start_services(["router"], _configuration(layout.incoming.parent, _FAR_SECONDS)) as running:
        yield running


def _configuration(data: Path, trigger_seconds: float) -> Configuration:
    return {
        "mercure": {"data_folder": str(data), "series_complete_trigger": trigger_seconds},
        "targets": {"pacs": dicom_target(104)},
        "rules": [
            {"name": f"rule {number}", "condition": text, "action": "route", "target": "pacs"}
            for number, text in enumerate(rule_cost.RULES)
        ],
    }
