"""Jobs of different kinds, one after another, to a peer that serves one association at a time."""

import time
from pathlib import Path

from tests.builders import small_series
from tests.ledger import Ledger
from tests.peers import storescp

from mercure.core.delivery import Parcel
from mercure.targets.dicom import DicomNode, DicomTarget


def test_a_change_of_modality_does_not_wait_for_the_kept_association(tmp_path: Path) -> None:
    parcels = []
    for number in range(6):
        built = small_series(tmp_path / str(number), 2, modality="CT" if number % 2 else "MR")
        parcels.append(Parcel(f"job-{number}", str(tmp_path / str(number)), [path.name for path in built.files]))
    with storescp(tmp_path / "archive") as archive:
        target = DicomTarget(DicomNode("127.0.0.1", archive.port, "ARCHIVE", associations_idle_seconds=20.0))
        started = time.monotonic()
        for parcel in parcels:
            target.send(parcel, Ledger())
        seconds = time.monotonic() - started
        target.close()
    assert len(list((tmp_path / "archive").iterdir())) == 12
    assert seconds < 15, "each change waited for the end of the association before"
