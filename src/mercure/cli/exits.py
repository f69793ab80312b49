"""The exit status of every command, and the error that carries one. The one place that numbers them."""

from enum import IntEnum

from mercure.config.write_access import CannotSaveError
from mercure.core.errors import ConfigError, MercureError, SpoolError


class Exit(IntEnum):
    """What the exit status says. `docs/commands.md` has this table."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIGURATION = 3
    DATA_FOLDER = 4
    PORT = 5
    INTERNAL = 70
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


MEANINGS = {
    Exit.OK: "Done, and nothing is wrong.",
    Exit.FAILED: "It could not be done, or what was looked at is not as it should be: a job that cannot be retried, a "
    "target that does not answer, an instance that was not delivered, a finding of `doctor`.",
    Exit.USAGE: "The command line is wrong: unknown command or option, missing argument, a file that does not exist, "
    "a rule expression that cannot be read.",
    Exit.CONFIGURATION: "The configuration is missing or cannot be used.",
    Exit.DATA_FOLDER: "The data folder is missing, cannot be written to, or does not look as it must.",
    Exit.PORT: "A port cannot be opened.",
    Exit.INTERNAL: "An error of Mercure itself; `MERCURE_DEBUG=true` shows where.",
    Exit.HUNG_UP: "Ended by SIGHUP, as `modules test` is when its terminal goes away; it leaves nothing behind.",
    Exit.INTERRUPTED: "Interrupted by Ctrl-C.",
    Exit.TERMINATED: "`modules test` was ended by SIGTERM; it leaves nothing behind. The services end with 0 then.",
}


class CommandError(MercureError):
    """A command cannot do what was asked: what is wrong, what to do about it, and the exit status."""

    code = "command"

    def __init__(self, message: str, remedy: str = "", status: Exit = Exit.FAILED) -> None:
        """Keep the parts; `main` prints them as one line."""
        super().__init__(message)
        self.remedy = remedy
        self.status = status


def as_command_error(error: MercureError | OSError) -> CommandError:
    """Return any expected error with a remedy and the exit status that belongs to it."""
    match error:
        case CommandError():
            return error
        case CannotSaveError():
            return CommandError(str(error), error.remedy, Exit.CONFIGURATION)
        case ConfigError():
            return CommandError(str(error), "`mercure config check` shows every problem.", Exit.CONFIGURATION)
        case SpoolError():
            return CommandError(str(error), "`mercure doctor` examines the data folder.", Exit.DATA_FOLDER)
        case OSError():
            what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
            return CommandError(what, "`mercure doctor` examines folders and permissions.", Exit.DATA_FOLDER)
    return CommandError(str(error))
