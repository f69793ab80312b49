"""Tables beside the pixels: cut to what their descriptors say, and colour profiles to their numbers.

Images inside of sequences go: nobody looks whether they show text. Tables whose length no descriptor tells (segmented
and large palettes) stay as they are.
"""

from collections.abc import Set as AbstractSet
from typing import Any

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from mercure_anonymizer.elements import read_element
from mercure_anonymizer.icc import clean_profile

_TABLES = {
    **{0x00281201 + number: 0x00281101 + number for number in range(4)},
    0x00281200: 0x00281100,
    0x00283006: 0x00283002,
}
"""Data of palettes and look-up tables, and their descriptors (PS3.3 C.7.6.3.1.5, C.11.1.1)."""

_ICC_PROFILE = 0x00282000
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_DEEPEST = 32


def clean_tables(dataset: Dataset, kept: AbstractSet[int]) -> None:
    """Cut tables and profiles on every level, and remove images inside of sequences; `kept` are tags to leave alone."""
    _clean(dataset, kept, 0)


def _clean(dataset: Dataset, kept: AbstractSet[int], depth: int) -> None:
    if depth > _DEEPEST:
        return  # such an instance is refused as a whole
    for tag in [tag for tag in dataset.keys() if int(tag) not in kept]:  # noqa: SIM118
        if depth and int(tag) in _PIXELS:
            del dataset[tag]
        elif int(tag) in _TABLES:
            _cut_table(dataset, tag)
        elif int(tag) == _ICC_PROFILE:
            _clean_profile(dataset, tag)
        elif not tag.is_private and (element := read_element(dataset, tag)) is not None and element.VR == "SQ":
            for item in element.value:
                _clean(item, kept, depth + 1)


def _cut_table(dataset: Dataset, tag: BaseTag) -> None:
    """Cut a table to its entries. What has no descriptor that can be read is no table, and goes."""
    element, entries = read_element(dataset, tag), _entries(dataset, _TABLES[int(tag)])
    if element is None or entries is None:
        del dataset[tag]
        return
    count, bits = entries
    value: Any = element.value
    if not isinstance(value, bytes):  # numbers, as entries are
        if not isinstance(value, int) and value is not None and len(value) > count:
            element.value = list(value)[:count]
        return
    # Entries of 8 bits stand in a byte or in a word each.
    size = count * 2 if bits > 8 or len(value) >= count * 2 else count + count % 2
    if len(value) > size:
        element.value = value[:size]


def _entries(dataset: Dataset, descriptor: int) -> tuple[int, int] | None:
    """Return the number of entries and their bits."""
    element = read_element(dataset, BaseTag(descriptor)) if descriptor in dataset else None
    try:
        count, _, bits = (int(one) for one in (element.value if element is not None else ()))
    except (TypeError, ValueError):
        return None
    return (count & 0xFFFF) or 1 << 16, bits


def _clean_profile(dataset: Dataset, tag: BaseTag) -> None:
    element = read_element(dataset, tag)
    cleaned = clean_profile(element.value) if element is not None and isinstance(element.value, bytes) else None
    if element is None or cleaned is None:
        del dataset[tag]
    elif cleaned != element.value:
        element.value = cleaned
