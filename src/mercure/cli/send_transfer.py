"""Sending files on several associations at once, with a result for each file."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mercure.cli.send_files import Instance
from mercure.core.delivery import InstanceResult, Outcome, Parcel
from mercure.core.errors import CancelledError, JobError
from mercure.targets.dicom import DicomNode, DicomTarget

_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Undelivered:
    """A file that the node does not have, and why."""

    path: str
    reason: str
    was_sent: bool


class Transfer:
    """The files of one command. Each association has a thread and every n-th file."""

    def __init__(self, node: DicomNode, instances: Sequence[Instance], associations: int) -> None:
        """Connect nothing yet."""
        self.instances = instances
        self.errors: list[str] = []
        self.seconds = 0.0
        self.sent_bytes = 0
        self.delivered = 0
        self.done = 0
        self._node = node
        self._sizes = {one.path: one.size_bytes for one in instances}
        self._results: dict[str, InstanceResult] = {}
        self._lock = threading.Lock()
        self._stopping = False
        self._close: list[Callable[[], None]] = []
        count = min(associations, len(instances))
        self._parts = [[one.path for one in instances[start::count]] for start in range(count)]

    def run(self) -> None:
        """Send everything; returns when each association is over. What went wrong is in `errors`."""
        started = time.perf_counter()
        threads = [threading.Thread(target=self._send, args=(part,), daemon=True) for part in self._parts]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():  # a join without end would keep Ctrl-C waiting
                    thread.join(_POLL_SECONDS)
        finally:
            self.seconds = time.perf_counter() - started

    def stop(self) -> None:
        """Break every association off."""
        self._stopping = True
        for close in list(self._close):
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

    def _send(self, part: list[str]) -> None:
        target = DicomTarget(self._node)
        try:
            # Names are whole paths: joined to no folder they stay what they are.
            target.send(Parcel("", "", part), self)
        except CancelledError:
            pass
        except JobError as error:
            with self._lock:
                if str(error) not in self.errors:
                    self.errors.append(str(error))
        finally:
            target.close()

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
        self._close.append(close)
        if self._stopping:
            with contextlib.suppress(OSError):
                close()
