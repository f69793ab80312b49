"""`mercure queue`: what stands where, and what an operator does about it. Arguments only; the work is beside."""

import difflib
from collections.abc import Sequence
from typing import Annotated

import typer

from mercure.cli import installation
from mercure.cli.exits import CommandError, Exit
from mercure.cli.options import JSON, new_app
from mercure.cli.output import clean, complain, counted, is_terminal, print_json, say
from mercure.cli.queue_actions import Acted, Operator
from mercure.cli.queue_list import Listing, print_listing
from mercure.cli.queue_show import Details, print_details
from mercure.cli.queue_waits import Waits
from mercure.core.stages import Stage

app = new_app("See what stands where, and retry, cancel, hold or release jobs. Works while services run.")


PLACES = ("incoming", "processing", "outgoing", "success", "error", "discard")
HOLDABLE = ("processing", "outgoing")

Jobs = Annotated[list[str] | None, typer.Argument(metavar="[JOB]...", help="Ids of jobs, as `queue list` shows them.")]
HeldJobs = Annotated[list[str] | None, typer.Argument(metavar="[JOB]...", help="Ids of waiting jobs.")]
HeldStage = Annotated[str | None, typer.Option(metavar="STAGE", help="The whole stage, processing or outgoing.")]

_SHOWN_ON_TERMINAL = 50


@app.command("list")
def list_(
    *,
    stage: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE",
            help=f"Only this stage ({', '.join(PLACES)}); may be given often. By default all but success and discard.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Most rows for each stage, 0 for all. By default 50 on a terminal, else all."
        ),
    ] = None,
    as_json: JSON = False,
) -> None:
    """List series that gather or are being routed, and jobs that wait, run or failed.

    Failed jobs stand last, the newest of them at the end; broken DICOM that was kept in error/ is among them.
    """
    for one in stage or ():
        _check_stage(one, PLACES)
    loaded = installation.configuration_or_folders()
    layout = installation.data_folder(loaded)
    most = limit if limit is not None else _SHOWN_ON_TERMINAL if is_terminal() and not as_json else 0
    listing = Listing.of(layout, loaded, stage or (), most)
    if as_json:
        print_json(listing.to_json())
    else:
        print_listing(listing)


@app.command()
def show(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Id of a job, as `queue list` shows it.")],
    *,
    as_json: JSON = False,
) -> None:
    """Show one job: its timeline, its targets and what each of them has, its files, and why it failed."""
    loaded = installation.configuration_or_folders()
    details = Details.of(installation.data_folder(loaded), job, Waits.of(loaded))
    if as_json:
        print_json(details.to_json())
    else:
        print_details(details)


@app.command()
def retry(
    jobs: Jobs = None,
    *,
    all_failed: Annotated[bool, typer.Option("--all-failed", help="Every job in error/, except broken DICOM.")] = False,
    as_then: Annotated[
        bool,
        typer.Option(
            "--as-then",
            help="Jobs that failed in their modules: with the settings they were made with, not those of today.",
        ),
    ] = False,
    rule: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Series in discard/, or that failed at routing: route them again by this rule, without asking it.",
        ),
    ] = None,
    as_json: JSON = False,
) -> None:
    """Let jobs go on: failed ones from where they failed, deferred ones at once.

    A job that failed in its modules is processed anew from what was received, with its rule and its modules as they
    are configured today. A target gets only what it has not confirmed. With --rule, which also brings series back from
    discard/, one rule is followed whether its condition holds or not, even if it is disabled. Exit status 1: one of
    them could not be retried.
    """
    if bool(jobs) == all_failed:
        raise CommandError("give either jobs or --all-failed", "`mercure queue list` shows them.", Exit.USAGE)
    if rule is not None:
        _check_rule(rule, alone=not all_failed and not as_then)
        with _operator() as operator:
            _report([operator.route_by(job, rule) for job in jobs or ()], as_json=as_json)
        return
    with _operator() as operator:
        chosen, skipped = operator.failed() if all_failed else (jobs or [], 0)
        if skipped:
            them = "it" if skipped == 1 else "them"
            what = f"skipped {counted(skipped, 'job')} of broken DICOM, which cannot be retried"
            complain(f"note: {what}: have {them} sent again; `mercure queue list --stage error` shows {them}")
        nothing = "No job can be retried." if skipped else "No job has failed."
        _report([operator.retry(job, as_then=as_then) for job in chosen], as_json=as_json, nothing=nothing)


@app.command()
def cancel(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="Ids of waiting or running jobs.")],
    *,
    as_json: JSON = False,
) -> None:
    """Stop jobs. They go to error/, from where `queue retry` takes them up again."""
    with _operator() as operator:
        _report([operator.cancel(job) for job in jobs], as_json=as_json)


@app.command()
def hold(jobs: HeldJobs = None, *, stage: HeldStage = None, as_json: JSON = False) -> None:
    """Start nothing more: single jobs, or a whole stage. What runs goes on."""
    chosen = _held(jobs, stage)
    with _operator() as operator:
        _report([operator.hold(*one) for one in chosen], as_json=as_json)


@app.command()
def release(jobs: HeldJobs = None, *, stage: HeldStage = None, as_json: JSON = False) -> None:
    """End a hold."""
    chosen = _held(jobs, stage)
    with _operator() as operator:
        _report([operator.release(*one) for one in chosen], as_json=as_json)


def _check_rule(name: str, *, alone: bool) -> None:
    """Refuse a rule that no series can be routed by: it would go to error/, and nobody would see why at once."""
    if not alone:
        raise CommandError("--rule goes with jobs only", "Leave out --all-failed and --as-then.", Exit.USAGE)
    loaded = installation.configuration()
    known = [rule.name for rule in loaded.config.rules]
    if name in loaded.broken_rules:
        message = f"rule {name!r} cannot be read: {loaded.broken_rules[name]}"
        raise CommandError(clean(message), "`mercure config check` shows every problem.", Exit.CONFIGURATION)
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        remedy = (
            f"Did you mean {close[0]!r}?" if close else f"Rules of the configuration: {', '.join(known) or 'none'}."
        )
        raise CommandError(f"there is no rule {clean(name)[:128]!r}", clean(remedy), Exit.USAGE)


def _operator() -> Operator:
    loaded = installation.configuration_or_folders()
    return Operator(installation.data_folder(loaded), Waits.of(loaded))


def _check_stage(stage: str, known: Sequence[str]) -> None:
    if stage not in known:
        close = difflib.get_close_matches(stage, known, 1)
        remedy = f"Did you mean {close[0]}?" if close else f"Use one of {', '.join(known)}."
        which = "" if known is PLACES else " that can be held"
        raise CommandError(f"there is no stage {clean(stage)[:40]!r}{which}", remedy, Exit.USAGE)


def _held(jobs: list[str] | None, stage: str | None) -> list[tuple[str, Stage | None]]:
    if bool(jobs) == bool(stage):
        raise CommandError("give either jobs or --stage", "For example --stage outgoing.", Exit.USAGE)
    if stage:
        _check_stage(stage, HOLDABLE)
    return [("", Stage(stage))] if stage else [(job, None) for job in jobs or []]


def _report(results: list[Acted], *, as_json: bool, nothing: str = "") -> None:
    if as_json:
        print_json([result.to_json() for result in results])
    elif not results:
        say(nothing)
    else:
        for result in results:
            (say if result.done else complain)(clean(result.sentence))
    if not all(result.done for result in results):
        raise typer.Exit(Exit.FAILED)
