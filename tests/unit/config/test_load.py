import json
from collections.abc import Mapping
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from tests.unit.config.samples import FLAT, GUIDE, archive, good, route, text_of

from mercure.config.load import Loaded, load, load_folders, parse
from mercure.config.problems import InvalidConfigError, Problem
from mercure.config.schema import Config, DicomTarget, ProcessingTarget
from mercure.core.errors import ConfigError


def _loaded(value: Any, environment: Mapping[str, str] | None = None) -> Loaded:
    return parse(text_of(value), environment=environment or {})


def _retries(config: Config) -> tuple[float, float, int]:
    return config.dispatcher.retry_delay, config.dispatcher.retry_max_delay, config.dispatcher.retry_max


def _problems(value: Any) -> dict[str, str]:
    with pytest.raises(InvalidConfigError) as caught:
        _loaded(value)
    return {problem.path: problem.message for problem in caught.value.problems}


def _at(loaded: Loaded, path: str) -> Problem:
    (found,) = [problem for problem in loaded.problems if problem.path == path]
    return found


def test_everything_the_guide_shows_loads() -> None:
    loaded = _loaded(GUIDE)
    assert loaded.form == "nested"
    assert not loaded.schema_errors
    (rule,) = loaded.config.rules
    assert (rule.name, rule.action, rule.target, rule.timeout) == (
        "Process CT Studies",
        "process",
        ("ai_processor",),
        300,
    )
    target = loaded.config.targets["ai_processor"]
    assert isinstance(target, ProcessingTarget)
    assert target.processing_module == ("mercure-monaisegment",)
    assert target.settings == {"batch_size": 16, "timeout": 600}
    assert loaded.config.processor.cpu_limit == 4
    assert loaded.config.cleaner.error_retention_days == 14


def test_an_empty_object_gives_the_defaults() -> None:
    loaded = _loaded({})
    assert loaded.config == Config()
    assert loaded.problems == ()
    assert loaded.config.mercure.folder("incoming") == Path("/opt/mercure/data/incoming")
    assert loaded.config.mercure.zone is UTC


def test_a_stage_folder_of_its_own_goes_before_the_data_folder() -> None:
    config = _loaded({"mercure": {"data_folder": "/srv", "error_folder": "/other/error"}}).config
    assert config.mercure.folder("error") == Path("/other/error")
    assert config.mercure.folder("success") == Path("/srv/success")


def test_a_whole_flat_file_loads_with_every_value() -> None:
    loaded = _loaded(FLAT)
    assert loaded.form == "flat"
    assert not loaded.schema_errors
    config = loaded.config
    assert [rule.name for rule in config.rules] == ["second_name_first", "a_rule", "no_expression"]
    assert config.rules[2].condition == "False"
    assert config.rules[0].disabled is False
    assert config.mercure.retention_days == 5
    assert config.receiver.port == 11113
    assert config.receiver.accept_compressed_images is True
    assert config.receiver.additional_tags == {"StationName": "CT1", "0018,0015": "CHEST"}
    assert _retries(config) == (600, 600, 7)
    pacs = config.targets["pacs"]
    assert isinstance(pacs, DicomTarget)
    assert (pacs.host, pacs.port, pacs.called_ae_title, pacs.calling_ae_title) == ("10.0.0.5", 104, "PACS", "GATE")
    assert pacs.forward_calling_ae_title is True
    assert config.modules["anonymize"].network_enabled is True
    assert config.modules["segment"].environment["THREADS"].reveal() == "4"


def test_an_empty_flat_file_keeps_its_own_defaults() -> None:
    config = _loaded({"port": 11112}).config
    assert config.mercure.retention_days == 3
    assert config.mercure.folder("persistence") == Path("/opt/mercure/persistence")
    assert _retries(config) == (900, 900, 5)
    assert config.cleaner.min_free_space_gb == 0


@pytest.mark.parametrize("empty", [None, ""])
def test_empty_ports_and_ae_titles_of_existing_files_mean_what_they_did(empty: str | None) -> None:
    node = {"target_type": "dicom", "ip": "h", "port": empty, "aet_target": "", "pass_receiver_aet": "True"}
    loaded = _loaded({"port": empty, "targets": {"a": node}})
    assert loaded.problems == ()
    assert loaded.config.receiver.port == 11112
    target = loaded.config.targets["a"]
    assert isinstance(target, DicomTarget)
    assert (target.port, target.called_ae_title, target.forward_called_ae_title) == (11112, "", True)
    assert loaded.why_unusable("a") is None


