"""The test of targets, which ends in time whatever a target does."""

import threading
import time
from collections.abc import Callable, Iterable

from mercure.app.assembly import build_target
from mercure.config.files import unreadable_files
from mercure.config.schema import Config, DicomBase
from mercure.core.delivery import Target, TargetTest
from mercure.core.errors import ConfigError, JobError

_GRACE_SECONDS = 0.5
"""So that a target's own time-out, which says what was waited for, comes before the end of the trial."""


class Trial:
    """The test of one target, on a thread: a folder of a dead server may never answer."""

    def __init__(self, name: str, build: Callable[[], Target]) -> None:
        """Do nothing yet."""
        self.name = name
        self.result: TargetTest | None = None
        self._build = build

    def run(self) -> None:
        """Build the target and test it."""
        try:
            built = self._build()
            try:
                self.result = built.test()
            finally:
                built.close()
        except (ConfigError, JobError, OSError) as error:
            self.result = TargetTest(reachable=False, detail=str(error))


def trial_of(name: str, config: Config, seconds: float) -> Trial:
    """Return the trial of a configured target that waits so long for a connection, and so long for each answer.

    What is known before any connection is the result already: a file that is missing, or a name that only a sender has.
    """
    target = config.targets[name]
    limited = target.model_copy(update={"connect_timeout": seconds, "timeout": seconds})
    trial = Trial(name, lambda: build_target(limited, config))
    missing = [str(one) for one in unreadable_files(config) if one.path[:2] == ("targets", name)]
    if missing:
        remedy = "Put it there, readable by the user of the services, or change the key that names it."
        trial.result = TargetTest(reachable=False, detail="; ".join(missing), remedy=remedy)
    elif isinstance(target, DicomBase) and not target.called_ae_title:
        detail = "not tested: it is called by the AE title that the sender of a series called"
        trial.result = TargetTest(reachable=True, detail=detail)
    return trial


def try_all(trials: Iterable[Trial], seconds: float) -> dict[str, TargetTest]:
    """Run all trials at once; return the results by name after that time at the latest."""
    trials = list(trials)
    threads = [threading.Thread(target=trial.run, daemon=True) for trial in trials if trial.result is None]
    deadline = time.monotonic() + seconds + _GRACE_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = TargetTest(
        reachable=False,
        detail=f"no answer in {seconds:g} s",
        remedy="Check that it runs, and that nothing between here and there drops its packets.",
    )
    return {trial.name: trial.result or late for trial in trials}
