"""`mercure doctor`: each check finds what is wrong, and says what to do."""

import os
import resource
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests import peers
from tests.small_disk import fill, read_only, small_disk
from tests.unit.cli.site import Answer, Site

from mercure.cli.doctor_machine import machine_findings
from mercure.cli.exits import Exit
from mercure.config.schema import Config


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An installation in which all is well."""
    (tmp_path / "out").mkdir()
    return Site(
        tmp_path,
        receiver={"port": peers.free_port(), "min_free_space_gb": 0.001},
        targets={"store": {"target_type": "folder", "folder": str(tmp_path / "out")}},
        rules=[{"name": "all", "condition": "True", "target": "store"}],
    )


def findings(answer: Answer, check: str) -> list[dict[str, Any]]:
    return [finding for finding in answer.json["findings"] if finding["check"] == check]


def worst(answer: Answer, check: str) -> dict[str, Any]:
    order = ("ok", "warning", "error")
    return max(findings(answer, check), key=lambda finding: order.index(finding["severity"]))


def examined(site: Site) -> Answer:
    return site("doctor", "--json")


def test_a_good_installation_has_no_error(site: Site) -> None:
    answer = site("doctor")
    assert answer.status == Exit.OK, answer
    assert "0 errors" in answer.out
    checks = {finding["check"] for finding in examined(site).json["findings"]}
    assert checks == {
        *("configuration", "folders", "renames", "locks", "fsync", "links", "space", "inodes", "ports", "targets"),
        *("limits", "clock", "python"),
    }


def test_it_leaves_nothing_behind(site: Site) -> None:
    before = sorted(str(path) for path in site.folder.rglob("*"))
    examined(site)
    assert sorted(str(path) for path in site.folder.rglob("*")) == before


def test_every_finding_that_is_not_well_has_a_remedy(site: Site) -> None:
    site.configuration["targets"]["pacs"] = {
        "target_type": "dicom",
        "host": "127.0.0.1",
        "port": peers.free_port(),
        "called_ae_title": "PACS",
    }
    site.configuration["rules"].append({"name": "lost", "condition": "True", "target": ["nowhere", "pacs"]})
    site.write()
    site.remove_data()
    answer = examined(site)
    assert answer.status == Exit.FAILED
    bad = [finding for finding in answer.json["findings"] if finding["severity"] != "ok"]
    assert len(bad) > 3
    assert all(finding["remedy"] for finding in bad)
    text = site("doctor").out
    assert text.count("Remedy: ") == len(bad)


def test_a_configuration_that_is_missing_or_broken_is_an_error(site: Site) -> None:
    site.config_file.write_text('{"mercure": {"data_foldr": 1}}')
    answer = examined(site)
    assert answer.status == Exit.FAILED
    assert "did you mean data_folder" in worst(answer, "configuration")["message"]
    site.config_file.unlink()
    answer = examined(site)
    assert answer.status == Exit.FAILED
    assert "there is no configuration" in worst(answer, "configuration")["message"]
    assert findings(answer, "python")


def test_secrets_that_everybody_can_read_are_a_warning(site: Site) -> None:
    site.configuration["webgui"] = {"auth_token_key": "hush"}
    site.write()
    assert worst(examined(site), "configuration")["severity"] == "ok"
    site.config_file.chmod(0o644)
    found = worst(examined(site), "configuration")
    assert found["severity"] == "warning"
    assert found["remedy"].startswith("chmod o-r")


def test_folders_that_run_would_make_are_a_warning(site: Site) -> None:
    site.remove_data()
    found = worst(examined(site), "folders")
    assert found["severity"] == "warning"
    assert "`mercure run` makes it" in found["remedy"]


def test_a_folder_that_is_a_file_is_an_error(site: Site) -> None:
    site.layout.error.rmdir()
    site.layout.error.write_text("")
    found = worst(examined(site), "folders")
    assert found["severity"] == "error"
    assert str(site.layout.error) in found["message"]


def test_a_read_only_folder_is_an_error(site: Site) -> None:
    with small_disk(site.folder / "disk") as disk:
        site.configuration["mercure"]["success_folder"] = str(disk)
        site.write()
        with read_only(disk):
            found = worst(examined(site), "folders")
    assert found["severity"] == "error"
    assert "is read-only" in found["message"]
    assert "read-write" in found["remedy"]


def test_stages_on_two_file_systems_are_told_apart_by_a_real_rename(site: Site) -> None:
    with small_disk(site.folder / "disk") as disk:
        site.configuration["mercure"]["processing_folder"] = str(disk)
        site.write()
        answer = examined(site)
        found = worst(answer, "renames")
        assert found["severity"] == "warning"
        assert "| processing" in found["message"]
        assert worst(answer, "links")["severity"] == "ok"
        assert len(findings(answer, "fsync")) == 2


def test_two_mounts_of_one_file_system_are_told_apart_too(site: Site) -> None:
    """The device numbers are equal there, and a rename fails all the same."""
    other = site.folder / "elsewhere"
    other.mkdir()
    mount = ("unshare", "-rm", "sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh")
    answer = site.process("doctor", "--json", wrapper=(*mount, str(other), str(site.layout.processing)))
    assert (other.stat().st_dev) == site.layout.incoming.stat().st_dev
    assert "| processing" in worst(answer, "renames")["message"]


def test_a_full_disk_is_an_error(site: Site) -> None:
    with small_disk(site.folder / "disk", 4 << 20) as disk:
        site.configuration["mercure"]["incoming_folder"] = str(disk)
        site.configuration["receiver"]["min_free_space_gb"] = 0.003
        site.write()
        assert worst(examined(site), "space")["severity"] == "warning"
        fill(disk)
        found = [one for one in findings(examined(site), "space") if one["message"].startswith("incoming")]
    assert found[0]["severity"] == "error"
    assert "every instance is refused" in found[0]["message"]


def test_a_port_in_use_names_who_has_it(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        site.configuration["receiver"]["port"] = server.getsockname()[1]
        site.write()
        found = worst(examined(site), "ports")
    assert found["severity"] == "error"
    assert f"process {os.getpid()}" in found["message"]


def test_a_port_that_the_running_platform_has_is_well(site: Site) -> None:
    with site.running() as running:
        found = worst(examined(site), "ports")
    assert found["severity"] == "ok"
    assert f"the running mercure (process {running.process.pid})" in found["message"]


def test_an_address_of_another_machine_is_an_error(site: Site) -> None:
    site.configuration["receiver"]["host"] = "192.0.2.1"
    site.write()
    found = worst(examined(site), "ports")
    assert found["severity"] == "error"
    assert "receiver.host" in found["remedy"]


def test_an_unreachable_target_is_an_error_only_when_a_rule_uses_it(site: Site) -> None:
    port = peers.free_port()
    pacs = {"target_type": "dicom", "host": "127.0.0.1", "port": port, "called_ae_title": "PACS"}
    site.configuration["targets"]["pacs"] = pacs
    site.write()
    unused = examined(site)
    assert unused.status == Exit.OK
    assert worst(unused, "targets")["severity"] == "warning"
    site.configuration["rules"].append({"name": "pacs", "condition": "True", "target": "pacs"})
    site.write()
    used = examined(site)
    assert used.status == Exit.FAILED
    assert "target pacs: no connection" in worst(used, "targets")["message"]
    with peers.storescp(site.folder / "scp", ae_title="PACS", port=port):
        assert examined(site).status == Exit.OK


def test_targets_are_asked_at_the_same_time_and_not_for_ever(site: Site) -> None:
    with silent_servers(6) as ports:
        for number, port in enumerate(ports):
            site.configuration["targets"][f"hung{number}"] = {
                "target_type": "dicom",
                "host": "127.0.0.1",
                "port": port,
                "called_ae_title": "HUNG",
            }
        site.write()
        answer = site.process("doctor", "--json", wrapper=("timeout", "25"))
    hung = [one for one in findings(answer, "targets") if "hung" in one["message"]]
    assert len(hung) == 6
    assert all(one["severity"] == "warning" for one in hung)


@contextmanager
def silent_servers(count: int) -> Iterator[list[int]]:
    """Servers that accept connections and never answer."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        yield [server.getsockname()[1] for server in servers]
    finally:
        for server in servers:
            server.close()