def test_an_empty_called_ae_title_of_an_existing_file_names_its_own_key() -> None:
    node = {"target_type": "dicom", "ip": "h", "port": 104, "aet_target": ""}
    loaded = _loaded({"port": 11112, "targets": {"a": node}})
    assert loaded.broken_targets == {}
    assert _at(loaded, "targets.a.aet_target").kind == "reference"


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ({"rules": []}, "nested"),
        ({"rules": {}}, "flat"),
        ({"bookkeeper": {"address": "a:1"}}, "nested"),
        ({"bookkeeper": "a:1"}, "flat"),
        ({"targets": {"a": {"target_type": "dicom", "ip": "h", "port": "1", "aet_target": "A"}}}, "flat"),
        ({"targets": {"a": archive()}}, "nested"),
        ({"features": {"dummy_target": True}}, "nested"),
    ],
)
def test_the_form_is_told_by_what_only_one_of_them_has(value: Any, form: str) -> None:
    assert _loaded(value).form == form


def test_a_mixture_of_both_forms_is_refused() -> None:
    assert _problems({"rules": {}, "mercure": {}}) == {"rules": "must be a list"}


def test_one_bad_rule_is_set_aside_with_its_reason_and_the_rest_works() -> None:
    rules = [route("good"), route("typo", acton="route"), {"nme": 1}, 7, route("also good", disabled=True)]
    loaded = _loaded(good(rules=rules))
    assert [rule.name for rule in loaded.config.rules] == ["good", "also good"]
    assert loaded.broken_rules == {
        "typo": "acton: unknown key; did you mean action?",
        "rules[2]": "name is missing; condition is missing; nme: unknown key; did you mean name?",
        "rules[3]": "must be an object",
    }
    problem = _at(loaded, "rules[1].acton")
    assert (problem.severity, problem.kind, problem.line) == ("error", "schema", 12)
    assert len(loaded.schema_errors) == 5


def test_a_rule_with_a_bad_expression_is_set_aside() -> None:
    loaded = _loaded(good(rules=[route("bad", condition="tags.Modality = 'CT'"), route("good")]))
    assert list(loaded.broken_rules) == ["bad"]
    assert "column" in loaded.broken_rules["bad"]
    assert _at(loaded, "rules[0].condition").kind == "schema"
    assert [rule.name for rule in loaded.config.rules] == ["good"]


def test_what_is_wrong_with_an_expression_is_said_in_a_sentence() -> None:
    flat = {"port": 11112, "rules": {"assign": {"rule": "tags.Modality = 'CT'", "target": "a"}}}
    reason = _loaded(flat).broken_rules["assign"]
    assert reason.startswith("rule cannot be read: a rule cannot assign; use == to compare (column ")


@pytest.mark.parametrize("form", ["nested", "flat"])
def test_a_broken_rule_keeps_whether_it_is_disabled_or_a_fallback(form: str) -> None:
    bad: dict[str, Any] = {
        "off": {"disabled": True},
        "last": {"fallback": "True"},
        "both": {"disabled": "true", "fallback": 1},
        "neither": {"disabled": False},
        "unreadable": {"disabled": "perhaps", "fallback": []},
        "silent": {},
    }
    if form == "flat":
        loaded = _loaded({"port": 11112, "rules": {name: {"rule": "(", **more} for name, more in bad.items()}})
    else:
        loaded = _loaded({"rules": [{"name": name, "condition": "(", **more} for name, more in bad.items()]})
    assert list(loaded.broken_rules) == list(bad)
    assert loaded.disabled_broken_rules == {"off", "both"}
    assert loaded.fallback_broken_rules == {"last", "both"}


def test_of_two_rules_of_one_name_both_must_be_disabled_to_take_nothing() -> None:
    loaded = _loaded(good(rules=[route("a", disabled=True), route("a"), route("b", disabled=True), 7]))
    assert loaded.disabled_broken_rules == set()
    loaded = _loaded(good(rules=[route("a", disabled=True), route("a", disabled=True)]))
    assert loaded.disabled_broken_rules == {"a"}


def test_rules_of_one_name_are_all_set_aside() -> None:
    loaded = _loaded(good(rules=[route("a"), route("b"), route("a")]))
    assert [rule.name for rule in loaded.config.rules] == ["b"]
    assert loaded.broken_rules == {"a": "name is the name of another rule, too"}
    assert [problem.path for problem in loaded.schema_errors] == ["rules[0].name", "rules[2].name"]


