"""How the files of one command are shared out among its associations."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from tests.builders import CT_STORAGE, MR_STORAGE, BuiltSeries, dicom_bytes, new_uid, small_series
from tests.peers import free_port, pynetdicom_server, wait_until

from mercure.cli.send_files import Instance
from mercure.cli.send_transfer import Transfer
from mercure.targets.dicom import DicomNode


@dataclass
class Node:
    """A node of pynetdicom: what it got, on how many associations, and how many of these it refused."""

    port: int
    received: list[str] = field(default_factory=list)
    accepted: list[object] = field(default_factory=list)
    rejected: list[object] = field(default_factory=list)


@contextmanager
def node_with(most: int, before_answer: Callable[[Node, str], None]) -> Iterator[Node]:
    node = Node(free_port())

    def on_store(event: evt.Event) -> int:
        request = event.request
        assert isinstance(request, C_STORE)
        uid = str(request.AffectedSOPInstanceUID)
        node.received.append(uid)
        before_answer(node, uid)
        return 0

    entity = AE(ae_title="NODE")
    for sop_class in (CT_STORAGE, MR_STORAGE):
        entity.add_supported_context(sop_class)
    entity.maximum_associations = most
    handlers: list[evt.EventHandlerType] = [
        (evt.EVT_C_STORE, on_store),
        (evt.EVT_ACCEPTED, lambda event: node.accepted.append(event.assoc)),
        (evt.EVT_REJECTED, lambda event: node.rejected.append(event.assoc)),
    ]
    with pynetdicom_server(entity, handlers, port=node.port):
        yield node


def transfer(port: int, files: tuple[Path, ...] | list[Path], associations: int) -> Transfer:
    instances = [Instance(str(file), file.stat().st_size) for file in files]
    return Transfer(DicomNode("127.0.0.1", port, "NODE"), instances, associations)


@pytest.fixture
def series(tmp_path: Path) -> BuiltSeries:
    return small_series(tmp_path / "images", 30)


@pytest.mark.parametrize("most", [1, 2])
def test_what_a_refused_association_would_have_sent_goes_on_the_others(series: BuiltSeries, most: int) -> None:
    def wait_for_refusals(node: Node, _uid: str) -> None:
        wait_until(lambda: len(node.rejected) >= 4 - most, "the refusal of the other associations")

    with node_with(most, wait_for_refusals) as node:
        sending = transfer(node.port, series.files, 4)
        sending.run()
    assert sorted(node.received) == sorted(series.sop_instance_uids)
    assert (sending.delivered, sending.done, sending.statuses()) == (30, 30, {"success": 30})
    assert sending.undelivered() == []
    assert sending.errors == [], "nothing was left unsent"


def test_a_slow_association_keeps_no_files_from_a_fast_one(series: BuiltSeries) -> None:
    def hold_the_first(node: Node, uid: str) -> None:
        if uid == node.received[0]:
            wait_until(lambda: len(node.received) >= 20, "most of the files on the other association")

    with node_with(2, hold_the_first) as node:
        sending = transfer(node.port, series.files, 2)
        sending.run()
    assert sending.statuses() == {"success": 30}
    assert len(node.accepted) == 2, "an association serves one part of the files after the other"


def test_an_association_is_enough_for_one_thread(series: BuiltSeries) -> None:
    with node_with(1, lambda _node, _uid: None) as node:
        sending = transfer(node.port, series.files, 1)
        sending.run()
    assert sending.statuses() == {"success": 30}
    assert len(node.accepted) == 1


def test_files_of_many_kinds_are_sent_whichever_association_takes_them(tmp_path: Path) -> None:
    files = []
    for number in range(40):
        file = tmp_path / f"{number:02}.dcm"
        file.write_bytes(dicom_bytes(SOPClassUID=CT_STORAGE if number % 2 else MR_STORAGE, SOPInstanceUID=new_uid()))
        files.append(file)
    with node_with(3, lambda _node, _uid: None) as node:
        sending = transfer(node.port, files, 3)
        sending.run()
    assert sending.statuses() == {"success": 40}
    assert len(set(node.received)) == 40


def test_when_no_association_is_left_the_rest_is_not_sent_and_the_reason_is_kept_once(series: BuiltSeries) -> None:
    sending = transfer(free_port(), series.files, 4)
    sending.run()
    assert sending.statuses() == {"not sent": 30}
    assert len(sending.errors) == 1
    assert "Connection refused" in sending.errors[0]


def test_a_transfer_that_is_stopped_ends_also_where_an_association_waits_for_work(series: BuiltSeries) -> None:
    stopped = threading.Event()

    def hold_the_first(node: Node, uid: str) -> None:
        if uid == node.received[0]:
            wait_until(stopped.is_set, "the end of the transfer")

    with node_with(2, hold_the_first) as node:
        sending = transfer(node.port, series.files[:2], 2)
        thread = threading.Thread(target=sending.run)
        thread.start()
        wait_until(lambda: sending.delivered == 1, "the other file")
        sending.stop()
        thread.join(60)
        assert not thread.is_alive()
        stopped.set()
    assert sending.statuses() == {"success": 1, "not sent": 1}
