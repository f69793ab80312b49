"""What an instance says about its own de-identification (PS3.15 E.1.1, PS3.3 C.7.1.1, codes of CID 7050)."""

from typing import Any

from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from mercure_anonymizer import __version__
from mercure_anonymizer.actions import Option, find_row
from mercure_anonymizer.profile import Profile, Step
from mercure_anonymizer.settings import Settings
from mercure_anonymizer.values import item

_BASIC = ("113100", "Basic Application Confidentiality Profile")
_CLEAN_PIXELS = ("113101", "Clean Pixel Data Option")
_CODES = {
    Option.GRAPHICS: ("113103", "Clean Graphics Option"),
    Option.STRUCTURED_CONTENT: ("113104", "Clean Structured Content Option"),
    Option.DESCRIPTORS: ("113105", "Clean Descriptors Option"),
    Option.FULL_DATES: ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    Option.MODIFIED_DATES: ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    Option.PATIENT: ("113108", "Retain Patient Characteristics Option"),
    Option.DEVICE: ("113109", "Retain Device Identity Option"),
    Option.UIDS: ("113110", "Retain UIDs Option"),
    Option.SAFE_PRIVATE: ("113111", "Retain Safe Private Option"),
    Option.INSTITUTION: ("113112", "Retain Institution Identity Option"),
}
_STATEMENTS = (
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
)
_IDENTITY = (0x00100010, 0x00100020)


def conforms(settings: Settings) -> bool:
    """Tell whether the settings keep nothing that the Basic Profile with these options would not keep."""
    removes = settings.remove_curves and settings.remove_overlays and settings.remove_unknown_tags
    if settings.preset == "none" or not removes:
        return False
    revealed = (source for tag, one in settings.assignments.items() if one.reveals for source in (tag, *one.sources))
    return not any(_is_protected(tag) for tag in revealed)


def _is_protected(tag: int) -> bool:
    """Tell whether the profile has something to do with an attribute, or nobody knows what it is."""
    if find_row(tag) or not dictionary_has_tag(tag):
        return True
    return Profile().decide(tag, dictionary_VR(tag), "").step is not Step.KEEP


def identity_removed(settings: Settings) -> bool:
    """Tell whether name and id of the patient are replaced, go nowhere else, and nothing stays that nobody knows."""
    copied = any(source in _IDENTITY for one in settings.assignments.values() for source in one.sources)
    if copied or not settings.remove_unknown_tags:
        return False
    commands = [settings.assignments.get(tag) for tag in _IDENTITY]
    return all(not one.reveals if one else settings.preset == "default" for one in commands)


def mark(dataset: Dataset, settings: Settings, *, pixels_cleaned: bool) -> None:
    """Write the attributes of the de-identification, but for those to which the settings give a value themselves.

    What an instance said of an earlier de-identification goes: it would be taken for a statement about this one.
    """
    made = _markers(settings, pixels_cleaned=pixels_cleaned)
    for keyword in dict.fromkeys((*_STATEMENTS, *made)):
        tag = tag_for_keyword(keyword)
        command = settings.assignments.get(tag) if tag is not None else None
        if command and command.command not in {"keep", "safe"}:
            continue
        if keyword in made:
            setattr(dataset, keyword, made[keyword])
        elif keyword in dataset:
            delattr(dataset, keyword)


def _markers(settings: Settings, *, pixels_cleaned: bool) -> dict[str, Any]:
    markers: dict[str, Any] = {
        "PatientIdentityRemoved": "YES" if identity_removed(settings) else "NO",
        "DeidentificationMethod": [f"mercure-anonymizer {__version__}", _method(settings)],
    }
    if conforms(settings):
        codes = [_BASIC, *(_CODES[option] for option in Option if option in settings.options)]
        codes += [_CLEAN_PIXELS] if pixels_cleaned else []
        markers["DeidentificationMethodCodeSequence"] = Sequence([_code(*code) for code in codes])
    if settings.preset == "default":
        markers["LongitudinalTemporalInformationModified"] = _temporal(settings)
    if pixels_cleaned:
        markers["BurnedInAnnotation"] = "NO"
    return markers


def _method(settings: Settings) -> str:
    if settings.preset == "none":
        return "Rules of the site"
    return "PS3.15 Annex E Basic Profile" + ("" if conforms(settings) else " and rules of the site")


def _temporal(settings: Settings) -> str:
    if Option.FULL_DATES in settings.options:
        return "UNMODIFIED"
    truncates = any(one.command == "truncdate" for one in settings.assignments.values())
    return "MODIFIED" if truncates or Option.MODIFIED_DATES in settings.options else "REMOVED"


def _code(value: str, meaning: str) -> Dataset:
    return item(CodeValue=value, CodingSchemeDesignator="DCM", CodeMeaning=meaning)
