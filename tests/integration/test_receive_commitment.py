"""Storage commitment with pynetdicom as the requester, on the same association and on a new one."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    CTImageStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)
from tests import builders
from tests.peers import DEADLINE_SECONDS, free_port
from tests.receiver import Receiver, receiver

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
        self.reported = threading.Event()
        self.handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self._on_report)]

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        request = event.request
        assert isinstance(request, N_EVENT_REPORT)
        self.reports.append((request.EventTypeID or 0, event.event_information))
        self.reported.set()
        return 0x0000, None

    def store_and_ask(
        self, port: int, files: list[Path], asked: list[tuple[str, str]], before_release: Callable[[], object]
    ) -> None:
        association = self.entity.associate("127.0.0.1", port, ae_title="MERCURE", evt_handlers=self.handlers)
        assert association.is_established
        for file in files:
            assert association.send_c_store(file).Status == 0
        action = Dataset()
        action.TransactionUID = builders.new_uid()
        action.ReferencedSOPSequence = []
        for sop_class, uid in asked:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
            action.ReferencedSOPSequence.append(item)
        status, _ = association.send_n_action(action, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
        assert status.Status == 0
        before_release()
        association.release()


def asked_of(series: builders.BuiltSeries) -> list[tuple[str, str]]:
    return [(series.sop_class_uid, uid) for uid in series.sop_instance_uids]


def test_a_report_comes_on_the_same_association(tmp_path: Path) -> None:
    series = builders.small_series(tmp_path / "in", 3)
    requester = Requester()
    service = CommitmentService(Layout.under(tmp_path / "data"), {})
    with receiver(tmp_path / "data", commitment=service) as running:
        missing = (series.sop_class_uid, "1.2.3.4")
        requester.store_and_ask(
            running.port,
            list(series.files),
            [*asked_of(series), missing],
            lambda: requester.reported.wait(DEADLINE_SECONDS),
        )
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
    server = requester.entity.start_server(("127.0.0.1", port), block=False, evt_handlers=requester.handlers)
    service = CommitmentService(Layout.under(tmp_path / "data"), {"MODALITY": PeerPort("127.0.0.1", port)})
    try:
        with receiver(tmp_path / "data", commitment=service) as running:
            _release_at_once(running, requester, series)
            assert requester.reported.wait(DEADLINE_SECONDS)
    finally:
        requester.entity.shutdown()
        if server is not None:
            server.server_close()
    event_type, report = requester.reports[-1]
    assert event_type == 1
    assert {item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence} == set(series.sop_instance_uids)
    assert "FailedSOPSequence" not in report


def _release_at_once(running: Receiver, requester: Requester, series: builders.BuiltSeries) -> None:
    """Ask without listening: reports on this association are not answered."""
    handlers, requester.handlers = requester.handlers, []
    requester.store_and_ask(running.port, list(series.files), asked_of(series), lambda: None)
    requester.handlers = handlers
