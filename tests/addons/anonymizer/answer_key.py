"""The answer key: an instance with something to be found in every place that Annex E names, and how to find it again.

Every planted text holds the tag of its row behind the letters ZQ, so that what is left names the place it came from.
Dates, ages, sizes and UIDs have values that stand nowhere else.
"""

import re
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from mercure_anonymizer.actions import Row, table
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from tests import builders

DATE, TIME, AGE = "18571103", "091122.571833", "097Y"
OFFSET_FROM_UTC, OFFSET = 0x00080201, "+0245"
UID_ROOT = "1.2.826.0.1.99999."
NUMBERS = {0x00101020: "1.98765", 0x00101030: "87.65432"}
LEVELS = (0x00081115, 0x0008114A, 0x0040A170)
"""Sequences that no row names, one in the other: everything is planted on all three levels as well."""

_NOT_PLANTED = {"gggg,eeee", "50xx,xxxx", "60xx,3000", "60xx,4000"}
MARK = re.compile(rb"ZQ([0-9A-F]{8})")


def rows() -> dict[int, Row]:
    """The rows of the table that stand for one attribute in a data set."""
    named = {int(tag.replace(",", ""), 16): row for tag, row in table().items() if tag not in _NOT_PLANTED}
    return {tag: row for tag, row in named.items() if tag >> 16 not in (0, 2)}


def vr_of(tag: int, row: Row) -> str:
    """The VR of a row: of the dictionary, or of what the name says for rows that are newer than it."""
    if dictionary_has_tag(tag):
        return dictionary_VR(tag).split()[0]
    return "DT" if row.keyword.endswith("DateTime") else "SQ" if row.keyword.endswith("Sequence") else "LO"


def planted(tag: int, vr: str) -> Any:
    """The value that is planted for a row."""
    text = f"ZQ{tag:08X}"
    values: dict[str, Any] = {"DA": DATE, "TM": TIME, "DT": DATE + TIME, "AS": AGE, "UI": f"{UID_ROOT}{tag}"}
    values |= {"US": 4, "FD": 4.0, "DS": NUMBERS.get(tag, "4.44"), "IS": "4", "UR": f"http://{text}/"}
    values |= dict.fromkeys(("OB", "OW", "UN", "OV"), text.encode() * 2)
    if vr == "SQ":
        item = Dataset()
        item.PersonName, item.PatientID, item.TextValue = text, text, "normal"
        item.ReferencedSOPInstanceUID = f"{UID_ROOT}{tag}"
        return Sequence([item])
    return OFFSET if tag == OFFSET_FROM_UTC else values.get(vr, text)


def plant_rows(dataset: Dataset) -> None:
    """Plant a value for every row of the table."""
    for tag, row in rows().items():
        vr = vr_of(tag, row)
        dataset[Tag(tag)] = DataElement(tag, vr, planted(tag, vr))


def plant_elsewhere(dataset: Dataset) -> None:
    """Plant in graphics, private blocks, unknown attributes, texts that no row names, and values that lie."""
    for group in (0x5000, 0x5002, 0x501E):
        dataset.add_new(Tag(group, 0x0022), "LO", f"ZQ{group:04X}0022")
        dataset.add_new(Tag(group, 0x3000), "OW", f"ZQ{group:04X}3000".encode())
    for group, kind in ((0x6000, "R"), (0x6002, "G"), (0x601E, "G")):
        plant_overlay(dataset, group, kind)
    for creator, vr in (("ZQ PRIVATE", "LO"), ("Philips Imaging DD 001", "LO"), ("SIEMENS MR HEADER", "UT")):
        block = dataset.private_block(0x2001 if "Philips" in creator else 0x0019, creator, create=True)
        block.add_new(0x0C, vr, f"ZQ{block.group:04X}100C")
    block = dataset.private_block(0x0021, "ZQ SEQUENCE", create=True)
    block.add_new(1, "SQ", [Dataset()])
    block[1].value[0].PatientName = "ZQ00211001"
    dataset.add_new(0x00089FF0, "LO", "ZQ00089FF0")  # in no dictionary
    dataset.add_new(0x00180050, "LO", "ZQ00180050")  # a number, says the dictionary
    dataset.add_new(0x00081190, "UR", "http://ZQ00081190/")
    dataset.add_new(0x0040A067, "PN", "ZQ0040A067")  # a name that no row names
    dataset.ManufacturerModelName = f"Scanner of {planted(0x00100010, 'PN')}"


def plant_overlay(dataset: Dataset, group: int, kind: str) -> None:
    """Plant an overlay of 16 x 16 bits."""
    for element, vr, value in (
        (0x0010, "US", 16),
        (0x0011, "US", 16),
        (0x0022, "LO", f"ZQ{group:04X}0022"),
        (0x0040, "CS", kind),
        (0x0050, "SS", [1, 1]),
        (0x0100, "US", 1),
        (0x0102, "US", 0),
        (0x1500, "LO", f"ZQ{group:04X}1500"),
        (0x3000, "OW", (f"ZQ{group:04X}3000".encode() if kind == "G" else b"region    ") + bytes(22)),
        (0x4000, "LT", f"ZQ{group:04X}4000"),
    ):
        dataset.add_new(Tag(group, element), vr, value)


def instance() -> FileDataset:
    """The whole answer key as one CT instance."""
    made = builders.dataset("CT")
    plant_rows(made)
    plant_elsewhere(made)
    inner: Dataset = made
    for tag in LEVELS:
        item = Dataset()
        plant_rows(item)
        item.add_new(0x00091001, "LO", "ZQ00091001")
        item.add_new(0x00090010, "LO", "ZQ00090010")
        inner[Tag(tag)] = DataElement(tag, "SQ", Sequence([item]))
        inner = item
    return made


def encoded(dataset: Dataset, *, implicit: bool = False) -> bytes:
    """The file: with a preamble and a file meta information that talk."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    meta.SourceApplicationEntityTitle = "ZQ00020016"
    meta.SendingApplicationEntityTitle = "ZQ00020017"
    meta.ReceivingApplicationEntityTitle = "ZQ00020018"
    meta.PrivateInformationCreatorUID = UID(f"{UID_ROOT}2")
    meta.PrivateInformation = b"ZQ00020102"
    file = FileDataset("", dict(dataset.items()), file_meta=meta, preamble=b"ZQ00000001".ljust(128, b"\0"))
    file.set_original_encoding(is_implicit_vr=implicit, is_little_endian=True)
    buffer = BytesIO()
    dcmwrite(buffer, file, enforce_file_format=True)
    return buffer.getvalue()


def elements(dataset: Dataset) -> Iterator[DataElement]:
    """All elements of all levels."""
    for element in dataset:
        yield element
        if element.VR == "SQ":
            for item in element.value:
                yield from elements(item)
