"""Text of data elements to `str` by Specific Character Set (PS3.5 section 6.1, PS3.3 C.12.1.1.2). Never raises.

What cannot be decoded becomes replacement characters: a name that a scanner encoded wrongly must not stop its images.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

_CODECS = {
    "": "ascii",
    "6": "ascii",
    "13": "shift_jis",
    "100": "latin-1",
    "101": "iso8859_2",
    "109": "iso8859_3",
    "110": "iso8859_4",
    "126": "iso8859_7",
    "127": "iso8859_6",
    "138": "iso8859_8",
    "144": "iso8859_5",
    "148": "iso8859_9",
    "166": "iso8859_11",
    "203": "iso8859_15",
    "192": "utf-8",
    "UTF8": "utf-8",
    "GB18030": "gb18030",
    "GBK": "gbk",
    "58": "gb2312",
    "149": "euc_kr",
    "87": "iso2022_jp",
    "159": "iso2022_jp_2",
}

_MULTI_BYTE_7_BIT = {b"$B": "iso2022_jp", b"$(D": "iso2022_jp_2"}
"""Two bytes below 0x80 for each character, so that no byte may be taken for a delimiter. Python wants the escape."""

_ESCAPED = {
    b"(B": "ascii",
    b"(J": "shift_jis",
    b")I": "shift_jis",
    b"-A": "latin-1",
    b"-B": "iso8859_2",
    b"-C": "iso8859_3",
    b"-D": "iso8859_4",
    b"-F": "iso8859_7",
    b"-G": "iso8859_6",
    b"-H": "iso8859_8",
    b"-L": "iso8859_5",
    b"-M": "iso8859_9",
    b"-T": "iso8859_11",
    b"-b": "iso8859_15",
    b"$)C": "euc_kr",
    b"$)A": "gb2312",
}

_FRAGMENT = re.compile(rb"\x1b(\$[()][A-Z]|\$[A-Z]|[()-][A-Za-z])|\x1b")
_DELIMITER = re.compile(rb"[\\^=\t\n\f\r]")
_NOT_A_NAME = re.compile(r"[^A-Z0-9]")


@lru_cache(maxsize=256)
def codec_of(specific_character_set: bytes) -> str:
    """Return Python's codec for the first term of a Specific Character Set value; ASCII when it is not known.

    Spellings that are found in the field (`ISO-IR 100`, `ISO IR 100`, lower case) count as what they mean.
    """
    first = specific_character_set.split(b"\\")[0].decode("latin-1").upper()
    term = _NOT_A_NAME.sub("", first)
    for prefix in ("ISO2022", "ISO", "IR"):
        term = term.removeprefix(prefix)
    return _CODECS.get(term, "ascii")


def decode_text(value: bytes, codec: str) -> tuple[str, bool]:
    """Return the text and whether it was valid. Code extensions (ISO 2022 escapes) are followed, declared or not."""
    if b"\x1b" not in value:
        return _decode(value, codec)
    parts = list(_fragments(value, "ascii" if codec.startswith("iso2022") else codec))
    return "".join(text for text, _ in parts), all(valid for _, valid in parts)


def _fragments(value: bytes, first_codec: str) -> Sequence[tuple[str, bool]]:
    marks = list(_FRAGMENT.finditer(value))
    texts = [_decode(value[: marks[0].start()], first_codec)]
    for number, mark in enumerate(marks):
        end = marks[number + 1].start() if number + 1 < len(marks) else len(value)
        body, code = value[mark.end() : end], mark[1]
        if code in _MULTI_BYTE_7_BIT:
            texts.append(_decode(mark[0] + body, _MULTI_BYTE_7_BIT[code]))
            continue
        delimiter = _DELIMITER.search(body)
        split = delimiter.start() if delimiter else len(body)  # a delimiter ends the extension (PS3.5 6.1.2.5.3)
        codec = _ESCAPED.get(code or b"")
        texts.append(_decode(body[:split], codec or first_codec))
        texts.append(_decode(body[split:], first_codec))
        if codec is None:
            texts.append(("", False))
    return texts


def _decode(value: bytes, codec: str) -> tuple[str, bool]:
    try:
        return value.decode(codec), True
    except UnicodeDecodeError:
        pass
    if codec != "ascii":
        return value.decode(codec, "replace"), False
    try:  # nothing declared, or nothing that is known: mostly UTF-8 or Latin-1
        return value.decode("utf-8"), False
    except UnicodeDecodeError:
        return value.decode("latin-1"), False