@pytest.mark.requirement("D8")
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ({}, "target_type is missing; one of dicom"),
        ({"host": "h", "port": 1, "called_ae_title": "A"}, "target_type is missing"),
        ({"target_type": "dicm"}, "target_type is none of dicom"),
        ({"target_type": 5}, "target_type is none of dicom"),
        (None, "must be an object"),
        (archive(port=0), "port must be greater than or equal to 1"),
        (archive(port=True), "port must be a number, not true or false"),
        (archive(called_ae_title="A" * 17), "AE title"),
        (archive(called_ae_title="A\\B"), "AE title"),
        (archive(host="http://x"), "host name or an IP address"),
        (archive(ip="h"), "unknown key; here it is called host"),
        ({"target_type": "folder", "folder": "relative"}, "absolute path"),
        ({"target_type": "xnat", "project_id": "p", "host": "https://h", "user": "u"}, "password is missing"),
        ({"processing_module": []}, "processing_module must"),
    ],
)
def test_a_bad_target_is_set_aside_and_never_one_that_delivers_nothing(target: Any, reason: str) -> None:
    loaded = _loaded(good(targets={"bad": target, "archive": archive()}))
    assert list(loaded.config.targets) == ["archive"]
    assert reason in loaded.broken_targets["bad"]
    assert loaded.why_unusable("archive") is None
    assert reason in (loaded.why_unusable("bad") or "")
    assert [rule.name for rule in loaded.config.rules] == ["ct"]


def test_a_bad_module_is_set_aside() -> None:
    modules = {"bad": {"docker_tag": "a b"}, "good": {"docker_tag": "a"}, "worse": {"environment": "{"}}
    loaded = _loaded(good(modules=modules))
    assert list(loaded.config.modules) == ["good"]
    assert "docker_tag" in loaded.broken_modules["bad"]
    assert "JSON" in loaded.broken_modules["worse"]


@pytest.mark.parametrize("name", ["", " x", ".hidden", "a/b", "a\\b", "x" * 129, "a\nb"])
def test_a_name_that_could_leave_its_folder_is_no_name(name: str) -> None:
    loaded = _loaded(good(targets={name: archive(), "archive": archive()}))
    assert list(loaded.broken_targets) == [name]
    assert list(loaded.config.targets) == ["archive"]


def test_faults_outside_of_entries_make_the_file_unusable_and_all_are_told() -> None:
    assert _problems(
        {
            "mercure": {
                "offpeak_start": "24:00",
                "local_time": "Europe/Atlantis",
                "server_time": "../../etc/passwd",
                "incoming_folder": "data",
                "retention": 3,
                "router_scan_interval": 0,
            },
            "receivr": {},
            "port": 11112,
            "webgui": None,
            "targets": [],
        }
    ) == {
        "receivr": "unknown key; did you mean receiver?",
        "port": "unknown key; here it is called receiver.port",
        "mercure.offpeak_start": "must be a time of day as HH:MM, from 00:00 to 23:59",
        "mercure.local_time": "must be a time zone of the IANA data base, such as Europe/Berlin",
        "mercure.server_time": "must be a time zone of the IANA data base, such as Europe/Berlin",
        "mercure.incoming_folder": "must be an absolute path",
        "mercure.retention": "unknown key; here it is called mercure.retention_days",
        "mercure.router_scan_interval": "must be greater than or equal to 0.01",
        "webgui": "must be an object",
        "targets": "must be an object",
    }


def test_faults_of_the_receiver_are_told_where_they_are() -> None:
    found = _problems(
        {
            "receiver": {
                "host": "a b",
                "port": "x",
                "networks": ["10.0.0.1/8", "x", 5],
                "tls": {"key": "/a", "crt": "/b"},
                "storage_commitment": {"ports": {"A\\B": {"ip": "host", "port": 1}}},
                "additional_tags": {"not a tag": "x"},
                "maximum_pdu_size": 1,
                "fsync": "perhaps",
                "called_ae_titles": "ONE",
            }
        }
    )
    assert found["receiver.networks[0]"] == "has host bits set"
    assert found["receiver.networks[1]"] == "must be a network such as 10.1.0.0/16"
    assert found["receiver.networks[2]"].startswith("must be a network")
    assert found["receiver.tls.crt"] == "unknown key; did you mean cert?"
    assert found["receiver.storage_commitment.ports['A\\\\B'].ip"] == "must be an IP address"
    assert found["receiver.fsync"] == "must be true or false"
    assert found["receiver.called_ae_titles"] == "must be a list"
    assert found["receiver.port"] == "must be a valid integer"
    assert {"receiver.host", "receiver.maximum_pdu_size", "receiver.additional_tags['not a tag']"} <= set(found)


