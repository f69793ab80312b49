"""What is believed of the output of a module, by a service that is no root and cannot look into what it may not."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

_AS_ORDINARY_USER = """
import os, sys
from pathlib import Path
from tests.arrivals import make_job
from tests.builders import small_series
from mercure.core.errors import PermanentError
from mercure.core.processing import Limits, ModuleSpec, RunOrder
from mercure.core.processing_steps import StepPlan
from mercure.core.stages import Stage
from mercure.services.module_chain import ChainRun
from mercure.services.module_run import Ended
from mercure.services.processing_settings import ProcessorSettings
from mercure.spool.layout import Layout
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
place = Path(sys.argv[1])
layout = Layout.under(place / "data")
layout.create()
job = make_job(layout, small_series(place / "series", 1), stage=Stage.PROCESSING)
folder = layout.processing / job.id
closed = folder / "out" / "closed"
closed.mkdir(parents=True)
(closed / "large").write_bytes(bytes(2_000_000))
os.chmod(closed, 0)
spec = ModuleSpec("hides", "process", output_limit_bytes=int(sys.argv[2]))
order = RunOrder(job.id, 0, spec, str(folder / "in"), str(folder / "out"), "", Limits(), print)
run = ChainRun(folder, job, (StepPlan("hides"),), (spec,), ProcessorSettings({}), (), str, print)
try:
    run._check(0, order, Ended(0, 1.0, ""))
except PermanentError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("limit", "said"), [(1_000_000, ["module hides made more than 0.001 GB of output"]), (3_000_000, [])]
)
def test_folders_that_a_module_closed_count_as_its_output(
    monkeypatch: pytest.MonkeyPatch, limit: int, said: list[str]
) -> None:
    monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)  # that user may not write there
    with tempfile.TemporaryDirectory() as place:  # the folders of pytest are closed to others
        os.chmod(place, 0o777)  # whoever the program becomes
        command = [sys.executable, "-W", "error", "-c", _AS_ORDINARY_USER, place, str(limit)]
        root = Path(__file__).parents[3]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["step 1/1 hides ended: exit code 0 after 1.0 s", *said]
