"""The DICOM target when things go wrong: hung peers, dead associations, cancels, files that vanish."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import builders, peers
from tests.ledger import Ledger
from tests.scripted_peer import Close, ReceivePdu, ReceiveUntilClosed, Send, Step, scripted_server

from mercure.core.delivery import InstanceResult, Outcome, Parcel
from mercure.core.errors import CancelledError, JobError, PermanentError, TransientError
from mercure.dicom import dimse, pdu
from mercure.dicom.dimse import Command
from mercure.dicom.part10 import read_file_meta
from mercure.dicom.pdu import AssociateAC, ContextAnswer, PDUType
from mercure.dicom.peer import BrokenError, NoAnswerError, Peer
from mercure.dicom.send_buffer import encode_pdata
from mercure.dicom.tls_client import TlsFiles, TlsFilesError
from mercure.targets.association_pool import AssociationPool
from mercure.targets.dicom import DicomNode, DicomTarget


def response(message_id: int, status: int = 0) -> Send:
    elements: dict[int, int | str | bytes] = {
        dimse.COMMAND_FIELD: Command.C_STORE_RSP,
        dimse.MESSAGE_ID_RESPONDED_TO: message_id,
        dimse.DATA_SET_TYPE: dimse.NO_DATA_SET,
        dimse.STATUS: status,
    }
    return Send(encode_pdata(dimse.encode(elements), 1, pdu.COMMAND, 16_384))


ACCEPT: list[Step] = [
    ReceivePdu(PDUType.ASSOCIATE_RQ),
    Send(AssociateAC("X", "Y", (ContextAnswer(1, 0, builders.EXPLICIT_LITTLE),), 1 << 18).encode()),
]
INSTANCE: list[Step] = [ReceivePdu(PDUType.DATA_TF), ReceivePdu(PDUType.DATA_TF)]
RELEASED: list[Step] = [ReceivePdu(PDUType.RELEASE_RQ), Send(pdu.RELEASE_RP), ReceiveUntilClosed()]


def answering(count: int, first: int = 1) -> list[Step]:
    """Take and confirm this many instances."""
    return [step for number in range(first, first + count) for step in [*INSTANCE, response(number)]]


@pytest.fixture
def parcel(tmp_path: Path) -> Parcel:
    series = builders.small_series(tmp_path / "job", 3)
    return Parcel("job", str(tmp_path / "job"), [file.name for file in series.files])


def target_at(port: int, **settings: Any) -> DicomTarget:
    return DicomTarget(DicomNode("127.0.0.1", port, "X", **{"associations_idle_seconds": 30.0, **settings}))


def in_thread(target: DicomTarget, parcel: Parcel, ledger: Ledger) -> tuple[threading.Thread, list[JobError]]:
    failures: list[JobError] = []

    def run() -> None:
        try:
            target.send(parcel, ledger)
        except JobError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, failures


def test_a_hung_target_is_given_up_after_its_time_out(parcel: Parcel) -> None:
    ledger = Ledger()
    with scripted_server([*ACCEPT, *answering(1), ReceiveUntilClosed()]) as server, pytest.raises(NoAnswerError):
        target_at(server.port, response_timeout_seconds=0.3).send(parcel, ledger)

    assert ledger.names(Outcome.DELIVERED) == [parcel.names[0]]


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_transfer_that_hangs_is_broken_off_from_another_thread(parcel: Parcel, *, cancelled: bool) -> None:
    ledger = Ledger()
    with scripted_server([*ACCEPT, *answering(1), ReceiveUntilClosed()]) as server:
        thread, failures = in_thread(target_at(server.port), parcel, ledger)
        peers.wait_until(lambda: ledger.results, "the first instance is confirmed")
        ledger.cancelled = cancelled
        ledger.close()
        thread.join(20)

    assert not thread.is_alive()
    assert isinstance(failures[0], CancelledError if cancelled else BrokenError)
    assert len(server.conversations) == 1


def test_a_transfer_that_is_broken_off_while_it_reads_heads_does_not_connect(parcel: Parcel) -> None:
    class Closed(Ledger):
        def attach(self, close: Callable[[], None]) -> None:
            close()

    with scripted_server([*ACCEPT, ReceiveUntilClosed()]) as server, pytest.raises(BrokenError, match="was closed"):
        target_at(server.port).send(parcel, Closed())

    assert server.conversations == []


def kept_then(*later: Sequence[Step]) -> list[Sequence[Step]]:
    """First a connection that confirms a job of three and what else; then further connections."""
    return [[*ACCEPT, *answering(3), *later[0]], *later[1:]]


def test_a_kept_association_that_dies_before_an_answer_is_replaced(parcel: Parcel) -> None:
    scripts = kept_then([*INSTANCE, Close()], [*ACCEPT, *answering(3), *RELEASED])
    with scripted_server(*scripts) as server:
        target = target_at(server.port)
        target.send(parcel, Ledger())
        ledger = Ledger()

        target.send(parcel, ledger)
        target.close()

    assert ledger.names(Outcome.DELIVERED) == list(parcel.names)
    assert len(server.conversations) == 2


def test_a_kept_association_that_dies_after_an_answer_is_followed_by_another(parcel: Parcel) -> None:
    scripts = kept_then([*answering(1, 4), *INSTANCE, Close()], [*ACCEPT, *answering(2), *RELEASED])
    with scripted_server(*scripts) as server:
        target = target_at(server.port)
        target.send(parcel, Ledger())
        ledger = Ledger()
        target.send(parcel, ledger)
        target.close()

    assert ledger.names(Outcome.DELIVERED) == [parcel.names[number] for number in (0, 2, 1)]
    assert len(server.conversations) == 2


ABORT: list[Step] = [*INSTANCE, Send(pdu.encode_abort(2, 0)), Close()]


def test_an_instance_on_which_the_node_aborts_does_not_keep_the_others_from_it(parcel: Parcel) -> None:
    uid = read_file_meta(str(Path(parcel.folder, parcel.names[1]))).sop_instance_uid
    ledger = Ledger()
    scripts = [[*ACCEPT, *answering(1), *ABORT], [*ACCEPT, *answering(1), *ABORT]]
    with (
        scripted_server(*scripts) as server,
        pytest.raises(BrokenError, match=rf"aborted the association .*, on instance {uid}$"),
    ):
        target_at(server.port).send(parcel, ledger)

    assert ledger.names(Outcome.DELIVERED) == [parcel.names[0], parcel.names[2]]
    assert len(server.conversations) == 2


def test_several_instances_on_which_the_node_aborts_do_not_keep_the_others_from_it(tmp_path: Path) -> None:
    series = builders.small_series(tmp_path / "job", 4)
    parcel = Parcel("job", str(tmp_path / "job"), [file.name for file in series.files])
    ledger = Ledger()
    scripts = [[*ACCEPT, *ABORT], [*ACCEPT, *ABORT], [*ACCEPT, *answering(2), *ABORT], [*ACCEPT, *ABORT]]
    with scripted_server(*scripts) as server, pytest.raises(BrokenError):
        target_at(server.port).send(parcel, ledger)

    assert ledger.names(Outcome.DELIVERED) == list(parcel.names[2:])
    assert len(server.conversations) == 4


def test_an_instance_that_was_given_up_is_told_although_the_last_association_went_well(parcel: Parcel) -> None:
    uid = read_file_meta(str(Path(parcel.folder, parcel.names[2]))).sop_instance_uid
    ledger = Ledger()
    scripts = [[*ACCEPT, *ABORT], [*ACCEPT, *answering(1), *ABORT], [*ACCEPT, *answering(1), *RELEASED]]
    with scripted_server(*scripts) as server:
        target = target_at(server.port)
        with pytest.raises(BrokenError, match=rf"on instance {uid}$"):
            target.send(parcel, ledger)
        target.close()

    assert ledger.names(Outcome.DELIVERED) == [parcel.names[1], parcel.names[0]]


def test_a_node_that_breaks_every_association_is_given_up_for_this_attempt(tmp_path: Path) -> None:
    series = builders.small_series(tmp_path / "job", 10)
    parcel = Parcel("job", str(tmp_path / "job"), [file.name for file in series.files])
    with scripted_server([*ACCEPT, *INSTANCE, Close()]) as server, pytest.raises(BrokenError):
        target_at(server.port).send(parcel, Ledger())

    assert len(server.conversations) == 3


def test_a_kept_association_that_is_cancelled_while_it_hangs_is_not_replaced(parcel: Parcel) -> None:
    with scripted_server(*kept_then([*INSTANCE, ReceiveUntilClosed()], [*ACCEPT, ReceiveUntilClosed()])) as server:
        target = target_at(server.port)
        target.send(parcel, Ledger())
        ledger = Ledger()
        thread, failures = in_thread(target, parcel, ledger)
        peers.wait_until(lambda: len(server.conversations[0].read) >= 9, "the instance was sent again")
        ledger.cancelled = True
        ledger.close()
        thread.join(20)

    assert isinstance(failures[0], CancelledError)
    assert len(server.conversations) == 1


def test_a_file_that_vanishes_while_others_are_sent_is_transient(parcel: Parcel) -> None:
    class Vanishing(Ledger):
        def check(self) -> None:
            super().check()
            Path(parcel.folder, parcel.names[1]).unlink(missing_ok=True)

    ledger = Vanishing()
    script = [*ACCEPT, *answering(1), ReceiveUntilClosed()]
    with scripted_server(script) as server, pytest.raises(TransientError, match="cannot be read: No such file"):
        target_at(server.port).send(parcel, ledger)

    assert ledger.names(Outcome.DELIVERED) == [parcel.names[0]]


def test_a_ledger_that_fails_ends_the_transfer_with_its_own_error(parcel: Parcel) -> None:
    class Full(Ledger):
        def record(self, result: InstanceResult) -> None:
            raise RuntimeError("no space for the ledger")

    script = [*ACCEPT, *answering(1), ReceiveUntilClosed()]
    with scripted_server(script) as server, pytest.raises(RuntimeError, match="no space"):
        target_at(server.port).send(parcel, Full())

    assert server.conversations[0].read[-1].endswith(pdu.encode_abort(0, 0))


def test_a_parcel_without_anything_that_can_be_sent_makes_no_connection(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"no DICOM")
    ledger = Ledger()

    target_at(peers.free_port()).send(Parcel("job", str(tmp_path), ["a.dcm"]), ledger)

    assert ledger.names(Outcome.REFUSED) == ["a.dcm"]


def test_tls_files_that_cannot_be_used_are_transient_and_named_by_the_test(parcel: Parcel) -> None:
    target = DicomTarget(DicomNode("127.0.0.1", 1, "X", tls=TlsFiles("/no/key", "/no/certificate", "/no/authorities")))

    with pytest.raises(TlsFilesError):
        target.send(parcel, Ledger())
    assert "PEM" in target.test().remedy


def test_a_peer_that_speaks_something_else_has_a_remedy_too() -> None:
    with scripted_server([ReceivePdu(), Send(b"HTTP/1.1 400\r\n\r\n"), ReceiveUntilClosed()]) as server:
        found = target_at(server.port).test()

    assert not found.reachable
    assert found.remedy == "See the log of the node."


@pytest.mark.parametrize(
    ("source", "reason", "remedy"),
    [
        (1, 1, "Check both AE titles"),
        (1, 3, "Check both AE titles"),
        (1, 7, "Check both AE titles"),
        (3, 1, "it may be busy, at a limit"),
        (3, 2, "it may be busy, at a limit"),
    ],
)
def test_a_rejection_has_the_titles_as_its_remedy_only_when_they_are_the_reason(
    source: int, reason: int, remedy: str
) -> None:
    rejection = pdu.AssociateRJ(2, source, reason).encode()
    with scripted_server([ReceivePdu(), Send(rejection), ReceiveUntilClosed()]) as server:
        found = target_at(server.port).test()

    assert not found.reachable
    assert remedy in found.remedy


def test_a_pool_keeps_no_more_than_it_may(parcel: Parcel) -> None:
    scripts = [[*ACCEPT, *answering(3), *RELEASED]] * 2
    with scripted_server(*scripts) as server:
        target = target_at(server.port)
        target._pool = AssociationPool(30.0, most=0)
        target.send(parcel, Ledger())
        target.send(parcel, Ledger())

    assert len(server.conversations) == 2


def test_an_association_is_not_used_for_another_peer_or_for_kinds_it_does_not_know(parcel: Parcel) -> None:
    with scripted_server(kept_then(RELEASED)[0]) as server:
        target = target_at(server.port)
        target.send(parcel, Ledger())
        peer = Peer("127.0.0.1", server.port, "X", response_timeout_seconds=60.0)

        assert target._pool.take(Peer("127.0.0.1", server.port, "Y"), []) is None
        kept = target._pool.take(peer, [])
        assert kept is not None
        target._pool.give(kept)
        assert target._pool.take(peer, [("1.2.3", builders.EXPLICIT_LITTLE)]) is None
        assert target._pool.take(peer, []) is None, "released, so that a peer that serves one at a time takes the next"


def test_without_an_ae_title_to_call_nothing_is_sent(parcel: Parcel) -> None:
    target = DicomTarget(DicomNode("127.0.0.1", 104, "", forward_called_ae_title=True))
    with pytest.raises(PermanentError, match="the series has none"):
        target.send(replace(parcel, called_ae_title=""), Ledger())
