"""From a configuration to the values and objects that the services work with."""

from mercure.config import modules as module_config
from mercure.config import schema
from mercure.config.load import Loaded
from mercure.config.schema import Config
from mercure.core.completion import CompletionPolicy
from mercure.core.delivery import Target
from mercure.core.errors import ConfigError, ExpressionError
from mercure.core.module_result import DynamicRouting
from mercure.core.plan import RoutingRule
from mercure.core.processing import ModuleRunner, ModuleSpec, RunnerKind
from mercure.core.processing_steps import process_section
from mercure.core.retry import RetryPolicy
from mercure.core.rules import Expression
from mercure.core.scheduling import OffPeak
from mercure.core.task import Priority
from mercure.dicom.tls_client import TlsFiles
from mercure.dicom.worker_settings import PeerPort, TLSFiles, WorkerSettings, layout_folders
from mercure.runners.docker import DockerRunner
from mercure.runners.process import ProcessRunner
from mercure.services.dispatch_settings import DispatcherSettings, TargetSetup
from mercure.services.processing_settings import ProcessorSettings, RuleProcessing
from mercure.services.receiver import ReceiverSettings
from mercure.services.router import RouterSettings
from mercure.spool.identity import data_id
from mercure.spool.layout import Layout
from mercure.targets.dicom import DicomNode, DicomTarget
from mercure.targets.dummy import DummyTarget
from mercure.targets.folder import FolderTarget

_GIGABYTE = 10**9
_NO_END_SECONDS = 1e7


def layout_of(config: Config) -> Layout:
    """Return the data folder that a configuration names."""
    names = ("incoming", "studies", "processing", "outgoing", "success", "error", "discard", "jobs")
    return Layout(**{name: config.mercure.folder(name) for name in names})


def routing_rules(loaded: Loaded) -> tuple[RoutingRule, ...]:
    """Return the rules as the router needs them, in the order of the file.

    A broken one stays in its place: what it would have taken must wait, and is not left to a later rule that discards.
    When two rules of one name have different conditions, the name comes twice.
    """
    usable = {rule.name: rule for rule in loaded.config.rules}
    rules: list[RoutingRule] = []
    for name in dict.fromkeys(loaded.rule_names):
        rules += [_routing_rule(usable[name], loaded)] if name in usable else _broken_rules(name, loaded)
    return tuple(rules)


def _broken_rules(name: str, loaded: Loaded) -> list[RoutingRule]:
    return [
        RoutingRule(
            name,
            _parsed(condition)[0],
            broken=loaded.broken_rules[name],
            disabled=name in loaded.disabled_broken_rules,
            fallback=name in loaded.fallback_broken_rules,
        )
        for condition in loaded.broken_conditions.get(name, ("",))
    ]


def _parsed(condition: str) -> tuple[Expression | None, str]:
    """Return the expression, or None and why there is none."""
    try:
        return Expression.parse(condition), ""
    except ExpressionError as error:
        return None, str(error)


def _routing_rule(rule: schema.Rule, loaded: Loaded) -> RoutingRule:
    config = loaded.config
    expression, broken = _parsed(rule.condition)
    steps = module_config.steps_of(rule, config)
    # In the guide's form the target of a process rule is a module with its settings: nothing is sent to it.
    targets = tuple(name for name in rule.target if not isinstance(config.targets.get(name), schema.ProcessingTarget))
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
        tuple(step.module for step in steps),
        _module_fault([step.module for step in steps], loaded),
        process_section(steps),
    )


def _module_fault(names: list[str], loaded: Loaded) -> str:
    """Return why the modules of a rule cannot be used at all, or ""."""
    for name in names:
        if name in loaded.broken_modules:
            return f"needs module {name!r}, which cannot be used: {loaded.broken_modules[name]}"
        if name not in loaded.config.modules:
            return f"needs module {name!r}, which is not in the configuration"
    return ""


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


class Runners:
    """What runs modules. Those that a new configuration leaves as they are keep their connections."""

    def __init__(self) -> None:
        """Make none yet."""
        self._process = ProcessRunner()
        self._docker: tuple[object, DockerRunner] | None = None

    def of(self, config: Config, layout: Layout) -> dict[RunnerKind, ModuleRunner]:
        """Return the runners by kind. No engine is asked before a module needs one. Raises `SpoolError`."""
        processor = config.processor
        roots = tuple(str(root) for root in processor.allowed_volume_roots)
        mark = (layout, processor.docker_host, roots)
        if self._docker is None or self._docker[0] != mark:
            self.close()
            made = DockerRunner(data_id(layout), host=processor.docker_host, allowed_volumes=roots)
            self._docker = (mark, made)
        return {"process": self._process, "docker": self._docker[1]}

    def close(self) -> None:
        """Close connections to engines; runs that are followed go on."""
        if self._docker is not None:
            self._docker[1].close()


def processor_settings(loaded: Loaded, layout: Layout, runners: Runners) -> ProcessorSettings:
    """Return what the processor follows."""
    config = loaded.config
    mercure, processor = config.mercure, config.processor
    modules: dict[str, ModuleSpec] = {}
    unusable = {name: f"cannot be used: {reason}" for name, reason in loaded.broken_modules.items()}
    for name, module in config.modules.items():
        try:
            modules[name] = module_config.module_spec(name, module, processor)
        except ConfigError as error:
            unusable[name] = str(error)
    return ProcessorSettings(
        modules,
        unusable,
        runners.of(config, layout),
        {rule.name: _rule_processing(rule, config) for rule in config.rules},
        frozenset(name for name, why in target_states(loaded).items() if not why),
        processor.max_parallel_jobs,
        tuple(processor.gpus),
        processor.shared_gpus,
        processor.kill_grace_seconds,
        int(processor.log_limit_mb * 1_000_000),
        str(mercure.folder("persistence")),
        off_peak=OffPeak(mercure.offpeak_start, mercure.offpeak_end),
        zone=mercure.zone,
        scan_interval_seconds=mercure.dispatcher_scan_interval,
        additional_tags=tuple(config.receiver.additional_tags),
    )


def _rule_processing(rule: schema.Rule, config: Config) -> RuleProcessing:
    routing = DynamicRouting(
        rule.dynamic_routing, rule.dynamic_routing_allowed_targets, rule.conditional_alternate_target
    )
    return RuleProcessing(module_config.steps_of(rule, config), routing)
