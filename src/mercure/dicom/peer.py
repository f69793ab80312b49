"""Whom we call, and the ways in which a call can fail."""

import ssl
from dataclasses import dataclass

from mercure.core.errors import TransientError


class UnreachableError(TransientError):
    """No connection could be made."""

    code = "unreachable"


class RejectedError(TransientError):
    """The peer rejected the association. Transient, because a wrong AE title is mended at the other end."""

    code = "association_rejected"


class UnknownTitleError(RejectedError):
    """The peer does not know one of the AE titles, or gives no reason, as some do then (PS3.8 table 9-21)."""


class BrokenError(TransientError):
    """The association ended before its work was done: aborted, closed, reset or released by the peer, or by `close`."""

    code = "association_broken"


class NoAnswerError(TransientError):
    """The peer took the connection or the message, and did not answer in time."""

    code = "no_answer"


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom to call, and as whom. `host` is a name or an IPv4 or IPv6 address; `tls` of None is a plain connection.

    `response_timeout_seconds` bounds each wait for an answer, and each wait for the peer to take more bytes.
    `maximum_pdu_bytes` is what we announce for PDUs that come to us.
    """

    host: str
    port: int
    called_ae_title: str
    calling_ae_title: str = "MERCURE"
    tls: ssl.SSLContext | None = None
    connect_timeout_seconds: float = 10.0
    response_timeout_seconds: float = 60.0
    maximum_pdu_bytes: int = 1 << 17

    def __str__(self) -> str:
        """Name the peer in messages."""
        return f"{self.called_ae_title} at {self.host}:{self.port}"
