"""Headers from strangers: whatever the bytes, an answer or one of the named errors, in bounded time."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import builders
from tests.builders import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE

from mercure.dicom.character_sets import codec_of, decode_text
from mercure.dicom.commitment_data import CommitmentDataError, read_request
from mercure.dicom.header import HeaderError, Incomplete, read_placing, read_placing_of
from mercure.dicom.part10 import NotDicomError
from mercure.dicom.tags_reader import read_tags

SYNTAXES = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED)
ENCODED = {
    syntax: builders.dicom_bytes(transfer_syntax=syntax, part10=False, undefined_lengths=True) for syntax in SYNTAXES
}
FILES = {syntax: builders.dicom_bytes(transfer_syntax=syntax, undefined_lengths=True) for syntax in SYNTAXES}

mutations = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=8)


def mutated(data: bytes, changes: list[tuple[int, int]], start: int = 0) -> bytes:
    changed = bytearray(data)
    for position, value in changes:
        changed[(start + position) % len(changed)] = value
    return bytes(changed)


@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
@given(data=st.binary(max_size=2000))
def test_random_bytes_are_refused_in_an_orderly_way(transfer_syntax: str, data: bytes) -> None:
    needed = len(data) + 1
    try:
        read_placing(data, transfer_syntax)
    except Incomplete as incomplete:
        needed = incomplete.needed
    except HeaderError:
        pass
    assert needed > len(data)


@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
@given(changes=mutations)
def test_a_mutated_header_gives_an_answer_or_a_header_error(
    transfer_syntax: str, changes: list[tuple[int, int]]
) -> None:
    data = mutated(ENCODED[transfer_syntax], changes)
    try:
        placing = read_placing_of(lambda size: data[:size], len(data), transfer_syntax)
        assert isinstance(placing.series_instance_uid, str)
    except HeaderError:
        pass


@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=mutations)
def test_a_mutated_file_gives_texts_or_a_named_error(
    tmp_path: Path, transfer_syntax: str, changes: list[tuple[int, int]]
) -> None:
    path = tmp_path / "mutated.dcm"
    path.write_bytes(mutated(FILES[transfer_syntax], changes, start=128))
    try:
        tags = read_tags(path, ["KVP", "Rows"])
        assert all(isinstance(value, str) for value in tags.values())
    except (HeaderError, NotDicomError):
        pass


@given(value=st.binary(max_size=200), character_set=st.binary(max_size=30))
def test_text_is_always_decoded(value: bytes, character_set: bytes) -> None:
    text, _ = decode_text(value, codec_of(character_set))
    assert isinstance(text, str)


@given(
    value=st.lists(st.sampled_from([b"\x1b$B", b"\x1b(J", b"\x1b$)C", b"\x1b-L", b"\\", b"\x1b", b"\xc0\xde", b";3ED"]))
)
def test_broken_code_extensions_are_always_decoded(value: list[bytes]) -> None:
    text, _ = decode_text(b"".join(value), "iso2022_jp")
    assert isinstance(text, str)


@pytest.mark.parametrize("transfer_syntax", SYNTAXES[:3])
@given(data=st.binary(max_size=500))
def test_random_bytes_are_no_commitment_request_and_never_crash(transfer_syntax: str, data: bytes) -> None:
    with pytest.raises(CommitmentDataError):
        read_request(data, transfer_syntax)
