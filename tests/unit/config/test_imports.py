import json
from datetime import time
from typing import Any

import pytest
from tests.unit.config.samples import FLAT, GUIDE, text_of

from mercure.config.imports import import_flat
from mercure.config.load import parse
from mercure.core.errors import ConfigError


def test_an_imported_file_means_the_same() -> None:
    nested, _ = import_flat(text_of(FLAT))
    again = parse(json.dumps(nested), environment={})
    assert again.form == "nested"
    assert again.config == parse(text_of(FLAT), environment={}).config


def test_every_change_is_told() -> None:
    _, changes = import_flat(text_of(FLAT))
    for change in (
        "retention (seconds) becomes mercure.retention_days (days)",
        "port becomes receiver.port",
        "targets.pacs.aet_target becomes called_ae_title",
        "rules.a_rule.rule becomes condition",
        "rules: the object becomes a list in the same order; each name becomes the key name",
        "rules.second_name_first.disabled falls away: it is the default",
        "cleaner.min_free_space_gb is written, as it was before: 0.0",
        "off-peak hours are now those of local_time (America/New_York), not of the process",
    ):
        assert change in changes
    told = "\n".join(changes)
    for key in FLAT:
        assert key in told or key in ("features", "modules"), key


def test_an_import_shows_no_secret_in_its_changes() -> None:
    _, changes = import_flat(text_of(FLAT))
    assert "Geheim" not in "\n".join(changes)


def test_a_file_that_says_nothing_keeps_what_held() -> None:
    nested, changes = import_flat('{"port": 11112, "influxdb_token": "", "bookkeeper_api_key": null}')
    assert nested == {
        "mercure": {"persistence_folder": "/opt/mercure/persistence", "retention_days": 3.0},
        "dispatcher": {"retry_delay": 900.0, "retry_max_delay": 900.0, "retry_max": 5},
        "cleaner": {"min_free_space_gb": 0.0},
    }
    assert "port falls away: it is the default" in changes
    assert "dispatcher.retry_max_delay is written, as it was before: 900.0" in changes


def test_entries_with_a_fault_are_kept_in_their_place_with_it() -> None:
    flat: dict[str, dict[str, Any]] = {
        "rules": {"a": {"rule": "True", "targt": "x"}, "b": {"action": "discard"}, "c": 5},
        "targets": {"t": {"ip": "h"}, "u": 5},
        "modules": {"m": {"docker_tga": "x"}},
    }
    nested, changes = import_flat(json.dumps(flat))
    assert [rule["name"] for rule in nested["rules"]] == ["a", "b", "c"]
    assert nested["rules"][0] == {"targt": "x", "name": "a", "condition": "True"}
    assert nested["targets"] == {"t": {"ip": "h"}, "u": 5}
    assert nested["modules"]["m"] == {"docker_tga": "x", "network_enabled": True}
    again = parse(json.dumps(nested), environment={})
    assert set(again.broken_rules) == {"a", "c"}
    assert set(again.broken_targets) == {"t", "u"}
    assert any("kept with its fault: line 1: rules.a.targt: unknown key" in change for change in changes)


def test_a_file_of_our_form_is_not_imported() -> None:
    with pytest.raises(ConfigError, match="already"):
        import_flat(text_of(GUIDE))


def test_a_file_with_unknown_keys_is_not_imported() -> None:
    with pytest.raises(ConfigError, match="did you mean retention"):
        import_flat('{"port": 1, "retenton": 5}')


@pytest.mark.parametrize("value", [0, "0", 0.0])
def test_no_attempts_at_all_become_one_as_they_were_and_that_is_said(value: object) -> None:
    nested, changes = import_flat(json.dumps({"port": 11112, "retry_max": value}))
    assert nested["dispatcher"]["retry_max"] == 1
    assert "retry_max is 0, which means one attempt, as before: dispatcher.retry_max becomes 1" in changes
    loaded = parse(json.dumps({"port": 11112, "retry_max": value}, indent=1), environment={})
    assert loaded.config.dispatcher.retry_max == 1
    (problem,) = loaded.problems
    assert (problem.path, problem.severity, problem.line) == ("retry_max", "warning", 3)
    assert problem.message == "is 0, which means one attempt, as before; our own form has 1 for that, and 0 for no end"


def test_other_attempts_stay_and_without_end_is_known_in_our_form_only() -> None:
    flat = parse('{"port": 11112, "retry_max": 3}', environment={})
    assert (flat.config.dispatcher.retry_max, flat.problems) == (3, ())
    ours = parse('{"dispatcher": {"retry_max": 0}}', environment={})
    assert (ours.config.dispatcher.retry_max, ours.problems) == (0, ())
    with pytest.raises(ConfigError, match="retry_max"):
        parse('{"port": 11112, "retry_max": false}', environment={})


EMPTY: dict[str, object] = {
    "bookkeeper": "",
    "webhook_certificate_location": "",
    "processing_logs": {"logs_file_store": ""},
    "influxdb_token": "",
    "bookkeeper_api_key": "",
    "appliance_color": "",
    "jobs_folder": "",
    "persistence_folder": "",
    "server_time": "",
    "local_time": "",
    "support_root_modules": None,
    "phi_notifications": None,
}
"""Each of these stood in files that worked, and said nothing there."""


