"""What one element is, whatever the file says: files lie about VRs, and not every value can be read."""

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from mercure_anonymizer.actions import find_row
from mercure_anonymizer.values import TEXT_VRS

_CLASS_UIDS = ("SOPClass", "SOPClasses", "TransferSyntax", "CodingSchemeUID", "ContextUID", "MappingResourceUID")
"""UIDs that name a kind, not an instance."""
_SOFT_VRS = TEXT_VRS | {"PN", "AE", "UR", "UN"}
_HARD_VRS = frozenset({"CS", "OB", "OW"})


def read_element(dataset: Dataset, tag: BaseTag) -> DataElement | None:
    """Return the element, None when its value cannot be understood: then it may say anything."""
    try:
        element: DataElement = dataset[tag]
        if element.VR == "UN" and not tag.is_private and find_row(int(tag)) is None:
            return None
        _ = element.value
    except Exception:  # noqa: BLE001  # pydicom raises what it likes, with values in it
        return None
    return element


def deciding_vr(element: DataElement) -> str:
    """Return the VR that decides: that of the dictionary where a file says something else."""
    if element.tag.is_private or not dictionary_has_tag(element.tag):
        return str(element.VR)
    known = dictionary_VR(element.tag)
    return str(element.VR) if element.VR in known.split() else known


def has_foreign_vr(element: DataElement) -> bool:
    """Tell whether text, or bytes, stand where the dictionary has something else, so that they escape its rules."""
    if element.tag.is_private or not dictionary_has_tag(element.tag):
        return False
    known = set(dictionary_VR(element.tag).split())
    if element.VR in known or (element.VR in _SOFT_VRS and known & _SOFT_VRS):
        return False
    return element.VR in _SOFT_VRS or element.VR in _HARD_VRS


def names_a_kind(element: DataElement) -> bool:
    """Tell whether a UID names a class, a transfer syntax or a coding scheme."""
    return any(part in element.keyword for part in _CLASS_UIDS)


def is_skeleton(tag: BaseTag) -> bool:
    """Tell whether the attribute is of the kind without which nobody can display or store the instance."""
    needed = {0x00080005, 0x00080016, 0x00080018, 0x00080060, 0x0020000D, 0x0020000E}
    return int(tag) in needed or tag.group in (0x0028, 0x7FE0)
