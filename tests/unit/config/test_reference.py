import re
import subprocess
import sys
from pathlib import Path

from mercure.config.reference import MARK, reference
from mercure.config.schema_json import json_schema

DOCUMENT = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_every_key_is_documented_with_its_type_and_default() -> None:
    _, _, printed = DOCUMENT.read_text().partition(MARK)
    assert printed.strip() == reference().strip(), "print it anew: python -m mercure.config.reference"


def test_every_key_has_a_meaning() -> None:
    rows = [line.split("|") for line in reference().splitlines() if line.startswith("| `") and line.count("|") == 5]
    assert len(rows) > 150
    for _, key, kind, default, meaning, _ in rows:
        assert kind.strip(), key
        assert default.strip(), key
        assert len(meaning.strip()) > 3, key


def test_every_variable_of_the_environment_is_documented() -> None:
    source = Path(__file__).parents[3] / "src" / "mercure" / "config" / "environment.py"
    names = set(re.findall(r'"(MERCURE_[A-Z_]+)"', source.read_text()))
    assert len(names) == 7
    for name in names:
        assert f"`{name}`" in DOCUMENT.read_text(), name


def test_the_reference_is_printed_by_its_module() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "mercure.config.reference"],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": str(DOCUMENT.parents[1] / "src")},
    )  # fmt: skip
    assert found.stdout == reference()


def test_the_json_schema_knows_sections_and_secrets() -> None:
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert {"mercure", "receiver", "rules", "targets", "modules"} <= set(schema["properties"])
    secret = schema["$defs"]["XnatTarget"]["properties"]["password"]["anyOf"]
    assert [one["type"] for one in secret] == ["string", "object", "object"]