def test_few_open_files_are_a_warning() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 300), hard))
    try:
        found = [one for one in machine_findings(Config()) if one.check == "limits"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found[0].severity == "warning"
    assert "LimitNOFILE" in found[0].remedy


def test_no_rules_are_a_warning(site: Site) -> None:
    site.configuration["rules"] = []
    site.write()
    assert "every series is discarded" in worst(examined(site), "configuration")["message"]


def test_root_is_told_that_it_may_do_more_than_the_services(site: Site) -> None:
    as_root = () if os.geteuid() == 0 else ("sudo", "--non-interactive")
    subprocess.run([*as_root, "chown", "12345", str(site.layout.error)], check=True)
    found = worst(examined(site), "folders")
    if as_root:  # then the folder is lost for us
        assert found["severity"] == "error"
    else:
        assert found["severity"] == "warning"
        assert found["remedy"] == "sudo -u '#12345' mercure doctor"


def test_a_user_without_permissions_is_told_which_folder_to_get() -> None:
    """Not below the folder of the test, which another user may not enter."""
    other_user = ("setpriv", "--reuid=65534", "--clear-groups") if os.geteuid() == 0 else ()
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder))
        site.config_file.chmod(0o644)
        os.chmod(folder, 0o755)
        site.layout.outgoing.chmod(0o555)
        answer = site.process("doctor", "--json", wrapper=other_user)
        site.layout.outgoing.chmod(0o755)
    assert answer.status == Exit.FAILED
    found = [one for one in findings(answer, "folders") if str(site.layout.outgoing) in one["message"]]
    assert found[0]["severity"] == "error"
    assert "chown" in found[0]["remedy"]
