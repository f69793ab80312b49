"""The action table of PS3.15 Table E.1-1 as values.

One row for each attribute (or family of attributes): what the Basic Profile does with it, and what each option does
instead. The codes are those of Table E.1-1a: D dummy, Z zero length or dummy, X remove, K keep, C clean, U new UID,
and combinations, which leave the choice to the type that the attribute has in its IOD.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files

BASIC_ACTIONS = frozenset("D Z X U Z/D X/Z X/D X/Z/D X/Z/U*".split())
"""What the Basic Profile column may hold."""


class Option(StrEnum):
    """An option of the Basic Profile: a column of Table E.1-1."""

    SAFE_PRIVATE = "retain_safe_private"
    UIDS = "retain_uids"
    DEVICE = "retain_device_identity"
    INSTITUTION = "retain_institution_identity"
    PATIENT = "retain_patient_characteristics"
    FULL_DATES = "retain_longitudinal_full_dates"
    MODIFIED_DATES = "retain_longitudinal_modified_dates"
    DESCRIPTORS = "clean_descriptors"
    STRUCTURED_CONTENT = "clean_structured_content"
    GRAPHICS = "clean_graphics"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table. `tag` is as written there in hexadecimal; an x stands for any digit."""

    tag: str
    keyword: str
    basic: str
    options: Mapping[Option, str]


PRIVATE = "gggg,eeee"
"""The row of all private attributes."""


@cache
def table() -> Mapping[str, Row]:
    """Return all rows by tag as `gggg,eeee` (upper case; families as 50xx,xxxx, 60xx,3000, 60xx,4000, gggg,eeee)."""
    text = files("mercure_anonymizer").joinpath("data/table_e1_1.csv").read_text(encoding="ascii")
    return {line["tag"]: _row(line) for line in csv.DictReader(text.splitlines())}


def _row(line: Mapping[str, str]) -> Row:
    options = {option: line[option] for option in Option if line[option]}
    return Row(line["tag"], line["keyword"], line["basic_profile"], options)


@cache
def _rows_by_number() -> Mapping[int, Row]:
    return {int(tag.replace(",", ""), 16): row for tag, row in table().items() if not {"x", "g"} & set(tag)}


def find_row(tag: int) -> Row | None:
    """Return the row for the attribute, None when the standard has nothing against it."""
    group = tag >> 16
    if group % 2:
        return table()[PRIVATE]
    if group & 0xFF00 == 0x5000:
        return table()["50xx,xxxx"]
    if group & 0xFF00 == 0x6000:
        return table().get(f"60xx,{tag & 0xFFFF:04X}")
    return _rows_by_number().get(tag)
