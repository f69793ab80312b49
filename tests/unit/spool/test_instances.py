"""Permissions of instances that a module took away."""

import os
import subprocess
import sys
import tempfile

import pytest

from mercure.spool.instances import READ_ONLY, make_readable


def test_instances_that_can_be_read_stay_as_they_are_and_those_that_are_gone_do_not_count() -> None:
    with tempfile.TemporaryDirectory() as place:
        for name, mode in (("a.dcm", 0o640), ("b.dcm", 0o400)):
            os.close(os.open(f"{place}/{name}", os.O_CREAT | os.O_WRONLY))
            os.chmod(f"{place}/{name}", mode)
        assert make_readable(place, ["a.dcm", "b.dcm", "gone.dcm"]) == 0
        assert [os.stat(f"{place}/{name}").st_mode & 0o777 for name in ("a.dcm", "b.dcm")] == [0o640, 0o400]


def test_an_ordinary_user_takes_the_permission_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)  # that user may not write there
    program = (
        "import os, sys\n"
        "from mercure.spool.instances import make_readable\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "os.close(os.open(sys.argv[1] + '/a.dcm', os.O_CREAT | os.O_WRONLY, 0))\n"
        "print(make_readable(sys.argv[1], ['a.dcm', 'gone.dcm']), make_readable(sys.argv[1], ['a.dcm']))\n"
    )
    with tempfile.TemporaryDirectory() as place:  # the folders of pytest are closed to others
        os.chmod(place, 0o777)
        done = subprocess.run([sys.executable, "-c", program, place], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "1 0\n", "")
        assert os.stat(f"{place}/a.dcm").st_mode & 0o777 == READ_ONLY