def test_good_values_of_the_receiver_become_what_they_mean() -> None:
    receiver = _loaded(
        {
            "receiver": {
                "host": "::1",
                "networks": ["10.1.2.3", "fd00::/8"],
                "calling_ae_titles": [" CT 1 "],
                "tls": {"key": "/k", "cert": "/c", "ca_cert": "/a", "require_client_certificate": True},
                "storage_commitment": {"ports": {"CT1": {"ip": "10.0.0.1", "port": 104}}},
            }
        }
    ).config.receiver
    assert [str(network) for network in receiver.networks] == ["10.1.2.3/32", "fd00::/8"]
    assert receiver.calling_ae_titles == ("CT 1",)
    assert receiver.tls is not None
    assert receiver.tls.port == 2762
    assert receiver.storage_commitment.ports["CT1"].port == 104


@pytest.mark.parametrize(
    ("receiver", "words"),
    [
        ({"port": None}, "no port"),
        ({"tls": {"port": 11112, "key": "/k", "cert": "/c"}}, "must differ"),
        ({"tls": {"key": "/k", "cert": "/c", "require_client_certificate": True}}, "needs ca_cert"),
    ],
)
def test_ports_and_certificates_that_do_not_fit_are_refused(receiver: Any, words: str) -> None:
    (message,) = _problems({"receiver": receiver}).values()
    assert words in message


@pytest.mark.parametrize("text", ["[]", "5", '"x"', "null"])
def test_a_file_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="one JSON object"):
        parse(text)


def test_a_key_that_stands_twice_is_refused_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"line 3: targets.a: this key stands here twice"):
        parse('{"targets": {\n"a": {},\n"a": {}}}')


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mercure\.json cannot be read"):
        load(tmp_path / "mercure.json")


def test_a_file_is_loaded_with_its_revision(tmp_path: Path) -> None:
    path = tmp_path / "mercure.json"
    path.write_text(text_of(good()))
    assert load(path).revision == parse(path.read_bytes()).revision == parse(path.read_text()).revision
    path.write_text(text_of(good()) + " ")
    assert load(path).revision != parse(text_of(good())).revision


def test_problems_of_a_flat_file_speak_its_keys_and_lines() -> None:
    flat = {
        "rules": {
            "r 1": {"rule": "True", "target": "pacs", "contect": "x"},
            "r2": {"rule": "a b"},
            "r3": 5,
            "r4": {"condition": "True"},
        },
        "targets": {"pacs": {"target_type": "dicom", "ip": "h", "port": "x", "aet_taget": "A"}},
    }
    loaded = _loaded(flat)
    found = {problem.path: problem.message for problem in loaded.schema_errors}
    assert "column 1" in found.pop("rules.r2.rule")
    assert found == {
        "rules['r 1'].contect": "unknown key; did you mean contact?",
        "rules.r3": "must be an object",
        "rules.r3.rule": "is missing",
        "rules.r4.condition": "unknown key; here it is called rule",
        "targets.pacs.aet_taget": "unknown key; did you mean aet_target?",
        "targets.pacs.port": "must be a valid integer",
        "targets.pacs.aet_target": "is missing",
    }
    assert set(loaded.broken_rules) == {"r 1", "r2", "r3", "r4"}
    assert list(loaded.broken_targets) == ["pacs"]
    assert _at(loaded, "targets.pacs.port").line == 20


def test_unknown_keys_of_a_flat_file_are_refused_at_every_level() -> None:
    found = _problems(
        {
            "retenton": 1,
            "features": {"x": True},
            "processing_logs": {"discard": True},
            "dicom_receiver": [],
            "retention": "soon",
            "retry_max": True,
            "modules": 5,
        }
    )
    assert found == {
        "retenton": "unknown key; did you mean retention?",
        "features.x": "unknown key",
        "processing_logs.discard": "unknown key; did you mean discard_logs?",
        "dicom_receiver": "must be an object",
        "retention": "must be a valid number",
        "retry_max": "must be a number, not true or false",
        "modules": "must be an object",
    }


def test_the_folders_of_a_flat_file_can_be_read_while_the_rest_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "mercure.json"
    path.write_text(json.dumps({"incoming_folder": "/srv/in", "port": "no port", "rules": {}}))
    assert load_folders(path).config.mercure.folder("incoming") == Path("/srv/in")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_folders(tmp_path / "none.json")
