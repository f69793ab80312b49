"""The composition root: from a configuration to objects. The only place that knows every package."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mercure.config.load import Loaded
from mercure.config.schema import Config
from mercure.config.store import ConfigStore, Rejection
from mercure.core.completion import CompletionPolicy
from mercure.core.delivery import Target
from mercure.core.errors import ConfigError, ExpressionError, SpoolError
from mercure.core.events import Event, EventKind
from mercure.core.plan import RoutingRule
from mercure.core.retry import RetryPolicy
from mercure.core.rules import Expression
from mercure.core.scheduling import OffPeak
from mercure.core.task import Priority
from mercure.dicom.tls_client import TlsFiles
from mercure.dicom.worker_settings import PeerPort, TLSFiles, WorkerSettings, layout_folders
from mercure.journal.writer import JournalWriter
from mercure.services.clock import SystemClock
from mercure.services.dispatch_settings import DispatcherSettings, TargetSetup
from mercure.services.dispatcher import Dispatcher
from mercure.services.receiver import Receiver, ReceiverSettings
from mercure.services.reception_log import ReceptionLog
from mercure.services.router import Router, RouterSettings
from mercure.services.service import Service
from mercure.services.supervisor import Supervisor
from mercure.spool.layout import Layout
from mercure.targets.dicom import DicomNode, DicomTarget
from mercure.targets.dummy import DummyTarget
from mercure.targets.folder import FolderTarget

from mercure.config import schema  # isort: skip  -- its names clash with those of the targets above

log = logging.getLogger(__name__)

SERVICES = ("receiver", "router", "dispatcher")

_GIGABYTE = 10**9
_CONFIG_POLL_SECONDS = 1.0
_NO_END_SECONDS = 1e7


def layout_of(config: Config) -> Layout:
    """Return the data folder that a configuration names."""
    names = ("incoming", "studies", "processing", "outgoing", "success", "error", "discard", "jobs")
    return Layout(**{name: config.mercure.folder(name) for name in names})


def routing_rules(loaded: Loaded) -> tuple[RoutingRule, ...]:
    """Return the rules as the router needs them, in the order of the file.

    A broken one stays in its place: what it would have taken must wait, and is not left to a later rule that discards.
    """
    usable = {rule.name: rule for rule in loaded.config.rules}
    return tuple(
        _routing_rule(usable[name], loaded.config)
        if name in usable
        else RoutingRule(
            name,
            None,
            broken=loaded.broken_rules[name],
            disabled=name in loaded.disabled_broken_rules,
            fallback=name in loaded.fallback_broken_rules,
        )
        for name in dict.fromkeys(loaded.rule_names)
    )


def _routing_rule(rule: schema.Rule, config: Config) -> RoutingRule:
    expression, broken = None, ""
    try:
        expression = Expression.parse(rule.condition)
    except ExpressionError as error:
        broken = str(error)
    targets, modules = rule.target, rule.processing_module
    if rule.action in ("process", "both") and not modules:
        # The guide's form: the target of a process rule is a module with its settings.
        named = [config.targets.get(name) for name in targets]
        modules = tuple(
            m for target in named if isinstance(target, schema.ProcessingTarget) for m in target.processing_module
        )
        targets = tuple(name for name in targets if not isinstance(config.targets.get(name), schema.ProcessingTarget))
    return RoutingRule(
        rule.name,
        expression,
        broken,
        rule.action,
        targets,
        Priority(rule.priority),
        rule.disabled,
        rule.fallback,
        rule.action_trigger,
        modules,
    )


def target_states(loaded: Loaded) -> dict[str, str]:
    """Return each target that the file names: "" when something can be sent to it, else why not."""
    names = (*loaded.config.targets, *loaded.broken_targets)
    return {name: loaded.why_unusable(name) or "" for name in names}


def build_target(target: schema.Target, config: Config) -> Target:
    """Return what sends to a target. Raises `ConfigError` for a kind that nothing can be sent to."""
    dispatcher = config.dispatcher
    if isinstance(target, schema.FolderTarget):
        return FolderTarget(str(target.folder), target.exclude)
    if isinstance(target, schema.DummyTarget):
        return DummyTarget()
    if not isinstance(target, schema.DicomTarget | schema.DicomTlsTarget):
        raise ConfigError(f"targets of the type {target.target_type} are not built yet")
    tls = None
    if isinstance(target, schema.DicomTlsTarget):
        tls = TlsFiles(str(target.tls_key), str(target.tls_cert), str(target.ca_cert))
    return DicomTarget(
        DicomNode(
            target.host,
            target.port,
            target.called_ae_title,
            target.calling_ae_title or dispatcher.calling_ae_title,
            target.forward_calling_ae_title,
            target.forward_called_ae_title,
            tls,
            _wait(_given(target.connect_timeout, dispatcher.connect_timeout)),
            _wait(_given(target.timeout, dispatcher.response_timeout)),
            dispatcher.associations_idle_seconds,
        )
    )


def _wait(seconds: float) -> float:
    """Return a time-out that sockets take: 0 in the configuration means no end, here as good as none."""
    return seconds or _NO_END_SECONDS


def _given(own: float | None, common: float) -> float:
    return common if own is None else own


class TargetSet:
    """The targets of the dispatcher; those that a new configuration leaves as they are keep their associations."""

    def __init__(self) -> None:
        """Start without targets."""
        self._built: dict[str, tuple[object, TargetSetup]] = {}

    def of(self, loaded: Loaded) -> dict[str, TargetSetup]:
        """Return the usable targets of a configuration by name."""
        config = loaded.config
        setups = {}
        for name, target in config.targets.items():
            if config.why_unusable(name) is None:
                mark = (target, config.dispatcher)
                known = self._built.get(name)
                setups[name] = known[1] if known and known[0] == mark else self._setup(target, config)
                self._built[name] = (mark, setups[name])
        return setups

    @staticmethod
    def _setup(target: schema.Target, config: Config) -> TargetSetup:
        common = config.dispatcher
        retry = RetryPolicy(
            _given(target.retry_delay, common.retry_delay),
            _given(target.retry_max_delay, common.retry_max_delay),
            common.retry_max if target.retry_max is None else target.retry_max,
        )
        return TargetSetup(build_target(target, config), retry, target.max_parallel or common.max_parallel_per_target)


def receiver_settings(loaded: Loaded, layout: Layout) -> ReceiverSettings:
    """Return what the receiver follows."""
    config, receiver = loaded.config, loaded.config.receiver
    tls = receiver.tls
    worker = WorkerSettings(
        folders=layout_folders(layout),
        called_ae_titles=tuple(receiver.called_ae_titles),
        calling_ae_titles=tuple(receiver.calling_ae_titles),
        accept_compressed=receiver.accept_compressed_images,
        storage_commitment=receiver.storage_commitment.enabled,
        commitment_ports=_commitment_ports(config),
        maximum_pdu_bytes=receiver.maximum_pdu_size,
        acse_timeout_seconds=_wait(receiver.acse_timeout),
        dimse_timeout_seconds=_wait(receiver.dimse_timeout),
        idle_timeout_seconds=_wait(receiver.idle_timeout),
        min_free_bytes=int(receiver.min_free_space_gb * _GIGABYTE),
        fsync=receiver.fsync,
        hold_open=config.mercure.series_complete_on_release,
        tls=TLSFiles(
            str(tls.key), str(tls.cert), str(tls.ca_cert) if tls.ca_cert else "", tls.require_client_certificate
        )
        if tls
        else None,
    )
    return ReceiverSettings(
        worker,
        receiver.host,
        receiver.port,
        tls.port if tls else None,
        tuple(receiver.networks),
        receiver.maximum_associations,
        receiver.maximum_associations_per_peer,
        receiver.workers,
    )


def _commitment_ports(config: Config) -> dict[str, PeerPort]:
    """Return where storage commitment reports go: what is configured, and else the DICOM target with that AE title."""
    ports = {
        target.called_ae_title: PeerPort(target.host, target.port)
        for target in config.targets.values()
        if isinstance(target, schema.DicomTarget) and target.called_ae_title and target.host != schema.SENDER
    }
    given = config.receiver.storage_commitment.ports
    ports.update({title: PeerPort(str(peer.ip), peer.port) for title, peer in given.items()})
    return ports


def router_settings(loaded: Loaded) -> RouterSettings:
    """Return what the router follows."""
    mercure = loaded.config.mercure
    return RouterSettings(
        CompletionPolicy(
            mercure.series_complete_trigger, mercure.series_complete_on_release, mercure.release_grace_seconds
        ),
        routing_rules(loaded),
        target_states(loaded),
        tuple(loaded.config.receiver.additional_tags),
        mercure.router_scan_interval,
        mercure.appliance_name,
    )


def dispatcher_settings(loaded: Loaded, targets: TargetSet) -> DispatcherSettings:
    """Return what the dispatcher follows."""
    mercure, dispatcher = loaded.config.mercure, loaded.config.dispatcher
    states = target_states(loaded)
    return DispatcherSettings(
        targets.of(loaded),
        {name: why for name, why in states.items() if why},
        dispatcher.max_parallel,
        OffPeak(mercure.offpeak_start, mercure.offpeak_end),
        mercure.zone,
        mercure.dispatcher_scan_interval,
    )


class _Configurable(Protocol):
    def configure(self, settings: Any) -> None: ...


class Platform:
    """All or some services in one process, with one configuration file and one journal."""

    def __init__(self, store: ConfigStore, names: Sequence[str] = SERVICES) -> None:
        """Load the configuration and build the services. Raises `ConfigError` or `SpoolError`."""
        unknown = [name for name in names if name not in SERVICES]
        if unknown:
            raise ConfigError(f"no service {unknown[0]!r}; there are {', '.join(SERVICES)}")
        self._store = store
        self._stop = threading.Event()
        self._reported: Rejection | None = None
        self._targets = TargetSet()
        loaded = store.load()
        self.layout = layout_of(loaded.config)
        self.layout.create()
        self.clock = SystemClock()
        self._names = names
        self.events = self._journal()
        self._services = self._build(loaded, names)
        self.supervisor = Supervisor(self._services, self.clock, self.events)
        self._report(loaded)

    def _journal(self) -> JournalWriter:
        name = "-".join(self._names) if len(self._names) < len(SERVICES) else "mercure"
        return JournalWriter(self.layout.journal, name)

    def _build(self, loaded: Loaded, names: Sequence[str]) -> list[Service]:
        services: list[Service] = []
        wake_dispatcher: Callable[[], None] = lambda: None  # noqa: E731
        if "dispatcher" in names:
            dispatcher = Dispatcher(self.layout, dispatcher_settings(loaded, self._targets), self.clock, self.events)
            wake_dispatcher = dispatcher.wake
            services.append(dispatcher)
        if "router" in names:
            services.append(
                Router(self.layout, router_settings(loaded), self.clock, self.events, on_jobs=wake_dispatcher)
            )
        reception = ReceptionLog(self.clock, self.events)
        if "receiver" in names:
            services.append(
                Receiver(
                    receiver_settings(loaded, self.layout),
                    on_association=reception.association,
                    on_recovered=reception.recovered,
                    on_end=reception.end,
                )
            )
        return services

    def service(self, name: str) -> Any:
        """Return a service of this platform by name."""
        return next(service for service in self._services if service.name == name)

    def run(self) -> None:
        """Run until a signal or `stop`. Returns when everything has ended in order."""
        self.supervisor.start()
        try:
            while not self._stop.wait(_CONFIG_POLL_SECONDS):
                self.poll_config()
        finally:
            self.supervisor.stop()
            self.events.close()

    def stop(self) -> None:
        """End `run` soon. Callable from a signal handler."""
        self._stop.set()

    def stop_on_signals(self) -> None:
        """End in order on SIGTERM and SIGINT; a second signal ends at once."""

        def handle(number: int, _frame: object) -> None:
            if self._stop.is_set():
                os._exit(128 + number)
            self.stop()

        signal.signal(signal.SIGTERM, handle)
        signal.signal(signal.SIGINT, handle)

    def poll_config(self) -> None:
        """Take up a changed configuration file, or say loudly why not."""
        try:
            loaded = self._store.poll()
        except ConfigError as error:
            log.error("configuration: %s", error)  # noqa: TRY400
            return
        rejected = self._store.rejected
        if rejected is not None and rejected is not self._reported:
            log.error("the changed configuration is NOT used, the last good one goes on: %s", rejected)
            self.events.emit(Event(EventKind.CONFIG_REJECTED, self.clock.now(), detail=str(rejected)[:2000]))
        self._reported = rejected
        if loaded is None:
            return
        log.info("configuration taken up (revision %s)", loaded.revision[:12])
        self._report(loaded)
        if layout_of(loaded.config) != self.layout and self._move_to(loaded):
            return
        for name, settings in (
            ("receiver", receiver_settings(loaded, self.layout)),
            ("router", router_settings(loaded)),
            ("dispatcher", dispatcher_settings(loaded, self._targets)),
        ):
            for service in self._services:
                if service.name == name:
                    configurable: _Configurable = service  # type: ignore[assignment]
                    configurable.configure(settings)

    def _move_to(self, loaded: Loaded) -> bool:
        """Go on in other data folders: end every service in order and start it anew. What is in the old ones stays.

        False when the new ones cannot be used.
        """
        layout = layout_of(loaded.config)
        try:
            layout.create()
        except SpoolError as error:
            log.error("the new data folders cannot be used, the old ones go on: %s", error)  # noqa: TRY400
            return False
        log.warning("the data folders change; what the old ones hold waits there until they are configured again")
        self.supervisor.stop()
        self.events.close()
        self.layout = layout
        self.events = self._journal()
        self._services = self._build(loaded, self._names)
        self.supervisor = Supervisor(self._services, self.clock, self.events)
        self.supervisor.start()
        return True

    def _report(self, loaded: Loaded) -> None:
        for problem in loaded.problems:
            log.log(logging.ERROR if problem.severity == "error" else logging.WARNING, "configuration: %s", problem)
        self.events.emit(Event(EventKind.CONFIG_LOADED, self.clock.now(), detail=loaded.revision[:12]))
