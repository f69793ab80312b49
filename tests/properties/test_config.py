"""Whatever is written into a configuration: it means the same after a round, or is refused in words."""

import json
from contextlib import suppress
from typing import Any

from hypothesis import assume, example, given
from hypothesis import strategies as st

from mercure.config.dump import dump, to_json, with_secrets
from mercure.config.flat import top_level_keys
from mercure.config.imports import import_flat
from mercure.config.load import parse
from mercure.config.schema import Config
from mercure.core.errors import ConfigError

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_ -]{0,10}[a-z0-9]", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
SECONDS = st.floats(0, 1e6) | st.integers(0, 10**6)
DAYS = st.floats(0, 30000)
FOLDERS = st.from_regex(r"/[a-z]{1,8}(/[a-z .]{1,8}[a-z])?", fullmatch=True)
AE_TITLES = st.from_regex(r"[A-Z0-9_.#-]{1,16}", fullmatch=True)
PORTS = st.integers(1, 65535)
REFERENCES = st.builds(lambda name: {"env": name}, st.from_regex(r"[A-Z_]{1,12}", fullmatch=True)) | st.builds(
    lambda path: {"file": path}, FOLDERS
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
HOURS = st.builds(lambda hour, minute: f"{hour:02}:{minute:02}", st.integers(0, 23), st.integers(0, 59))


def _some(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


def _with(required: dict[str, st.SearchStrategy[Any]], **optional: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


BASE: dict[str, Any] = {
    "contact": TEXTS, "direction": st.sampled_from(["push", "pull", "both"]), "timeout": SECONDS | st.none(),
    "max_parallel": st.integers(1, 256) | st.none(), "retry_max": st.integers(0, 100),
}  # fmt: skip
TARGETS = st.one_of(
    _with(
        {"target_type": st.just("dicom"), "host": st.just("pacs-1"), "port": PORTS, "called_ae_title": AE_TITLES},
        calling_ae_title=AE_TITLES, forward_called_ae_title=st.booleans(), **BASE,
    ),
    _with({"target_type": st.just("folder"), "folder": FOLDERS}, exclude=st.lists(NAMES, max_size=2), **BASE),
    _with(
        {"target_type": st.just("xnat"), "project_id": NAMES, "host": st.just("https://x"), "user": NAMES,
         "password": REFERENCES}, **BASE,
    ),
    _with({"target_type": st.just("dummy")}, **BASE),
    _with({"processing_module": NAMES}, settings=st.dictionaries(TEXTS, JSON, max_size=2), **BASE),
)  # fmt: skip
RULES = _with(
    {"name": NAMES, "condition": st.sampled_from(["True", "tags.Modality == 'CT'", "@Modality@ in ('a', 'b')"])},
    action=st.sampled_from(["route", "both", "process", "discard", "notification"]),
    target=NAMES | st.lists(NAMES, max_size=2),
    timeout=SECONDS, disabled=st.booleans(), fallback=st.booleans(), comment=TEXTS,
    priority=st.sampled_from(["normal", "urgent", "offpeak"]),
    processing_settings=st.dictionaries(TEXTS, JSON, max_size=2) | st.lists(st.dictionaries(TEXTS, JSON, max_size=2)),
)  # fmt: skip
NESTED = _some(
    mercure=_some(
        appliance_name=TEXTS, data_folder=FOLDERS, error_folder=FOLDERS | st.none(), retention_days=DAYS,
        series_complete_trigger=SECONDS, offpeak_start=HOURS, series_complete_on_release=st.booleans(),
        local_time=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Tokyo"]),
    ),
    receiver=_some(
        port=PORTS, calling_ae_titles=st.lists(AE_TITLES, max_size=3), idle_timeout=SECONDS,
        networks=st.lists(st.ip_addresses().map(str), max_size=3), fsync=st.booleans(),
        storage_commitment=_some(
            ports=st.dictionaries(AE_TITLES, _with({"ip": st.ip_addresses().map(str), "port": PORTS}), max_size=2)
        ),
    ),
    webgui=_some(auth_token_key=REFERENCES, ssl_key=FOLDERS),
    rules=st.lists(RULES, max_size=3, unique_by=lambda rule: rule["name"]),
    targets=st.dictionaries(NAMES, TARGETS, max_size=3),
    modules=st.dictionaries(
        NAMES,
        st.one_of(
            _with({"docker_tag": st.just("a/b:1")}, docker_arguments=_some(shm_size=st.just("1g"))),
            _with({"command": st.lists(TEXTS, max_size=2).map(lambda words: ["/bin/x", *words])}),
        ).flatmap(
            lambda module: _with(
                {name: st.just(value) for name, value in module.items()},
                environment=st.dictionaries(NAMES, REFERENCES, max_size=2), settings=st.dictionaries(TEXTS, JSON),
                timeout=SECONDS, memory_limit=st.sampled_from(["6M", "1.5G", "0"]), cpu_limit=st.integers(1, 8),
                gpus=st.integers(0, 3), max_parallel=st.integers(1, 9), writes_input=st.booleans(),
            )
        ),
        max_size=2,
    ),
    processor=_some(
        gpus=st.integers(0, 9) | st.lists(st.integers(0, 9) | st.just("GPU-8f5b"), max_size=3), timeout=SECONDS,
        allowed_volume_roots=st.lists(FOLDERS, max_size=2), pids_limit=st.none() | st.integers(1, 99),
    ),
)  # fmt: skip
FLAT = _some(
    port=PORTS | PORTS.map(str), retention=st.integers(0, 10**8), retry_delay=st.integers(0, 10**5),
    offpeak_end=HOURS, accept_compressed_images=st.sampled_from([True, False, "True", "0"]), incoming_folder=FOLDERS,
    targets=st.dictionaries(
        NAMES,
        _with(
            {"target_type": st.just("dicom"), "ip": st.just("h"), "port": PORTS.map(str), "aet_target": AE_TITLES},
            aet_source=AE_TITLES | st.just(""), contact=TEXTS,
        ),
        max_size=3,
    ),
    rules=st.dictionaries(
        NAMES,
        _some(rule=st.sampled_from(["True", "", "@Modality@ == 'MR'"]), target=NAMES, disabled=st.just("True")),
        min_size=1, max_size=3,
    ),
    modules=st.dictionaries(
        NAMES,
        _with(
            {"docker_tag": st.just("a:1")},
            environment=st.sampled_from(["", "False", '{"A": "b"}']), docker_arguments=st.sampled_from(["", "{}"]),
            comment=TEXTS, timeout=SECONDS, network_enabled=st.booleans(),
        ),
        max_size=2,
    ),
)  # fmt: skip


def _config(value: Any) -> Config:
    try:
        loaded = parse(json.dumps(value), environment={})
    except ConfigError as error:
        assume("needs a folder of its own" not in str(error))  # drawn folders may lie in each other
        raise
    assert loaded.schema_errors == ()
    return loaded.config


@given(NESTED)
def test_a_configuration_means_the_same_after_a_round(value: dict[str, Any]) -> None:
    config = _config(value)
    assert _config(with_secrets(dump(config), config)) == config
    assert _config(to_json(config)) == config


@given(FLAT.filter(lambda value: value.keys() & set(top_level_keys()) - {"targets", "modules"}))
def test_a_flat_file_means_the_same_after_its_import(value: dict[str, Any]) -> None:
    nested, _ = import_flat(json.dumps(value))
    loaded = parse(json.dumps(nested), environment={})
    assert loaded.form == "nested"
    assert loaded.config == _config(value)


def _read_or_refused(text: bytes | str) -> None:
    """Anything else than a ConfigError fails the test."""
    with suppress(ConfigError):
        loaded = parse(text, environment={})
        json.dumps(dump(loaded.config), allow_nan=False).encode()
        assert _config(to_json(loaded.config)) == loaded.config


@given(st.binary(max_size=60) | st.text(max_size=60))
@example('{"rules": [' * 50)
@example('{"a": 1e400}')
@example("\ud800")
@example(b"\xff\xfe")
def test_any_text_is_read_or_refused_in_words(text: bytes | str) -> None:
    _read_or_refused(text)


KEYS = st.sampled_from([*Config.model_fields, *top_level_keys()])


@given(st.dictionaries(KEYS | TEXTS, JSON, max_size=4))
@example({"mercure": {"[key]": None}})
def test_any_json_is_read_or_refused_in_words(value: Any) -> None:
    _read_or_refused(json.dumps(value))


@given(NESTED, st.data())
def test_one_wrong_value_anywhere_is_read_or_refused_in_words(value: dict[str, Any], data: st.DataObject) -> None:
    places = list(_places(value))
    if places:
        holder, key = data.draw(st.sampled_from(places))
        holder[key] = data.draw(JSON)
    _read_or_refused(json.dumps(value))


@given(FLAT, st.data())
def test_one_wrong_value_anywhere_in_a_flat_file_is_read_or_refused(value: dict[str, Any], data: st.DataObject) -> None:
    places = list(_places(value))
    if places:
        holder, key = data.draw(st.sampled_from(places))
        holder[key] = data.draw(JSON)
    _read_or_refused(json.dumps(value))
    with suppress(ConfigError):
        import_flat(json.dumps(value))


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)
