"""What counts as a storage SOP class, and how Mercure names itself."""

import pytest
from pydicom._uid_dict import UID_dictionary

from mercure.dicom import uids

SOP_CLASSES = {uid: name for uid, (name, kind, *_) in UID_dictionary.items() if kind == "SOP Class" and name}

NOT_STORED = ("Storage Commitment", "Media Storage Directory", "Hardcopy", "Stored Print")
"""Names with Storage in them that are no C-STORE of instances, or belong to print services that are long retired."""


@pytest.mark.parametrize("sop_class", SOP_CLASSES)
def test_the_storage_classes_of_the_standard_are_storage_and_its_other_services_are_not(sop_class: str) -> None:
    name = SOP_CLASSES[sop_class]

    assert uids.is_storage_sop_class(sop_class) == ("Storage" in name and not name.startswith(NOT_STORED)), name


@pytest.mark.parametrize("sop_class", ["1.3.12.2.1107.5.9.1", "1.2.840.10008.5.1.4.1.1.9999", "2.25.7"])
def test_private_and_future_classes_are_storage(sop_class: str) -> None:
    assert uids.is_storage_sop_class(sop_class)


def test_the_implementation_names_fit_their_fields() -> None:
    assert 1 <= len(uids.IMPLEMENTATION_VERSION) <= 16
    assert len(uids.IMPLEMENTATION_CLASS) <= 64
