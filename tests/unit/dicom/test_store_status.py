"""What each status of C-STORE means for the instance."""

import pytest

from mercure.core.delivery import Outcome
from mercure.dicom.store_status import outcome_of


@pytest.mark.parametrize(
    ("status", "outcome", "words"),
    [
        (0x0000, Outcome.DELIVERED, ""),
        (0xB000, Outcome.WARNING, "coercion"),
        (0xB006, Outcome.WARNING, "elements discarded"),
        (0xB007, Outcome.WARNING, "does not match"),
        (0xB123, Outcome.WARNING, "warning"),
        (0x0107, Outcome.WARNING, "0x0107"),
        (0xA700, Outcome.DEFERRED, "out of resources"),
        (0xA7FF, Outcome.DEFERRED, "out of resources"),
        (0xA900, Outcome.REFUSED, "does not match SOP class"),
        (0xC000, Outcome.REFUSED, "cannot understand"),
        (0xCABC, Outcome.REFUSED, "cannot understand"),
        (0x0122, Outcome.REFUSED, "SOP class not supported"),
        (0x0111, Outcome.REFUSED, "duplicate"),
        (0xFF00, Outcome.REFUSED, "not a status of C-STORE"),
    ],
)
def test_a_status_has_its_outcome_and_its_words(status: int, outcome: Outcome, words: str) -> None:
    found, detail = outcome_of(status)

    assert found is outcome
    assert words in detail
    assert outcome is Outcome.DELIVERED or f"0x{status:04X}" in detail
