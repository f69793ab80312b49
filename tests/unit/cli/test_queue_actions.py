"""What the acts of an operator leave in the journal."""

import pytest
from tests.unit.cli.site import Site

from mercure.cli.exits import Exit
from mercure.core.stages import Stage
from mercure.core.task import FailStage


@pytest.mark.parametrize(
    ("words", "events"),
    [(["retry"], 3), (["retry", "--rule", "ct"], 3), (["cancel"], 6), (["hold"], 3), (["release"], 3)],
)
def test_a_command_leaves_one_file_in_the_journal_however_many_jobs_it_is_for(
    site: Site, words: list[str], events: int
) -> None:
    jobs = [f"2026010{number}T120000-aa-1" for number in (1, 2, 3)]
    for job in jobs:
        if words[0] == "retry":
            site.failed_job(job, fail_stage=FailStage.ROUTING)
        else:
            site.job(Stage.OUTGOING, job)
    assert site("queue", words[0], *jobs, *words[1:]).status == Exit.OK
    assert len(site.events()) == events
    assert len(list(site.layout.journal.glob("*.jsonl"))) == 1


def test_a_command_that_does_nothing_leaves_no_file_in_the_journal(site: Site) -> None:
    assert site("queue", "retry", "unknown-1").status == Exit.FAILED
    assert list(site.layout.journal.glob("*.jsonl")) == []
