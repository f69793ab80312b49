"""Where the example modules are: beside the sources, or where the package has put them."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from mercure.core.errors import ConfigError

_CHECKOUT = Path(__file__).parents[4]
_PLACE = "examples/modules/{name}/module.py"


def example(name: str) -> Path:
    """Return the program of an example module. Raises `ConfigError` when the installation lacks it."""
    place = _PLACE.format(name=name)
    found = _CHECKOUT / place
    return found if found.is_file() else _installed(place)


def _installed(place: str) -> Path:
    try:
        files = distribution("mercure").files or []
    except PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate())).resolve()
        if file.as_posix().endswith(place) and path.is_file():
            return path
    raise ConfigError(f"this installation lacks {place}; install Mercure from its wheel or its sources")
