"""Mercure's sending as a bench calls it: the engine that the dispatcher uses, from files of the spool to a peer."""

import time
from collections.abc import Sequence
from pathlib import Path

from mercure.dicom.part10 import read_file_meta
from mercure.dicom.peer import Peer
from mercure.dicom.scu import Outgoing, StoreAssociation


class NotStoredError(RuntimeError):
    """The peer did not answer every instance with success."""


def send_series(files: Sequence[Path], port: int, *, called_ae: str = "ANY-SCP") -> float:
    """Send files over one association and return the seconds that it took.

    Counted is everything between knowing the files' names and the released association: reading each file's head,
    connecting, negotiating, sending, all responses, release.
    """
    statuses: list[int] = []
    started = time.perf_counter()
    metas = [read_file_meta(str(file)) for file in files]
    kinds = {(meta.sop_class_uid, meta.transfer_syntax_uid) for meta in metas}
    store = StoreAssociation(Peer("127.0.0.1", port, called_ae), kinds)
    store.open()
    outgoing = []
    for file, meta in zip(files, metas, strict=True):
        context_id = store.context_for(meta.sop_class_uid, meta.transfer_syntax_uid)
        if context_id is None:
            message = f"the peer does not take {meta.transfer_syntax_uid}"
            raise NotStoredError(message)
        outgoing.append(
            Outgoing(
                name=file.name,
                sop_class_uid=meta.sop_class_uid,
                sop_instance_uid=meta.sop_instance_uid,
                context_id=context_id,
                source=str(file),
                offset=meta.data_set_offset,
                size=meta.data_set_size,
            )
        )
    store.store_all(outgoing, lambda _one, status: statuses.append(status))
    store.association.release()
    taken = time.perf_counter() - started
    if statuses != [0] * len(files):
        message = f"{statuses.count(0)} of {len(files)} instances were stored"
        raise NotStoredError(message)
    return taken
