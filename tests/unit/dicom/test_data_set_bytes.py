"""Bytes looked at through a window: of a file as they are, and inflated."""

import os
import zlib
from pathlib import Path

import pytest

from mercure.dicom.data_set_bytes import HEADER_BYTES, BrokenDataSetError, DataSetBytes, InflatedBytes, StoredBytes

CONTENT = bytes(range(251)) * 4000
AHEAD = b"head of the file"


def deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


def opened(path: Path, kind: str) -> tuple[int, DataSetBytes, int]:
    """A descriptor, a source of `CONTENT` behind something else, and the position of its first byte."""
    path.write_bytes(AHEAD + (CONTENT if kind == "stored" else deflated(CONTENT)))
    descriptor = os.open(path, os.O_RDONLY)
    if kind == "stored":
        return descriptor, StoredBytes(descriptor, len(AHEAD), len(AHEAD) + len(CONTENT)), len(AHEAD)
    return descriptor, InflatedBytes(descriptor, len(AHEAD)), 0


@pytest.mark.parametrize("kind", ["stored", "inflated"])
@pytest.mark.parametrize("step", [1, 13, 4095, 70_000])
def test_from_every_position_there_is_a_header_or_all_that_is_left(tmp_path: Path, kind: str, step: int) -> None:
    descriptor, source, first = opened(tmp_path / "file", kind)
    end = len(CONTENT)
    try:
        for position in [*range(0, 10_000 if step == 1 else end - 20, step), *range(end - 20, end + 1)]:
            looked = source.look(first + position)
            assert looked is not None
            window, at = looked
            seen = window[at:]
            assert seen == CONTENT[position : position + len(seen)]
            assert len(seen) >= min(HEADER_BYTES, end - position)
            assert len(window) < 200_000
        assert source.look(first + end + 1) is None
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("content", [b"", deflated(CONTENT)[:-1], b"\xff\xff", deflated(b"1" * 100) + bytes(10)])
def test_what_is_no_deflated_stream_with_an_end_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with pytest.raises(BrokenDataSetError):
            InflatedBytes(descriptor, 0).look(len(CONTENT))
    finally:
        os.close(descriptor)


def test_a_file_that_has_become_shorter_ends_too_early(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT[:100])
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        assert StoredBytes(descriptor, 0, 200).look(100) is None
    finally:
        os.close(descriptor)
