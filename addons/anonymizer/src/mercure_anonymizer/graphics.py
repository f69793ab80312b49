"""Overlays (60xx) and curves (50xx): whole groups stay or go, because what is left of half a group is not valid."""

from collections.abc import Set as AbstractSet

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from mercure_anonymizer.actions import Option
from mercure_anonymizer.report import Fate
from mercure_anonymizer.settings import Settings

_OVERLAY_TYPE, _BITS_ALLOCATED = 0x0040, 0x0100
_TEXTS = frozenset({0x0022, 0x1500, 0x4000})
"""Description, label and comments of an overlay."""


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
    """Remove the element of a group that goes, and text in one that stays."""
    if tag.group in kept and tag.element not in _TEXTS:
        return "kept"
    del dataset[tag]
    return "removed"


def hides_in_pixels(dataset: Dataset, settings: Settings) -> bool:
    """Tell whether an overlay that goes stands in unused bits of the pixel data."""
    kept = groups_to_keep(dataset, settings)
    tags = [tag for tag in dataset.keys() if is_overlay(tag) and tag.element == _BITS_ALLOCATED]  # noqa: SIM118
    return any(tag.group not in kept and dataset[tag].value not in (None, "", 1) for tag in tags)
