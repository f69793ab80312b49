"""Measurements, ratios and how they are written to RESULTS.md, one generated section per part."""

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.workplace import ROOT, machine

_ALL_SHOWN = 6
_SECTION = re.compile(r"<!-- generated: (\w+) -->.*?<!-- end of generated: \1 -->\n*", re.DOTALL)

RESULTS = ROOT / "bench" / "RESULTS.md"


@dataclass(frozen=True)
class Measurement:
    """One figure: the median of its runs."""

    what: str
    unit: str
    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of all runs."""
        return statistics.median(self.runs)


@dataclass(frozen=True)
class Goal:
    """A ratio or a figure that must be reached: at least, or at most, `limit`."""

    requirement: str
    what: str
    value: float
    limit: float
    at_least: bool = True

    @property
    def is_met(self) -> bool:
        """Whether the value is on the right side of the limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass
class Report:
    """What one part of the bench found."""

    part: str
    title: str
    measurements: list[Measurement] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, unit: str, runs: Sequence[float]) -> Measurement:
        """Keep the runs of one figure."""
        made = Measurement(what, unit, tuple(runs))
        self.measurements.append(made)
        return made

    def median(self, what: str) -> float:
        """The median of a figure that was added before."""
        return next(one.median for one in self.measurements if one.what == what)

    def has(self, what: str) -> bool:
        """Whether a figure was measured in this run."""
        return any(one.what == what for one in self.measurements)


def markdown(report: Report, command: str) -> str:
    """The section of one part."""
    lines = [f"## {report.title}", "", f"`{command}` on {machine()}. Medians of the runs in the last column.", ""]
    if report.goals:
        lines += ["| requirement | goal | reached | wanted | |", "|---|---|---:|---:|---|"]
        lines += [_goal_row(goal) for goal in report.goals]
        lines.append("")
    lines += ["| measured | median | unit | runs |", "|---|---:|---|---|"]
    for one in report.measurements:
        lines.append(f"| {one.what} | {_number(one.median)} | {one.unit} | {_runs(one.runs)} |")
    lines += ["", *(f"- {note}" for note in report.notes)]
    return "\n".join(lines).rstrip() + "\n"


def write(report: Report, command: str, path: Path = RESULTS) -> None:
    """Replace the generated section of this part; sections stand in the order of their titles after all other text."""
    text = path.read_text(encoding="utf-8") if path.exists() else "# Results\n"
    sections = {match[1]: match[0].strip() for match in _SECTION.finditer(text)}
    begin, end = f"<!-- generated: {report.part} -->", f"<!-- end of generated: {report.part} -->"
    sections[report.part] = f"{begin}\n{markdown(report, command)}{end}"
    own_text = _SECTION.sub("", text).strip()
    ordered = sorted(sections.values(), key=lambda section: section.partition("\n")[2])
    path.write_text("\n\n".join([own_text, *ordered]) + "\n", encoding="utf-8")


def _goal_row(goal: Goal) -> str:
    sign = ">=" if goal.at_least else "<="
    verdict = "met" if goal.is_met else "**missed**"
    return f"| {goal.requirement} | {goal.what} | {_number(goal.value)} | {sign} {_number(goal.limit)} | {verdict} |"


def _runs(runs: Sequence[float]) -> str:
    if len(runs) <= _ALL_SHOWN:
        return ", ".join(_number(run) for run in runs)
    return f"{len(runs)} runs from {_number(min(runs))} to {_number(max(runs))}"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"
