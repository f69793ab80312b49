"""A target that says when each instance arrived: DCMTK's storescp, whose folder is watched."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from inotify_simple import INotify, flags
from tests import peers

_POLL_MS = 100


class Arrivals:
    """When each instance in the folder of a storescp was written to its end, by the monotonic clock."""

    def __init__(self, folder: Path) -> None:
        """Watch from now on, on a thread of its own, until `close`."""
        self._times: dict[str, float] = {}
        self._inotify = INotify()
        self._inotify.add_watch(folder, flags.CLOSE_WRITE)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="arrivals", daemon=True)
        self._thread.start()

    def of(self, uids: Iterable[str], *, seconds: float = 120) -> list[float]:
        """Wait until all these SOP instances are there; when each came, sorted."""
        wanted = list(uids)
        try:
            peers.wait_until(
                lambda: all(uid in self._times for uid in wanted), f"{len(wanted)} instances arrive", seconds=seconds
            )
        except peers.PeerError as error:
            missing = [uid for uid in wanted if uid not in self._times]
            watching = "" if self._thread.is_alive() else "; nobody watches the target any more"
            raise peers.PeerError(f"{error}: {len(missing)} are missing, such as {missing[0]}{watching}") from None
        return sorted(self._times[uid] for uid in wanted)

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()
        self._inotify.close()

    def _listen(self) -> None:
        while not self._stop.is_set():
            for event in self._inotify.read(timeout=_POLL_MS):
                if event.mask & flags.Q_OVERFLOW:
                    raise RuntimeError("arrivals were lost")
                # storescp names a file with a mark of the modality, a dot and the SOP instance UID.
                self._times[event.name.partition(".")[2]] = time.monotonic()


@dataclass(frozen=True)
class Target:
    """A running target."""

    port: int
    arrivals: Arrivals


@contextmanager
def watched_storescp(folder: Path) -> Iterator[Target]:
    """A storescp that takes several associations at once (--fork), with TCP_NODELAY."""
    with peers.storescp(folder, extra_args=["--fork"]) as server:
        arrivals = Arrivals(folder)
        try:
            yield Target(server.port, arrivals)
        finally:
            arrivals.close()
