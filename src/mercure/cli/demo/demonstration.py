"""The course of the demo, step by step, from the first process to the check at the end."""

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from mercure.cli.demo.configuration import CALLED_AE_TITLE
from mercure.cli.demo.display import Display, line_of, summary_of, table_of
from mercure.cli.demo.series import DemoSeries, Sent, make_series, send, total_bytes
from mercure.cli.demo.site import Site
from mercure.cli.demo.story import Story
from mercure.cli.demo.verify import Finding, verify, verify_results
from mercure.core.events import Event, EventKind
from mercure.core.stages import Stage
from mercure.spool import layout as names

_STEP_SECONDS = 0.05
_DEADLINE_SECONDS = 120.0


@dataclass(slots=True)
class _Sending:
    series: DemoSeries
    sent: Future[Sent]


class Demonstration:
    """One run in one site. The steps in order: `prepare`, `play`, `check`, `say_where` and, if wanted, `follow`."""

    def __init__(self, site: Site, console: Console, slices: int) -> None:
        """Nothing runs yet."""
        self._site = site
        self._console = console
        self._slices = slices
        self._workstation_is_on = False
        self.series: list[DemoSeries] = []
        self.story = Story(site.layout, ())

    def prepare(self) -> None:
        """Start the platform and the archive, make the series, and say what there is. Raises `MercureError`."""
        site = self._site
        self._say("Mercure starts in ", str(site.folder))
        if site.earlier:
            self._list(("earlier demo", f"what it left is in {site.earlier}; remove that when you need it no more"))
        no_image = site.make_image()
        site.start()
        senders = site.folder / "senders"
        self.series = [make_series(senders / wanted.sender, wanted, self._slices) for wanted in site.wanted]
        megabytes = total_bytes(self.series) / 1e6
        ports = site.ports
        self._list(
            ("Mercure", f"{CALLED_AE_TITLE} on 127.0.0.1:{site.port}: receiver, router, processor and dispatcher"),
            ("module", "smooth, a program that runs as a process"),
            ("module", f"{no_image}, so none runs in a container" if no_image else "threshold, runs in a container"),
            ("archive", f"ARCHIVE on 127.0.0.1:{ports['archive']}, a DICOM receiver"),
            ("workstation", f"WORKSTATION on 127.0.0.1:{ports['workstation']}, a DICOM receiver, switched off"),
            ("research", f"{site.folder / 'research'}, a folder"),
            ("configuration", str(site.config)),
            (
                "senders",
                f"{len(self.series)}, with a series of {self._slices} slices each, {megabytes:.0f} MB together",
            ),
        )

    def play(self, stop: threading.Event) -> None:
        """Send all series at once, and show what becomes of them until they are at their end, or `stop`."""
        self._say("What happens")
        story = self.story = Story(self._site.layout, self.series)
        with ThreadPoolExecutor(len(self.series)) as pool, Display(self._console, story) as shown:
            sending = [_Sending(one, pool.submit(send, one, self._site.port, CALLED_AE_TITLE)) for one in self.series]
            while (sending or any(story.unfinished())) and story.now < _DEADLINE_SECONDS:
                if stop.wait(_STEP_SECONDS):
                    return
                self._note_sent(sending, shown)
                events = story.update()
                shown.show(events)
                self._switch_on_workstation(events, shown)
        self._console.print(table_of(story.series.values(), self._console.width))
        self._console.print(summary_of(story.series.values()))

    def check(self) -> list[Finding]:
        """Compare what was sent with what is where it must be, say what was found, and return it."""
        findings = [finding for one in self.series for finding in self._find_all(one)]
        self._say("Is everything there?")
        for finding in findings:
            name = self.story.series[finding.series_uid].name
            result = f", {finding.result}" if finding.result else ""
            self._console.print(
                Text.assemble(_verdict(finding), f": {name} at {finding.place}{result}"), soft_wrap=True
            )
        there = sum(finding.sent - finding.missing - finding.different for finding in findings)
        total = sum(finding.sent for finding in findings)
        style = "bold green" if all(finding.is_complete for finding in findings) else "bold red"
        self._console.print(Text(f"  {there} of {total} instances are where they must be.", style))
        return findings

    def say_where(self) -> None:
        """Say where the files are."""
        site = self._site
        self._say("Where the files are")
        self._list(
            ("received", str(site.folder / "data" / "success")),
            ("discarded", str(site.discarded)),
            *((name, str(site.folders_of(name)[0])) for name in ("archive", "workstation", "research")),
            *self._modules(),
            ("process.log", str(site.layout.processing / names.PROCESS_LOG)),
            ("journal", str(site.layout.journal)),
            ("log", str(site.folder / "mercure.log")),
        )

    def follow(self, stop: threading.Event) -> None:
        """Go on running and tell what happens, until `stop`."""
        site = self._site
        self._say("It goes on running until Ctrl-C. Try in another terminal")
        to = f"--to 127.0.0.1:{site.port} --called {CALLED_AE_TITLE}"
        mercure = os.path.relpath(Path(sys.executable).with_name("mercure"))
        senders = site.folder / "senders"
        for line in (
            f"export MERCURE_CONFIG_FOLDER={site.config.parent}",
            f"{mercure} queue list",
            f"{mercure} modules test smooth --input {senders / 'MR3'} --output {site.folder / 'made'}",
            f"{mercure} send {senders / 'MR1'} {to}",
            f"$EDITOR {site.config}",
        ):
            self._console.print(Text(f"  {line}"), soft_wrap=True)
        while not stop.wait(_STEP_SECONDS):
            for event in self.story.update():
                line = line_of(event, self.story)
                if line:
                    self._console.print(Text.assemble((f"{self.story.time_of(event):8.2f} s  ", "dim"), line))

    def _note_sent(self, sending: list[_Sending], shown: Display) -> None:
        """Take note of the senders that have ended. What a sender could not send is seen as missing in the end."""
        for one in [one for one in sending if one.sent.done()]:
            sending.remove(one)
            story = self.story.series[one.series.series_uid]
            error = one.sent.exception()
            if error:
                shown.tell(self.story.now, f"{story.name}: sending failed: {error}")
                continue
            sent = one.sent.result()
            self.story.note_sent(one.series, sent)
            seconds = sent.ended_at - sent.started_at
            text = f"{sent.acknowledged} instances sent and acknowledged in {seconds:.2f} s"
            shown.tell(story.received_at or 0.0, f"{story.name}: {text}, {sent.acknowledged / seconds:.0f}/s")

    def _switch_on_workstation(self, events: list[Event], shown: Display) -> None:
        """Start the workstation when it has been missed."""
        missed = any(event.kind is EventKind.DELIVERY_DEFERRED and event.target == "workstation" for event in events)
        if missed and not self._workstation_is_on:
            self._workstation_is_on = True
            self._site.switch_on("workstation")
            shown.tell(self.story.now, "the workstation is switched on")

    def _find_all(self, series: DemoSeries) -> Iterator[Finding]:
        wanted = series.wanted
        if wanted.is_unwanted:
            yield verify("discard/", series.series_uid, series.files, (self._site.discarded,))
        for target in wanted.targets:
            yield verify(target, series.series_uid, series.files, self._site.folders_of(target))
        for target in wanted.result_targets:
            yield verify_results(target, series, self._results_of(series), self._site.folders_of(target))

    def _results_of(self, series: DemoSeries) -> list[Path]:
        success = self._site.layout.stage(Stage.SUCCESS)
        return [success / job_id / names.RESULTS for job_id in self.story.series[series.series_uid].processed]

    def _modules(self) -> Iterator[tuple[str, str]]:
        """Yield where the results of each module are, and what it printed."""
        for series in self.series:
            for folder in self._results_of(series):
                yield series.wanted.module, f"{folder.parent}, in {names.RESULTS}/ and {names.MODULE_LOGS}/"

    def _say(self, title: str, more: str = "") -> None:
        self._console.print(Text.assemble("\n", (title, "bold"), more), soft_wrap=True)

    def _list(self, *lines: tuple[str, str]) -> None:
        for name, text in lines:
            self._console.print(Text.assemble((f"  {name:<14}", "cyan"), text), soft_wrap=True)


def _verdict(finding: Finding) -> Text:
    if finding.is_complete:
        what = f"results of {finding.module}" if finding.module else "instances"
        return Text(f"  yes  all {finding.sent} {what}, byte for byte", "green")
    what = f" of what {finding.module} made" if finding.module else ""
    lost = f"{finding.missing} of {finding.sent} missing, {finding.different} changed{what}"
    return Text(f"  NO   {lost}{'' if finding.result or not what else ', no result.json'}", "red")
