"""Cleaning of text: what is left are words that are known to describe anatomy, technique or a procedure.

A list of harmless words decides, not one of names: nobody has a list of all names. Numbers stay when they are short
and alone (5 mm, T2, 3), so that no date, phone or record number passes. Words that are part of a name or number of
the same instance never stay, harmless or not.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pydicom.dataset import Dataset

from mercure_anonymizer.values import DUMMY, texts

_SEPARATORS = re.compile(r"[\s,;:_()\[\]{}<>|\"']+")
_NUMBER = re.compile(r"\d{1,3}(\.\d{1,2})?")
_MEASURE = re.compile(r"\d{1,3}(\.\d{1,2})?(mm|cm|ml|s|ms|sec|min|deg|kv|ma|mas|%|t|d|x)")
_IN_NAMES = re.compile(r"[\s^=,;.\\-]+")
_SHORTEST_TOKEN = 3
_IDENTIFIERS = (0x00100020, 0x00101000, 0x00080050, 0x00101040, 0x00102154, 0x00200010, 0x00100030, 0x00380010)
"""Patient ID, other ids, accession number, address, phone, study id, birth date, admission id."""

_PUBLIC_SCHEMES = frozenset(
    "DCM SCT SRT SNM3 99SDM LN UCUM RADLEX RADELEMENT FMA MDC MA NCIt UMLS ICDO3 ICDO I10 I9C I10C I10P BI IBSI"
    " ISO639_1 ISO3166_1 NEU UBERON ACR C4 CD PUBCHEM_CID RFC5646 ATC".split()
)
_CODE = re.compile(r"[A-Za-z0-9.:^{}\[\]/*%'-]{1,16}")


@cache
def harmless_words() -> frozenset[str]:
    """Return the words that may stay, in lower case."""
    text = files("mercure_anonymizer").joinpath("data/words.txt").read_text(encoding="ascii")
    return frozenset(text.split())


@dataclass(frozen=True, slots=True, repr=False)
class Cleaner:
    """Cleans text of one instance, whose own names and numbers are `tokens` (in lower case)."""

    tokens: frozenset[str] = frozenset()

    def clean(self, text: str) -> str:
        """Return what may stay of a text; empty when nothing may."""
        words = [word for word in _SEPARATORS.split(text) if word]
        return " ".join(
            word for index, word in enumerate(words) if self._is_harmless(word) and not _is_run(words, index)
        )

    def without_identity(self, text: str) -> str:
        """Return the text without words that name a person of this instance; a dummy when no word is left."""
        if not self.tokens or not any(token in text.lower() for token in self.tokens):
            return text
        left = self._pattern().sub("", text)
        return left if left == text else left.strip(" ^,;-") or DUMMY

    def _is_harmless(self, word: str) -> bool:
        lower = word.lower().strip(".!?*#")
        if lower in self.tokens:
            return False
        if _NUMBER.fullmatch(lower) or _MEASURE.fullmatch(lower) or lower in harmless_words():
            return True
        parts = [part for part in re.split(r"[-+/&]", lower) if part]
        return len(parts) > 1 and all(part in harmless_words() and part not in self.tokens for part in parts)

    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.tokens, key=len, reverse=True)
        return re.compile(r"(?<![^\W_])(" + "|".join(map(re.escape, longest_first)) + r")(?![^\W_])", re.IGNORECASE)


def _is_run(words: list[str], index: int) -> bool:
    """Tell whether a number stands beside another one, as in a date or a phone number."""
    if not _NUMBER.fullmatch(words[index]):
        return False
    neighbours = words[max(0, index - 1) : index] + words[index + 1 : index + 2]
    return any(_NUMBER.fullmatch(word) or re.fullmatch(r"\d{4,}", word) for word in neighbours)


def identity_tokens(dataset: Dataset) -> frozenset[str]:
    """Return the words of all person names, and the numbers of the patient, in lower case."""
    found = {token.lower() for text in _identities(dataset) for token in _IN_NAMES.split(text)}
    found |= {text.lower() for tag in _IDENTIFIERS if tag in dataset for text in texts(dataset[tag])}
    return frozenset(token for token in found if len(token) >= _SHORTEST_TOKEN and not _NUMBER.fullmatch(token))


def _identities(dataset: Dataset) -> Iterator[str]:
    for element in _readable(dataset):
        if element.VR == "SQ":
            for one in element.value:
                yield from _identities(one)
        elif element.VR == "PN" or element.tag in _IDENTIFIERS:
            yield from texts(element)


def _readable(dataset: Dataset) -> Iterable[Any]:
    for tag in list(dataset.keys()):
        try:
            yield dataset[tag]
        except Exception:  # noqa: BLE001, S112  # what cannot be read is removed later
            continue


def is_public_code(code: Dataset) -> bool:
    """Tell whether the item is a code of a published scheme, so that its value says nothing about a person."""
    scheme, value = str(code.get("CodingSchemeDesignator", "")), str(code.get("CodeValue", ""))
    return scheme in _PUBLIC_SCHEMES and bool(_CODE.fullmatch(value))
