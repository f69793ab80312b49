"""What the processor follows: values, made from the configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo

from mercure.core.module_result import DynamicRouting
from mercure.core.processing import ModuleRunner, ModuleSpec, RunnerKind
from mercure.core.processing_steps import StepPlan
from mercure.core.retry import RetryPolicy
from mercure.core.scheduling import OffPeak


@dataclass(frozen=True, slots=True)
class RuleProcessing:
    """What a rule says of processing by now: for a retry with the settings of today, and for the routing of results."""

    steps: tuple[StepPlan, ...] = ()
    routing: DynamicRouting = field(default_factory=DynamicRouting)


@dataclass(frozen=True, slots=True)
class ProcessorSettings:
    """What the processor follows. `unusable` has the modules that cannot run, with the reason."""

    modules: Mapping[str, ModuleSpec] = field(default_factory=dict)
    unusable: Mapping[str, str] = field(default_factory=dict)
    runners: Mapping[RunnerKind, ModuleRunner] = field(default_factory=dict)
    rules: Mapping[str, RuleProcessing] = field(default_factory=dict)
    targets: frozenset[str] = frozenset()
    """Those that a result can be sent to."""
    max_parallel: int = 4
    gpus: tuple[str, ...] = ()
    shared_gpus: bool = False
    """Several jobs may have the same GPU."""
    kill_grace_seconds: float = 10.0
    log_limit_bytes: int = 16 << 20
    persistence_folder: str = ""
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(10.0, 600.0))
    off_peak: OffPeak | None = None
    zone: tzinfo = UTC
    scan_interval_seconds: float = 1.0
    additional_tags: tuple[str, ...] = ()

    def is_off_peak(self, now: datetime) -> bool:
        """Whether off-peak jobs may run now; without hours they always may."""
        return self.off_peak is None or self.off_peak.contains(now.astimezone(self.zone).time())
