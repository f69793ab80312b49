"""Private attributes: which may stay with the option Retain Safe Private.

`data/safe_private.json` lists blocks and elements of PS3.15 Table E.3.10-1 by private creator. Stricter than the table,
only numbers and codes stay: text, sequences and opaque bytes of these blocks are removed like all other private data.
"""

import json
from collections.abc import Collection, Mapping
from functools import cache
from importlib.resources import files

from pydicom.datadict import private_dictionary_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from mercure_anonymizer.values import NUMBER_VRS

_SAFE_VRS = NUMBER_VRS | {"CS"}
_NUMBERS = NUMBER_VRS - {"OF", "OD", "OL", "OV"}
"""Numbers one by one. Rows of them can hold any bytes: only the private dictionary can say that they are numbers."""


@cache
def safe_private() -> Mapping[str, frozenset[tuple[int, int]]]:
    """Return group and element (last two digits) of the safe attributes by private creator."""
    text = files("mercure_anonymizer").joinpath("data/safe_private.json").read_text(encoding="ascii")
    creators: dict[str, dict[str, str]] = json.loads(text)
    return {name: frozenset(_elements(groups)) for name, groups in creators.items()}


def _elements(groups: Mapping[str, str]) -> list[tuple[int, int]]:
    found = []
    for group, ranges in groups.items():
        for part in ranges.split():
            first, _, last = part.partition("-")
            found += [(int(group, 16), element) for element in range(int(first, 16), int(last or first, 16) + 1)]
    return found


def private_to_keep(dataset: Dataset, assigned: Collection[int], *, safe: bool) -> set[int]:
    """Return the private tags that stay: safe ones if wanted, those with a command, and their creators."""
    kept: set[int] = set()
    for tag in [tag for tag in dataset.keys() if tag.is_private and tag.element >= 0x1000]:  # noqa: SIM118
        if int(tag) in assigned or (safe and _is_safe(dataset, tag)):
            kept |= {int(tag), (tag.group << 16) | (tag.element >> 8)}
    return kept


def _is_safe(dataset: Dataset, tag: BaseTag) -> bool:
    try:
        creator = str(dataset[Tag(tag.group, tag.element >> 8)].value).strip()
        element = dataset[tag]
    except Exception:  # noqa: BLE001  # what cannot be read is not safe
        return False
    if (tag.group, tag.element & 0xFF) not in safe_private().get(creator, ()):
        return False
    known = _known_vr(tag, creator)
    if known in _NUMBERS or not known:
        return element.VR in _NUMBERS
    return known == element.VR and known in _SAFE_VRS


def _known_vr(tag: BaseTag, creator: str) -> str:
    """Return the VR of the private dictionary, empty when it has none: a file may call anything a number."""
    try:
        return private_dictionary_VR(tag, creator)
    except KeyError:
        return ""
