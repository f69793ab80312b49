"""Overlays (60xx) and curves (50xx): whole groups stay or go, because what is left of half a group is not valid.

Of an overlay that stays, only what describes and holds its bits does (PS3.3 C.9.2): texts and all else go.
"""

from collections.abc import Set as AbstractSet

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from mercure_anonymizer.actions import Option
from mercure_anonymizer.elements import read_element
from mercure_anonymizer.report import Fate
from mercure_anonymizer.settings import Settings
from mercure_anonymizer.values import is_well_formed, texts

_OVERLAY_TYPE, _BITS_ALLOCATED = 0x0040, 0x0100
_SUBTYPE, _DATA = 0x0045, 0x3000
_CURVE_TEXTS = frozenset({0x0022, 0x200E, 0x2500})
"""Description, comments and label of a curve."""
_OF_OVERLAYS = {
    **dict.fromkeys((0x0010, 0x0011, 0x0012, 0x0051, 0x0052, _BITS_ALLOCATED, 0x0102), frozenset({"US"})),
    **dict.fromkeys((0x0015, 0x1301), frozenset({"IS"})),
    **dict.fromkeys((0x1302, 0x1303), frozenset({"DS"})),
    **dict.fromkeys((_OVERLAY_TYPE, _SUBTYPE), frozenset({"CS", "LO"})),
    0x0050: frozenset({"SS"}),
    _DATA: frozenset({"OB", "OW"}),
}
"""Elements of an overlay that stay, with their VRs: size, frames, place, kind, statistics of the region, bits."""
_TERMS = {
    _OVERLAY_TYPE: frozenset({"R", "G"}),
    _SUBTYPE: frozenset({"USER", "AUTOMATED", "ACTIVE IMAGE AREA", "ACTIVE 2D/BMODE IMAGE AREA"}),
}


def is_curve(tag: BaseTag) -> bool:
    """Tell whether the element belongs to a curve."""
    return tag.group & 0xFF00 == 0x5000


def is_overlay(tag: BaseTag) -> bool:
    """Tell whether the element belongs to an overlay."""
    return tag.group & 0xFF00 == 0x6000


def is_graphic(tag: BaseTag) -> bool:
    """Tell whether the element belongs to a curve or an overlay."""
    return (is_curve(tag) or is_overlay(tag)) and not tag.is_private


def groups_to_keep(dataset: Dataset, settings: Settings) -> frozenset[int]:
    """Return the groups of curves and overlays that stay.

    With Clean Graphics these are the overlays that mark a region of interest (type R): graphics (G) may be writing,
    and nobody but a person can tell. Without it none stay, unless the settings say so.
    """
    groups = {tag.group for tag in dataset.keys() if is_graphic(tag)}  # noqa: SIM118
    return frozenset(group for group in groups if _stays(dataset, group, settings))


def _stays(dataset: Dataset, group: int, settings: Settings) -> bool:
    if group & 0xFF00 == 0x5000:
        return not settings.remove_curves
    if Option.GRAPHICS in settings.options:
        kind = dataset.get(Tag(group, _OVERLAY_TYPE))
        return kind is not None and bool(kind.value == "R")
    return not settings.remove_overlays


def treat(dataset: Dataset, tag: BaseTag, kept: AbstractSet[int]) -> Fate:
    """Remove the element of a group that goes, and in one that stays text and what does not belong there."""
    if tag.group not in kept or not (_stays_in_overlay(dataset, tag) if is_overlay(tag) else _stays_in_curve(tag)):
        del dataset[tag]
        return "removed"
    return _without_what_follows(dataset, tag) if is_overlay(tag) and tag.element == _DATA else "kept"


def _stays_in_curve(tag: BaseTag) -> bool:
    return tag.element not in _CURVE_TEXTS


def _stays_in_overlay(dataset: Dataset, tag: BaseTag) -> bool:
    element = read_element(dataset, tag)
    if element is None or element.VR not in _OF_OVERLAYS.get(tag.element, ()) or not is_well_formed(element):
        return False
    return tag.element not in _TERMS or all(text in _TERMS[tag.element] for text in texts(element))


def _without_what_follows(dataset: Dataset, tag: BaseTag) -> Fate:
    """Cut off bytes behind the last bit of an overlay; without a size nobody can tell, and all bits go."""
    try:
        size = [int(dataset[Tag(tag.group, element)].value) for element in (0x0010, 0x0011)]
        frames = Tag(tag.group, 0x0015)
        count = int(dataset[frames].value or 1) if frames in dataset else 1
    except (KeyError, TypeError, ValueError):
        del dataset[tag]
        return "removed"
    length = (size[0] * size[1] * count + 7) // 8
    length += length % 2
    bits = dataset[tag].value
    if len(bits) <= length:
        return "kept"
    dataset[tag].value = bits[:length]
    return "changed"


def hides_in_pixels(dataset: Dataset, settings: Settings) -> bool:
    """Tell whether an overlay that goes stands in unused bits of the pixel data."""
    kept = groups_to_keep(dataset, settings)
    tags = [tag for tag in dataset.keys() if is_overlay(tag) and tag.element == _BITS_ALLOCATED]  # noqa: SIM118
    return any(tag.group not in kept and dataset[tag].value not in (None, "", 1) for tag in tags)
