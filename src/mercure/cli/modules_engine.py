"""What runs modules from the command line. Nothing asks a Docker engine before it is needed."""

from contextlib import closing
from dataclasses import dataclass
from typing import Any

from mercure.cli.trial_folder import owner_of_trials
from mercure.config.schema import Config
from mercure.core.errors import MercureError
from mercure.core.processing import ModuleRunner, RunnerKind
from mercure.runners.docker import DockerRunner
from mercure.runners.docker_engine import DockerEngine, EngineAwayError
from mercure.runners.docker_images import Images
from mercure.runners.process import ProcessRunner

_QUICK_SECONDS = 5.0
"""A list does not wait longer for an engine that hangs; the first image that gets no answer is the last one asked."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What came of fetching the image of a module. `reason` says why it failed, or ""."""

    module: str
    image: str
    digest: str = ""
    reason: str = ""

    @property
    def sentence(self) -> str:
        """One line for a person."""
        return f"mercure: {self.module}: {self.reason}" if self.reason else f"{self.module}: {self.image} {self.digest}"

    def to_json(self) -> dict[str, Any]:
        """Return it for a program."""
        return {"module": self.module, "image": self.image, "digest": self.digest or None, "reason": self.reason}


class Engine:
    """The runners of a configuration, and the images of its Docker engine."""

    def __init__(self, config: Config) -> None:
        """Start and ask nothing yet."""
        self._config = config
        self._is_away = False

    def runner(self, kind: RunnerKind) -> ModuleRunner:
        """Return what runs modules of a kind."""
        if kind == "process":
            return ProcessRunner()
        processor = self._config.processor
        roots = [str(root) for root in processor.allowed_volume_roots]
        return DockerRunner(owner_of_trials(), host=processor.docker_host, allowed_volumes=roots)

    def digest(self, image: str) -> str:
        """Return the digest of an image that is on this machine; "" when it is not, or no engine answers."""
        if self._is_away:
            return ""
        try:
            with closing(self._quick()) as engine:
                return Images(engine).get(image, "never").digest
        except EngineAwayError:
            self._is_away = True
        except MercureError:
            pass
        return ""

    def why_away(self) -> str:
        """Return why no engine answers, or ""."""
        try:
            with closing(self._quick()) as engine, engine.asked("modules") as api:
                api.ping()
        except MercureError as error:
            return str(error)
        return ""

    def pull(self, module: str, image: str) -> Pulled:
        """Fetch an image from its registry, now."""
        try:
            with closing(DockerEngine(self._config.processor.docker_host)) as engine:
                found = Images(engine).pull(image)
        except MercureError as error:
            return Pulled(module, image, reason=str(error))
        return Pulled(module, image, found.digest)

    def _quick(self) -> DockerEngine:
        return DockerEngine(self._config.processor.docker_host, timeout_seconds=_QUICK_SECONDS)
