"""What the demo shows: a table that moves with the series, and a line for each thing that happens."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mercure.cli.demo.story import SeriesStory, Story, TargetStory
from mercure.core.events import Event, EventKind
from mercure.core.stages import Stage

_WIDE, _MIDDLE = 120, 106
_WIDE_BAR = 10
_STATES = {
    "waiting": ("waiting", "dim"),
    "sending": ("sending", "cyan"),
    "deferred": ("off, tries again", "yellow"),
    "delivered": ("", "green"),
    "failed": ("failed", "red"),
}
_STAGES = {
    "processing": ("being processed", "cyan"),
    "error": ("in error/, waits for an operator", "red"),
    "discard": ("in discard/, no rule takes it", "yellow"),
}


class Display:
    """Shows a story. On a terminal the table is drawn again and again below the lines; elsewhere there are only lines.

    A context manager.
    """

    def __init__(self, console: Console, story: Story) -> None:
        """Show nothing yet."""
        self._console = console
        self._story = story
        can_move = console.is_terminal and not console.is_dumb_terminal
        self._live = Live(console=console, auto_refresh=False, transient=True) if can_move else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, events: Iterable[Event]) -> None:
        """Print a line for each event worth one, and draw the table as it stands now."""
        for event in events:
            if event.kind is not EventKind.ASSOCIATION_CLOSED:  # the senders say the same
                self.tell(self._story.time_of(event), line_of(event, self._story))
        if self._live:
            self._live.update(table_of(self._story.series.values(), self._console.width), refresh=True)

    def tell(self, seconds: float, line: str) -> None:
        """Print one line of the timeline; an empty one is left out."""
        if line:
            self._console.print(Text.assemble((f"{seconds:8.2f} s  ", "dim"), line))


def line_of(event: Event, story: Story) -> str:
    """Return an event in words, or "" when it says nothing to a person who watches."""
    words = _WORDS.get(event.kind)
    if words is None or story.time_of(event) < 0:
        return ""
    known = story.series.get(event.series_uid or "")
    return (f"{known.name}: " if known else "") + words(event, known)


def _association(event: Event, _story: SeriesStory | None) -> str:
    return f"association {event.detail}, {event.count} instances stored"


def _complete(event: Event, _story: SeriesStory | None) -> str:
    return f"complete, {event.count} instances"


def _job(event: Event, story: SeriesStory | None) -> str:
    job = story.jobs.get(event.job_id or "") if story else None
    if job is None or job.stage == Stage.DISCARD:
        return "no rule takes it, so it goes to discard/"
    if job.stage == Stage.ERROR:
        return "goes to error/, where it waits for an operator"
    ways = (", then ".join(job.modules), " and ".join(job.targets))
    return f"routed to {', then '.join(filter(None, ways))} by the rule {', '.join(map(repr, job.rules))}"


def _processing(event: Event, story: SeriesStory | None) -> str:
    return f"{_modules(event, story)} works on it"


def _processed(event: Event, story: SeriesStory | None) -> str:
    job = story.jobs.get(event.job_id or "") if story else None
    took = f" in {job.processing_seconds:.2f} s" if job else ""
    return f"{_modules(event, story)} made {event.count} instances{took}"


def _processing_deferred(event: Event, story: SeriesStory | None) -> str:
    return f"{_modules(event, story)} is tried again soon: {event.detail}"


def _processing_failed(event: Event, story: SeriesStory | None) -> str:
    return f"{_modules(event, story)} failed: {event.detail}"


def _modules(event: Event, story: SeriesStory | None) -> str:
    job = story.jobs.get(event.job_id or "") if story else None
    return ", then ".join(job.modules) if job and job.modules else "its module"


def _delivered(event: Event, _story: SeriesStory | None) -> str:
    seconds = event.duration_seconds or 0.0
    rate = f", {(event.count or 0) / seconds:.0f}/s" if seconds else ""
    return f"{event.count} instances at {event.target} in {seconds:.2f} s{rate}"


def _deferred(event: Event, _story: SeriesStory | None) -> str:
    return f"{event.target} is tried again soon: {event.detail}"


def _failed(event: Event, _story: SeriesStory | None) -> str:
    return f"{event.target} failed: {event.detail}"


def _settled(event: Event, _story: SeriesStory | None) -> str:
    return f"job {event.job_id} is in {event.detail}/"


def _config_loaded(_event: Event, _story: SeriesStory | None) -> str:
    return "the changed mercure.json holds now"


def _config_rejected(event: Event, _story: SeriesStory | None) -> str:
    return f"the changed mercure.json is NOT used: {event.detail}"


_WORDS: dict[EventKind, Callable[[Event, SeriesStory | None], str]] = {
    EventKind.ASSOCIATION_CLOSED: _association,
    EventKind.SERIES_COMPLETE: _complete,
    EventKind.JOB_CREATED: _job,
    EventKind.PROCESSING_STARTED: _processing,
    EventKind.PROCESSING_COMPLETE: _processed,
    EventKind.PROCESSING_DEFERRED: _processing_deferred,
    EventKind.PROCESSING_FAILED: _processing_failed,
    EventKind.DELIVERY_COMPLETE: _delivered,
    EventKind.DELIVERY_DEFERRED: _deferred,
    EventKind.DELIVERY_FAILED: _failed,
    EventKind.JOB_SETTLED: _settled,
    EventKind.CONFIG_LOADED: _config_loaded,
    EventKind.CONFIG_REJECTED: _config_rejected,
}


def table_of(stories: Iterable[SeriesStory], width: int) -> RenderableType:
    """Return the table for so many columns: one row for each series, one line for each of its targets."""
    bar = _WIDE_BAR if width >= _WIDE else 0
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    middle = ("Routed", "Processed") if width >= _MIDDLE else ()
    for title in ("Series", "Received", "Complete", *middle, "Dispatched"):
        table.add_column(title, no_wrap=True)
    for story in stories:
        cells: list[RenderableType] = [story.name, _received(story, bar), _moment(story.complete_at)]
        if width >= _MIDDLE:
            cells += [_moment(story.routed_at), _processed_at(story)]
        table.add_row(*cells, Group(*_dispatched(story, bar)))
    return table


def _received(story: SeriesStory, bar: int) -> Text:
    total = len(story.series.files) if story.series else story.received
    return _bar(story.received, total, "green" if story.received == total else "cyan", bar)


def _moment(at: float | None) -> Text:
    return Text("...", "dim") if at is None else Text(f"{at:.2f} s", "green")


def _processed_at(story: SeriesStory) -> Text:
    if not story.processed:
        return Text("")
    if story.processed_at is None and any(job.began_at is not None for job in story.processed.values()):
        return Text("running", "cyan")
    return _moment(story.processed_at)


def _dispatched(story: SeriesStory, bar: int) -> Iterator[Text]:
    if story.routed_at is None:
        yield Text("...", "dim")
    for stage in sorted({job.stage for job in story.jobs.values()} & _STAGES.keys()):
        yield Text(*_STAGES[stage])
    for name, target in story.targets.items():
        yield _target(name, target, story.received if target.total is None else target.total, bar)


def _target(name: str, target: TargetStory, total: int, bar: int) -> Text:
    words, style = _STATES[target.state]
    took = f"in {target.seconds:.2f} s" if target.state == "delivered" else ""
    tried = f", try {target.attempts}" if target.attempts > 1 else ""
    return Text.assemble(f"{name:<12}", _bar(target.delivered, total, style, bar), "  ", (words + took + tried, style))


def _bar(count: int, total: int, style: str, length: int) -> Text:
    full = length * count // total if total else 0
    space = " " if length else ""
    return Text.assemble(("━" * full, style), ("━" * (length - full), "dim"), f"{space}{count}/{total}")


def summary_of(stories: Iterable[SeriesStory]) -> RenderableType:
    """Return how long each step took, from the first byte to the last confirmation."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Seconds for", no_wrap=True)
    for title in ("receive", "wait", "route", "process", "dispatch", "all"):
        table.add_column(title, justify="right", min_width=8)
    for story in stories:
        times = (story.sent_at, story.received_at, story.complete_at, story.routed_at)
        receive, wait, route = (_difference(*pair) for pair in itertools.pairwise(times))
        process = _difference(story.routed_at, story.processed_at)
        dispatch = _difference(story.processed_at or story.routed_at, story.settled_at) if story.targets else "-"
        everything = _difference(story.sent_at, story.settled_at)
        table.add_row(story.name, receive, wait, route, process, dispatch, everything)
    return table


def _difference(first: float | None, last: float | None) -> str:
    return "-" if first is None or last is None else f"{max(0.0, last - first):.2f}"
