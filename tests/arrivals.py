"""Series in the data folder, as a receiver worker puts them there; and where they are later on."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from tests.builders import BuiltSeries, without_file_meta

from mercure.core.completion import CompletionPolicy
from mercure.core.plan import RoutingRule
from mercure.core.rules import Expression
from mercure.core.stages import Stage
from mercure.core.task import Delivery, Job, Priority, SeriesInfo
from mercure.dicom.header import read_placing_of
from mercure.services.router import RouterSettings
from mercure.spool import layout as names
from mercure.spool.intake import Intake
from mercure.spool.job_files import write_task
from mercure.spool.layout import Layout, Origin

ORIGIN = Origin("SCANNER", "MERCURE", "192.0.2.7")
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"


class Sender:
    """Publishes instances into `incoming/` on one association of a receiver worker."""

    def __init__(self, layout: Layout, origin: Origin = ORIGIN, *, hold_open: bool = False, fsync: bool = False):
        self._intake = Intake(layout, fsync=fsync, hold_open=hold_open)
        self._session = self._intake.session(origin)

    def send(self, series: BuiltSeries, which: slice = slice(None)) -> list[str]:
        """Publish instances of the series; return their SOP instance UIDs."""
        for file in series.files[which]:
            self.publish(file.read_bytes())
        return list(series.sop_instance_uids[which])

    def publish(self, content: bytes) -> str:
        """Publish one Part 10 file; return the name of its reception."""
        data = without_file_meta(content)
        placing = read_placing_of(lambda size: data[:size], len(data), EXPLICIT_LITTLE)
        draft = self._intake.draft()
        draft.write([content])
        published = self._session.publish(
            draft,
            placing.study_instance_uid,
            placing.series_instance_uid,
            placing.sop_instance_uid,
            placing.signature,
        )
        return published.reception

    def release(self) -> None:
        """End the association; the worker stays."""
        self._session.close()

    def close(self) -> None:
        self._session.close()
        self._intake.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def arrive(layout: Layout, *series: BuiltSeries, origin: Origin = ORIGIN) -> None:
    """Have whole series gather in `incoming/`."""
    with Sender(layout, origin) as sender:
        for each in series:
            sender.send(each)


def rule(name: str, condition: str = "True", **values: Any) -> RoutingRule:
    """A rule as the router needs it."""
    values.setdefault("targets", ("archive",) if values.get("action", "route") == "route" else ())
    return RoutingRule(name, Expression.parse(condition), **values)


def settings(
    *rules: RoutingRule, targets: Iterable[str] = ("archive", "research"), trigger: float = 10.0, **values: Any
) -> RouterSettings:
    """Settings of a router with these rules, whose targets can all be used."""
    policy = values.pop("completion", CompletionPolicy(trigger))
    return RouterSettings(policy, rules, dict.fromkeys(targets, ""), **values)


def make_job(
    layout: Layout,
    series: BuiltSeries,
    *targets: str,
    stage: Stage = Stage.OUTGOING,
    job_id: str = "",
    priority: Priority = Priority.NORMAL,
    at: datetime | None = None,
    **values: Any,
) -> Job:
    """Put a job with the instances of a series into a stage, as the router would."""
    job_id = job_id or f"job-{series.series_instance_uid[-12:]}"
    info = SeriesInfo(series.series_instance_uid, series.study_instance_uid, "SCANNER", "MERCURE", "192.0.2.7")
    instances = tuple(names.instance_name(series.series_instance_uid, uid) for uid in series.sop_instance_uids)
    job = Job(
        job_id,
        "route",
        info,
        at or datetime.now(UTC),
        instances,
        priority=priority,
        deliveries=tuple(Delivery(target) for target in targets),
        **values,
    )
    draft = layout.stage(stage) / f".{job_id}"
    (draft / names.RECEIVED).mkdir(parents=True)
    for name, file in zip(instances, series.files, strict=True):
        os.link(file, draft / names.RECEIVED / name)
    write_task(draft, job, fsync=False)
    os.rename(draft, layout.stage(stage) / job_id)
    return job


@dataclass
class Census:
    """Where every instance of the data folder is: SOP instance UIDs by gathering or sealed folder, and by job."""

    loose: dict[str, list[str]] = field(default_factory=dict)
    jobs: dict[Stage, dict[str, list[str]]] = field(default_factory=dict)

    def jobs_of(self, uid: str) -> list[tuple[Stage, str]]:
        return [(stage, job) for stage, jobs in self.jobs.items() for job, uids in jobs.items() if uid in uids]

    def loose_of(self, uid: str) -> list[str]:
        return [folder for folder, uids in self.loose.items() if uid in uids]


def census(layout: Layout) -> Census:
    """Count what is in the data folder."""
    found = Census()
    for folder in layout.incoming.iterdir():
        if not folder.name.startswith(".") and folder.is_dir():
            found.loose[folder.name] = _uids(folder)
    for folder in layout.sealed.iterdir():
        received = folder / names.RECEIVED
        if not received.is_dir():  # a crash between the move of the instances to the draft of the last job and its name
            drafts = [draft for stage in Stage for draft in layout.stage(stage).glob(f".{folder.name}-*")]
            received = next((d / names.RECEIVED for d in drafts if (d / names.RECEIVED).is_dir()), received)
        found.loose[f".sealed/{folder.name}"] = _uids(received)
    for stage in Stage:
        jobs = [job for job in layout.stage(stage).iterdir() if not job.name.startswith(".") and job.is_dir()]
        found.jobs[stage] = {job.name: _uids(job / names.RECEIVED) for job in jobs}
    return found


def targets_of(layout: Layout, stage: Stage, job_id: str) -> Sequence[str]:
    """The targets in the `task.json` of a job."""
    task = json.loads((layout.stage(stage) / job_id / names.TASK_FILE).read_text())
    found: list[str] = (task["dispatch"] or {}).get("target_name", [])
    return found


def _uids(folder: Path) -> list[str]:
    try:
        return sorted(names.sop_instance_uid_of(path.name) for path in folder.iterdir() if path.suffix == ".dcm")
    except (FileNotFoundError, NotADirectoryError):  # it was moved meanwhile
        return []
