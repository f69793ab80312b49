"""The stages of a job: each is a folder, and a job is in exactly one of them."""

from enum import StrEnum


class Stage(StrEnum):
    """Where a job stands. The value is the name of the folder."""

    PROCESSING = "processing"
    OUTGOING = "outgoing"
    SUCCESS = "success"
    ERROR = "error"
    DISCARD = "discard"

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens to a job here unless an operator acts."""
        return self in (Stage.SUCCESS, Stage.ERROR, Stage.DISCARD)
