"""The attributes that rules see: keyword, tag and value representation, without loading a dictionary (PS3.6 section 6).

The table is what existing installations extract of each series. Attributes that a site adds are looked up in pydicom's
dictionary, which is loaded when one is used.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from mercure.core.errors import ConfigError

MEDIA_STORAGE_SOP_CLASS_UID = "MediaStorageSOPClassUID"

_TABLE = """
    SpecificCharacterSet 00080005 CS    SeriesInstanceUID 0020000E UI       SOPInstanceUID 00080018 UI
    Modality 00080060 CS                BodyPartExamined 00180015 CS        ProtocolName 00181030 LO
    RetrieveAETitle 00080054 AE         StationAETitle 00080055 AE          Manufacturer 00080070 LO
    ManufacturerModelName 00081090 LO   StudyDescription 00081030 LO        CodeValue 00080100 SH
    CodeMeaning 00080104 LO             SeriesDescription 0008103E LO       PatientName 00100010 PN
    PatientID 00100020 LO               PatientBirthDate 00100030 DA        PatientSex 00100040 CS
    AccessionNumber 00080050 SH         ReferringPhysicianName 00080090 PN  StudyID 00200010 SH
    SeriesNumber 00200011 IS            StudyInstanceUID 0020000D UI        SeriesDate 00080021 DA
    SeriesTime 00080031 TM              AcquisitionDate 00080022 DA         AcquisitionTime 00080032 TM
    SequenceName 00180024 SH            ScanningSequence 00180020 CS        SequenceVariant 00180021 CS
    MagneticFieldStrength 00180087 DS   StationName 00081010 SH             DeviceSerialNumber 00181000 LO
    DeviceUID 00181002 UI               SoftwareVersions 00181020 LO        ContrastBolusAgent 00180010 LO
    ImageComments 00204000 LT           SliceThickness 00180050 DS          InstanceNumber 00200013 IS
    AcquisitionNumber 00200012 IS       InstitutionName 00080080 LO         AcquisitionType 00189302 CS
    ImageType 00080008 CS
"""

_NUMERIC = re.compile(r"\(?([0-9A-Fa-f]{4}),? ?([0-9A-Fa-f]{4})\)?")


class UnknownAttributeError(ConfigError):
    """The name is neither a keyword of the dictionary nor a tag number."""

    code = "unknown_attribute"


@dataclass(frozen=True, slots=True)
class Attribute:
    """An element of the top level. `name` is what rules call it; `vr` is b"UN" when the dictionary does not know it."""

    name: str
    tag: int
    vr: bytes


def _parsed(table: str) -> tuple[Attribute, ...]:
    words = table.split()
    return tuple(
        Attribute(name, int(tag, 16), vr.encode())
        for name, tag, vr in zip(words[::3], words[1::3], words[2::3], strict=True)
    )


STANDARD_ATTRIBUTES = _parsed(_TABLE)
"""In the order in which existing installations write them."""


@lru_cache(maxsize=1024)
def find_attribute(name: str) -> Attribute:
    """Return the attribute with this keyword, or with this number, written `gggg,eeee`.

    Raises `UnknownAttributeError`.
    """
    from pydicom.datadict import dictionary_VR, tag_for_keyword  # noqa: PLC0415  # 60 ms, and only for additional tags

    numeric = _NUMERIC.fullmatch(name.strip())
    tag = int(numeric[1] + numeric[2], 16) if numeric else tag_for_keyword(name.strip())
    if tag is None:
        raise UnknownAttributeError(f"{name[:64]!r} is neither a DICOM keyword nor a tag number (gggg,eeee)")
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        vr = "UN"
    return Attribute(name, tag, vr.split(" or ")[0].encode())
