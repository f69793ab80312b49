"""What a target is given, and what it answers: values, and the two ports of delivery."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Outcome(StrEnum):
    """What became of one instance at one target. The first two are final and good, the last is final and bad."""

    DELIVERED = "delivered"
    WARNING = "warning"
    DEFERRED = "deferred"
    REFUSED = "refused"

    @property
    def is_there(self) -> bool:
        """Whether the target has confirmed the instance, so that it must not be sent again."""
        return self in (Outcome.DELIVERED, Outcome.WARNING)


@dataclass(frozen=True, slots=True)
class InstanceResult:
    """One line of the ledger: file name of the instance, what became of it, and the status or reason for a person."""

    name: str
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Parcel:
    """The instances of one job that one target has not confirmed yet.

    `folder` holds the files; `names` are the file names to send, in order. The sender's and receiver's AE titles and
    address are those of the reception, for targets that pass them on. `urgent` asks for DIMSE priority high.
    """

    job_id: str
    folder: str
    names: Sequence[str]
    calling_ae_title: str = ""
    called_ae_title: str = ""
    peer_address: str = ""
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class TargetTest:
    """Result of a connection test: whether it worked, what was tried and found, and what to do if it did not."""

    reachable: bool
    detail: str
    remedy: str = ""


class Progress(Protocol):
    """The job's side of a running delivery."""

    def record(self, result: InstanceResult) -> None:
        """Put the result of one instance into the ledger. It outlives the process when this returns."""

    def check(self) -> None:
        """Raise `CancelledError` when an operator has cancelled the job. Cheap; called before each instance."""

    def attach(self, close: Callable[[], None]) -> None:
        """Give a function that ends a blocking send from another thread (cancel, shutdown, time-out)."""


class Target(Protocol):
    """A place where instances are delivered."""

    def send(self, parcel: Parcel, progress: Progress) -> None:
        """Deliver the instances and record each of them.

        Returns when every instance has a result. Raises `TransientError` when the target cannot be reached or the
        transfer broke (what was recorded stays), `PermanentError` when nothing of it can ever be delivered,
        `CancelledError` from `check`.
        """

    def test(self) -> TargetTest:
        """Try to reach the target. Reports, does not raise."""

    def close(self) -> None:
        """Give up kept connections. The target can be used again afterwards."""
