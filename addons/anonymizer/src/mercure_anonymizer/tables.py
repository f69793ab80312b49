"""Tables beside the pixels: cut to what their descriptors say, and colour profiles to their numbers.

Images inside of sequences go: nobody looks whether they show text. Tables whose length no descriptor tells (segmented
and large palettes) stay as they are.
"""

from collections.abc import Set as AbstractSet
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from mercure_anonymizer.elements import read_element
from mercure_anonymizer.encapsulation import EXTENDED_LENGTHS, EXTENDED_TABLE
from mercure_anonymizer.icc import clean_profile
from mercure_anonymizer.values import is_empty

_TABLES = {
    **{0x00281201 + number: 0x00281101 + number for number in range(4)},
    0x00281200: 0x00281100,
    0x00281408: 0x00281407,
    0x00283006: 0x00283002,
    0x00701808: 0x00701807,
}
"""Data of palettes and look-up tables, and their descriptors (PS3.3 C.7.6.3.1.5, C.7.6.23.2, C.11.1.1)."""

_UNMEASURED_TABLES = {
    **{0x00281221 + number: 0x00281101 + number for number in range(4)},
    **{0x00281211 + number: 0x00281111 + number for number in range(3)},
}
"""Segmented and large palettes, and their descriptors: these do not tell a length."""

_DESCRIPTORS = dict.fromkeys(_TABLES.values(), 3) | {0x00281111 + number: 4 for number in range(3)}
"""How many values descriptors have. In more of them text may stand."""

_ICC_PROFILE = 0x00282000
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010, EXTENDED_TABLE, EXTENDED_LENGTHS})
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
        elif int(tag) in _DESCRIPTORS:
            _check_descriptor(dataset, tag)
        elif int(tag) in _UNMEASURED_TABLES:
            if _descriptor(dataset, _UNMEASURED_TABLES[int(tag)]) is None:
                del dataset[tag]
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


def _check_descriptor(dataset: Dataset, tag: BaseTag) -> None:
    """Remove a descriptor that has values, but not as many as descriptors have."""
    element = read_element(dataset, tag)
    if element is None or (not is_empty(element) and _descriptor(dataset, int(tag)) is None):
        del dataset[tag]


def _entries(dataset: Dataset, descriptor: int) -> tuple[int, int] | None:
    """Return the number of entries and their bits."""
    values = _descriptor(dataset, descriptor)
    return ((values[0] & 0xFFFF) or 1 << 16, values[2]) if values else None


def _descriptor(dataset: Dataset, tag: int) -> list[int] | None:
    """Return the values of a descriptor, None when there is none, or one that cannot be understood."""
    element = read_element(dataset, BaseTag(tag)) if tag in dataset else None
    value: Any = element.value if element is not None else None
    if not isinstance(value, MultiValue | list) or len(value) != _DESCRIPTORS[tag]:
        return None
    return list(value) if all(isinstance(one, int) for one in value) else None


def _clean_profile(dataset: Dataset, tag: BaseTag) -> None:
    element = read_element(dataset, tag)
    cleaned = clean_profile(element.value) if element is not None and isinstance(element.value, bytes) else None
    if element is None or cleaned is None:
        del dataset[tag]
    elif cleaned != element.value:
        element.value = cleaned
