"""What a C-STORE status means for an instance (PS3.4 table B.2-1, PS3.7 Annex C)."""

from mercure.core.delivery import Outcome

_WORDS = {
    0x0105: "no such attribute",
    0x0110: "processing failure",
    0x0111: "duplicate SOP instance",
    0x0112: "no such SOP instance",
    0x0117: "invalid SOP instance",
    0x0119: "class and instance conflict",
    0x0122: "SOP class not supported",
    0x0124: "not authorized",
    0x0210: "duplicate invocation",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
    0xB000: "coercion of data elements",
    0xB006: "elements discarded",
    0xB007: "data set does not match SOP class",
}
_RANGES = (
    (0xA700, 0xA7FF, "out of resources"),
    (0xA900, 0xA9FF, "data set does not match SOP class"),
    (0xB000, 0xBFFF, "warning"),
    (0xC000, 0xCFFF, "cannot understand"),
)
_ATTRIBUTE_WARNINGS = (0x0001, 0x0107, 0x0116)


def outcome_of(status: int) -> tuple[Outcome, str]:
    """Return what became of the instance, and the status in words for a person ("" for success).

    A warning means that the peer has stored it. Only "out of resources" may pass by itself. The comment that a peer
    may add is not used: it can name a patient.
    """
    if status == 0:
        return Outcome.DELIVERED, ""
    detail = f"status 0x{status:04X}, {_in_words(status)}"
    if 0xB000 <= status <= 0xBFFF or status in _ATTRIBUTE_WARNINGS:
        return Outcome.WARNING, detail
    if 0xA700 <= status <= 0xA7FF:
        return Outcome.DEFERRED, detail
    return Outcome.REFUSED, detail


def _in_words(status: int) -> str:
    ranges = (text for first, last, text in _RANGES if first <= status <= last)
    return _WORDS.get(status) or next(ranges, "not a status of C-STORE")
