"""The conformance statement says what the code does: each code, default and limit in it is that of the code."""

import re
from pathlib import Path
from typing import Any

import pytest

from mercure.config.receiving import ReceiverTls
from mercure.config.schema import Config
from mercure.core.delivery import Outcome
from mercure.dicom import (
    commitment,
    commitment_data,
    commitment_sender,
    dimse,
    framing,
    header,
    negotiation,
    pdu,
    scu,
    send_buffer,
    storage_scp,
    tls_server,
    uids,
    worker,
)
from mercure.dicom.character_sets import codec_of
from mercure.dicom.peer import Peer
from mercure.dicom.store_status import outcome_of
from mercure.services import receiver

STATEMENT = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """Return the text from a heading to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", STATEMENT, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows that are no heads."""
    lines = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines if set("".join(line)) - set("-| ")]


def codes(text: str) -> set[int]:
    """Return the numbers that stand alone in the first cell of a row."""
    return {int(row[0], 16) for row in rows(text) if re.fullmatch(r"0x[0-9A-F]{4}", row[0])}


def test_the_implementation_names_itself_as_stated() -> None:
    stated = section("2. Implementation")
    for value in (uids.IMPLEMENTATION_CLASS, uids.IMPLEMENTATION_VERSION, uids.APPLICATION_CONTEXT):
        assert f"| {value} |" in stated


def test_the_storage_sop_classes_are_those_stated() -> None:
    roots = set(re.findall(r"^- `([0-9.]+)`$", section("3.1 SOP classes"), re.MULTILINE))
    assert roots == set(uids._STORAGE_PREFIXES)
    assert all(uids.is_storage_sop_class(f"{root}7" if root.endswith(".") else root) for root in roots)
    assert uids.is_storage_sop_class("1.3.46.670589.11.0.0.12.1")
    assert not uids.is_storage_sop_class("1.2.840.10008.1.3.10")
    assert not uids.is_storage_sop_class("1.2.840.10008.5.1.4.1.2.2.1")


def test_the_transfer_syntaxes_are_those_stated() -> None:
    always = {row[1] for row in rows(section("3.2 Transfer syntaxes")) if row[2] == "always"}
    assert always == set(uids.UNCOMPRESSED)
    policies = [negotiation.AcceptancePolicy(accept_compressed=accept) for accept in (False, True)]
    jpeg_2000, ct = "1.2.840.10008.1.2.4.90", "1.2.840.10008.5.1.4.1.1.2"
    assert [negotiation._accepts(ct, jpeg_2000, policy) for policy in policies] == [False, True]
    assert [negotiation._accepts(uids.VERIFICATION, jpeg_2000, policy) for policy in policies] == [False, False]
    assert not negotiation._accepts(ct, "1.2.276.0.7230010.3.1.3", policies[1])


def test_the_rejections_are_those_of_the_code() -> None:
    stated = {tuple(map(int, row[:3])) for row in rows(section("3.3 Association policies")) if row[0] in "12"}
    used = {
        pdu.REJECT_APPLICATION_CONTEXT,
        pdu.REJECT_CALLING_AE_TITLE,
        pdu.REJECT_CALLED_AE_TITLE,
        pdu.REJECT_PROTOCOL_VERSION,
        pdu.REJECT_CONGESTION,
        *worker.REFUSALS.values(),
    }
    assert stated == {(rejection.result, rejection.source, rejection.reason) for rejection in used}


def _keys() -> list[tuple[str, str]]:
    return [
        (row[0].strip("`"), row[1])
        for row in rows(section("3.3 Association policies") + section("4.2 Association policies"))
        if re.fullmatch(r"`[a-z._]+`", row[0])
    ]


@pytest.mark.parametrize(("key", "default"), _keys())
def test_a_default_in_the_statement_is_that_of_the_configuration(key: str, default: str) -> None:
    if key == "receiver.tls.port":
        value: Any = ReceiverTls.model_fields["port"].default
    else:
        value = Config()
        for name in key.split("."):
            value = getattr(value, name)
    assert default == (f"{value:g}" if isinstance(value, float) else str(value))


def test_there_are_defaults_to_compare() -> None:
    assert len(_keys()) >= 16


@pytest.mark.parametrize(
    ("title", "what", "value"),
    [
        ("3.3 Association policies", "Presentation contexts in one request", pdu._MAXIMUM_CONTEXTS),
        ("3.3 Association policies", "Maximum PDU that is announced", Config().receiver.maximum_pdu_size),
        ("3.3 Association policies", "Largest control PDU", pdu.MAXIMUM_CONTROL_PDU_BYTES),
        ("3.3 Association policies", "Largest control PDU", pdu.MAXIMUM_LATER_PDU_BYTES),
        ("3.3 Association policies", "Largest command set", dimse.MAXIMUM_COMMAND_BYTES),
        ("3.3 Association policies", "Largest header up to group 0020", header.MAXIMUM_HEADER_BYTES),
        ("4.2 Association policies", "Maximum PDU that is announced", Peer("", 1, "").maximum_pdu_bytes),
        ("4.2 Association policies", "PDUs that are sent", send_buffer.LARGEST_PDU_BYTES),
        ("4.2 Association policies", "PDUs that are sent", send_buffer.SMALLEST_PDU_BYTES),
        ("4.2 Association policies", "Priority", scu.HIGH_PRIORITY),
    ],
)
def test_a_limit_in_the_statement_is_that_of_the_code(title: str, what: str, value: int) -> None:
    (row,) = [row for row in rows(section(title)) if row[0].startswith(what)]
    assert re.search(rf"\b{value}\b", row[1])


