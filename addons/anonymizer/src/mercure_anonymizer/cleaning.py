"""Cleaning of text: what is left are words that are known to describe anatomy, technique or a procedure.

A list of harmless words decides, not one of names: nobody has a list of all names. Numbers stay when they are short
and alone (5 mm, T2, 3), so that no date, phone or record number passes. Words that are part of a name or number of
the same instance never stay, harmless or not.
"""

import re
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from pydicom.dataset import Dataset

from mercure_anonymizer.identity import Identity, has_words
from mercure_anonymizer.values import DUMMY, dummy_code

_SEPARATORS = re.compile(r"[\s,;:_()\[\]{}<>|\"']+")
_NUMBER = re.compile(r"\d{1,3}(\.\d{1,2})?")
_MEASURE = re.compile(r"\d{1,3}(\.\d{1,2})?(mm|cm|ml|s|ms|sec|min|deg|kv|ma|mas|%|t|d|x)")
_NAMED = "\ufffd"
"""Stands where a name was: no harmless word has it."""

_PUBLIC_SCHEMES = frozenset(
    "DCM SCT SRT SNM3 99SDM LN UCUM RADLEX RADELEMENT FMA MDC MA NCIt UMLS ICDO3 ICDO I10 I9C I10C I10P BI IBSI"
    " ISO639_1 ISO3166_1 NEU UBERON ACR C4 CD PUBCHEM_CID RFC5646 ATC".split()
)
_CODE = re.compile(r"[A-Za-z0-9.:{}\[\]/*%'-]{1,16}")
_SHORT_CODE = 2
_VERSION = re.compile(r"[0-9A-Za-z.-]{1,16}")
_CODE_PARTS = ("CodeValue", "LongCodeValue", "URNCodeValue", "CodingSchemeDesignator", "CodeMeaning")


@cache
def harmless_words() -> frozenset[str]:
    """Return the words that may stay, in lower case."""
    text = files("mercure_anonymizer").joinpath("data/words.txt").read_text(encoding="ascii")
    return frozenset(text.split())


@dataclass(frozen=True, slots=True, repr=False)
class Cleaner:
    """Cleans text of one instance, whose own names and numbers are `identity`."""

    identity: Identity = field(default_factory=Identity)

    def clean(self, text: str) -> str:
        """Return what may stay of a text; empty when nothing may."""
        words = [word for word in _SEPARATORS.split(self.identity.without(text, _NAMED)) if word]
        return " ".join(word for index, word in enumerate(words) if _is_harmless(word) and not _is_run(words, index))

    def without_identity(self, text: str) -> str:
        """Return the text without words that name a person of this instance; a dummy when no word is left."""
        if not self.identity.is_in(text):
            return text
        left = self.identity.without(text).strip(" ^,;-")
        return left if has_words(left) else DUMMY


def _is_harmless(word: str) -> bool:
    lower = word.lower().strip(".!?*#")
    if _NUMBER.fullmatch(lower) or _MEASURE.fullmatch(lower) or lower in harmless_words():
        return True
    parts = [part for part in re.split(r"[-+/&]", lower) if part]
    return len(parts) > 1 and all(part in harmless_words() for part in parts)


def _is_run(words: list[str], index: int) -> bool:
    """Tell whether a number stands beside another one, as in a date or a phone number."""
    if not _NUMBER.fullmatch(words[index]):
        return False
    neighbours = words[max(0, index - 1) : index] + words[index + 1 : index + 2]
    return any(_NUMBER.fullmatch(word) or re.fullmatch(r"\d{4,}", word) for word in neighbours)


def replace_local_code(dataset: Dataset, identity: Identity) -> None:
    """Put a code that says nothing in the place of one from a scheme of a site, or that names a person.

    Nothing is done with an item that is no code, but that a version which has not the form of one is removed.
    """
    if any(part in dataset for part in _CODE_PARTS) and not _is_public(dataset, identity):
        dataset.clear()
        dataset.update(dummy_code())
    version = str(dataset.get("CodingSchemeVersion") or "")
    if version and (not _VERSION.fullmatch(version) or identity.is_in(version)):
        del dataset.CodingSchemeVersion


def _is_public(code: Dataset, identity: Identity) -> bool:
    """Tell whether the item is a code of a published scheme, so that its value says nothing about a person."""
    scheme, value = str(code.get("CodingSchemeDesignator", "")), str(code.get("CodeValue", ""))
    # Codes of two letters (a modality, a unit) are no names.
    named = len(value) > _SHORT_CODE and identity.is_in(value)
    return scheme in _PUBLIC_SCHEMES and bool(_CODE.fullmatch(value)) and not named
