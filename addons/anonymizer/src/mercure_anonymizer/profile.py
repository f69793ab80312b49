"""What becomes of one attribute: the table, the options that were chosen, and the type in the IOD.

For combined actions Table E.1-1 leaves the choice to conformance. The rule here: where the attribute is known to be of
type 1 (or required by the module) in the SOP class (`data/required.json`), D; otherwise Z where the row allows it,
otherwise X. Sequences are the exception: an empty sequence is not valid everywhere, so Z and D give way to X, but for
the few that are of type 2.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files

from mercure_anonymizer.actions import Option, Row, find_row

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_TYPE_2_SEQUENCES = frozenset({0x00400555, 0x00400513, 0x00400562, 0x00400610, 0x0040A088, 0x30100081})
"""Sequences that stay when they are empty: Z is a valid state for them."""

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


@cache
def _required() -> Mapping[str, Sequence[str]]:
    text = files("mercure_anonymizer").joinpath("data/required.json").read_text(encoding="ascii")
    loaded: dict[str, list[str]] = json.loads(text)
    return loaded


def is_required(row: Row, sop_class: str) -> bool:
    """Tell whether the attribute is known to need a value in instances of this SOP class."""
    kind = sop_class.removeprefix(_STORAGE)
    return any(fnmatchcase(kind, pattern) for pattern in _required().get(row.tag, ()))


@dataclass(frozen=True, slots=True)
class Profile:
    """The Basic Profile with its options."""

    options: frozenset[Option] = frozenset()

    def decide(self, tag: int, vr: str, sop_class: str) -> Decision:
        """Return what is to be done with the attribute in an instance of this SOP class."""
        listed = find_row(tag)
        row = listed or _UNLISTED_BY_VR.get(vr)
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


def _basic_step(row: Row, tag: int, vr: str, sop_class: str) -> Step:
    if row.basic == "X/Z/U*":
        return Step.NEW_UID
    if "/" not in row.basic:
        return {"D": Step.DUMMY, "Z": Step.EMPTY, "X": Step.REMOVE, "U": Step.NEW_UID}[row.basic]
    if "D" in row.basic and is_required(row, sop_class):
        # A reference to another instance has no better dummy than the same one with new UIDs.
        return Step.NEW_UID if row.tag == "0008,1111" else Step.DUMMY
    if "Z" in row.basic and (vr != "SQ" or tag in _TYPE_2_SEQUENCES):
        return Step.EMPTY
    return Step.REMOVE
