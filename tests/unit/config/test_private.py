import pytest

from mercure.config.private import is_secret_name, masked
from mercure.config.secrets import MASK


@pytest.mark.parametrize(
    "name",
    "password PASSWORD db_password dbPassword mypasswd pwd token access_token accessToken accesstoken AUTH_TOKEN "
    "secret clientSecret client-secret api_key apikey APIKey x-api-key license.key key passphrase credentials "
    "Authorization".split(),
)
def test_names_of_secrets_are_known_however_they_are_written(name: str) -> None:
    assert is_secret_name(name)
    assert masked({name: "Geheim", "other": {name: ["Geheim", 1234]}}) == {name: MASK, "other": {name: [MASK, MASK]}}


@pytest.mark.parametrize(
    "name", ["threshold", "keyword", "monkey", "author", "tokenizer", "compass", "shipping", "", "1"]
)
def test_other_names_are_shown(name: str) -> None:
    assert masked({name: "shown"}) == {name: "shown"}


def test_what_says_nothing_is_not_masked() -> None:
    nothing: dict[str, object] = {"password": "", "token": None, "secret": False, "key": {}}
    assert masked(nothing) == nothing


@pytest.mark.parametrize("name", ["environment", "env", "Env"])
def test_every_variable_is_masked_in_both_forms(name: str) -> None:
    assert masked({name: {"A": "x", "B": 1}}) == {name: {"A": MASK, "B": MASK}}
    assert masked({name: ["A=x=y", "B", "C=", {"D": "x"}]}) == {name: [f"A={MASK}", "B", "C=", {"D": MASK}]}


def test_a_user_in_a_url_is_masked_wherever_it_stands() -> None:
    value = {"urls": ["postgres://u:Geheim@h/db", "https://h/a@b", "mail@example.org"]}
    assert masked(value) == {"urls": [f"postgres://{MASK}@h/db", "https://h/a@b", "mail@example.org"]}
