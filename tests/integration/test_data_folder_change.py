"""A change of the data folders takes effect while the platform runs."""

import json
import threading
from contextlib import closing
from pathlib import Path

from tests.builders import dicom_bytes
from tests.peers import wait_until

from mercure.app.platform import Platform
from mercure.config.store import ConfigStore
from mercure.spool.intake import Intake
from mercure.spool.layout import Layout, Origin


def put_one_series(data: Path, series_uid: str) -> None:
    with closing(Intake(Layout.under(data))) as intake:
        draft = intake.draft()
        draft.write([dicom_bytes(SeriesInstanceUID=series_uid)])
        session = intake.session(Origin("SENDER", "MERCURE", "127.0.0.1"))
        session.publish(draft, "1.2.3", series_uid, f"{series_uid}.1", b"CT")
        session.close()


def write_config(path: Path, data: Path, delivered: Path) -> None:
    path.write_text(
        json.dumps(
            {
                "mercure": {"data_folder": str(data), "series_complete_trigger": 0.2},
                "targets": {"out": {"target_type": "folder", "folder": str(delivered)}},
                "rules": [{"name": "all", "condition": "True", "target": "out"}],
            }
        )
    )


def test_new_data_folders_are_used_without_a_restart_and_the_old_ones_keep_what_they_hold(tmp_path: Path) -> None:
    config, delivered = tmp_path / "mercure.json", tmp_path / "delivered"
    delivered.mkdir()
    write_config(config, tmp_path / "old", delivered)
    platform = Platform(ConfigStore(config), ["router", "dispatcher"])
    thread = threading.Thread(target=platform.run)
    thread.start()
    try:
        put_one_series(tmp_path / "old", "1.2.840.1")
        wait_until(lambda: len(list((tmp_path / "old/success").iterdir())) == 1, "the first series is delivered")
        write_config(config, tmp_path / "new", delivered)
        wait_until((tmp_path / "new/jobs/journal").is_dir, "the new folders are there")
        put_one_series(tmp_path / "new", "1.2.840.2")
        wait_until(lambda: len(list((tmp_path / "new/success").iterdir())) == 1, "the second series is delivered")
    finally:
        platform.stop()
        thread.join(30)
    assert len(list((tmp_path / "old/success").iterdir())) == 1
    assert len(list(delivered.glob("*/*.dcm"))) == 2


def test_data_folders_that_cannot_be_made_leave_the_old_ones_in_use(tmp_path: Path) -> None:
    config, delivered = tmp_path / "mercure.json", tmp_path / "delivered"
    delivered.mkdir()
    (tmp_path / "file").touch()
    write_config(config, tmp_path / "old", delivered)
    platform = Platform(ConfigStore(config), ["router", "dispatcher"])
    thread = threading.Thread(target=platform.run)
    thread.start()
    try:
        write_config(config, tmp_path / "file/below", delivered)
        revision = platform.layout
        put_one_series(tmp_path / "old", "1.2.840.1")
        wait_until(lambda: len(list((tmp_path / "old/success").iterdir())) == 1, "the series is delivered")
        assert platform.layout == revision
    finally:
        platform.stop()
        thread.join(30)
