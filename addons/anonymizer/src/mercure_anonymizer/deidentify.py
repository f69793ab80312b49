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

from mercure_anonymizer import graphics, terms
from mercure_anonymizer.actions import Option, find_row
from mercure_anonymizer.assignments import Assignment, Macros
from mercure_anonymizer.cleaning import Cleaner, replace_local_code
from mercure_anonymizer.elements import deciding_vr, has_foreign_vr, is_skeleton, names_a_kind, read_element
from mercure_anonymizer.errors import InstanceError
from mercure_anonymizer.private import private_to_keep
from mercure_anonymizer.profile import Decision, Profile, Step
from mercure_anonymizer.report import Fate, Tally, tag_name
from mercure_anonymizer.settings import Settings
from mercure_anonymizer.values import (
    DUMMY,
    TEXT_VRS,
    dummy,
    is_empty,
    is_well_formed,
    shifted,
    texts,
    truncated,
)

_PATIENT_NAME, _PATIENT_ID = 0x00100010, 0x00100020
_CODE_PARTS = frozenset({0x00080100, 0x00080102, 0x00080103})
"""Value, scheme and its version: only public codes are left when text is cleaned."""
_KEPT_TEXTS = TEXT_VRS | {"PN", "AE", "UR"}
"""Files write texts under these as well."""
_OFFSET_FROM_UTC = 0x00080201
_UTC_OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")
_DOCUMENT = 0x00420011
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
            replace_local_code(dataset, self.cleaner.identity)
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
        if tag.is_private:  # a safe one, or the creator of its block
            return self._codes(element, listed=False) if element.VR == "CS" else "kept"
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
        decision = self._decide(element)
        step = decision.step
        if step is Step.KEEP and int(element.tag) == _OFFSET_FROM_UTC and not _is_offset(element):
            step = decision.otherwise
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

    def _decide(self, element: DataElement) -> Decision:
        """What nothing is known against may still be a date, a name or a UID, if only the file says so."""
        tag, known = int(element.tag), deciding_vr(element)
        decision = self.profile.decide(tag, known, self.sop_class)
        if decision.step is Step.KEEP and not decision.listed and element.VR not in known.split():
            return self.profile.decide(tag, element.VR, self.sop_class)
        return decision

    def _keep(self, element: DataElement, path: tuple[int, ...], *, strict: bool, listed: bool) -> Fate:
        if element.VR == "SQ":
            return self._inside(element, path, strict=strict)
        tag = int(element.tag)
        if tag in terms.DECODING:
            return _set_texts(element, terms.decoding_values(tag, texts(element)))
        if element.VR == "CS":
            return self._codes(element, listed=listed)
        if listed or (strict and tag in _CODE_PARTS) or element.VR not in _KEPT_TEXTS:
            return "kept"
        stays = terms.TERMS.get(tag, frozenset())
        return _set_texts(
            element, [text if text in stays else self._text(text, strict=strict) for text in texts(element)]
        )

    def _text(self, text: str, *, strict: bool) -> str:
        return self.cleaner.clean(text) or DUMMY if strict else self.cleaner.without_identity(text)

    def _codes(self, element: DataElement, *, listed: bool) -> Fate:
        """Keep codes, in strict items too: terms of the standard are not all on the list of harmless words."""
        stays = terms.TERMS.get(int(element.tag), frozenset())
        return _set_texts(
            element,
            [
                terms.as_code(text if listed or text in stays else self.cleaner.without_identity(text))
                for text in texts(element)
            ],
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
            return "kept" if _is_offset(element) else None
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
            if int(element.tag) == _DOCUMENT and "EncapsulatedDocumentLength" in dataset:
                dataset.EncapsulatedDocumentLength = len(element.value)
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


def _is_offset(element: DataElement) -> bool:
    return all(_UTC_OFFSET.fullmatch(text) for text in texts(element))


def _set_texts(element: DataElement, wanted: list[str]) -> Fate:
    if wanted == texts(element):
        return "kept"
    element.value = wanted[0] if len(wanted) == 1 and not isinstance(element.value, MultiValue) else wanted
    return "changed"
