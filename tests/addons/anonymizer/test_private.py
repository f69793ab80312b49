from datetime import UTC, datetime
from typing import Any

import pytest
from mercure_anonymizer.instance import deidentify, quiet_pydicom
from mercure_anonymizer.report import Tally
from mercure_anonymizer.settings import read_settings
from pydicom.uid import UID
from tests import builders
from tests.addons.anonymizer.samples import SECRET, task

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PHILIPS = (0x2001, "Philips Imaging DD 001")
"""(2001,xx03) is FL in the private dictionary, xx04 CS, xx08 IS, xx12 CS; xx90 is not in it."""


def kept(group: int, creator: str, element: int, vr: str, value: Any) -> Any:
    """What is left of one element of a safe block; None when it is gone, with its creator."""
    with quiet_pydicom():
        made = builders.dataset("CT", PatientName="MILLER^JOHN")
        made.remove_private_tags()
        made.file_meta.TransferSyntaxUID = UID(builders.EXPLICIT_LITTLE)
        made.private_block(group, creator, create=True).add_new(element, vr, value)
        settings = read_settings(task({"secret": SECRET, "options": ["retain_safe_private"]}), {})
        deidentify(made, settings, NOW, Tally())
    found = [made[tag].value for tag in made.keys() if tag.is_private and tag.element >= 0x1000]  # noqa: SIM118
    return found[0] if found else None


@pytest.mark.parametrize(
    ("element", "vr", "value", "left"),
    [
        (0x04, "CS", "P", "P"),
        (0x04, "CS", "MILLER^JOHN", "ANONYMIZED"),
        (0x04, "CS", "SMITH^JANE", "ANONYMIZED"),
        (0x04, "CS", "DIFF MILLER", "DIFF"),
        (0x04, "IS", "4711", None),
        (0x03, "FL", 1000.0, 1000.0),
        (0x03, "DS", "1000", 1000),
        (0x03, "CS", "SMITH JANE", None),
        (0x08, "IS", "3", 3),
        (0x08, "OF", b"MILLER JOHN ", None),
        (0x08, "OB", b"MILLER JOHN ", None),
        (0x90, "CS", "SMITH", None),
        (0x90, "OD", b"MILLER JOHN 1234", None),
        (0x90, "FD", 2.5, 2.5),
    ],
)
def test_what_the_private_dictionary_calls_a_number_or_a_code_stays_and_says_no_name(
    element: int, vr: str, value: Any, left: Any
) -> None:
    assert kept(*PHILIPS, element, vr, value) == left
