"""A service that starts a module and stays: `python -m tests.contract.service_that_dies KIND FOLDER SCRIPT`.

It is there to be killed.
"""

import sys
from pathlib import Path

from tests.contract.runners import KINDS, SECONDS, Place


def main() -> None:
    name, folder, script = sys.argv[1:]
    kind = KINDS[name]()
    runner = kind.make()
    run = runner.start(Place(Path(folder)).order(kind.script(script)))
    print("started", flush=True)
    while run.wait(SECONDS) is None:
        pass


if __name__ == "__main__":
    main()
