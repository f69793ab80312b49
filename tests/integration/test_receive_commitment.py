"""Storage commitment with pynetdicom as the requester, on the same association and on a new one."""

import threading
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    CTImageStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)
from tests import builders
from tests.peers import DEADLINE_SECONDS, free_port, pynetdicom_server, wait_until
from tests.receiver import receiver
from tests.sender import called, commitment_action, commitment_rq, store

from mercure.dicom import part10, pdu
from mercure.dicom.commitment import CommitmentService
from mercure.dicom.worker_settings import PeerPort
from mercure.spool.layout import Layout


class Requester:
    """A modality that stores and then asks; collects the reports that it gets."""

    def __init__(self) -> None:
        self.entity = AE(ae_title="MODALITY")
        self.entity.add_requested_context(CTImageStorage, builders.EXPLICIT_LITTLE)
        self.entity.add_requested_context(StorageCommitmentPushModel)
        self.entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        self.reports: list[tuple[int, Dataset]] = []
        self.confirmed = threading.Event()
        self.handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self._on_report), (evt.EVT_PDU_SENT, self._on_sent)]

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        request = event.request
        assert isinstance(request, N_EVENT_REPORT)
        self.reports.append((request.EventTypeID or 0, event.event_information))
        return 0x0000, None

    def _on_sent(self, event: evt.Event) -> None:
        if self.reports and isinstance(event.pdu, P_DATA_TF):
            self.confirmed.set()

    def store_and_ask(self, port: int, files: list[Path], asked: Dataset) -> None:
        """Store, ask, and release when the report has come and is confirmed."""
        association = self.entity.associate("127.0.0.1", port, ae_title="MERCURE", evt_handlers=self.handlers)
        assert association.is_established
        for file in files:
            assert association.send_c_store(file).Status == 0
        status, _ = association.send_n_action(asked, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
        assert status.Status == 0
        assert self.confirmed.wait(DEADLINE_SECONDS)
        association.release()


def request_for(references: list[tuple[str, str]]) -> Dataset:
    """A request for commitment of instances, each a SOP class UID and a SOP instance UID."""
    request = Dataset()
    request.TransactionUID = builders.new_uid()
    request.ReferencedSOPSequence = []
    for sop_class, uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        request.ReferencedSOPSequence.append(item)
    return request


def asked_of(series: builders.BuiltSeries) -> list[tuple[str, str]]:
    return [(series.sop_class_uid, uid) for uid in series.sop_instance_uids]


def test_a_report_comes_on_the_same_association(tmp_path: Path) -> None:
    series = builders.small_series(tmp_path / "in", 3)
    requester = Requester()
    service = CommitmentService(Layout.under(tmp_path / "data"), {})
    with receiver(tmp_path / "data", commitment=service) as running:
        missing = (series.sop_class_uid, "1.2.3.4")
        requester.store_and_ask(running.port, list(series.files), request_for([*asked_of(series), missing]))
        assert running.wait_for_ends() == ["released"]
    ((event_type, report),) = requester.reports
    assert event_type == 2
    assert {item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence} == set(series.sop_instance_uids)
    (failed,) = report.FailedSOPSequence
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == ("1.2.3.4", 0x0112)


def test_a_report_that_was_not_confirmed_comes_on_a_new_association(tmp_path: Path) -> None:
    series = builders.small_series(tmp_path / "in", 3)
    requester = Requester()
    port = free_port()
    service = CommitmentService(Layout.under(tmp_path / "data"), {"MODALITY": PeerPort("127.0.0.1", port)})
    with (
        pynetdicom_server(requester.entity, requester.handlers, port=port),
        receiver(tmp_path / "data", commitment=service) as running,
    ):
        store_ask_and_release(running.port, series)
        assert requester.confirmed.wait(DEADLINE_SECONDS)
        wait_until(lambda: not requester.entity.active_associations, "the association of the report is over")
    ((event_type, report),) = requester.reports
    assert event_type == 1
    assert {item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence} == set(series.sop_instance_uids)
    assert "FailedSOPSequence" not in report


def store_ask_and_release(port: int, series: builders.BuiltSeries) -> None:
    """Store, ask, and release without confirming what is reported until then; byte by byte.

    pynetdicom has no means for this: it answers a report whether it has a handler or not, also behind its release.
    """
    asked = encode(request_for(asked_of(series)), is_implicit_vr=True, is_little_endian=True)
    assert asked is not None
    with called(port, commitment_rq(calling="MODALITY")) as caller:
        for file, uid in zip(series.files, series.sop_instance_uids, strict=True):
            data_set = file.read_bytes()[part10.read_file_meta(str(file)).data_set_offset :]
            caller.send(store(data_set, uid))
            assert caller.status() == 0
        caller.send(commitment_action(asked))
        assert caller.status() == 0
        caller.send(pdu.RELEASE_RQ)
        while (kind := caller.pdu()[0]) != pdu.PDUType.RELEASE_RP:
            assert kind == pdu.PDUType.DATA_TF