@pytest.mark.parametrize("name", list(EMPTY))
def test_an_empty_value_that_said_nothing_says_nothing_still_and_that_is_told(name: str) -> None:
    empty = {"port": 11112, name: EMPTY[name]}
    loaded = parse(json.dumps(empty), environment={})
    assert loaded.problems == ()
    silent = parse('{"port": 11112}', environment={}).config
    if name == "bookkeeper":
        assert loaded.config.bookkeeper.address is None
        silent = silent.model_copy(update={"bookkeeper": loaded.config.bookkeeper})
    assert loaded.config == silent
    nested, changes = import_flat(json.dumps(empty))
    assert parse(json.dumps(nested), environment={}).config == loaded.config
    shown = "processing_logs.logs_file_store" if name == "processing_logs" else name
    assert any(change.startswith(f"{shown} is empty: ") for change in changes)


def test_no_bookkeeper_at_all_is_written_so_by_the_import() -> None:
    nested, changes = import_flat('{"bookkeeper": "", "bookkeeper_api_key": "k"}')
    assert nested["bookkeeper"] == {"address": None, "api_key": "k"}
    assert "bookkeeper is empty: bookkeeper.address becomes null" in changes


@pytest.mark.parametrize("name", ["incoming_folder", "studies_folder", "outgoing_folder", "success_folder"])
def test_an_empty_folder_of_a_stage_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: must be an absolute path"):
        parse(json.dumps({"port": 11112, name: ""}), environment={})


@pytest.mark.parametrize("name", ["router_scan_interval", "dispatcher_scan_interval", "cleaner_scan_interval"])
@pytest.mark.parametrize("value", [0, "0"])
def test_an_interval_of_0_becomes_the_shortest_and_that_is_told(name: str, value: object) -> None:
    flat = json.dumps({"port": 11112, name: value})
    loaded = parse(flat, environment={})
    assert (getattr(loaded.config.mercure, name), loaded.problems) == (0.01, ())
    nested, changes = import_flat(flat)
    assert nested["mercure"][name] == 0.01
    assert f"{name} is 0, which means without a pause: mercure.{name} becomes 0.01" in changes


@pytest.mark.parametrize(
    "hours", [{"offpeak_start": ""}, {"offpeak_end": ""}, {"offpeak_start": "", "offpeak_end": ""}]
)
def test_off_peak_hours_that_are_empty_are_the_whole_day_as_before_and_that_is_told(hours: dict[str, str]) -> None:
    flat = json.dumps({"port": 11112, "offpeak_end": "06:00"} | hours)
    loaded = parse(flat, environment={})
    assert loaded.problems == ()
    assert loaded.config.mercure.offpeak_start == loaded.config.mercure.offpeak_end == time(0)
    nested, changes = import_flat(flat)
    assert nested["mercure"]["offpeak_start"] == nested["mercure"]["offpeak_end"] == "00:00"
    told = "is empty, which means the whole day: mercure.offpeak_start and mercure.offpeak_end become 00:00"
    assert f"{next(iter(hours))} {told}" in changes


@pytest.mark.parametrize("hour", ["25:00", "six", " "])
def test_off_peak_hours_that_cannot_be_read_are_refused(hour: str) -> None:
    with pytest.raises(ConfigError, match="offpeak_start: must be a time of day"):
        parse(json.dumps({"port": 11112, "offpeak_start": hour}), environment={})


def test_empty_values_in_entries_are_as_if_they_were_not_there_and_that_is_told() -> None:
    nothing: dict[str, dict[str, dict[str, object]]] = {
        "targets": {"t": {"contact": None, "aet_source": ""}},
        "rules": {"r": {"notification_email_type": ""}},
        "modules": {
            "m": dict.fromkeys(("contact", "comment", "constraints", "resources", "requires_root"))
            | dict.fromkeys(("additional_volumes", "environment", "docker_arguments"))
        },
    }
    said: dict[str, dict[str, dict[str, object]]] = {
        "targets": {"t": {"target_type": "dicom", "ip": "h", "port": 104, "aet_target": "A"}},
        "rules": {"r": {"rule": "tags.Modality == 'CT'", "target": "t"}},
        "modules": {"m": {"docker_tag": "a"}},
    }
    whole = {kind: {name: said[kind][name] | nothing[kind][name] for name in said[kind]} for kind in said}
    loaded = parse(json.dumps(whole), environment={})
    assert loaded.problems == ()
    assert loaded.config == parse(json.dumps(said), environment={}).config
    _, changes = import_flat(json.dumps(whole))
    for kind, entries in nothing.items():
        for name, keys in entries.items():
            for key in keys:
                assert f"{kind}.{name}.{key} falls away: it is the default" in changes


def test_a_network_of_null_is_no_empty_value_that_could_open_it() -> None:
    loaded = parse('{"modules": {"m": {"docker_tag": "a", "network_enabled": null}}, "port": 1}', environment={})
    assert list(loaded.broken_modules) == ["m"]
