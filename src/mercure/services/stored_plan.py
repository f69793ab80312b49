"""The plan of a sealed series as it is stored beside it: which jobs come of the series, and in which stages."""

from collections.abc import Mapping, Sequence
from typing import Any

from mercure.core.errors import SpoolError
from mercure.core.plan import Plan, plan_to_json
from mercure.core.stages import Stage
from mercure.core.task import from_json, to_json
from mercure.spool.sealing import PlacedJob


def stored_plan(plan: Plan, jobs: Sequence[PlacedJob]) -> dict[str, Any]:
    """Return what is stored: the plan, for a person, and the jobs that were made of it."""
    made = [{"stage": placed.stage.value, "task": to_json(placed.job)} for placed in jobs]
    return {**plan_to_json(plan), "made": made}


def jobs_of(stored: Mapping[str, Any]) -> list[PlacedJob]:
    """Read the jobs of a stored plan. Raises `SpoolError`."""
    try:
        jobs = [PlacedJob(from_json(data["task"]), Stage(data["stage"])) for data in stored["made"]]
    except (SpoolError, KeyError, TypeError, ValueError) as error:
        raise SpoolError(f"plan.json is not valid: {type(error).__name__}") from error
    if not jobs:
        raise SpoolError("plan.json has no job")
    return jobs
