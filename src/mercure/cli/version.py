"""`mercure version`."""

import platform

from mercure import __version__
from mercure.cli.options import JSON, new_app
from mercure.cli.output import print_json, say

app = new_app()


@app.command()
def version(*, as_json: JSON = False) -> None:
    """Print the version."""
    if as_json:
        print_json({"mercure": __version__, "python": platform.python_version(), "system": platform.platform()})
    else:
        say(f"mercure {__version__}")
