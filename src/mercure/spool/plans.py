"""The plan of a sealed series on disk: which jobs come of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mercure.core.errors import SpoolError
from mercure.core.stages import Stage
from mercure.core.task import Job, to_json
from mercure.spool import layout as names
from mercure.spool.durable import write_durably


@dataclass(frozen=True, slots=True)
class PlacedJob:
    """A job and the stage that it is created in."""

    job: Job
    stage: Stage


def plan_of(jobs: Sequence[PlacedJob]) -> Mapping[str, Any]:
    """Return a plan of these very jobs, as a router reads it: it asks no rule then."""
    return {"made": [{"stage": placed.stage.value, "task": to_json(placed.job)} for placed in jobs]}


def write_plan(folder: Path, plan: Mapping[str, Any], *, fsync_name: bool = True) -> None:
    """Replace the plan in a folder; see `write_durably`."""
    content = json.dumps(plan, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    write_durably(folder / names.PLAN_FILE, content, fsync_name=fsync_name)


def read_plan(folder: Path) -> Mapping[str, Any] | None:
    """Return the plan in a folder, or None when there is none. Raises `SpoolError` when it is damaged, `OSError`."""
    try:
        with open(folder / names.PLAN_FILE, "rb") as file:
            plan = json.load(file)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise SpoolError("plan.json is no JSON") from error
    if not isinstance(plan, dict):
        raise SpoolError("plan.json is no object")
    return plan
