"""Values without a person in them: dummies for every VR, moved dates, and whether a value is what its VR says."""

import re
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from functools import cache
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from mercure_anonymizer.errors import InstanceError

DUMMY = "ANONYMIZED"
DUMMY_DATE = "19000101"
_DOCUMENT = 0x00420011
TEXT_VRS = frozenset("LO SH ST LT UT UC".split())
NUMBER_VRS = frozenset("DS IS FL FD SL SS SV UL US UV AT OF OD OL OV".split())

_DUMMIES: Mapping[str, Any] = {
    **dict.fromkeys("AE CS LO SH ST LT UT UC PN".split(), DUMMY),
    **dict.fromkeys("OB OW UN OF OL".split(), bytes(4)),
    **dict.fromkeys("OD OV".split(), bytes(8)),
    **dict.fromkeys("FL FD SL SS SV UL US UV AT".split(), 0),
    "DS": "0",
    "IS": "0",
    "AS": "000Y",
    "DA": DUMMY_DATE,
    "DT": f"{DUMMY_DATE}000000",
    "TM": "000000",
    "UR": "http://anonymized.invalid",
}
_FORMS: Mapping[str, re.Pattern[str]] = {
    "AS": re.compile(r"\d{3}[DWMY]"),
    "DA": re.compile(r"\d{8}|\d{4}\.\d\d\.\d\d"),
    "DT": re.compile(r"\d{4,14}(\.\d{1,6})?([+-]\d{4})?"),
    "TM": re.compile(r"\d{2,6}(\.\d{1,6})?|\d\d:\d\d(:\d\d(\.\d{1,6})?)?"),
    "DS": re.compile(r"[+-]?[\d.]{1,40}([eE][+-]?\d{1,4})?"),
    "IS": re.compile(r"[+-]?\d{1,12}"),
    "UI": re.compile(r"[0-9.]{1,64}"),
}
_PDF_OBJECTS = (
    b"<</Type/Catalog/Pages 2 0 R>>",
    b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
    b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<<>>>>",
)
"""A document with one empty page (ISO 32000)."""


def texts(element: DataElement) -> list[str]:
    """Return the values of an element as text, blanks around them removed."""
    value = element.value
    if value is None or value == "":
        return []
    return [str(one).strip(" \0") for one in (value if isinstance(value, MultiValue | list) else [value])]


def is_empty(element: DataElement) -> bool:
    """Tell whether the element has no value, or only blanks."""
    value = element.value
    return (
        value is None
        or (hasattr(value, "__len__") and not len(value))
        or (isinstance(value, str) and not value.strip())
    )


def is_well_formed(element: DataElement) -> bool:
    """Tell whether each value has the form of its VR: text that hides in a date or a number has not."""
    form = _FORMS.get(element.VR)
    return form is None or all(not text or form.fullmatch(text) for text in texts(element))


def dummy(tag: int, vr: str, dataset: Dataset) -> Any:
    """Return the value that replaces any value of this attribute; `dataset` is where the attribute stands.

    Raises `InstanceError` for an encapsulated document that is no PDF: nobody could open what stands in its place.
    """
    if vr == "SQ":
        template = _TEMPLATES.get(tag)
        return Sequence([template(dataset)] if template else [])
    mime_type = str(dataset.get("MIMETypeOfEncapsulatedDocument") or "").strip().lower()
    if tag == _DOCUMENT and mime_type:
        if mime_type != "application/pdf":
            raise InstanceError("an encapsulated document of this kind cannot be replaced: only PDF can")
        return _empty_page()
    return _DUMMIES[vr]


@cache
def _empty_page() -> bytes:
    """Return a PDF document of an even number of bytes."""
    page, places = b"%PDF-1.4\n", []
    for number, content in enumerate(_PDF_OBJECTS, 1):
        places.append(len(page))
        page += b"%d 0 obj%bendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (len(places) + 1, len(page))
    page += b"xref\n0 %d\n0000000000 65535 f \n" % (len(places) + 1) + table + end
    return page + b"\n" * (len(page) % 2)


def shifted(vr: str, text: str, days: int) -> str | None:
    """Return the DA, DT or TM moved by whole days, as precise as it was; None when there is no such day.

    The time of the day stays: whole days are moved.
    """
    if vr == "TM" or not text:
        return text
    text = text.replace(".", "") if vr == "DA" else text
    digits = re.match(r"\d*", text)
    precision = min(len(digits[0]) if digits else 0, 8)
    if precision not in {4, 6, 8}:
        return None
    try:
        year, month, day = int(text[:4]), int(text[4:6] or 1), int(text[6:8] or 1)
        moved = date(year, month if precision > 4 else 1, day if precision > 6 else 1) + timedelta(days=days)
    except (ValueError, OverflowError):
        return None
    return f"{moved.year:04d}{moved:%m%d}"[:precision] + text[precision:]


def truncated(vr: str, text: str) -> str | None:
    """Return a DA or DT that says no more than the year of the given one; None for what has no year."""
    return f"{text[:4]}0101" if vr in {"DA", "DT"} and text[:4].isdecimal() else None


def item(**elements: Any) -> Dataset:
    """Return a sequence item with these elements."""
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def dummy_code() -> Dataset:
    """Return a code of a private scheme that says nothing."""
    return item(CodeValue="ANON", CodingSchemeDesignator="99ANON", CodeMeaning=DUMMY)


def _comment(_: Dataset) -> Dataset:
    name = item(CodeValue="121106", CodingSchemeDesignator="DCM", CodeMeaning="Comment")
    return item(
        RelationshipType="CONTAINS", ValueType="TEXT", ConceptNameCodeSequence=Sequence([name]), TextValue=DUMMY
    )


def _graphic_annotation(dataset: Dataset) -> Dataset:
    present = dataset.get("GraphicAnnotationSequence") or [Dataset()]
    text = item(
        BoundingBoxAnnotationUnits="DISPLAY",
        UnformattedTextValue=DUMMY,
        BoundingBoxTopLeftHandCorner=[0.0, 0.0],
        BoundingBoxBottomRightHandCorner=[0.1, 0.1],
        BoundingBoxTextHorizontalJustification="LEFT",
    )
    return item(GraphicLayer=present[0].get("GraphicLayer", DUMMY), TextObjectSequence=Sequence([text]))


def _verifying_observer(_: Dataset) -> Dataset:
    return item(
        VerifyingOrganization=DUMMY,
        VerificationDateTime=_DUMMIES["DT"],
        VerifyingObserverName=DUMMY,
        VerifyingObserverIdentificationCodeSequence=Sequence([]),
    )


def _operator(_: Dataset) -> Dataset:
    return item(PersonIdentificationCodeSequence=Sequence([dummy_code()]), InstitutionName=DUMMY)


_TEMPLATES: Mapping[int, Callable[[Dataset], Dataset]] = {
    0x00081072: _operator,
    0x00340001: lambda _: item(FlowIdentifier=bytes(2)),
    0x00401101: lambda _: dummy_code(),
    0x0040A073: _verifying_observer,
    0x0040A730: _comment,
    0x00700001: _graphic_annotation,
}
"""Sequences that the profile replaces by a dummy: one item, as the standard needs it, of dummies."""
