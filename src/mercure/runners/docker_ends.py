"""How a container came to its end: by itself, or because somebody, or the fall of its engine, ended it.

The state that an engine keeps does not tell this. A module that ends in order when it is asked to leaves any exit
code, half of its output, and no trace of the question. After a power cut the engine says "exited" with code 255, at
the time at which it came back. But an engine keeps what happened in its memory: what it saw end is told with what was
done to it, and what it does not know of ended before it was started, perhaps before the machine was.
"""

import signal
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

from mercure.runners.docker_engine import DockerEngine

End = Literal["by itself", "ended", "unseen"]
"""`ended`: it got a signal through the engine. `unseen`: the engine was not there, or has forgotten it."""

_SIGNALS_BY_CODE: Final = {128 + number: -number for number in signal.valid_signals() if number < 32}
_OF_THE_ENGINE: Final = frozenset({-signal.SIGKILL, -signal.SIGTERM, 255})
"""What an engine says of a container that it ended when it came back, or that was gone by then."""

_LATER_SECONDS: Final = 2
"""The engine notes an end this much later at most."""


def exit_code(state: Mapping[str, Any]) -> int:
    """Return the exit code in the state of a container; what a signal ended has its negative number."""
    code = int(state.get("ExitCode") or 0)
    return _SIGNALS_BY_CODE.get(code, code)


def how_it_ended(engine: DockerEngine, container: str, state: Mapping[str, Any]) -> End:
    """Ask the engine how a container that has exited came to its end. Raises as `DockerEngine.asked` does.

    Only the engine's own clock and memory count: they are sound for an engine of another machine, too. It remembers
    some hundred events; one that it has forgotten is `unseen`.
    """
    try:
        until = datetime.fromisoformat(str(state["FinishedAt"])).timestamp()
    except (KeyError, ValueError, OverflowError):
        return "unseen"
    with engine.asked("asking how a module ended") as api:
        seen = api.actions_of(container, ("kill", "die"), int(until) + _LATER_SECONDS)
    if "kill" in seen:
        return "ended"
    return "by itself" if "die" in seen else "unseen"


def came_back_with_its_modules(engine: DockerEngine, state: Mapping[str, Any]) -> bool:
    """Whether an exit code counts though the engine did not see the end, in a run that was followed all the time.

    It does when modules go on without their engine (live restore), and the code is not one that the engine sets for
    what it finds dead. Raises as `DockerEngine.asked` does.
    """
    if exit_code(state) in _OF_THE_ENGINE:
        return False
    with engine.asked("asking whether modules outlive the engine") as api:
        return bool(api.info().get("LiveRestoreEnabled"))
