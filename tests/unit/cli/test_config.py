"""`mercure config`."""

import json
import os
import stat
from pathlib import Path

import pytest
from tests.unit.cli.site import Site

from mercure.cli.exits import Exit
from mercure.config.store import ConfigStore

FLAT = {
    "appliance_name": "old",
    "port": 11112,
    "targets": {"pacs": {"target_type": "dicom", "ip": "10.0.0.1", "port": "104", "aet_target": "PACS"}},
    "rules": {"ct": {"rule": "tags.Modality == 'CT'", "target": "pacs", "action": "route"}},
}


def test_a_good_configuration_has_no_problems(site: Site) -> None:
    answer = site("config", "check")
    assert answer.status == Exit.OK
    assert "no problems; 2 rules and 2 targets" in answer.out


def test_every_problem_is_shown_with_path_and_line(site: Site) -> None:
    site.configuration["rules"][0]["target"] = ["pasc"]
    site.configuration["rules"][1]["conditoin"] = "x"
    site.write()
    answer = site("config", "check")
    assert answer.status == Exit.FAILED
    lines = site.config_file.read_text().splitlines()
    wrong = next(number for number, line in enumerate(lines, 1) if "conditoin" in line)
    assert f"{site.config_file}:{wrong}: error: rules[1].conditoin: unknown key; did you mean condition?" in answer.out
    assert "'pasc': there is no target of this name" in answer.out
    assert "2 errors" in answer.out


@pytest.mark.parametrize(
    ("collection", "name", "entry", "aside"),
    [
        ("targets", "odd", {"target_type": "pigeon"}, "target 'odd'"),
        ("modules", "seg\x1b", {}, "module 'seg"),
        ("rules", 0, {"name": "ct", "condition": "tags.Modality ="}, "rule 'ct'"),
    ],
)
def test_a_file_with_a_fault_of_its_own_is_what_services_refuse_and_a_start_takes_in_part(
    site: Site, collection: str, name: str | int, entry: dict[str, str], aside: str
) -> None:
    store = ConfigStore(site.config_file)
    good = store.load()
    site.configuration.setdefault(collection, {})[name] = entry
    site.write()
    answer = site("config", "check")
    assert answer.status == Exit.FAILED
    assert "Services that run refuse this file as a whole" in answer.out
    assert f"A start would set aside {aside}" in answer.out
    assert "\x1b" not in answer.out
    as_json = site("config", "check", "--json").json
    assert (as_json["usable"], as_json["taken_while_running"]) == (True, False)
    assert store.poll() is None
    assert store.current is good
    assert ConfigStore(site.config_file).load().broken_rules.keys() <= {"ct"}


def test_a_file_whose_names_lead_nowhere_is_taken_by_services(site: Site) -> None:
    store = ConfigStore(site.config_file)
    good = store.load()
    site.configuration["rules"][0]["target"] = ["pasc"]
    site.write()
    answer = site("config", "check")
    assert answer.status == Exit.FAILED
    assert "Services that run take this file." in answer.out
    assert "refuse" not in answer.out
    assert site("config", "check", "--json").json["taken_while_running"] is True
    assert store.poll() is not None
    assert store.current is not good


def test_problems_are_also_json(site: Site) -> None:
    site.configuration["rules"][0]["target"] = ["pasc"]
    site.write()
    answer = site("config", "check", "--json")
    assert answer.status == Exit.FAILED
    assert answer.json["usable"] is True
    (problem,) = answer.json["problems"]
    assert problem["path"] == "rules[0].target"
    assert problem["line"] > 1


def test_warnings_alone_are_no_failure(site: Site) -> None:
    site.configuration["rules"][0]["notification_email"] = "a@b.c"
    site.write()
    answer = site("config", "check")
    assert answer.status == Exit.OK
    assert "warning" in answer.out


@pytest.mark.parametrize("text", ["{", "[]", '{"mercure": {"data_foldr": "/x"}}'])
def test_a_file_that_cannot_be_used_has_its_own_status(site: Site, text: str, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(text)
    answer = site("config", "check", other)
    assert answer.status == Exit.CONFIGURATION
    assert f"{other}" in answer.out
    assert "cannot be used" in answer.out
    assert site("config", "check", other, "--json").json["usable"] is False


def test_a_file_that_is_not_there_is_said(site: Site, tmp_path: Path) -> None:
    answer = site("config", "check", tmp_path / "none.json")
    assert answer.status == Exit.USAGE
    assert f"there is no file {tmp_path / 'none.json'}" in answer.err
    site.config_file.unlink()
    answer = site("config", "check")
    assert answer.status == Exit.CONFIGURATION
    assert "there is no configuration" in answer.err


def test_the_configuration_is_shown_without_secrets(site: Site) -> None:
    site.configuration["webgui"] = {"auth_token_key": "hush-hush"}
    site.write()
    answer = site("config", "show")
    assert answer.status == Exit.OK
    assert 'webgui.auth_token_key = "********"' in answer.out
    assert 'rules[1].name = "thick"' in answer.out
    assert "router_scan_interval" not in answer.out
    everything = site("config", "show", "--all")
    assert "mercure.router_scan_interval = 1.0" in everything.out
    as_json = site("config", "show", "--json")
    assert as_json.json["webgui"]["auth_token_key"] == "********"
    assert "hush" not in answer.out + everything.out + as_json.out


def test_what_was_set_aside_is_told_beside_it(site: Site) -> None:
    site.configuration["targets"]["odd"] = {"target_type": "pigeon"}
    site.write()
    answer = site("config", "show")
    assert answer.status == Exit.OK
    assert "set aside: odd" in answer.err


def test_tls_files_that_cannot_be_read_are_a_warning_with_their_line(site: Site) -> None:
    files = {key: str(site.folder / f"{key}.pem") for key in ("tls_key", "tls_cert", "ca_cert")}
    site.configuration["targets"]["pacs"] |= {"target_type": "dicomtls", **files}
    site.write()
    (site.folder / "tls_key.pem").touch()
    answer = site("config", "check")
    assert answer.status == Exit.OK
    lines = site.config_file.read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "ca_cert" in text)
    expected = f"{site.config_file}:{line}: warning: targets.pacs.ca_cert: {files['ca_cert']} does not exist"
    assert expected in answer.out
    assert "0 errors, 2 warnings" in answer.out


