"""Memory and processor time of a tree of processes."""

import os
import subprocess
import sys
import time

from bench import processes

_PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
_CHILD = "x = bytearray(50_000_000); x[::4096] = x[::4096]; print('ready', flush=True); input()"


def test_memory_of_children_counts() -> None:
    command = [sys.executable, "-c", _PARENT, _CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert len(processes.tree(process.pid)) == 2
        for measured in (processes.resident_kb, processes.proportional_kb, processes.peak_resident_kb):
            assert 48_000 < measured(process.pid) < 200_000
        process.communicate(b"\n")


def test_processor_time_counts_also_when_its_process_has_ended() -> None:
    before = processes.cpu_seconds(os.getpid())
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    assert processes.cpu_seconds(os.getpid()) - before > 0.25


def test_a_process_that_waits_is_idle() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = time.monotonic()
        processes.wait_until_idle(process.pid)
        assert processes.cpu_share(process.pid, 0.2) < 0.06
        assert time.monotonic() - started >= 1.2
        process.communicate(b"\n")
