"""Files that the configuration names."""

import os
from pathlib import Path

from tests.unit.config.samples import archive, text_of

from mercure.config.files import unreadable_files
from mercure.config.load import parse


def test_every_tls_file_that_cannot_be_read_is_found(tmp_path: Path) -> None:
    (tmp_path / "good.pem").write_text("x")
    (tmp_path / "folder.pem").mkdir()
    os.mkfifo(tmp_path / "pipe.pem")
    here = {name: str(tmp_path / f"{name}.pem") for name in ("good", "none", "folder", "pipe")}
    files = {"tls_key": here["folder"], "tls_cert": here["good"], "ca_cert": here["pipe"]}
    config = parse(
        text_of(
            {
                "receiver": {"tls": {"key": here["none"], "cert": here["good"]}},
                "targets": {"remote": archive(target_type="dicomtls", **files), "plain": archive()},
            }
        ),
        environment={},
    ).config
    assert [(one.path, str(one)) for one in unreadable_files(config)] == [
        (("receiver", "tls", "key"), f"{here['none']} does not exist"),
        (("targets", "remote", "tls_key"), f"{here['folder']} is not a file"),
        (("targets", "remote", "ca_cert"), f"{here['pipe']} is not a file"),
    ]


def test_without_tls_there_is_nothing_to_read() -> None:
    assert not list(unreadable_files(parse(text_of({"targets": {"plain": archive()}}), environment={}).config))
