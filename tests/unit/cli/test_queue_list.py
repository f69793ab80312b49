"""`mercure queue list` on jobs of an existing installation."""

import json

from tests.unit.cli.site import JOB, Site

from mercure.cli.exits import Exit
from mercure.core.stages import Stage


def test_a_job_that_does_not_say_when_it_was_made_has_no_age(site: Site) -> None:
    site.job(Stage.OUTGOING, "20260101T120000-aa-1")
    site.job(Stage.OUTGOING, JOB)
    task = site.layout.outgoing / JOB / "task.json"
    content = json.loads(task.read_text())
    del content["mercure"]["created_at"]
    task.write_text(json.dumps(content))
    listed = {one["job"]: one for one in site("queue", "list", "--json").json["jobs"]}
    assert (listed[JOB]["created_at"], listed[JOB]["age_seconds"]) == (None, None)
    assert 290 < listed["20260101T120000-aa-1"]["age_seconds"] < 900
    rows = site("queue", "list").out
    assert " d " not in rows
    assert " d\n" not in rows
    shown = site("queue", "show", JOB)
    assert shown.status == Exit.OK
    assert "1970" not in shown.out
    assert site("queue", "show", JOB, "--json").json["age_seconds"] is None
