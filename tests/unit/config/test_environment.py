from pathlib import Path

import pytest

from mercure.config.load import parse
from mercure.config.store import config_path
from mercure.core.errors import ConfigError

TLS = {"MERCURE_TLS_ENABLED": "True", "MERCURE_TLS_KEY": "/k.pem", "MERCURE_TLS_CERT": "/c.pem"}


def test_the_file_is_found_by_the_environment() -> None:
    assert config_path({}) == Path("/opt/mercure/config/mercure.json")
    assert config_path({"MERCURE_CONFIG_FOLDER": "/etc/m"}) == Path("/etc/m/mercure.json")
    assert config_path({"MERCURE_CONFIG_FOLDER": "/etc/m", "MERCURE_CONFIG_FILE": "/x.json"}) == Path("/x.json")


def test_tls_of_the_environment_takes_the_port_of_the_receiver() -> None:
    receiver = parse('{"port": 11200}', environment=TLS).config.receiver
    assert receiver.port is None
    assert receiver.tls is not None
    assert (receiver.tls.port, receiver.tls.require_client_certificate) == (11200, False)


def test_authorities_of_the_environment_make_certificates_mandatory() -> None:
    receiver = parse("{}", environment=TLS | {"MERCURE_TLS_CA_CERT": "/ca.pem"}).config.receiver
    assert receiver.tls is not None
    assert receiver.tls.port == 11112
    assert receiver.tls.require_client_certificate


def test_tls_of_the_file_goes_before_the_environment() -> None:
    assert parse('{"receiver": {"tls": null}}', environment=TLS).config.receiver.tls is None
    assert parse("{}", environment=TLS | {"MERCURE_TLS_ENABLED": "0"}).config.receiver.tls is None


def test_tls_without_a_key_is_refused_and_never_left_out() -> None:
    with pytest.raises(ConfigError, match="MERCURE_TLS_KEY"):
        parse("{}", environment={"MERCURE_TLS_ENABLED": "1", "MERCURE_TLS_CERT": "/c.pem"})


def test_a_receiver_that_is_no_object_is_a_problem_of_its_own() -> None:
    with pytest.raises(ConfigError, match="receiver: must be an object"):
        parse('{"receiver": 5, "mercure": {}}', environment=TLS)
