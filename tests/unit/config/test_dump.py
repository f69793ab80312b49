import copy
import json

from tests.unit.config.samples import FLAT, GEHEIM, text_of

from mercure.config.dump import dump, to_json, with_secrets
from mercure.config.load import parse
from mercure.config.schema import Config
from mercure.config.secrets import MASK

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
    edited["targets"]["another"] = edited["targets"]["sftp"]
    whole = with_secrets(edited, CONFIG)
    assert whole["targets"]["web"]["access_token"] == "web-Geheim"
    assert whole["modules"]["segment"]["environment"]["TOKEN"] == "module-Geheim"
    assert whole["targets"]["xnat"]["password"] == "new"
    assert whole["rules"][0]["comment"] == MASK
    assert whole["targets"]["another"]["password"] == MASK
