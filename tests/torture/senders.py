"""Senders that keep their instances until they are acknowledged, as scanners do, and a record of what was promised."""

import itertools
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from tests.builders import dicom_bytes, new_uid
from tests.sender import Caller, associate_rq, store

from mercure.dicom import dimse, pdu

_LATER = (dimse.OUT_OF_RESOURCES, dimse.PROCESSING_FAILURE)
_PAUSE_SECONDS = 0.05
"""Between two attempts of a sender; a test that is over ends it at once."""


@dataclass(frozen=True)
class Series:
    """A series of small CT instances whose bytes follow from their UIDs."""

    study_uid: str
    uid: str
    instances: tuple[str, ...]
    modality: str = "CT"

    def data_set(self, sop_instance_uid: str) -> bytes:
        """The data set of one instance, explicit VR little endian."""
        template, sop, series, study = _template()
        data = template.replace(sop, sop_instance_uid.encode()).replace(series, self.uid.encode())
        return data.replace(study, self.study_uid.encode()).replace(
            b"CS\x02\x00CT", b"CS\x02\x00" + self.modality.encode()
        )


def series(count: int, modality: str = "CT") -> Series:
    """A new series."""
    _template()  # made before threads ask for it: each of them would make one of its own
    return Series(new_uid(), new_uid(), tuple(new_uid() for _ in range(count)), modality)


@cache
def _template() -> tuple[bytes, bytes, bytes, bytes]:
    sop, one, study = new_uid(), new_uid(), new_uid()
    data = dicom_bytes(
        part10=False, rows=16, columns=16, SOPInstanceUID=sop, SeriesInstanceUID=one, StudyInstanceUID=study
    )
    return data, sop.encode(), one.encode(), study.encode()


@dataclass
class Record:
    """What all senders of a campaign saw: attempts and acknowledgements by SOP Instance UID, other statuses."""

    attempts: Counter[str] = field(default_factory=Counter)
    acknowledged: Counter[str] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    rejected: int = 0
    broken: int = 0
    """Associations that ended before their sender was done."""
    lock: threading.Lock = field(default_factory=threading.Lock)


class Sender(threading.Thread):
    """Sends series after series; each instance again and again until its response says 0x0000.

    0xA700, 0x0110 and a rejected association mean: later. After any other status an instance is not sent again.
    """

    def __init__(
        self, port: int, batches: Sequence[Series], record: Record, *, calling: str = "SENDER", called: str = "MERCURE"
    ) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._batches = batches
        self._record = record
        self._request = associate_rq(calling=calling, called=called)
        self._done = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            for batch in self._batches:
                left = list(batch.instances)
                while left and not self._done.is_set():
                    if not self._attempt(batch, left):
                        self._done.wait(_PAUSE_SECONDS)
        except BaseException as error:
            self.failure = error

    def give_up(self) -> None:
        """End soon, whatever is left."""
        self._done.set()

    def _attempt(self, batch: Series, left: list[str]) -> bool:
        """One association; what is acknowledged or refused leaves the list. Whether nothing is left."""
        try:
            caller = Caller(self._port)
            with caller.socket:
                return self._talk(caller, batch, left)
        except OSError:
            with self._record.lock:
                self._record.broken += 1
            return False

    def _talk(self, caller: Caller, batch: Series, left: list[str]) -> bool:
        caller.send(self._request)
        kind, _ = caller.pdu()
        if kind != pdu.PDUType.ASSOCIATE_AC:
            with self._record.lock:
                self._record.rejected += kind == pdu.PDUType.ASSOCIATE_RJ
            return False
        later: list[str] = []
        try:
            for message_id in itertools.count():
                if not left or self._done.is_set():
                    break
                self._store(caller, batch, left, later, message_id % 60_000 + 1)
        finally:
            left += later
        caller.send(pdu.RELEASE_RQ)
        caller.pdu()
        return not left

    def _store(self, caller: Caller, batch: Series, left: list[str], later: list[str], message_id: int) -> None:
        uid = left[0]
        with self._record.lock:
            self._record.attempts[uid] += 1
        caller.send(store(batch.data_set(uid), uid, message_id=message_id))
        kind, body = caller.pdu()
        if kind != pdu.PDUType.DATA_TF:
            raise ConnectionError(f"PDU of type {kind} in place of a response")
        left.pop(0)
        if self._note(uid, dimse.decode(body[6:]).status):
            later.append(uid)

    def _note(self, uid: str, status: int) -> bool:
        """Write down a response; whether the instance must be sent again."""
        with self._record.lock:
            if status == dimse.SUCCESS:
                self._record.acknowledged[uid] += 1
                return False
            self._record.refused[status] += 1
            return status in _LATER


def check(senders: Sequence[Sender]) -> None:
    """Raise what made a sender fail."""
    for sender in senders:
        if sender.failure:
            raise sender.failure
