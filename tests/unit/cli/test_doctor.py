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
from tests.no_hard_links import WITHOUT_HARD_LINKS
from tests.small_disk import fill, read_only, small_disk, take_inodes
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
    assert len(bad) >= 3
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
    site.layout.error.rmdir()
    found = worst(examined(site), "folders")
    assert (found["severity"], found["remedy"]) == ("warning", "`mercure run` makes it.")
    assert found["message"] == f"{site.layout.error} does not exist yet"


@pytest.mark.parametrize("trace", ["data.id", "journal/dispatcher-7-1.jsonl"])
def test_a_folder_that_vanished_from_a_data_folder_in_use_is_an_error_that_says_to_mount_or_make_it(
    site: Site, trace: str
) -> None:
    (site.layout.jobs / trace).touch()
    site.layout.error.rmdir()
    found = worst(examined(site), "folders")
    assert found["severity"] == "error"
    assert found["message"] == f"{site.layout.error} does not exist, and this data folder is in use"
    assert found["remedy"].startswith("If a disk belongs there, mount it. Else start `mercure run` anew")
    assert f"mkdir -p {site.layout.error}" in found["remedy"]
    site.layout.discard.rmdir()
    found = worst(examined(site), "folders")
    assert "2 folders in" in found["message"]
    assert "do not exist, and this data folder is in use" in found["message"]


def test_a_fresh_installation_has_one_finding_for_its_folders_and_the_space_they_will_have(site: Site) -> None:
    site.remove_data()
    answer = examined(site)
    assert answer.status == Exit.OK
    (found,) = findings(answer, "folders")
    assert found["severity"] == "warning"
    assert found["message"].startswith(f"8 folders in {site.data} (incoming, studies, ")
    assert found["remedy"] == "`mercure run` makes them."
    for check in ("space", "inodes"):
        (found,) = findings(answer, check)
        assert found["message"].startswith(f"{site.folder} (for all folders): ")
        assert " free" in found["message"]


def test_a_full_disk_is_told_before_the_folders_are_made(site: Site) -> None:
    with small_disk(site.folder / "disk", 4 << 20) as disk:
        site.configuration["mercure"]["incoming_folder"] = str(disk / "new" / "incoming")
        site.configuration["receiver"]["min_free_space_gb"] = 1
        site.write()
        found = worst(examined(site), "space")
    assert found["severity"] == "error"
    assert found["message"].startswith(f"{disk} (for incoming): ")


def test_folders_that_only_root_can_make_have_one_command_for_all() -> None:
    other_user = ("setpriv", "--reuid=65534", "--clear-groups") if os.geteuid() == 0 else ()
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder))
        site.config_file.chmod(0o644)
        site.remove_data()
        os.chmod(folder, 0o555)
        answer = site.process("doctor", "--json", wrapper=other_user)
        os.chmod(folder, 0o755)
    (found,) = findings(answer, "folders")
    assert found["severity"] == "error"
    assert found["remedy"].startswith(f"As root: mkdir -p {site.data} && chown ")


@pytest.mark.parametrize("above", [False, True])
def test_a_file_in_the_place_of_a_folder_is_named_with_its_remedy(site: Site, above: bool) -> None:
    file = site.folder / "file"
    file.touch()
    site.configuration["mercure"]["error_folder"] = str(file / "error" if above else file)
    site.write()
    found = worst(examined(site), "folders")
    assert found["severity"] == "error"
    assert f"{file} is not a folder" in found["message"]
    assert found["remedy"].startswith(f"Move it away (mv {file} {file}.old)")


