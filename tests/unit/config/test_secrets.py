import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from mercure.config.secrets import MASK, Secret
from mercure.core.errors import ConfigError


class _Holder(BaseModel):
    token: Secret


def test_text_is_revealed_and_never_shown() -> None:
    secret = Secret.parse("Geheim")
    assert secret.reveal() == "Geheim"
    holder = _Holder(token=secret)
    for shown in (str(secret), repr(secret), f"{secret}", repr(holder), str(holder), holder.model_dump_json()):
        assert "Geheim" not in shown
        assert MASK in shown
    assert holder.model_dump() == {"token": MASK}


def test_a_variable_is_read_when_the_secret_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = Secret.parse({"env": "MERCURE_TEST_TOKEN"})
    monkeypatch.delenv("MERCURE_TEST_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="MERCURE_TEST_TOKEN"):
        secret.reveal()
    monkeypatch.setenv("MERCURE_TEST_TOKEN", "one")
    assert secret.reveal() == "one"
    assert secret.reveal({"MERCURE_TEST_TOKEN": "two"}) == "two"


def test_a_file_is_read_when_the_secret_is_needed_without_its_line_end(tmp_path: Path) -> None:
    path = tmp_path / "token"
    secret = Secret.parse({"file": str(path)})
    with pytest.raises(ConfigError, match=str(path)):
        secret.reveal()
    path.write_text("first\r\n")
    assert secret.reveal() == "first"
    path.write_text("second")
    assert secret.reveal() == "second"


def test_a_file_that_cannot_hold_a_secret_is_named_without_its_content(tmp_path: Path) -> None:
    path = tmp_path / "token"
    secret = Secret.parse({"file": str(path)})
    path.write_bytes(b"Geheim\xff")
    with pytest.raises(ConfigError, match="not UTF-8") as caught:
        secret.reveal()
    assert "Geheim" not in str(caught.value)
    path.write_bytes(b"x" * 70000)
    with pytest.raises(ConfigError, match="too long"):
        secret.reveal()
    assert "regular file" in _reason(Secret.parse({"file": str(tmp_path)}))
    assert "regular file" in _reason(Secret.parse({"file": "/dev/zero"}))
    assert "cannot be read: " in _reason(Secret.parse({"file": "/proc/self/mem"}))


def _reason(secret: Secret) -> str:
    with pytest.raises(ConfigError) as caught:
        secret.reveal()
    return str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        5, None, True, [], {}, {"env": ""}, {"env": "A=B"}, {"env": 5}, {"file": "token"}, {"vault": "x"},
        {"env": "A", "file": "/b"}, {"env": "A\n"}, MASK,
    ],
)  # fmt: skip
def test_anything_else_is_no_secret(value: Any) -> None:
    with pytest.raises(ValueError, match=r"must|stands for"):
        Secret.parse(value)


def test_references_are_written_as_they_stand_and_text_only_on_demand() -> None:
    assert Secret.parse({"env": "A"}).reference() == {"env": "A"}
    assert Secret.parse({"file": "/a"}).reference(plain=True) == {"file": "/a"}
    assert Secret.parse("Geheim").reference() == MASK
    assert Secret.parse("Geheim").reference(plain=True) == "Geheim"


def test_secrets_compare_by_what_they_hold_and_go_to_other_processes() -> None:
    assert Secret.parse("a") == Secret.parse("a") != Secret.parse("b")
    assert Secret.parse("A") != Secret.parse({"env": "A"})
    again = pickle.loads(pickle.dumps(Secret.parse("Geheim")))
    assert again.reveal() == "Geheim"


def test_a_secret_in_json_that_was_not_meant_for_it_is_a_mask() -> None:
    holder = _Holder(token=Secret.parse("Geheim"))
    assert json.loads(holder.model_dump_json(context={"other": 1})) == {"token": MASK}
    assert holder.model_dump(context={"secrets": "plain"}) == {"token": "Geheim"}
