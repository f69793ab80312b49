import copy
import json
from typing import Any

import pytest
from tests.unit.config.samples import FLAT, GEHEIM, good, route, text_of

from mercure.config.dump import dump, to_json, with_secrets
from mercure.config.load import parse
from mercure.config.schema import Config
from mercure.config.secrets import MASK, mask_url

CONFIG = parse(text_of(FLAT), environment={}).config


def test_no_secret_is_in_anything_that_is_shown() -> None:
    assert text_of(FLAT).count(GEHEIM) == 8
    for shown in (
        repr(CONFIG),
        str(CONFIG),
        json.dumps(dump(CONFIG)),
        CONFIG.model_dump_json(),
        repr(CONFIG.model_dump()),
    ):
        assert GEHEIM not in shown
        assert shown.count(MASK) >= 8


def test_what_is_stored_gives_the_same_configuration() -> None:
    assert parse(json.dumps(to_json(CONFIG)), environment={}).config == CONFIG
    assert to_json(Config()) == {}


def test_references_to_secrets_stay_references() -> None:
    text = '{"webgui": {"auth_token_key": {"env": "KEY"}}, "bookkeeper": {"api_key": {"file": "/run/key"}}}'
    config = parse(text, environment={}).config
    assert to_json(config) == json.loads(text)
    assert dump(config)["webgui"]["auth_token_key"] == {"env": "KEY"}
    assert parse(json.dumps(dump(config)), environment={}).config == config


def test_masks_in_an_edited_dump_become_the_secrets_again() -> None:
    edited = copy.deepcopy(dump(CONFIG))
    edited["targets"]["xnat"]["password"] = "new"
    edited["rules"][0]["comment"] = MASK
    edited["rules"].reverse()
    edited["targets"]["another"] = edited["targets"]["sftp"]
    whole = with_secrets(edited, CONFIG)
    assert whole["targets"]["web"]["access_token"] == "web-Geheim"
    assert whole["modules"]["segment"]["environment"]["TOKEN"] == "module-Geheim"
    assert whole["targets"]["xnat"]["password"] == "new"
    assert whole["rules"][2]["comment"] == MASK
    assert whole["rules"][2]["notification_payload"] == FLAT["rules"]["second_name_first"]["notification_payload"]
    assert whole["targets"]["another"]["password"] == MASK


URLS = {
    "https://hook.example.org/a/b": "https://hook.example.org/a/b",
    "https://user:Geheim@hook.example.org/a": f"https://{MASK}@hook.example.org/a",
    "https://Geheim@Geheim@h:8443?token=Geheim&x=Geheim": f"https://{MASK}@h:8443?token={MASK}&x={MASK}",
    "https://h/p?Geheim#Geheim": f"https://h/p?{MASK}#{MASK}",
    "no url?token=Geheim": f"no url?token={MASK}",
    "": "",
}


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_shown_without_user_and_query(url: str) -> None:
    assert mask_url(url) == URLS[url]


WEBHOOKS = {
    "https://hook.example.org": "https://hook.example.org",
    "https://hook.example.org/services/T0/B0/Geheim": f"https://hook.example.org/{MASK}",
    "https://user:Geheim@hook.example.org:8443/a": f"https://{MASK}@hook.example.org:8443/{MASK}",
    "https://h/p?Geheim#Geheim": f"https://h/{MASK}?{MASK}#{MASK}",
    "hook.example.org/Geheim?token=Geheim": f"{MASK}/{MASK}?token={MASK}",
    "": "",
}


@pytest.mark.parametrize("url", WEBHOOKS)
def test_of_a_webhook_only_the_host_is_shown_and_it_is_stored_whole(url: str) -> None:
    rule = route(notification_webhook=url, notification_payload="'key': 'Geheim'")
    config = parse(text_of(good(rules=[rule])), environment={}).config
    shown = dump(config)["rules"][0]
    assert shown["notification_webhook"] == WEBHOOKS[url]
    assert shown["notification_payload"] == MASK
    assert "Geheim" not in json.dumps(config.model_dump(mode="json")) + repr(config)
    assert to_json(config)["rules"][0].get("notification_webhook", "") == url
    assert parse(json.dumps(with_secrets(dump(config), config)), environment={}).config == config