def test_what_is_no_reception_in_incoming_is_listed_with_the_way_in(site: Site) -> None:
    incoming = site.layout.incoming
    (incoming / "1.2.3#0123456789").mkdir()
    assert not findings(examined(site), "incoming")
    (incoming / "1.2.3").mkdir()
    (found,) = findings(examined(site), "incoming")
    assert found["message"].startswith(f"1 entry of {incoming} is no reception and will never be routed: 1.2.3")
    (incoming / "1.2.3#1.2.3.4.dcm").touch()
    (incoming / "1.2.3#9876543210").touch()
    (incoming / "loose.dcm").touch()
    (found,) = findings(examined(site), "incoming")
    assert found["severity"] == "warning"
    assert found["message"].startswith("4 entries")
    assert found["message"].endswith("1.2.3, 1.2.3#1.2.3.4.dcm, 1.2.3#9876543210 and 1 more")
    port = site.configuration["receiver"]["port"]
    assert f"mercure send FOLDER --to 127.0.0.1:{port} --called MERCURE" in found["remedy"]


def test_tls_files_that_cannot_be_read_are_named(site: Site) -> None:
    key, cert = site.folder / "key.pem", site.folder / "cert.pem"
    key.touch()
    site.configuration["receiver"]["tls"] = {"key": str(key), "cert": str(cert), "port": peers.free_port()}
    node = {"target_type": "dicomtls", "host": "127.0.0.1", "port": 9, "called_ae_title": "TLS"}
    files = {"tls_key": str(key), "tls_cert": str(key), "ca_cert": str(site.folder / "ca.pem")}
    site.configuration["targets"]["remote"] = node | files
    site.write()
    answer = examined(site)
    assert answer.status == Exit.FAILED
    found = worst(answer, "configuration")
    assert (found["severity"], found["message"]) == ("error", f"receiver.tls.cert: {cert} does not exist")
    found = worst(answer, "targets")
    assert found["severity"] == "error"
    assert found["message"] == f"target remote: {files['ca_cert']} does not exist (no rule uses it)"


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


def test_folders_without_hard_links_are_an_error_here_and_for_the_services(site: Site) -> None:
    answer = site.process("doctor", "--json", wrapper=WITHOUT_HARD_LINKS)
    refused = [site.process("run", wrapper=WITHOUT_HARD_LINKS)]
    (site.layout.jobs / "data.id").write_text("0" * 32)  # as when the folder came from elsewhere
    refused.append(site.process("run", wrapper=WITHOUT_HARD_LINKS))
    assert answer.status == Exit.FAILED
    for found, folder in zip(findings(answer, "links"), (site.layout.incoming, site.layout.jobs), strict=True):
        assert found["severity"] == "error"
        assert f"within {folder} do not work: Operation not permitted" in found["message"]
        assert "ext4" in found["remedy"]
    for one, folder in zip(refused, (site.layout.jobs, site.layout.incoming), strict=True):
        assert one.status == Exit.DATA_FOLDER
        assert f"{folder} takes no hard links (Operation not permitted)" in one.err


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


def test_a_disk_without_a_free_inode_is_told_from_a_full_one_and_its_figures_stay(site: Site) -> None:
    with small_disk(site.data, inodes=400) as disk:
        site.layout.create()
        (site.layout.jobs / "data.id").write_text("0" * 32)
        ballast = take_inodes(disk, left=19)
        few = worst(examined(site), "inodes")
        ballast += take_inodes(disk)
        none = examined(site)
        started = site.process("run")
        for file in ballast:
            file.unlink()
        fill(disk)
        full = examined(site)
    refused = "fewer than the receiver keeps (20): every instance is refused"
    assert (few["severity"], few["message"]) == ("error", f"all folders: 19 of 400 inodes free, {refused}")
    folders = findings(none, "folders")
    assert len(folders) == 8
    assert {one["message"].split(" ", 1)[1] for one in folders} == {"is on a file system without a free inode"}
    assert all("Remove old jobs" in one["remedy"] for one in folders)
    (inodes,), (space,) = findings(none, "inodes"), findings(none, "space")
    assert (inodes["severity"], space["severity"]) == ("error", "ok")
    assert inodes["message"] == f"all folders: 0 of 400 inodes free, {refused}"
    assert space["message"].startswith("all folders: ")
    assert "without a free inode" in started.err
    assert not any("inode" in one["message"] for one in findings(full, "folders"))
    (space,), (inodes,) = findings(full, "space"), findings(full, "inodes")
    assert (space["severity"], inodes["severity"]) == ("error", "warning")
    assert space["message"].startswith("all folders: 0 bytes of ")


