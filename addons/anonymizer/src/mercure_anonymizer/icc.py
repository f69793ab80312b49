"""Colour profiles (ICC.1:2022): only the numbers that colours are computed with stay.

A profile has a header, a list of tags, and their data. It may say who made it, for whom and when, and hold bytes that
no tag names. It is written anew from the tags that are numbers.
"""

import struct

_HEADER_BYTES, _SIGNATURE_AT = 128, 36
_MOST_TAGS = 100
_ENTRY = struct.Struct(">4sLL")
_NUMBERS = frozenset(b"XYZ ,curv,para,sf32,mft1,mft2,mAB ,mBA ,mpet,meas,view,chrm".split(b","))
"""Types of data that are numbers."""

_NEEDED_TEXTS = frozenset({b"desc", b"cprt"})
"""Description and copyright: no profile is valid without them."""

_WHEN = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
_NAME = "Anonymized"


def clean_profile(profile: bytes) -> bytes | None:
    """Return the profile with its numbers, and without texts, date, maker and unused bytes; None when it is none."""
    tags = _tags(profile)
    if tags is None:
        return None
    numbers = {name: data for name, data in tags.items() if data[:4] in _NUMBERS}
    modern = profile[8] >= 4
    texts = {name: _text(name, modern=modern) for name in tags if name in _NEEDED_TEXTS}
    return _written(_header(profile), texts | numbers)


def _tags(profile: bytes) -> dict[bytes, bytes] | None:
    start = _HEADER_BYTES + 4
    if len(profile) < start or profile[_SIGNATURE_AT : _SIGNATURE_AT + 4] != b"acsp":
        return None
    (count,) = struct.unpack_from(">L", profile, _HEADER_BYTES)
    if count > _MOST_TAGS or start + count * _ENTRY.size > len(profile):
        return None
    entries = [_ENTRY.unpack_from(profile, start + index * _ENTRY.size) for index in range(count)]
    if any(offset + size > len(profile) for _, offset, size in entries):
        return None
    return {name: profile[offset : offset + size] for name, offset, size in entries}


def _header(profile: bytes) -> bytes:
    """Return the header without module, maker, model, creator and digest, and with a date that says nothing."""
    kept = bytearray(_HEADER_BYTES)
    for begin, end in ((8, 24), (_SIGNATURE_AT, 48), (56, 80)):
        kept[begin:end] = profile[begin:end]
    kept[24:36] = _WHEN
    return bytes(kept)


def _text(name: bytes, *, modern: bool) -> bytes:
    if modern:
        text = _NAME.encode("utf-16-be")
        return b"mluc" + struct.pack(">LLL2s2sLL", 0, 1, 12, b"en", b"US", len(text), 28) + text
    if name == b"cprt":
        return b"text" + bytes(4) + _NAME.encode("ascii") + b"\0"
    return b"desc" + struct.pack(">LL", 0, len(_NAME) + 1) + _NAME.encode("ascii") + bytes(1 + 8 + 3 + 67)


def _written(header: bytes, tags: dict[bytes, bytes]) -> bytes:
    offset = _HEADER_BYTES + 4 + len(tags) * _ENTRY.size
    entries, contents = [struct.pack(">L", len(tags))], []
    for name, data in tags.items():
        entries.append(_ENTRY.pack(name, offset, len(data)))
        contents.append(data + bytes(-len(data) % 4))
        offset += len(contents[-1])
    written = header + b"".join(entries) + b"".join(contents)
    return struct.pack(">L", len(written)) + written[4:]
