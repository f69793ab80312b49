"""`mercure queue`: what stands where, and what an operator does about it. Arguments only; the work is beside."""

from enum import StrEnum
from typing import Annotated

import typer

from mercure.cli import installation
from mercure.cli.exits import CommandError, Exit
from mercure.cli.options import JSON, new_app
from mercure.cli.output import clean, complain, is_terminal, print_json, say
from mercure.cli.queue_actions import Acted, Operator
from mercure.cli.queue_list import Listing, print_listing
from mercure.cli.queue_show import Details, print_details
from mercure.core.stages import Stage

app = new_app("See what stands where, and retry, cancel, hold or release jobs. Works while services run.")


class Place(StrEnum):
    """Where to look."""

    INCOMING = "incoming"
    PROCESSING = "processing"
    OUTGOING = "outgoing"
    SUCCESS = "success"
    ERROR = "error"
    DISCARD = "discard"


class Holdable(StrEnum):
    """Stages in which work can be held."""

    PROCESSING = "processing"
    OUTGOING = "outgoing"


Jobs = Annotated[list[str] | None, typer.Argument(metavar="[JOB]...", help="Ids of jobs, as `queue list` shows them.")]
HeldJobs = Annotated[list[str] | None, typer.Argument(metavar="[JOB]...", help="Ids of waiting jobs.")]
HeldStage = Annotated[Holdable | None, typer.Option(metavar="STAGE", help="The whole stage, processing or outgoing.")]

_SHOWN_ON_TERMINAL = 50


@app.command("list")
def list_(
    *,
    stage: Annotated[
        list[Place] | None,
        typer.Option(
            metavar="STAGE",
            help=f"Only this stage ({', '.join(Place)}); may be given often. By default all but success and discard.",
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
    loaded = installation.configuration_or_folders()
    layout = installation.data_folder(loaded)
    most = limit if limit is not None else _SHOWN_ON_TERMINAL if is_terminal() and not as_json else 0
    listing = Listing.of(layout, loaded.config.mercure.series_complete_trigger, [str(one) for one in stage or ()], most)
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
    details = Details.of(installation.data_folder(installation.configuration_or_folders()), job)
    if as_json:
        print_json(details.to_json())
    else:
        print_details(details)


@app.command()
def retry(
    jobs: Jobs = None,
    *,
    all_failed: Annotated[bool, typer.Option("--all-failed", help="Every job in error/.")] = False,
    as_json: JSON = False,
) -> None:
    """Let jobs go on: failed ones from where they failed, deferred ones at once.

    A target gets only what it has not confirmed. Exit status 1: one of them could not be retried.
    """
    if bool(jobs) == all_failed:
        raise CommandError("give either jobs or --all-failed", "`mercure queue list` shows them.", Exit.USAGE)
    operator = _operator()
    chosen = operator.failed() if all_failed else jobs or []
    _report([operator.retry(job) for job in chosen], as_json=as_json, nothing="No job has failed.")


@app.command()
def cancel(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="Ids of waiting or running jobs.")],
    *,
    as_json: JSON = False,
) -> None:
    """Stop jobs. They go to error/, from where `queue retry` takes them up again."""
    operator = _operator()
    _report([operator.cancel(job) for job in jobs], as_json=as_json)


@app.command()
def hold(jobs: HeldJobs = None, *, stage: HeldStage = None, as_json: JSON = False) -> None:
    """Start nothing more: single jobs, or a whole stage. What runs goes on."""
    operator, chosen = _held(jobs, stage)
    _report([operator.hold(*one) for one in chosen], as_json=as_json)


@app.command()
def release(jobs: HeldJobs = None, *, stage: HeldStage = None, as_json: JSON = False) -> None:
    """End a hold."""
    operator, chosen = _held(jobs, stage)
    _report([operator.release(*one) for one in chosen], as_json=as_json)


def _operator() -> Operator:
    return Operator(installation.data_folder(installation.configuration_or_folders()))


def _held(jobs: list[str] | None, stage: Holdable | None) -> tuple[Operator, list[tuple[str, Stage | None]]]:
    if bool(jobs) == bool(stage):
        raise CommandError("give either jobs or --stage", "For example --stage outgoing.", Exit.USAGE)
    return _operator(), [("", Stage(stage.value))] if stage else [(job, None) for job in jobs or []]


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
