"""What is said of the data folder while services run."""

import logging
from pathlib import Path

import pytest

from mercure.cli.folder_watch import FolderWatch
from mercure.spool.layout import Layout


def test_a_changed_data_folder_is_watched_instead_of_the_old_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    layouts = [Layout.under(tmp_path / "old"), Layout.under(tmp_path / "new")]
    for layout in layouts:
        layout.create()
    current = [layouts[0]]
    watch = FolderWatch(lambda: current[0])
    watch.look()
    layouts[0].success.rmdir()
    watch.look()
    assert f"{layouts[0].success} has vanished" in caplog.text
    caplog.clear()
    current[0] = layouts[1]
    watch.look()
    layouts[0].error.rmdir()
    watch.look()
    assert caplog.text == "", "the old folders are nobody's business any more"
    layouts[1].error.rmdir()
    watch.look()
    assert f"{layouts[1].error} has vanished" in caplog.text
    layouts[1].error.mkdir()
    watch.look()
    assert f"{layouts[1].error} can be used again" in caplog.text
