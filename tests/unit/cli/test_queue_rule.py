"""`mercure queue retry --rule`: a series that was discarded, or failed at routing, goes on by a rule of choice."""

import pytest
from tests.peers import wait_until
from tests.unit.cli.site import JOB, Site

from mercure.cli.exits import Exit
from mercure.core.events import EventKind
from mercure.core.stages import Stage
from mercure.core.task import FailStage


@pytest.mark.parametrize("stage", [Stage.DISCARD, Stage.ERROR])
def test_a_running_router_takes_the_series_up_by_that_rule_unasked(site: Site, stage: Stage) -> None:
    site.configuration["rules"].append(
        {"name": "kept back", "condition": "tags.Modality == 'US'", "target": "store", "disabled": True}
    )
    site.write()
    failed = FailStage.ROUTING if stage is Stage.ERROR else None
    site.job(stage, action="discard", fail_stage=failed, deliveries=(), triggered_rules=())
    with site.running("router", until=""):
        answer = site("queue", "retry", JOB, "--rule", "kept back")
        assert (answer.status, answer.out) == (Exit.OK, f"{JOB} is routed again by rule 'kept back'\n")
        wait_until(lambda: any(site.layout.outgoing.glob("*/task.json")), "a job in outgoing/")
    (routed,) = site("queue", "list", "--json").json["jobs"]
    assert (routed["stage"], routed["rules"]) == ("outgoing", ["kept back"])
    assert [target["target"] for target in routed["targets"]] == ["store"]
    assert site.where(JOB) == []
    (event,) = [event for event in site.events() if event.kind is EventKind.JOB_RETRIED]
    assert (event.job_id, event.detail) == (JOB, f"by an operator, from {stage.value}, by rule 'kept back'")


def test_a_plain_retry_of_a_discarded_series_names_the_option(site: Site) -> None:
    site.job(Stage.DISCARD, action="discard", deliveries=())
    answer = site("queue", "retry", JOB)
    assert answer.status == Exit.FAILED
    assert f"job {JOB} was discarded: `mercure queue retry {JOB} --rule NAME`" in answer.err
    assert site.where(JOB) == ["discard"]


def test_a_rule_that_is_not_there_is_refused_and_nothing_moves(site: Site) -> None:
    site.job(Stage.DISCARD, action="discard", deliveries=())
    answer = site("queue", "retry", JOB, "--rule", "thikc")
    assert answer.status == Exit.USAGE
    assert "there is no rule 'thikc'" in answer.err
    assert "Did you mean 'thick'?" in answer.err
    assert "Rules of the configuration: ct, thick." in site("queue", "retry", JOB, "--rule", "x\x1b[2J").err
    assert site.where(JOB) == ["discard"]
    assert site.events() == ()


def test_a_rule_that_cannot_be_read_is_refused_with_its_fault(site: Site) -> None:
    site.job(Stage.DISCARD, action="discard", deliveries=())
    site.configuration["rules"][0]["condition"] = "tags.Modality ="
    site.write()
    answer = site("queue", "retry", JOB, "--rule", "ct")
    assert answer.status == Exit.CONFIGURATION
    assert "rule 'ct' cannot be read" in answer.err
    assert "column 15" in answer.err
    assert site.where(JOB) == ["discard"]


@pytest.mark.parametrize(
    ("stage", "failed", "text"),
    [
        (Stage.ERROR, FailStage.DISPATCHING, "was routed already and failed later: `mercure queue retry"),
        (Stage.ERROR, FailStage.PROCESSING, "was routed already and failed later: `mercure queue retry"),
        (Stage.ERROR, FailStage.RECEIVING, "can be routed again"),
        (Stage.OUTGOING, None, "stands in outgoing/"),
        (Stage.SUCCESS, None, "stands in success/"),
    ],
)
def test_what_was_routed_well_or_cannot_be_is_left_alone(
    site: Site, stage: Stage, failed: FailStage | None, text: str
) -> None:
    site.job(stage, fail_stage=failed)
    answer = site("queue", "retry", JOB, "--rule", "thick")
    assert answer.status == Exit.FAILED
    assert text in answer.err
    assert site.where(JOB) == [stage.value]
    assert site.events() == ()


@pytest.mark.parametrize("arguments", [["--all-failed"], [JOB, "--as-then"], []])
def test_the_option_goes_with_jobs_and_with_nothing_else(site: Site, arguments: list[str]) -> None:
    site.job(Stage.DISCARD, action="discard", deliveries=())
    assert site("queue", "retry", *arguments, "--rule", "thick").status == Exit.USAGE
    assert site.where(JOB) == ["discard"]
