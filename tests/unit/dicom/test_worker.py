"""The worker process by itself: what it does when its receiver is gone."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from tests.peers import wait_until

from mercure.dicom.worker_settings import WorkerSettings, layout_folders
from mercure.spool.layout import Layout


def test_a_receiver_that_dies_before_it_has_read_everything_ends_its_worker_without_noise(tmp_path: Path) -> None:
    layout = Layout.under(tmp_path / "data")
    layout.create()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-m", "mercure.dicom.worker", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": "src"},
    )
    with process, ours:
        theirs.close()
        settings = WorkerSettings(folders=layout_folders(layout))
        ours.send(json.dumps({"settings": asdict(settings)}).encode())
        wait_until(lambda: list(layout.drafts.iterdir()), "it has taken its settings")
        assert ours.recv(1 << 16, socket.MSG_PEEK)  # its answer stays unread: the kernel tells it so by a reset
        ours.close()
        _, said = process.communicate(timeout=30)
        assert (process.returncode, said) == (0, b"")
