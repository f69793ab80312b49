"""What /proc says about processes, read without believing names in it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.peers import wait_until

from mercure.runners import process_tree


def test_a_process_is_named_by_its_pid_and_the_time_it_started() -> None:
    assert process_tree.started(os.getpid()) > 0
    assert process_tree.started(os.getpid()) == process_tree.started(os.getpid())
    with subprocess.Popen(["true"]) as child:
        child.wait()
        assert process_tree.started(child.pid) == 0


def test_children_of_children_are_found_with_their_threads(tmp_path: Path) -> None:
    program = tmp_path / ") 1 2 R 3"
    program.symlink_to("/bin/sleep")
    text = (
        "import _thread, subprocess, sys, time; _thread.start_new_thread(time.sleep, (600,));"
        "child = subprocess.Popen([sys.argv[1], '600'], start_new_session=True); print(child.pid, flush=True);"
        "child.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", text, str(program)], stdout=subprocess.PIPE) as child:
        assert child.stdout
        grandchild = int(child.stdout.readline())
        found = process_tree.descendants(os.getpid())
        assert found[child.pid] >= 2
        assert found[grandchild] == 1
        assert process_tree.descendants(child.pid) == {grandchild: 1}
        process_tree.send(signal.SIGKILL, [grandchild, child.pid])
        child.wait()
        wait_until(lambda: process_tree.started(grandchild) == 0, "it is gone")
        process_tree.send(signal.SIGKILL, [grandchild])


def test_processes_are_found_by_a_mark_in_their_environment() -> None:
    mark = f"MARK={os.urandom(8).hex()}"
    with subprocess.Popen(["sleep", "600"], env=dict([mark.split("=")])) as child:
        wait_until(lambda: process_tree.marked(mark) == [child.pid], "it is found")
        assert process_tree.marked(mark[:-1]) == []
        assert process_tree.marked(mark[1:]) == []
        child.kill()
        child.wait()
    assert process_tree.marked(mark) == []
