"""The dummy target must never be taken for one that delivers."""

from tests.ledger import Ledger

from mercure.core.delivery import Parcel
from mercure.targets.dummy import DummyTarget


def test_it_says_that_nothing_was_sent() -> None:
    ledger = Ledger()

    DummyTarget().send(Parcel("job", "/nowhere", ["a.dcm"]), ledger)

    assert ledger.detail("a.dcm") == "dummy target: nothing was sent"
    assert "nothing is ever sent" in DummyTarget().test().detail
