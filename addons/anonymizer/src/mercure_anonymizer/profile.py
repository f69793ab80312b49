"""What becomes of one attribute: the table, the options that were chosen, and the type in the IOD.

For combined actions Table E.1-1 leaves the choice to conformance. The rule here: where the attribute is known to need
a value in the SOP class (`data/required.json`), D; otherwise Z where the row allows it, otherwise X. An empty sequence
is not valid everywhere: sequences are removed, but for those that are known to be of type 2.

The table does not name all that people write into. `data/beyond_table.csv` adds what it leaves out: long texts,
comments, texts of the patient, numbers of orders, persons, organizations and opaque bytes. What must have a value
somewhere becomes a dummy there.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Literal

from pydicom.datadict import dictionary_has_tag

from mercure_anonymizer.actions import Option, Row, find_row

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_NEVER_EMPTY = frozenset({0x0008002A})
"""Of type 1, 1C or 3 everywhere: with a condition, and no value, an instance is not valid. Gone, it is."""

_TEMPORAL = {Option.FULL_DATES: "K", Option.MODIFIED_DATES: "C"}


class Step(StrEnum):
    """What is done with an element."""

    KEEP = "keep"
    REMOVE = "remove"
    EMPTY = "empty"
    DUMMY = "dummy"
    NEW_UID = "new UID"
    CLEAN = "clean"
    SHIFT = "shift"


_STEPS = {"D": Step.DUMMY, "Z": Step.EMPTY, "X": Step.REMOVE, "U": Step.NEW_UID, "K": Step.KEEP}


@dataclass(frozen=True, slots=True)
class Decision:
    """The step, and what is done when it cannot be done (nothing is left after cleaning)."""

    step: Step
    otherwise: Step
    listed: bool = True
    """The attribute is in the table."""


_UNLISTED_BY_VR: Mapping[str, Row] = {
    "PN": Row("", "", "Z", {}),
    "UR": Row("", "", "X", {}),
    "DA": Row("", "", "Z", _TEMPORAL),
    "DT": Row("", "", "Z", _TEMPORAL),
    "TM": Row("", "", "Z", _TEMPORAL),
    "UI": Row("", "", "U", {Option.UIDS: "K"}),
}
"""Names, addresses, dates and UIDs that the table does not list are treated as their kind is."""

_OPAQUE_VRS = frozenset("OB OW OF OD OL OV".split())
_OPAQUE = Row("", "", "X", {})
"""Bytes that are not known to be an image, a curve or a table."""


@cache
def beyond_table() -> Mapping[int, Row]:
    """Return what is done with attributes that the standard's table does not list but that may hold anything.

    `basic` is D, Z or X as in the table, or K for bytes that are known to be images, curves or tables.
    """
    text = files("mercure_anonymizer").joinpath("data/beyond_table.csv").read_text(encoding="ascii")
    return {int(line["tag"].replace(",", ""), 16): _beyond_row(line) for line in csv.DictReader(text.splitlines())}


def _beyond_row(line: Mapping[str, str]) -> Row:
    options = {Option(name): code for name, _, code in (part.partition(":") for part in line["options"].split())}
    return Row(line["tag"], line["keyword"], line["action"], options)


@cache
def _required() -> Mapping[str, Mapping[str, Sequence[str]]]:
    text = files("mercure_anonymizer").joinpath("data/required.json").read_text(encoding="ascii")
    loaded: dict[str, dict[str, list[str]]] = json.loads(text)
    return loaded


def has_type(row: Row, kind: Literal["type 1", "type 2"], sop_class: str) -> bool:
    """Tell whether the attribute is known to be of type 1 (has a value) or 2 (may be empty) in the SOP class."""
    name = sop_class.removeprefix(_STORAGE)
    return any(fnmatchcase(name, pattern) for pattern in _required()[kind].get(row.tag, ()))


@dataclass(frozen=True, slots=True)
class Profile:
    """The Basic Profile with its options."""

    options: frozenset[Option] = frozenset()

    def decide(self, tag: int, vr: str, sop_class: str) -> Decision:
        """Return what is to be done with the attribute in an instance of this SOP class."""
        listed = find_row(tag)
        row = listed or beyond_table().get(tag) or _by_kind(tag, vr)
        if row is None:
            return Decision(Step.KEEP, Step.REMOVE, listed=False)
        return self._of_row(row, _basic_step(row, tag, vr, sop_class), listed=listed is not None)

    def _of_row(self, row: Row, basic: Step, *, listed: bool) -> Decision:
        chosen = {option: code for option, code in row.options.items() if option in self.options}
        if Option.MODIFIED_DATES in chosen:
            return Decision(Step.SHIFT, basic, listed)
        if "K" in chosen.values():
            return Decision(Step.KEEP, basic, listed)
        return Decision(Step.CLEAN if chosen else basic, basic, listed)


def _by_kind(tag: int, vr: str) -> Row | None:
    if vr in _OPAQUE_VRS and dictionary_has_tag(tag):
        return _OPAQUE
    return _UNLISTED_BY_VR.get(vr)


def _basic_step(row: Row, tag: int, vr: str, sop_class: str) -> Step:
    if row.basic == "X/Z/U*":
        return Step.NEW_UID
    if "/" not in row.basic:
        return _STEPS[row.basic]
    if "D" in row.basic and has_type(row, "type 1", sop_class):
        # A reference to another instance has no better dummy than the same one with new UIDs.
        return Step.NEW_UID if row.tag == "0008,1111" else Step.DUMMY
    if "X" not in row.basic:
        return Step.EMPTY
    empty = "Z" in row.basic and tag not in _NEVER_EMPTY and (vr != "SQ" or has_type(row, "type 2", sop_class))
    return Step.EMPTY if empty else Step.REMOVE
