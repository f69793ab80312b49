"""Rules for burned-in text: which devices write it where on the screen.

A rule names a device by its signature (all that it names must match), and the rectangles to blacken. A rule without
rectangles says that the device burns nothing in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from mercure_anonymizer.errors import SettingsError

_SIGNATURE = ("Modality", "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "Rows", "Columns")
_KEYS = {*_SIGNATURE, "rectangles", "outside_ultrasound_regions"}
_MOST_RULES, _MOST_RECTANGLES, _LARGEST_SIDE = 1_000, 200, 65_535


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Pixels from column `x` and row `y` (from 0, top left), so wide and so high."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class PixelRule:
    """What is blackened in images of one kind of device."""

    signature: Mapping[str, str]
    """Keyword to pattern; `*` and `?` stand for any text and any character, case does not count."""
    rectangles: tuple[Rectangle, ...] = ()
    outside_ultrasound_regions: bool = False
    """Blacken all that is outside the regions of Sequence of Ultrasound Regions (0018,6011)."""

    def matches(self, dataset: Dataset) -> bool:
        """Tell whether the instance comes from such a device."""
        return all(_matches(pattern, dataset.get(keyword)) for keyword, pattern in self.signature.items())


def _matches(pattern: str, value: object) -> bool:
    if value is None:
        return False
    texts = [str(one) for one in value] if isinstance(value, MultiValue) else [str(value)]
    return any(fnmatchcase(text.strip().lower(), pattern.lower()) for text in texts)


def parse_pixel_rules(value: object) -> tuple[PixelRule, ...]:
    """Return the rules of the settings. Raises `SettingsError` with the number of the rule."""
    if not isinstance(value, list) or len(value) > _MOST_RULES:
        raise SettingsError("pixel_rules is no list of rules")
    return tuple(_rule(one, number) for number, one in enumerate(value, start=1))


def _rule(value: object, number: int) -> PixelRule:
    if not isinstance(value, dict) or not set(value) <= _KEYS:
        raise SettingsError(f"pixel rule {number}: only {', '.join(sorted(_KEYS))} are known")
    signature = {key: _pattern(value[key], number) for key in _SIGNATURE if key in value}
    if "Modality" not in signature:
        raise SettingsError(f"pixel rule {number}: Modality is missing")
    outside = value.get("outside_ultrasound_regions", False)
    if not isinstance(outside, bool):
        raise SettingsError(f"pixel rule {number}: outside_ultrasound_regions is neither true nor false")
    return PixelRule(signature, _rectangles(value.get("rectangles", []), number), outside)


def _pattern(value: object, number: int) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise SettingsError(f"pixel rule {number}: a value of the signature is neither text nor number")
    return str(value)


def _rectangles(value: object, number: int) -> tuple[Rectangle, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > _MOST_RECTANGLES:
        raise SettingsError(f"pixel rule {number}: rectangles is no list")
    return tuple(_rectangle(one, number) for one in value)


def _rectangle(value: Any, number: int) -> Rectangle:
    numbers = value if isinstance(value, list) and len(value) == 4 else []
    if not numbers or any(isinstance(one, bool) or not isinstance(one, int) for one in numbers):
        raise SettingsError(f"pixel rule {number}: a rectangle is [x, y, width, height] in pixels")
    x, y, width, height = numbers
    if min(x, y) < 0 or min(width, height) < 1 or max(numbers) > _LARGEST_SIDE:
        raise SettingsError(f"pixel rule {number}: a rectangle is outside of any image")
    return Rectangle(x, y, width, height)
