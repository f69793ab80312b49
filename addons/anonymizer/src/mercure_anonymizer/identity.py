"""The names and numbers of the persons of one instance, and where they stand in a text.

Text is compared without case, accents, width and invisible characters: `Weiß` is `WEISS`, `İ` is `i`, `ü` is `u` or
`ue`. It is cut into atoms: a run of letters, a run of digits, or one character of a script that writes no blanks
between words. A token is a row of atoms. So words are found whole, and names in Chinese, Japanese or Thai anywhere,
with or without separators. Time is linear in the length of the text, however many tokens there are.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydicom.dataset import Dataset

from mercure_anonymizer.elements import deciding_vr
from mercure_anonymizer.values import texts

Token = tuple[str, ...]

_IDENTIFIERS = (0x00100020, 0x00101000, 0x00080050, 0x00101040, 0x00102154, 0x00200010, 0x00100030, 0x00380010)
"""Patient ID, other ids, accession number, address, phone, study id, birth date, admission id."""
_IDEOGRAPHS = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SYLLABLES = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff"
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3131-\u318e\uac00-\ud7a3"
)
_UNSPACED = _IDEOGRAPHS + _SYLLABLES
_ATOM = re.compile(rf"[{_UNSPACED}]|\d+|[^\W\d_{_UNSPACED}]+")
_IDEOGRAPH = re.compile(f"[{_IDEOGRAPHS}]")
_FREE = re.compile(f"[{_UNSPACED}]")
_BETWEEN_WORDS = re.compile(r"[\s,;.\\-]+")
_SHORT_NUMBER = re.compile(r"\d{1,3}")
_LONGEST_TOKEN = 16
_TITLES = 3
"""Name components from here on are prefix and suffix: short ones (Dr, Jr, MR) name nobody."""
_LETTERS = str.maketrans(
    {"đ": "d", "ð": "d", "ø": "o", "ł": "l", "ħ": "h", "\u0131": "i", "þ": "th", "æ": "ae", "œ": "oe"}
)
_UMLAUTS = (("ä", "ae"), ("ö", "oe"), ("ü", "ue"))
_SHORTEST_WITH_UMLAUT = 4


@dataclass(frozen=True, slots=True)
class _Atom:
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """What names the persons of one instance. Without a repr: it is patient data."""

    tokens: frozenset[Token] = frozenset()
    lengths: tuple[int, ...] = ()

    @classmethod
    def of_words(cls, words: Iterable[str]) -> "Identity":
        """Return the identity with these words or numbers."""
        return cls._of_tokens(_token(word) for word in words)

    @classmethod
    def of_dataset(cls, dataset: Dataset) -> "Identity":
        """Return the words of all person names of all levels, and the numbers of the patient."""
        return cls._of_tokens(
            token for text, is_name in _identities(dataset) for token in _tokens(text, is_name=is_name)
        )

    @classmethod
    def _of_tokens(cls, tokens: Iterable[Token]) -> "Identity":
        found = frozenset(token for token in tokens if token)
        return cls(found, tuple(sorted({len(token) for token in found}, reverse=True)))

    def is_in(self, text: str) -> bool:
        """Tell whether the text names a person."""
        return next(self._spans(unicodedata.normalize("NFC", text)), None) is not None

    def without(self, text: str, mark: str = "") -> str:
        """Return the text, in composed form (NFC), with `mark` in the place of each name and number."""
        text = unicodedata.normalize("NFC", text)
        left, done = [], 0
        for start, end in self._spans(text):
            left += [text[done:start], mark]
            done = end
        return "".join([*left, text[done:]])

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        atoms = list(_atoms(text)) if self.tokens else []
        index = 0
        while index < len(atoms):
            length = self._match(atoms, index)
            if length:
                yield atoms[index].start, atoms[index + length - 1].end
            index += length or 1

    def _match(self, atoms: list[_Atom], index: int) -> int:
        """Return how many atoms from here are a token, the longest one first; 0 for none."""
        for length in self.lengths:
            token = tuple(atom.text for atom in atoms[index : index + length])
            if len(token) == length and token in self.tokens and not _is_inside_of_a_word(atoms, index, token):
                return length
        return 0


def has_words(text: str) -> bool:
    """Tell whether there is a letter or digit in the text."""
    return next(_atoms(text), None) is not None


def _is_inside_of_a_word(atoms: list[_Atom], index: int, token: Token) -> bool:
    """Two Latin letters, or one syllable, mean a person only if nothing of the same script touches them."""
    if len(token) > 1 or len(token[0]) > 2 or _IDEOGRAPH.match(token[0]):
        return False
    free, here = bool(_FREE.match(token[0])), atoms[index]
    before = atoms[index - 1] if index and atoms[index - 1].end == here.start else None
    after = atoms[index + 1] if index + 1 < len(atoms) and atoms[index + 1].start == here.end else None
    return any(bool(_FREE.match(one.text)) == free for one in (before, after) if one)


def _atoms(text: str) -> Iterator[_Atom]:
    """Cut a composed text into atoms, with their places in it."""
    parts, places = [], []
    for place, char in enumerate(text):
        plain = _plain(char)
        parts.append(plain)
        places += [place] * len(plain)
    for found in _ATOM.finditer("".join(parts)):
        yield _Atom(found[0], places[found.start()], places[found.end() - 1] + 1)


@lru_cache(maxsize=4096)
def _plain(char: str) -> str:
    """Return a character as it is compared; empty for one that is not seen."""
    folded = unicodedata.normalize("NFKC", char).casefold().translate(_LETTERS)
    seen = [one for one in unicodedata.normalize("NFKD", folded) if not _is_invisible(one)]
    return unicodedata.normalize("NFC", "".join(seen))


def _is_invisible(char: str) -> bool:
    selector = "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"
    return selector or unicodedata.combining(char) != 0 or unicodedata.category(char) == "Cf"


def _token(text: str) -> Token:
    atoms = _atoms(unicodedata.normalize("NFC", text))
    return tuple(atom.text for atom, _ in zip(atoms, range(_LONGEST_TOKEN), strict=False))


def _tokens(text: str, *, is_name: bool) -> Iterator[Token]:
    if is_name:
        yield from (token for group in text.split("=") for token in _of_name(group))
    elif len("".join(token := _token(text))) > 2 and not _SHORT_NUMBER.fullmatch("".join(token)):
        yield token


def _of_name(name: str) -> Iterator[Token]:
    """Yield the words of a name, and family and given name, or its first letter, written as one word."""
    components = name.split("^")
    for index, component in enumerate(components):
        for word in _BETWEEN_WORDS.split(component):
            yield from _of_word(word, shortest=2 if index < _TITLES else 3)
    family, given = ("".join(_token(part)) for part in [*components, ""][:2])
    if family and given:
        yield from (_token(family + given), _token(given + family))
        if (family + given).isascii() and len(family) > 2:
            yield from (_token(family + given[0]), _token(given[0] + family))


def _of_word(word: str, shortest: int) -> Iterator[Token]:
    for spelling in _spellings(unicodedata.normalize("NFC", word)):
        token = _token(spelling)
        whole = "".join(token)
        if _SHORT_NUMBER.fullmatch(whole) or (whole.isascii() and len(whole) < shortest):
            continue
        yield token
        if len(token) > 1 and whole.isascii():  # O'Neil: ONeil and Neil as well
            yield (whole,)
            yield from ((part,) for part in token if len(part) > 2 and part.isalpha())


def _spellings(word: str) -> Iterator[str]:
    """Yield a word with its umlauts written as they are, with and without e (Doe is short: it is not Dö)."""
    with_e = without_e = word.casefold()
    for umlaut, letters in _UMLAUTS:
        with_e, without_e = with_e.replace(umlaut, letters), without_e.replace(letters, umlaut)
    yield from {word, with_e, without_e if len(word) > _SHORTEST_WITH_UMLAUT else word}


def _identities(dataset: Dataset) -> Iterator[tuple[str, bool]]:
    """Yield names and numbers of all levels, and whether each is a name: what a file calls so, or the dictionary."""
    for element in _readable(dataset):
        if element.VR == "SQ":
            for one in element.value:
                yield from _identities(one)
        elif "PN" in (element.VR, deciding_vr(element)):
            yield from ((text, True) for text in texts(element))
        elif element.tag in _IDENTIFIERS:
            yield from ((text, False) for text in texts(element))


def _readable(dataset: Dataset) -> Iterable[Any]:
    for tag in list(dataset.keys()):
        try:
            yield dataset[tag]
        except Exception:  # noqa: BLE001, S112  # what cannot be read is removed later
            continue