SETTINGS = {"threshold": 0.5, "api_key": "Geheim", "server": {"url": "https://u:Geheim@h/x", "Password": "Geheim"}}
HIDDEN = {"threshold": 0.5, "api_key": MASK, "server": {"url": f"https://{MASK}@h/x", "Password": MASK}}


def test_what_looks_like_a_secret_among_settings_arguments_and_nodes_is_masked_and_stored_whole() -> None:
    arguments = {"environment": {"A": "Geheim"}, "mem_limit": "1g"}
    value = {
        "modules": {"seg": {"docker_tag": "a:1", "settings": SETTINGS, "docker_arguments": arguments}},
        "targets": {"ai": {"processing_module": "seg", "settings": SETTINGS}},
        "rules": [
            {"name": "one", "condition": "True", "action": "process", "target": "ai", "processing_settings": SETTINGS},
            {"name": "two", "condition": "True", "action": "process", "processing_module": ["seg", "seg"],
             "processing_settings": [SETTINGS, {}]},
        ],
        "query": {"dicom_nodes": [{"name": "n", "ip": "10.0.0.1", "password": "Geheim"}]},
    }  # fmt: skip
    loaded = parse(text_of(value), environment={})
    assert not loaded.schema_errors
    config = loaded.config
    shown = dump(config)
    assert shown["modules"]["seg"]["settings"] == HIDDEN
    assert shown["modules"]["seg"]["docker_arguments"] == {"environment": {"A": MASK}, "mem_limit": "1g"}
    assert shown["targets"]["ai"]["settings"] == HIDDEN
    assert [rule["processing_settings"] for rule in shown["rules"]] == [HIDDEN, [HIDDEN, {}]]
    assert shown["query"]["dicom_nodes"] == [{"name": "n", "ip": "10.0.0.1", "password": MASK}]
    for text in (json.dumps(shown), repr(config), str(config), config.model_dump_json(), repr(config.model_dump())):
        assert GEHEIM not in text
    assert config.modules["seg"].settings == SETTINGS
    assert json.dumps(to_json(config)).count(GEHEIM) == 14
    assert parse(json.dumps(to_json(config)), environment={}).config == config
    assert parse(json.dumps(with_secrets(shown, config)), environment={}).config == config


def test_a_mask_among_settings_that_hides_nothing_known_is_refused() -> None:
    for settings in ({"password": MASK}, {"deep": [{"url": f"https://{MASK}@h"}]}):
        loaded = parse(text_of({"modules": {"seg": {"docker_tag": "a:1", "settings": settings}}}), environment={})
        assert "stands for a hidden secret" in loaded.broken_modules["seg"]


@pytest.mark.parametrize("section", ["xnat", "web", "metrics"])
def test_other_urls_are_shown_in_the_same_way(section: str) -> None:
    url = "https://u:Geheim@h/x"
    targets: dict[str, Any] = {
        "xnat": {"target_type": "xnat", "project_id": "p", "host": url, "user": "u", "password": "p"},
        "web": {"target_type": "dicomweb", "url": url},
    }
    config = parse(text_of({"metrics": {"influxdb_url": url}, "targets": targets}), environment={}).config
    shown = dump(config)[section] if section == "metrics" else dump(config)["targets"][section]
    assert f"https://{MASK}@h/x" in shown.values()


def test_a_masked_url_that_hides_nothing_known_is_refused() -> None:
    loaded = parse(text_of(good(rules=[route(notification_webhook=f"https://{MASK}@h/")])), environment={})
    assert "stands for a hidden secret" in loaded.broken_rules["ct"]
