"""Logging of the running platform: set up once, on stderr, without patient data."""

import logging
import sys
import traceback
from collections.abc import Mapping
from types import TracebackType

from mercure.core.errors import MercureError

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_YES = ("1", "true", "yes", "on")

_Raised = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class Formatter(logging.Formatter):
    """Expected errors are one line. Of others the place is shown, and their text only when debugging.

    The text of an error that nobody expected may repeat what it was about, and that may be a patient.
    """

    def __init__(self, *, debugging: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s" if debugging else _FORMAT)
        self._debugging = debugging

    def formatException(self, ei: _Raised) -> str:  # noqa: N802 - the name of the base class
        """Return what is printed below the line of a record."""
        kind, error, trace = ei
        if self._debugging or kind is None or error is None:
            return super().formatException(ei)
        if isinstance(error, MercureError | OSError):
            return f"  {kind.__name__}: {error}"
        return "".join([*traceback.format_tb(trace), f"{kind.__name__} (its text is shown when MERCURE_DEBUG=true)"])


_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def set_up(environment: Mapping[str, str]) -> None:
    """Log to stderr at MERCURE_LOG_LEVEL; MERCURE_DEBUG=true is the level DEBUG with everything that is known."""
    debugging = environment.get("MERCURE_DEBUG", "").strip().lower() in _YES
    wanted = environment.get("MERCURE_LOG_LEVEL", "INFO").strip().upper()
    level = "DEBUG" if debugging else wanted if wanted in LEVELS else "INFO"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(debugging=debugging))
    logging.basicConfig(level=level, handlers=[handler])
    if wanted not in LEVELS:
        logging.getLogger(__name__).warning("MERCURE_LOG_LEVEL is none of %s; INFO is used", ", ".join(LEVELS))
