"""The tags of a series as rules see them, and the checks of identifiers that come from outside.

Values are text, as the header reader gives them; several values of one element are joined by backslashes (PS3.5 6.4).
A `Tags` never changes after it was made, and never shows a value by itself: `repr` gives the number of names only.
What is read of every series is empty where its instances do not have it, as existing installations have it.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final

__all__ = ["FILE_TAGS", "RECEPTION_TAGS", "STANDARD_TAGS", "Tags", "is_valid_ae_title", "is_valid_uid"]

RECEPTION_TAGS: Final = frozenset({"SenderAddress", "SenderAET", "ReceiverAET"})
"""What rules know of the way a series came: no file says it."""

FILE_TAGS: Final = frozenset(
    """
    AccessionNumber AcquisitionDate AcquisitionNumber AcquisitionTime AcquisitionType BodyPartExamined CodeMeaning
    CodeValue ContrastBolusAgent DeviceSerialNumber DeviceUID Filename ImageComments ImageType InstanceNumber
    InstitutionName MagneticFieldStrength Manufacturer ManufacturerModelName MediaStorageSOPClassUID Modality
    PatientBirthDate PatientID PatientName PatientSex ProtocolName ReferringPhysicianName RetrieveAETitle SOPInstanceUID
    ScanningSequence SequenceName SequenceVariant SeriesDate SeriesDescription SeriesInstanceUID SeriesNumber SeriesTime
    SliceThickness SoftwareVersions SpecificCharacterSet StationAETitle StationName StudyDescription StudyID
    StudyInstanceUID
    """.split()
)
"""What is read of every series, as far as its instances have it."""

STANDARD_TAGS: Final = FILE_TAGS | RECEPTION_TAGS
"""The tags that rules can see without `receiver.additional_tags`."""

_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_UID_LENGTH = 64
_AE_TITLE_LENGTH = 16
_FIRST_GRAPHIC = " "
_DELETE = "\x7f"


class Tags(Mapping[str, str]):
    """Names and values of one series, immutable.

    `looked_for` are names of what was read of the series: one that `values` does not have is there, empty, and `lacks`
    says so. Item access wants the exact name; `find` ignores case. Raises `TypeError` when a name or a value is not
    text.
    """

    __slots__ = ("_lacking", "_names", "_values")

    def __init__(self, values: Mapping[str, str], looked_for: Collection[str] = ()) -> None:
        self._lacking = frozenset(looked_for).difference(values)
        self._values = {**dict.fromkeys(looked_for, ""), **values} if self._lacking else dict(values)
        self._names: dict[str, str] | None = None
        for name, value in self._values.items():
            if type(name) is not str or type(value) is not str:
                raise TypeError(f"the name and the value of a tag are text (tag {name!r})")

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Tags({len(self._values)} names)"

    def __reduce__(self) -> tuple[type["Tags"], tuple[dict[str, str], tuple[str, ...]]]:
        return Tags, ({n: v for n, v in self._values.items() if n not in self._lacking}, tuple(self._values))

    def lacks(self, name: str) -> bool:
        """Whether the tag of this exact name is only there because it was looked for."""
        return name in self._lacking

    def find(self, name: str) -> str | None:
        """Return the value of the tag with this name in any case, or None. The exact name wins, then the first one."""
        value = self._values.get(name)
        if value is None:
            exact = self.exact_name(name)
            return None if exact is None else self._values[exact]
        return value

    def exact_name(self, name: str) -> str | None:
        """Return the name as the series spells it, or None when the series has no such tag."""
        if name in self._values:
            return name
        if self._names is None:
            # Reversed, so that the first of several names stays. Two threads may both do this: the result is the same.
            self._names = {key.lower(): key for key in reversed(self._values)}
        return self._names.get(name.lower())


def is_valid_uid(text: str) -> bool:
    """Whether the text can be a UID: 1 to 64 digits and dots, no component empty (PS3.5 9.1).

    Leading zeros of a component are against the standard, but scanners send them; they are tolerated.
    """
    return len(text) <= _UID_LENGTH and _UID.fullmatch(text) is not None


def is_valid_ae_title(text: str) -> bool:
    """Whether the text can be an application entity title (PS3.5 6.2, VR AE).

    1 to 16 characters of the default repertoire, no backslash, no control character, not spaces alone.
    """
    if not 0 < len(text) <= _AE_TITLE_LENGTH or not text.strip(" "):
        return False
    return all(_FIRST_GRAPHIC <= char < _DELETE and char != "\\" for char in text)
