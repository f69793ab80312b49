"""The errors of Mercure. Each type carries the decision that follows from it.

MercureError
  x ConfigError             the configuration cannot be used; the service keeps the last good one
  x SpoolError              the data folder cannot be used; the service stops or refuses
  x ExpressionError         a rule expression is not acceptable (found when the configuration is loaded)
  x EvaluationError         a rule expression could not be evaluated on the tags of a series
  x JobError                this job cannot be done; others can
    - TransientError        may succeed later: defer
    - PermanentError        cannot succeed as it stands: to `error/`
    - CancelledError        an operator cancelled it: to `error/`, can be retried

Messages name what, which and why; never a patient, never the value of a tag.
"""


class MercureError(Exception):
    """Base of every error that Mercure raises on purpose."""

    code: str = "mercure"


class ConfigError(MercureError):
    """The configuration cannot be used."""

    code = "config"


class SpoolError(MercureError):
    """The data folder cannot be used, or does not look as it must."""

    code = "spool"


class ExpressionError(MercureError):
    """A rule expression is not acceptable. `column` counts from 1."""

    code = "expression"

    def __init__(self, message: str, column: int = 1) -> None:
        """Keep the column beside the message, so that an editor can point at it."""
        super().__init__(f"{message} (column {column})")
        self.message = message
        self.column = column


class EvaluationError(MercureError):
    """A rule expression failed on the tags of a series."""

    code = "evaluation"


class JobError(MercureError):
    """This job cannot be done now; others can."""

    code = "job"


class TransientError(JobError):
    """The same attempt may succeed later: the job is deferred."""

    code = "transient"


class PermanentError(JobError):
    """The attempt cannot succeed as it stands: the job goes to `error/`."""

    code = "permanent"


class CancelledError(JobError):
    """An operator cancelled the job while it ran."""

    code = "cancelled"
