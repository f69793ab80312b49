"""Whether the tags that a rule names can exist: which ones are read of a series is known before any series comes."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from mercure.core.rules import Expression
from mercure.core.tags import STANDARD_TAGS

ADDITIONAL_TAGS: Final = "receiver.additional_tags"
_NUMBER: Final = re.compile(r"\(?([0-9A-Fa-f]{4}),? ?([0-9A-Fa-f]{4})\)?")
_NO_TEXT: Final = frozenset({"SQ", "OB", "OD", "OF", "OL", "OV", "OW"})
_CLOSE: Final = 0.7


@dataclass(frozen=True, slots=True)
class _Attribute:
    """A tag of the dictionary, or any number; the keyword is empty when no dictionary knows the number."""

    number: str
    keyword: str
    has_text: bool


def unseen_tags(
    rule: Expression, additional: Iterable[str], setting: str = ADDITIONAL_TAGS
) -> Iterator[tuple[str, str]]:
    """Find the tags of a rule that no series has for it: the name in the rule, and a sentence with the remedy.

    `additional` are the tags that are read beside the standard ones, `setting` is what the file calls them.
    """
    available = {name.lower(): name for name in (*STANDARD_TAGS, *additional)}
    for tag in rule.tags:
        found = available.get(tag.name.lower())
        if found is None:
            yield tag.name, f"rules never see a tag {tag.name[:64]!r}: {_remedy(tag.name, available, setting)}"
        elif tag.exact and tag.name != found:
            meant = f"did you mean {found}? Capital and small letters matter here"
            yield tag.name, f"rules never see a tag {tag.name[:64]!r}: {meant}"


def readable_name(name: str) -> str | None:
    """Return what the configuration must name for this keyword, in any case, or number to be read; else None."""
    attribute = _find(name)
    return _spelled(name, attribute) if attribute and attribute.has_text else None


def close_keyword(name: str) -> str | None:
    """Return the keyword of the DICOM dictionary that is most like this name, or None when none is."""
    return _closest(name, _keywords())


def _remedy(name: str, available: Mapping[str, str], setting: str) -> str:
    attribute = _find(name)
    if attribute is None:
        return _guess(name, available, setting)
    for other in (attribute.keyword, attribute.number):
        if other.lower() in available:
            return f"did you mean {available[other.lower()]}?"
    if not attribute.has_text:
        return "it is a sequence or bulk data, which rules never see"
    return f"add {_spelled(name, attribute)} to {setting}"


def _spelled(name: str, attribute: _Attribute) -> str:
    return attribute.number if _NUMBER.fullmatch(name) else attribute.keyword


def _guess(name: str, available: Mapping[str, str], setting: str) -> str:
    if found := _closest(name, available):
        return f"did you mean {found}?"
    if found := close_keyword(name):
        return f"did you mean {found}? Then also add it to {setting}"
    return f"no DICOM dictionary has it; a private tag is written by its number, gggg,eeee, here and in {setting}"


def _closest(name: str, by_lower: Mapping[str, str]) -> str | None:
    close = difflib.get_close_matches(name[:64].lower(), by_lower, n=1, cutoff=_CLOSE)
    return by_lower[close[0]] if close else None


@lru_cache(maxsize=1)
def _keywords() -> dict[str, str]:
    from pydicom.datadict import keyword_dict  # noqa: PLC0415 - large, and hardly a file asks for it

    return {keyword.lower(): keyword for keyword in keyword_dict if keyword}


def _find(name: str) -> _Attribute | None:
    """Return what a keyword, in any case, or a number stands for; None when it is neither."""
    from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword  # noqa: PLC0415 - as above

    if numeric := _NUMBER.fullmatch(name):
        tag, number = int(numeric[1] + numeric[2], 16), f"{numeric[1]},{numeric[2]}"
    elif keyword := _keywords().get(name.lower()):
        tag = int(tag_for_keyword(keyword) or 0)
        number = f"{tag >> 16:04x},{tag & 0xFFFF:04x}"
    else:
        return None
    try:
        kind = dictionary_VR(tag).partition(" ")[0]
    except KeyError:
        kind = "UN"
    return _Attribute(number, keyword_for_tag(tag), kind not in _NO_TEXT)