def test_urls_are_shown_without_what_may_be_secret_in_them(site: Site) -> None:
    url = "https://user:hush@hook.example.org/a?token=hush"
    site.configuration["rules"][0] |= {"notification_webhook": url, "notification_payload": "'key': 'hush'"}
    site.write()
    answer = site("config", "show")
    assert 'rules[0].notification_webhook = "https://********@hook.example.org/********?token=********"' in answer.out
    assert "hush" not in answer.out + site("config", "show", "--json").out + site("config", "check").out


def test_settings_are_shown_without_what_looks_like_a_secret(site: Site) -> None:
    settings = {"api_key": "hush", "threshold": 0.5}
    site.configuration["modules"] = {
        "seg": {"docker_tag": "a:1", "settings": settings, "docker_arguments": {"environment": ["TOKEN=hush", "PLAIN"]}}
    }
    site.configuration["query"] = {"dicom_nodes": [{"name": "n", "password": "hush"}]}
    site.write()
    answer = site("config", "show")
    assert 'modules.seg.settings.api_key = "********"' in answer.out
    assert "modules.seg.settings.threshold = 0.5" in answer.out
    assert 'modules.seg.docker_arguments.environment = ["TOKEN=********", "PLAIN"]' in answer.out
    assert 'query.dicom_nodes[0].password = "********"' in answer.out
    everything = (site("config", *words).out for words in (["show", "--all"], ["show", "--json"], ["check"]))
    assert "hush" not in answer.out + "".join(everything)


def test_a_value_cannot_control_the_terminal(site: Site) -> None:
    site.configuration["rules"][0]["comment"] = "\x1b[2Jgone\u009b1m"
    site.write()
    assert "\x1b" not in site("config", "show").out
    assert "\u009b" not in site("config", "show", "--json").out


def test_an_unusable_configuration_cannot_be_shown(site: Site) -> None:
    site.config_file.write_text('{"mercure": {"data_foldr": 1, "appliance_nme": 2}}')
    answer = site("config", "show")
    assert answer.status == Exit.CONFIGURATION
    assert "the first of 2 problems" in answer.err
    assert "mercure config check" in answer.err


def test_the_schema_is_json(site: Site) -> None:
    assert site("config", "schema").json["properties"]["rules"]


def test_an_import_prints_the_result_on_stdout_and_the_changes_on_stderr(site: Site, tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text(json.dumps(FLAT))
    answer = site("config", "import", old)
    assert answer.status == Exit.OK
    assert answer.json["mercure"]["appliance_name"] == "old"
    assert answer.json["rules"][0]["name"] == "ct"
    assert "changed: " in answer.err


def test_an_import_sums_up_the_keys_that_said_the_default(site: Site, tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text(json.dumps(FLAT))
    short, whole = site("config", "import", old).err, site("config", "import", old, "--verbose").err
    assert "falls away: it is the default" not in short
    assert "2 keys that said what is the default fall away; --verbose lists them." in short
    assert "changed: port falls away: it is the default" in whole
    assert "--verbose" not in whole
    kept = [line for line in whole.splitlines() if line.startswith("changed") and "falls away" not in line]
    assert [line for line in short.splitlines() if line.startswith("changed")] == kept
    assert f"{len(kept)} changes." in short


def test_an_import_writes_a_private_file_that_can_be_used(site: Site, tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(FLAT))
    answer = site("config", "import", old, "--output", new)
    assert answer.status == Exit.OK
    assert answer.out == ""
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    assert site("config", "check", new).status == Exit.OK
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_an_import_overwrites_only_when_it_is_told_to(site: Site, tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(FLAT))
    new.write_text("precious")
    answer = site("config", "import", old, "--output", new)
    assert answer.status == Exit.FAILED
    assert "--force" in answer.err
    assert new.read_text() == "precious"
    assert site("config", "import", old, "--output", new, "--force").status == Exit.OK
    assert json.loads(new.read_text())["mercure"]["appliance_name"] == "old"


def test_an_import_says_what_it_cannot_do(site: Site, tmp_path: Path) -> None:
    ours = site("config", "import", site.config_file)
    assert ours.status == Exit.CONFIGURATION
    assert "nothing to import" in ours.err
    assert site("config", "import", tmp_path / "none.json").status == Exit.USAGE
    old = tmp_path / "old.json"
    old.write_text(json.dumps(FLAT))
    answer = site("config", "import", old, "--output", tmp_path / "no" / "such" / "folder.json")
    assert answer.status == Exit.FAILED
    assert "cannot be written" in answer.err
