"""The module: `python -m mercure_anonymizer [INPUT OUTPUT]`; without arguments the folders come from the environment.

Exit codes: 0 done, 1 refused (the reason is on stderr, without patient data), 2 wrong use, 3 a fault of the machine
or of this program.
"""

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence

from mercure_anonymizer.errors import AnonymizerError
from mercure_anonymizer.job import run_job


def main() -> None:
    """Run as a command."""
    sys.exit(run(sys.argv[1:], os.environ))


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """De-identify as arguments or environment say; return the exit code."""
    folders = list(arguments) or [environment.get("MERCURE_IN_DIR", ""), environment.get("MERCURE_OUT_DIR", "")]
    wrong = _what_is_wrong(folders)
    if wrong:
        print(wrong, file=sys.stderr)
        return 2
    try:
        for line in run_job(folders[0], folders[1], environment):
            print(line)
    except AnonymizerError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"files cannot be read or written: {type(error).__name__} {error.errno}", file=sys.stderr)
        return 3
    except Exception as error:  # noqa: BLE001  # the text of an unexpected error may hold values
        print(f"fault: {type(error).__name__} at {_place(error)}", file=sys.stderr)
        return 3
    return 0


def _what_is_wrong(folders: Sequence[str]) -> str:
    """Say why these are not the two folders that it takes, or return "". An output folder that is missing is made."""
    if len(folders) != 2 or not all(folders):
        return "usage: mercure_anonymizer INPUT OUTPUT, or MERCURE_IN_DIR and MERCURE_OUT_DIR: folders"
    taken, made = folders
    if not os.path.isdir(taken):
        return f"the input folder {taken!r} is not there, or no folder"
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(made)
    except OSError as error:
        return f"the output folder {made!r} cannot be made: {error.strerror}"
    return "" if os.path.isdir(made) else f"the output {made!r} is no folder"


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else "?"


if __name__ == "__main__":
    main()
