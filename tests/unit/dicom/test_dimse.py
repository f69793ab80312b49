"""Command sets: what is written can be read, by us and by pydicom; what is none is a ProtocolError."""

import io
import struct

import pydicom
import pytest

from mercure.dicom import dimse
from mercure.dicom.dimse import Command, CommandSet
from mercure.dicom.pdu import ProtocolError


def read_by_pydicom(data: bytes) -> pydicom.Dataset:
    return pydicom.filereader.read_dataset(io.BytesIO(data), is_implicit_VR=True, is_little_endian=True)


def test_pydicom_reads_a_store_request() -> None:
    found = read_by_pydicom(dimse.store_request(7, "1.2.3", "1.2.34", priority=1))

    assert found.AffectedSOPClassUID == "1.2.3"
    assert found.AffectedSOPInstanceUID == "1.2.34"
    assert (found.CommandField, found.MessageID, found.Priority) == (1, 7, 1)
    assert found.CommandDataSetType != 0x0101
    assert found.CommandGroupLength == len(dimse.store_request(7, "1.2.3", "1.2.34", priority=1)) - 12


def test_an_echo_request_has_no_data_set() -> None:
    command = dimse.decode(dimse.echo_request(9))

    assert command.command == Command.C_ECHO_RQ
    assert command.message_id == 9
    assert not command.has_data_set


def test_values_of_odd_length_are_padded_as_their_type_wants() -> None:
    data = dimse.encode({dimse.AFFECTED_SOP_CLASS_UID: "1.2", dimse.ERROR_COMMENT: "odd"})

    assert b"1.2\0" in data
    assert b"odd " in data
    assert dimse.decode(data).uid(dimse.AFFECTED_SOP_CLASS_UID) == "1.2"


def test_raw_values_are_written_as_they_are() -> None:
    assert dimse.decode(dimse.encode({0x1005: b"\1\2\3\4"})).elements[0x1005] == b"\1\2\3\4"


def test_a_response_repeats_what_it_answers() -> None:
    request = dimse.decode(dimse.store_request(300, "1.2.3", "1.2.4"))

    response = dimse.decode(dimse.response_to(request, dimse.OUT_OF_RESOURCES, comment="x" * 70))

    assert response.command == Command.C_STORE_RSP
    assert response.number(dimse.MESSAGE_ID_RESPONDED_TO) == 300
    assert response.status == dimse.OUT_OF_RESOURCES
    assert response.uid(dimse.AFFECTED_SOP_CLASS_UID) == "1.2.3"
    assert response.uid(dimse.AFFECTED_SOP_INSTANCE_UID) == "1.2.4"
    assert response.elements[dimse.ERROR_COMMENT] == b"x" * 64
    assert not response.has_data_set


def test_a_response_names_as_affected_what_was_requested() -> None:
    request = CommandSet(
        {
            dimse.COMMAND_FIELD: b"\x30\x01",
            dimse.MESSAGE_ID: b"\1\0",
            dimse.REQUESTED_SOP_CLASS_UID: b"1.2.840\0",
        }
    )

    response = dimse.decode(dimse.response_to(request, 0, has_data_set=True))

    assert response.command == Command.N_ACTION_RSP
    assert response.uid(dimse.AFFECTED_SOP_CLASS_UID) == "1.2.840"
    assert response.uid(dimse.AFFECTED_SOP_INSTANCE_UID) == ""
    assert response.has_data_set


def test_a_missing_number_is_an_error_unless_there_is_a_default() -> None:
    command = CommandSet({dimse.STATUS: b"\1\2\3\4"})

    assert command.number(dimse.MESSAGE_ID, 5) == 5
    with pytest.raises(ProtocolError, match=r"\(0000,0110\)"):
        _ = command.message_id
    with pytest.raises(ProtocolError, match=r"\(0000,0900\)"):
        _ = command.status


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        struct.pack("<HHI", 0, 0, 4) + b"\0\0",
        struct.pack("<HHI", 8, 0, 0),
        struct.pack("<HHI", 0, 0x0100, 0xFFFFFFFF),
    ],
    ids=["cut header", "cut value", "other group", "endless value"],
)
def test_what_is_no_command_set_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        dimse.decode(data)


def test_views_and_arrays_of_bytes_are_read_too() -> None:
    data = dimse.echo_request(1)

    assert dimse.decode(memoryview(data)) == dimse.decode(bytearray(data)) == dimse.decode(data)