def test_the_limits_in_sentences_are_those_of_the_code() -> None:
    policies = " ".join(section("3.3 Association policies").split())
    assert f"handshake has {worker._TLS_HANDSHAKE_SECONDS:g} seconds" in policies
    told = f"At most {receiver._REFUSED_PER_PEER} connections of one address, and {receiver._REFUSED} in all,"
    assert told in policies
    largest = Config().receiver.maximum_pdu_size
    framer = framing.Framer(largest)
    framer.feed(memoryview(pdu.PDU_HEADER.pack(pdu.PDUType.DATA_TF, 2 * largest)))
    with pytest.raises(pdu.ProtocolError):
        framing.Framer(largest).feed(memoryview(pdu.PDU_HEADER.pack(pdu.PDUType.DATA_TF, 3 * largest)))
    report = " ".join(section("3.6 Storage commitment").split())
    assert f"{commitment.Unconfirmed._MAXIMUM_REPORTS} reports" in report
    assert f"{commitment_data.MAXIMUM_REFERENCES} objects" in report
    assert f"most {commitment_sender._MAXIMUM_REPORTS} reports" in report
    first, second, third = commitment_sender._RETRY_SECONDS
    assert f"after {first:g}, {second:g} and {third:g} seconds" in report


def test_the_abort_reasons_are_those_of_the_code() -> None:
    stated = re.findall(
        r"reason (\d) \(unrecognised PDU\), (\d) \(unexpected PDU\) or (\d)", " ".join(STATEMENT.split())
    )
    assert stated == [(str(pdu.UNRECOGNIZED_PDU), str(pdu.UNEXPECTED_PDU), str(pdu.INVALID_PARAMETER))]


def test_the_status_codes_of_c_store_are_those_of_the_code() -> None:
    assert codes(section("3.4 C-STORE")) == {
        dimse.SUCCESS,
        dimse.OUT_OF_RESOURCES,
        dimse.DATA_SET_MISMATCH,
        dimse.CANNOT_UNDERSTAND,
        dimse.PROCESSING_FAILURE,
        dimse.SOP_CLASS_NOT_SUPPORTED,
        dimse.UNRECOGNIZED_OPERATION,
    }


def test_every_status_that_the_receiver_can_answer_is_stated() -> None:
    names = list(vars(dimse))
    statuses = names[names.index("SUCCESS") : names.index("GROUP_LENGTH")]
    source = Path(storage_scp.__file__).read_text(encoding="utf-8")
    used = {getattr(dimse, name) for name in re.findall(r"dimse\.([A-Z_]+)\b", source) if name in statuses}
    assert len(used) >= 8
    assert used <= codes(section("3.4 C-STORE")) | codes(section("3.6 Storage commitment"))


def test_the_codes_of_storage_commitment_are_those_of_the_code() -> None:
    assert codes(section("3.6 Storage commitment")) == {
        dimse.SUCCESS,
        dimse.INVALID_ARGUMENT,
        dimse.NO_SUCH_ACTION,
        commitment.RESOURCE_LIMITATION,
        commitment.PROCESSING_FAILURE,
        commitment.NO_SUCH_INSTANCE,
        commitment.CLASS_CONFLICT,
    }


def test_a_status_of_a_peer_is_taken_as_stated() -> None:
    stated: dict[int, Outcome] = {}
    for row in rows(section("4.3 What a C-STORE status of the peer means")):
        for first, last in re.findall(r"(0x[0-9A-F]{4})(?: - (0x[0-9A-F]{4}))?", row[0]):
            outcome = Outcome(row[1])
            stated.update(dict.fromkeys(range(int(first, 16), int(last or first, 16) + 1), outcome))
    assert len(stated) > 4000
    for status in range(0x10000):
        assert outcome_of(status)[0] is stated.get(status, Outcome.REFUSED), hex(status)


def test_the_character_sets_that_are_named_are_known() -> None:
    named = re.findall(r"`((?:ISO|GB)[^`]*)`", section("6. Character sets"))
    assert len(named) == 20
    assert [name for name in named if codec_of(name.encode()) == "ascii"] == ["ISO_IR 6"]


def test_tls_is_at_least_the_stated_version() -> None:
    assert "TLS 1.2 or later" in section("5. Security")
    source = Path(tls_server.__file__).read_text(encoding="utf-8")
    assert "minimum_version = ssl.TLSVersion.TLSv1_2" in source
