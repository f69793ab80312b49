"""Ports and targets."""

from collections.abc import Iterator

from mercure.app.assembly import layout_of
from mercure.cli import probe_ports
from mercure.cli.doctor_findings import Finding
from mercure.cli.run import port_trouble
from mercure.cli.running import belongs_to
from mercure.cli.target_trial import trial_of, try_all
from mercure.config.files import unreadable_files
from mercure.config.load import Loaded
from mercure.config.schema import Config, ProcessingTarget
from mercure.core.delivery import TargetTest

_CONNECT_SECONDS = 5.0
_LIMIT_SECONDS = 12.0


def port_findings(config: Config) -> Iterator[Finding]:
    """Look whether each port of the receiver is free, or is held by the running platform."""
    receiver, layout = config.receiver, layout_of(config)
    for port in filter(None, (receiver.port, receiver.tls.port if receiver.tls else None)):
        number, reason = probe_ports.why_not_free(receiver.host, port)
        holder = probe_ports.holder_of(port) if number else None
        if not number:
            yield Finding("ports", "ok", f"port {port} is free; nothing receives on it now")
        elif holder and holder.pid and belongs_to(holder.pid, layout):
            yield Finding("ports", "ok", f"the running mercure (process {holder.pid}) listens on port {port}")
        elif holder and number and not holder.pid and _is_taken(reason):
            message = f"port {port} is taken by a process that this user cannot see"
            yield Finding("ports", "warning", message, "Run this as the user of the services, or as root.")
        else:
            yield Finding("ports", "error", *port_trouble(receiver.host, port, number, reason, layout))


def _is_taken(reason: str) -> bool:
    return "in use" in reason


def target_findings(loaded: Loaded) -> Iterator[Finding]:
    """Ask all targets at once whether they answer. One that no rule uses is no more than a warning."""
    config = loaded.config
    used = {name for rule in config.rules if not rule.disabled for name in rule.target}
    usable = [name for name in config.targets if not loaded.why_unusable(name)]
    results = try_all((trial_of(name, config, _CONNECT_SECONDS) for name in usable), _LIMIT_SECONDS)
    for name, target in config.targets.items():
        if isinstance(target, ProcessingTarget):
            continue  # nothing is sent to it: modules are examined by themselves
        if reason := loaded.why_unusable(name):
            remedy = "Change the target, or the rules that name it."
            yield Finding("targets", "error" if name in used else "warning", f"target {name}: {reason}", remedy)
    without_files = {one.path[1] for one in unreadable_files(config) if one.path[0] == "targets"}
    for name, found in results.items():
        yield _finding(name, found, is_used=name in used, is_error=name in used or name in without_files)


def _finding(name: str, found: TargetTest, *, is_used: bool, is_error: bool) -> Finding:
    unused = "" if is_used else " (no rule uses it)"
    message = f"target {name}: {found.detail}{unused}"
    if found.reachable:
        return Finding("targets", "ok", message)
    remedy = found.remedy or "Check that it runs and can be reached from here."
    return Finding("targets", "error" if is_error else "warning", message, f"{remedy} Jobs for it wait meanwhile.")
