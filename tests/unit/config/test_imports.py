import json
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
