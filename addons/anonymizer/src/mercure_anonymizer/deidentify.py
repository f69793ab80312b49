"""De-identification of a data set in memory: each element at every level is decided, done and noted.

Order of precedence: a command of the settings for the tag; what must go in any case (command groups, unreadable or
malformed values, unknown and private attributes); the profile.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

from mercure_anonymizer import graphics
from mercure_anonymizer.actions import Option, find_row
from mercure_anonymizer.assignments import Assignment, Macros
from mercure_anonymizer.cleaning import Cleaner, is_public_code
from mercure_anonymizer.elements import deciding_vr, has_foreign_vr, is_skeleton, names_a_kind, read_element
from mercure_anonymizer.errors import InstanceError
from mercure_anonymizer.private import private_to_keep
from mercure_anonymizer.profile import Profile, Step
from mercure_anonymizer.report import Fate, Tally, tag_name
from mercure_anonymizer.settings import Settings
from mercure_anonymizer.values import (
    DUMMY,
    TEXT_VRS,
    dummy,
    dummy_code,
    is_empty,
    is_well_formed,
    shifted,
    texts,
    truncated,
)

_PATIENT_NAME, _PATIENT_ID = 0x00100010, 0x00100020
_CODE_PARTS = frozenset({0x00080100, 0x00080102, 0x00080103})
"""Value, scheme and its version: only public codes are left when text is cleaned."""
_DECODING = frozenset({0x00080005, 0x00080060, 0x00280004})
"""Character set, modality, photometric interpretation: a dummy would make the instance unreadable."""
_TERMS = {
    0x0040A040: frozenset(
        "TEXT NUM CODE DATETIME DATE TIME UIDREF PNAME COMPOSITE IMAGE WAVEFORM SCOORD SCOORD3D TCOORD CONTAINER"
        " TABLE".split()
    ),
    0x0040A010: frozenset(
        {"CONTAINS", "HAS OBS CONTEXT", "HAS ACQ CONTEXT", "HAS CONCEPT MOD", "HAS PROPERTIES"}
        | {"INFERRED FROM", "SELECTED FROM"}
    ),
}
"""Value and relationship types of report content (PS3.3 C.17.3): they stay, even if a person is called so."""
_UTC_OFFSET = re.compile(r"[+-]\d{4}")
_GROUP_LENGTH = 0
_DEEPEST = 32


@dataclass(slots=True)
class Walker:
    """Walks through one instance. Used once."""

    settings: Settings
    macros: Macros
    cleaner: Cleaner
    sop_class: str
    pseudonym: str
    shift_days: int
    tally: Tally
    profile: Profile = field(init=False)

    def __post_init__(self) -> None:
        self.profile = Profile(self.settings.options)

    def walk(self, dataset: Dataset, path: tuple[int, ...] = (), *, strict: bool = False) -> None:
        """De-identify a data set or item in place. `strict`: all text is cleaned, also that which no table lists.

        Raises `InstanceError` when sequences are nested too deep.
        """
        if len(path) > _DEEPEST:
            raise InstanceError("sequences are nested too deep")
        if strict:
            _replace_local_code(dataset)
        assigned = {tag for tag, one in self.settings.assignments.items() if one.command != "remove"}
        safe = Option.SAFE_PRIVATE in self.settings.options or self._keeps_unknown()
        kept_private = private_to_keep(dataset, assigned, safe=safe) if not self._keeps_unknown() else None
        kept_graphics = graphics.groups_to_keep(dataset, self.settings)
        for tag in list(dataset.keys()):
            here = (*path, int(tag))
            before = dataset.get_item(tag)
            if tag.is_private and kept_private is not None and int(tag) not in kept_private:
                fate: Fate = "removed"
                del dataset[tag]
            elif graphics.is_graphic(tag):
                fate = graphics.treat(dataset, tag, kept_graphics)
            else:
                fate = self._element(dataset, tag, here, strict=strict)
            if before is not None and tag.element != _GROUP_LENGTH:
                self.tally.note(fate, here)

    def _keeps_unknown(self) -> bool:
        return self.settings.preset == "none" and not self.settings.remove_unknown_tags

    def _element(self, dataset: Dataset, tag: BaseTag, path: tuple[int, ...], *, strict: bool) -> Fate:
        """Treat one element that is neither graphic nor unwanted private."""
        element = None if tag.group in (0, 2) or tag.element == _GROUP_LENGTH else read_element(dataset, tag)
        if element is None:
            del dataset[tag]
            return "removed"
        assignment = self.settings.assignments.get(int(tag))
        if assignment:
            return self._assigned(dataset, element, assignment)
        if self.settings.preset == "none":
            return self._without_preset(dataset, element, path)
        if not self._is_known(tag) or not is_well_formed(element) or has_foreign_vr(element):
            del dataset[tag]
            return "removed"
        if tag.is_private:
            return "kept"  # a safe one, or the creator of its block
        return self._by_profile(dataset, element, path, strict=strict)

    def _is_known(self, tag: BaseTag) -> bool:
        return (
            tag.is_private
            or dictionary_has_tag(tag)
            or find_row(int(tag)) is not None
            or not self.settings.remove_unknown_tags
        )

    def _without_preset(self, dataset: Dataset, element: DataElement, path: tuple[int, ...]) -> Fate:
        """Keep what has no command, or remove it, but for what makes an instance an image of its kind."""
        if self.settings.remove_unknown_tags and not is_skeleton(element.tag):
            del dataset[element.tag]
            return "removed"
        return self._inside(element, path, strict=False) if element.VR == "SQ" else "kept"

    def _by_profile(self, dataset: Dataset, element: DataElement, path: tuple[int, ...], *, strict: bool) -> Fate:
        decision = self.profile.decide(int(element.tag), deciding_vr(element), self.sop_class)
        step = decision.step
        if step is Step.NEW_UID and not decision.listed and names_a_kind(element):
            return "kept"
        if is_empty(element) and step not in {Step.REMOVE, Step.KEEP} and int(element.tag) != _PATIENT_ID:
            return "kept"
        if step is Step.KEEP:
            return self._keep(element, path, strict=strict, listed=decision.listed)
        if step in {Step.CLEAN, Step.SHIFT}:
            done = self._clean(element, path) if step is Step.CLEAN else self._shift(element)
            if done:
                return done
            step = decision.otherwise
        return self._replace(dataset, element, path, step)

    def _keep(self, element: DataElement, path: tuple[int, ...], *, strict: bool, listed: bool) -> Fate:
        if element.VR == "SQ":
            return self._inside(element, path, strict=strict)
        if listed or int(element.tag) in _DECODING or (strict and int(element.tag) in _CODE_PARTS):
            return "kept"
        if element.VR not in TEXT_VRS and element.VR != "CS":
            return "kept"
        if strict and element.VR != "CS":  # terms of the standard are not all on the list of harmless words
            return _set_texts(element, [self.cleaner.clean(text) or DUMMY for text in texts(element)])
        terms = _TERMS.get(int(element.tag), frozenset())
        return _set_texts(
            element, [text if text in terms else self.cleaner.without_identity(text) for text in texts(element)]
        )

    def _clean(self, element: DataElement, path: tuple[int, ...]) -> Fate | None:
        """Return None when nothing is left."""
        if element.VR == "SQ":
            return self._inside(element, path, strict=True)
        if element.VR == "AE":
            return _set_texts(element, [DUMMY for _ in texts(element)])
        if element.VR not in TEXT_VRS:
            return None
        cleaned = [clean for text in texts(element) if (clean := self.cleaner.clean(text))]
        return _set_texts(element, cleaned) if cleaned else None

    def _shift(self, element: DataElement) -> Fate | None:
        if element.VR == "SH":  # the offset from UTC: whole days do not change it
            return "kept" if all(_UTC_OFFSET.fullmatch(text) for text in texts(element)) else None
        if element.VR not in {"DA", "DT", "TM"}:
            return None
        moved = [shifted(element.VR, text, self.shift_days) for text in texts(element)]
        sure = [text for text in moved if text is not None]
        return _set_texts(element, sure) if len(sure) == len(moved) else None

    def _replace(self, dataset: Dataset, element: DataElement, path: tuple[int, ...], step: Step) -> Fate:
        if step is Step.NEW_UID and element.VR == "SQ":
            return self._inside(element, path, strict=False)
        if step is Step.REMOVE:
            del dataset[element.tag]
            return "removed"
        if int(element.tag) in {_PATIENT_NAME, _PATIENT_ID}:
            element.value = self.pseudonym
        elif element.VR == "UI" and step in {Step.NEW_UID, Step.DUMMY}:
            return _set_texts(element, [self._uid(text) for text in texts(element)])
        elif step is Step.EMPTY:
            element.value = [] if element.VR == "SQ" else element.empty_value
        else:
            element.value = dummy(int(element.tag), element.VR, dataset)
        return "changed"

    def _uid(self, value: str) -> str:
        return value if value in UID_dictionary else self.settings.mapping.uid(value)

    def _inside(self, element: DataElement, path: tuple[int, ...], *, strict: bool) -> Fate:
        for one in element.value:
            self.walk(one, path, strict=strict)
        return "kept"

    def _assigned(self, dataset: Dataset, element: DataElement, assignment: Assignment) -> Fate:
        command = assignment.command
        if command == "remove" or (command == "safe" and self.settings.remove_safe_tags):
            del dataset[element.tag]
            return "removed"
        if command in {"keep", "safe"}:
            return "kept"
        if command == "set":
            present = "\\".join(texts(element)) if element.VR not in {"SQ", "OB", "OW", "UN"} else ""
            assign(dataset, int(element.tag), self.macros.fill(assignment, int(element.tag), present), element.VR)
            return "changed"
        cut = [truncated(element.VR, text) for text in texts(element)] if command == "truncdate" else []
        sure = [text for text in cut if text is not None]
        element.value = sure if sure and len(sure) == len(cut) else ([] if element.VR == "SQ" else element.empty_value)
        return "changed"


def assign(dataset: Dataset, tag: int, text: str, vr: str = "") -> None:
    """Set an element to a text, as its VR takes it. Raises `InstanceError` when it does not."""
    try:
        vr = vr or dictionary_VR(tag)
        vr = vr.split(" ", maxsplit=1)[0]
        value: Any = text
        if vr in {"US", "SS", "UL", "SL", "UV", "SV"}:
            value = [int(part) for part in text.split("\\")] if text else None
        elif vr in {"FL", "FD"}:
            value = [float(part) for part in text.split("\\")] if text else None
        dataset[Tag(tag)] = DataElement(tag, vr, value)
    except (KeyError, ValueError, TypeError):
        raise InstanceError(f"{tag_name(tag)} cannot hold what set(...) gives") from None


def _replace_local_code(dataset: Dataset) -> None:
    """Put a code that says nothing in the place of one from a scheme of a site."""
    if "CodeMeaning" in dataset and not is_public_code(dataset):
        dataset.clear()
        dataset.update(dummy_code())


def _set_texts(element: DataElement, wanted: list[str]) -> Fate:
    if wanted == texts(element):
        return "kept"
    element.value = wanted[0] if len(wanted) == 1 and not isinstance(element.value, MultiValue) else wanted
    return "changed"
