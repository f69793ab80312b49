"""Files cut into PDUs, in as few system calls as possible and never longer than the peer takes."""

import os
from pathlib import Path

import pytest

from mercure.core.errors import TransientError
from mercure.dicom.framing import ControlPDU, Framer
from mercure.dicom.pdu import ProtocolError
from mercure.dicom.send_buffer import LARGEST_PDU_BYTES, SendBuffer, encode_pdata, usable_pdu_bytes


@pytest.mark.parametrize(
    ("announced", "used"),
    [(0, LARGEST_PDU_BYTES), (16_384, 16_384), (16_383, 16_382), (1 << 31, LARGEST_PDU_BYTES), (128, 128)],
)
def test_the_peers_maximum_is_kept_and_even(announced: int, used: int) -> None:
    assert usable_pdu_bytes(announced) == used


def test_a_peer_that_takes_almost_nothing_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="127 bytes"):
        usable_pdu_bytes(127)


@pytest.mark.parametrize("limit", [128, 1024, 16_384, LARGEST_PDU_BYTES])
@pytest.mark.parametrize("size", [0, 1, 122, 123, 16_378, 16_379, 300_000, 3_000_001])
def test_loads_join_to_the_data_set_with_the_command_in_front(tmp_path: Path, limit: int, size: int) -> None:
    content = os.urandom(50 + size)
    (tmp_path / "file").write_bytes(content)
    buffer = SendBuffer(limit)
    framer = Framer(limit)
    parts: dict[int, list[bytes]] = {0: [], 1: []}
    ends = []
    with open(tmp_path / "file", "rb") as file:
        done = 0
        while done < size or not done:
            view = buffer.load(file.fileno(), 50 + done, size - done, 7, b"command" * 30 if not done else b"")
            for event in framer.feed(memoryview(bytes(view))):
                assert not isinstance(event, ControlPDU)
                context_id, control, part, _ = event
                assert context_id == 7
                assert len(part) <= limit - 6
                parts[control & 1].append(bytes(part))
                ends += [control] if control & 2 else []
            done += min(size - done, buffer.capacity)
            if not size:
                break

    assert not framer.in_message
    assert b"".join(parts[1]) == b"command" * 30
    assert b"".join(parts[0]) == content[50:]
    assert ends == [3, 2]


def test_a_file_that_ends_too_soon_is_transient(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    with open(tmp_path / "file", "rb") as file, pytest.raises(TransientError, match="shorter"):
        SendBuffer(16_384).load(file.fileno(), 0, 101, 1)


def test_an_empty_command_set_is_still_one_pdu() -> None:
    assert len(encode_pdata(b"", 1, 1, 1024)) == 12
