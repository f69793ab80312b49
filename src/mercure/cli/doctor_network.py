"""Ports and targets."""

import dataclasses
import threading
import time
from collections.abc import Iterator

from mercure.app import build_target
from mercure.cli import probe_ports
from mercure.cli.doctor_findings import Finding
from mercure.cli.run import port_trouble
from mercure.config.load import Loaded
from mercure.config.schema import Config, Target
from mercure.core.delivery import TargetTest
from mercure.core.errors import ConfigError, JobError

_CONNECT_SECONDS = 5.0
_LIMIT_SECONDS = 12.0


def port_findings(config: Config) -> Iterator[Finding]:
    """Look whether each port of the receiver is free, or is held by the running platform."""
    receiver = config.receiver
    for port in filter(None, (receiver.port, receiver.tls.port if receiver.tls else None)):
        number, reason = probe_ports.why_not_free(receiver.host, port)
        holder = probe_ports.holder_of(port) if number else None
        if not number:
            yield Finding("ports", "ok", f"port {port} is free; nothing receives on it now")
        elif holder and holder.is_mercure:
            yield Finding("ports", "ok", f"the running mercure (process {holder.pid}) listens on port {port}")
        elif holder and number and not holder.pid and _is_taken(reason):
            message = f"port {port} is taken by a process that this user cannot see"
            yield Finding("ports", "warning", message, "Run this as the user of the services, or as root.")
        else:
            yield Finding("ports", "error", *port_trouble(receiver.host, port, number, reason))


def _is_taken(reason: str) -> bool:
    return "in use" in reason


@dataclasses.dataclass(slots=True)
class _Trial:
    """The test of one target, on a thread: a folder of a dead server may never answer."""

    name: str
    target: Target
    config: Config
    result: TargetTest | None = None

    def run(self) -> None:
        """Test it, with shorter time-outs than for sending."""
        limits = {"connect_timeout": _CONNECT_SECONDS, "timeout": _CONNECT_SECONDS}
        try:
            built = build_target(self.target.model_copy(update=limits), self.config)
            self.result = built.test()
            built.close()
        except (ConfigError, JobError, OSError) as error:
            self.result = TargetTest(reachable=False, detail=str(error))


def target_findings(loaded: Loaded) -> Iterator[Finding]:
    """Ask all targets at once whether they answer. One that no rule uses is no more than a warning."""
    config = loaded.config
    used = {name for rule in config.rules if not rule.disabled for name in rule.target}
    trials = [_Trial(name, target, config) for name, target in config.targets.items() if not loaded.why_unusable(name)]
    threads = [threading.Thread(target=trial.run, daemon=True) for trial in trials]
    deadline = time.monotonic() + _LIMIT_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    for name in config.targets:
        if reason := loaded.why_unusable(name):
            remedy = "Change the target, or the rules that name it."
            yield Finding("targets", "error" if name in used else "warning", f"target {name}: {reason}", remedy)
    for trial in trials:
        yield _finding(trial, is_used=trial.name in used)


def _finding(trial: _Trial, *, is_used: bool) -> Finding:
    unused = "" if is_used else " (no rule uses it)"
    found = trial.result or TargetTest(reachable=False, detail=f"no answer in {_LIMIT_SECONDS:.0f} s")
    message = f"target {trial.name}: {found.detail}{unused}"
    if found.reachable:
        return Finding("targets", "ok", message)
    remedy = found.remedy or "Check that it runs and can be reached from here."
    return Finding("targets", "error" if is_used else "warning", message, f"{remedy} Jobs for it wait meanwhile.")
