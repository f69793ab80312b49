"""Sending files on several associations at once, with a result for each file."""

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from mercure.cli.send_files import Instance
from mercure.core.delivery import InstanceResult, Outcome, Parcel
from mercure.core.errors import CancelledError, JobError
from mercure.dicom.peer import RejectedError
from mercure.targets.dicom import DicomNode, DicomTarget

_POLL_SECONDS = 0.1
_PAUSE_SECONDS = 1.0
_MOST_IN_PART = 200
"""Files that one association takes at once: enough to keep it busy, few enough to leave the others something."""
_KEPT_SECONDS = 1.0
"""How long an association stays open between two parts; the next one follows at once, or it is released."""


@dataclass(frozen=True, slots=True)
class Undelivered:
    """A file that the node does not have, and why."""

    path: str
    reason: str
    was_sent: bool


class _Work:
    """The files that wait for an association. Threads take a part of them, and give back what they could not send.

    Parts keep the order of the files, in which those of one kind mostly stand together: an association is negotiated
    for the kinds of one part, and used again for the next part when that has no others.
    """

    def __init__(self, paths: Iterable[str], associations: int) -> None:
        self._waiting = deque(paths)
        self._associations = associations
        self._left = associations
        self._busy = 0
        self._is_over = False
        self._changed = threading.Condition()

    def take(self, *, waits: bool) -> list[str]:
        """Return the next part, which `give_back` ends; [] when there is none.

        With `waits`, files that another association still has are waited for: it may yet give them back.
        """
        with self._changed:
            while waits and not self._waiting and self._busy and not self._is_over:
                self._changed.wait()
            if self._is_over or not self._waiting:
                return []
            self._busy += 1
            return [self._waiting.popleft() for _ in range(self._part_size())]

    def _part_size(self) -> int:
        """Return how many files are taken at once: few near the end, so that no association is idle for long."""
        if self._associations == 1:
            return len(self._waiting)
        return max(1, min(len(self._waiting) // (2 * self._associations), _MOST_IN_PART))

    def give_back(self, unsent: Iterable[str]) -> None:
        """End a part. What was not sent goes behind the others: it may be the reason."""
        with self._changed:
            self._waiting.extend(unsent)
            self._busy -= 1
            self._changed.notify_all()

    def is_last(self) -> bool:
        """Count an association that failed as gone; return whether no other is left."""
        with self._changed:
            self._left -= 1
            return self._left == 0

    def pause(self) -> None:
        """Let the node forget the associations that it has just refused; over at once when the transfer is."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over, _PAUSE_SECONDS)

    def end(self) -> None:
        """Hand out nothing any more."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()


class Transfer:
    """The files of one command. Associations share them: what one cannot send, because it failed, the others send."""

    def __init__(self, node: DicomNode, instances: Sequence[Instance], associations: int) -> None:
        """Connect nothing yet."""
        self.instances = instances
        self.errors: list[str] = []
        self.seconds = 0.0
        self.sent_bytes = 0
        self.delivered = 0
        self.done = 0
        self._node = replace(node, associations_idle_seconds=_KEPT_SECONDS)
        self._sizes = {one.path: one.size_bytes for one in instances}
        self._results: dict[str, InstanceResult] = {}
        self._lock = threading.Lock()
        self._stopping = False
        self._close: dict[int, Callable[[], None]] = {}
        self._associations = min(associations, len(instances))
        self._work = _Work((one.path for one in instances), self._associations)

    def run(self) -> None:
        """Send everything; returns when each association is over.

        Why associations failed is in `errors` when files were left unsent; else the others have sent them.
        """
        started = time.perf_counter()
        threads = [threading.Thread(target=self._send, daemon=True) for _ in range(self._associations)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():  # a join without end would keep Ctrl-C waiting
                    thread.join(_POLL_SECONDS)
        finally:
            self.seconds = time.perf_counter() - started
        if len(self._results) == len(self.instances):
            self.errors.clear()

    def stop(self) -> None:
        """Break every association off."""
        self._stopping = True
        self._work.end()
        for close in list(self._close.values()):
            close()

    def statuses(self) -> dict[str, int]:
        """Return how many files ended how, the most frequent first."""
        words = Counter(result.detail or "success" for result in self._results.values())
        missing = len(self.instances) - len(self._results)
        if missing:
            words["not sent"] += missing
        return dict(words.most_common())

    def undelivered(self) -> list[Undelivered]:
        """Return the files that the node does not have."""
        missing = []
        for one in self.instances:
            result = self._results.get(one.path)
            if result is None:
                missing.append(Undelivered(one.path, "not sent", was_sent=False))
            elif not result.outcome.is_there:
                missing.append(Undelivered(one.path, result.detail, was_sent=True))
        return missing

    def _send(self) -> None:
        target = DicomTarget(self._node)
        try:
            error = self._send_parts(target)
            if error is not None and self._work.is_last() and self._may_come_alone(error):
                self._work.pause()
                error = self._send_parts(target)
            if error is not None:
                with self._lock:
                    if str(error) not in self.errors:
                        self.errors.append(str(error))
        finally:
            target.close()

    def _may_come_alone(self, error: JobError) -> bool:
        """Tell whether a node may have refused this association for the others: some refuse all that come at once."""
        return self._associations > 1 and isinstance(error, RejectedError)

    def _send_parts(self, target: DicomTarget) -> JobError | None:
        """Send while there is something to send; return what ended it too early."""
        try:
            while part := self._work.take(waits=False) or self._late_part(target):
                self._send_part(target, part)
        except CancelledError:
            return None
        except JobError as error:
            return error
        return None

    def _late_part(self, target: DicomTarget) -> list[str]:
        target.close()  # a node that serves one association at a time lets the others wait for the end of this one
        return self._work.take(waits=True)

    def _send_part(self, target: DicomTarget, part: list[str]) -> None:
        try:
            # Names are whole paths: joined to no folder they stay what they are.
            target.send(Parcel("", "", part), self)
        finally:
            self._work.give_back([path for path in part if path not in self._results])

    # -- core.delivery.Progress ---------------------------------------------------------------------------------------

    def record(self, result: InstanceResult) -> None:
        """Take the result of one file."""
        with self._lock:
            self._results[result.name] = result
            self.done += 1
            if result.outcome in (Outcome.DELIVERED, Outcome.WARNING):
                self.delivered += 1
                self.sent_bytes += self._sizes.get(result.name, 0)

    def check(self) -> None:
        """End the transfer between two files when the command is interrupted."""
        if self._stopping:
            raise CancelledError("interrupted")

    def attach(self, close: Callable[[], None]) -> None:
        """Keep what ends a blocking send."""
        self._close[threading.get_ident()] = close  # a thread sends one part at a time
        if self._stopping:
            with contextlib.suppress(OSError):
                close()