def test_one_folder_that_cannot_be_used_leaves_the_figures_of_the_others_as_they_are(site: Site) -> None:
    with small_disk(site.folder / "disk", inodes=50) as disk:
        site.configuration["mercure"]["success_folder"] = str(disk)
        site.write()
        take_inodes(disk)
        answer = examined(site)
    named = [one["message"].partition(": ")[0] for one in findings(answer, "inodes")]
    assert named == ["incoming, studies, processing, outgoing, error, discard, jobs", "success"]
    assert findings(answer, "inodes")[1]["message"] == "success: 0 of 50 inodes free"
    assert len(findings(answer, "space")) == 2


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


def test_a_port_that_another_installation_has_is_an_error(site: Site, tmp_path: Path) -> None:
    other = Site(tmp_path / "other", receiver=site.configuration["receiver"])
    with other.running() as running:
        found = worst(examined(site), "ports")
        refused = site.process("run")
    assert found["severity"] == "error"
    assert f"mercure (process {running.process.pid}), with another data folder" in found["message"]
    assert "Stop that one" in found["remedy"]
    assert refused.status == Exit.PORT
    assert "with another data folder" in refused.err


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


@contextmanager
def open_site(**sections: Any) -> Iterator[Site]:
    """An installation that another user can reach, and write to; the folder of a test is closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder), **sections)
        site.config_file.chmod(0o644)
        for path in (Path(folder), *(one for one in Path(folder).rglob("*") if one.is_dir())):
            path.chmod(0o777)
        yield site


def as_another_user(site: Site, *arguments: str) -> Answer:
    wrapper = ("setpriv", "--reuid=65534", "--clear-groups") if os.geteuid() == 0 else ()
    return site.process(*arguments, wrapper=wrapper)


def test_files_of_the_journal_that_cannot_be_read_are_named_and_the_queue_can_be_looked_at_all_the_same() -> None:
    with open_site() as site:
        journal, job = site.layout.journal, site.failed_job()
        for number in (5, 6):
            (journal / f"operator-1-{number}.jsonl").touch()
        assert not findings(as_another_user(site, "doctor", "--json"), "journal")
        closed = journal / "operator-1-6.jsonl"
        closed.chmod(0)
        (found,) = findings(as_another_user(site, "doctor", "--json"), "journal")
        shown = as_another_user(site, "queue", "show", job.id)
        journal.chmod(0)
        (unlisted,) = findings(as_another_user(site, "doctor", "--json"), "journal")
        journal.chmod(0o777)
        for number in range(10, 15):
            (journal / f"operator-1-{number}.jsonl").touch(mode=0)
        (many,) = findings(as_another_user(site, "doctor", "--json"), "journal")
    assert found["severity"] == "error"
    assert found["message"].startswith(f"1 file of {journal} cannot be read: {closed.name}; ")
    assert found["remedy"].startswith(f"As root: chown -h --reference={journal} {closed} && chmod u+r")
    assert shown.status == Exit.OK, shown
    assert job.id in shown.out
    assert shown.err.count(f"{closed.name} in {journal} may not be read by this user") == 1
    assert unlisted["message"].startswith(f"{journal} cannot be listed: ")
    assert unlisted["remedy"].startswith(f"As root: chown -hR --reference={site.layout.jobs} {journal}")
    assert "6 files of" in many["message"]
    assert many["message"].count("operator") == 3
    assert many["remedy"].startswith(f"As root: chown -h --reference={journal} {journal}/*.jsonl")
