"""`mercure run`: the platform, or some of its services."""

import errno
import logging
import os
import threading
from collections.abc import Sequence
from typing import Annotated

import typer

from mercure import __version__
from mercure.app.assembly import layout_of, target_states
from mercure.app.platform import SERVICES, Platform
from mercure.cli import installation, logs, probe_folders, probe_ports
from mercure.cli.exits import CommandError, Exit
from mercure.cli.folder_watch import FolderWatch
from mercure.cli.options import new_app
from mercure.cli.running import belongs_to
from mercure.config.folders import STAGES
from mercure.config.load import Loaded
from mercure.config.sections import MercureSection
from mercure.config.store import ConfigStore
from mercure.core.errors import ConfigError
from mercure.spool.layout import Layout

app = new_app()
log = logging.getLogger("mercure")

_PRIVILEGED_PORTS = 1024


@app.command()
def run(
    services: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SERVICE]...", help=f"Any of {', '.join(SERVICES)}; by default all."),
    ] = None,
) -> None:
    """Run the platform, or some of its services, until SIGTERM or Ctrl-C.

    Logs go to stderr: MERCURE_LOG_LEVEL is their level, MERCURE_DEBUG=true shows everything. A changed configuration
    is taken up while it runs. Exit status 3: the configuration cannot be used. 4: the data folder. 5: a port.
    """
    logs.set_up(os.environ)
    names = _checked(services)
    store = ConfigStore(installation.configuration_file())
    try:
        loaded = store.load()
    except ConfigError as error:
        raise installation.unusable(store.path, error) from None
    if "receiver" in names:
        _check_ports(loaded)
    platform = Platform(store, names)
    _check_folders(platform)
    platform.stop_on_signals()
    log.info("mercure %s, process %d: %s", __version__, os.getpid(), ", ".join(names))
    log.info("configuration %s, %s", store.path, _where(loaded.config.mercure))
    _warn(loaded)
    _run(platform, names)
    log.info("mercure has stopped")


def _checked(services: Sequence[str] | None) -> tuple[str, ...]:
    unknown = [name for name in services or () if name not in SERVICES]
    if unknown:
        raise CommandError(f"there is no service {unknown[0]!r}", f"Services: {', '.join(SERVICES)}.", Exit.USAGE)
    return tuple(name for name in SERVICES if not services or name in services)


def _where(section: MercureSection) -> str:
    """Say where the data is: a data folder that does not hold all stages, or is not there at all, says nothing."""
    if all(section.folder(name).is_relative_to(section.data_folder) for name in STAGES):
        return f"data folder {section.data_folder}"
    return f"incoming folder {section.folder('incoming')}"


def _check_ports(loaded: Loaded) -> None:
    """Open and close each port, so that a port that is taken is said at once, and by whom."""
    receiver = loaded.config.receiver
    for port in filter(None, (receiver.port, receiver.tls.port if receiver.tls else None)):
        number, reason = probe_ports.why_not_free(receiver.host, port)
        if number:
            trouble = port_trouble(receiver.host, port, number, reason, layout_of(loaded.config))
            raise CommandError(*trouble, Exit.PORT)


def port_trouble(host: str, port: int, number: int, reason: str, layout: Layout) -> tuple[str, str]:
    """Return what is wrong with a port that cannot be opened, and what to do. `layout` is our own data folder."""
    if number == errno.EADDRINUSE:
        holder = probe_ports.holder_of(port)
        message = f"port {port} is taken by {holder}"
        if holder.pid and belongs_to(holder.pid, layout):
            return message, "It runs already; stop it first, or set another receiver.port."
        if holder.is_mercure:
            return f"{message}, with another data folder", "Stop that one, or set another receiver.port."
        return message, "Stop that program, or set another receiver.port."
    if number == errno.EACCES and port < _PRIVILEGED_PORTS:
        return f"port {port} is only for root", "Set a receiver.port of 1024 or more, or give CAP_NET_BIND_SERVICE."
    place = f"{host}:{port}" if host else f"port {port}"
    return f"{place} cannot be opened: {reason}", "receiver.host must be an address of this machine, or empty for all."


def _check_folders(platform: Platform) -> None:
    trouble = probe_folders.state_of(platform.layout)
    if trouble:
        folder, reason = next(iter(trouble.items()))
        more = f" (and {len(trouble) - 1} more)" if len(trouble) > 1 else ""
        remedy = "Mount it writable, or give it to the user of this service; `mercure doctor` examines all folders."
        raise CommandError(f"the folder {folder} {reason}{more}", remedy, Exit.DATA_FOLDER)


def _warn(loaded: Loaded) -> None:
    """Say before anything arrives that it would not get far."""
    errors = sum(problem.severity == "error" for problem in loaded.problems)
    states = target_states(loaded)
    rules = [rule for rule in loaded.config.rules if not rule.disabled]
    if not rules and not loaded.broken_rules:
        log.warning("the configuration has no rules: every series will be discarded")
    elif rules and all(rule.target and all(states.get(t, "missing") for t in rule.target) for rule in rules):
        log.error("every target of every rule is missing or unusable: nothing will be delivered; see `mercure doctor`")
    elif errors:
        log.warning("parts of the configuration cannot be used; see `mercure doctor`")


def _run(platform: Platform, names: Sequence[str]) -> None:
    watch = FolderWatch(lambda: platform.layout)
    watch.start()
    if "receiver" in names:
        threading.Thread(target=_say_where, args=(platform,), daemon=True).start()
    try:
        platform.run()
    finally:
        watch.stop()


def _say_where(platform: Platform) -> None:
    receiver = platform.service("receiver")
    receiver.listening.wait()
    log.info("ready: receiving DICOM on port %s; Ctrl-C stops", " and ".join(map(str, receiver.ports)))
