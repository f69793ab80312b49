"""The target that delivers nothing, for trying out rules. It has to be asked for by name and says what it is."""

from mercure.core.delivery import InstanceResult, Outcome, Parcel, Progress, TargetTest

_NOTHING_SENT = "dummy target: nothing was sent"


class DummyTarget:
    """Confirms every instance and sends none."""

    def send(self, parcel: Parcel, progress: Progress) -> None:
        """Record each instance as delivered, and why that means nothing."""
        for name in parcel.names:
            progress.check()
            progress.record(InstanceResult(name, Outcome.DELIVERED, _NOTHING_SENT))

    def test(self) -> TargetTest:
        """Say that there is nothing to reach."""
        return TargetTest(reachable=True, detail="dummy target: nothing is ever sent")

    def close(self) -> None:
        """Nothing is kept."""
