"""The whole configuration as one value."""

from pydantic import Field

from mercure.config.receiving import (
    CommitmentPeer,
    DispatcherSection,
    ReceiverSection,
    ReceiverTls,
    StorageCommitment,
)
from mercure.config.rules import Action, Module, Priority, Rule
from mercure.config.secrets import Secret
from mercure.config.sections import (
    BookkeeperSection,
    CleanerSection,
    FeaturesSection,
    LogsSection,
    MercureSection,
    MetricsSection,
    NotificationsSection,
    ProcessorSection,
    QuerySection,
    WebguiSection,
)
from mercure.config.targets import (
    SENDER,
    DicomBase,
    DicomTarget,
    DicomTlsTarget,
    DicomWebTarget,
    DummyTarget,
    FolderTarget,
    ProcessingTarget,
    RsyncTarget,
    S3Target,
    SftpTarget,
    Target,
    TargetBase,
    XnatTarget,
)
from mercure.config.values import EntryName, Frozen, key

__all__ = [
    "SENDER",
    "Action",
    "BookkeeperSection",
    "CleanerSection",
    "CommitmentPeer",
    "Config",
    "DicomBase",
    "DicomTarget",
    "DicomTlsTarget",
    "DicomWebTarget",
    "DispatcherSection",
    "DummyTarget",
    "FeaturesSection",
    "FolderTarget",
    "LogsSection",
    "MercureSection",
    "MetricsSection",
    "Module",
    "NotificationsSection",
    "Priority",
    "ProcessingTarget",
    "ProcessorSection",
    "QuerySection",
    "ReceiverSection",
    "ReceiverTls",
    "RsyncTarget",
    "Rule",
    "S3Target",
    "Secret",
    "SftpTarget",
    "StorageCommitment",
    "Target",
    "TargetBase",
    "WebguiSection",
    "XnatTarget",
]


class Config(Frozen):
    """Everything that the file says. Rules are asked in their order."""

    mercure: MercureSection = key(MercureSection(), "Folders, intervals, completion, hours, names.")
    receiver: ReceiverSection = key(ReceiverSection(), "Who may send what.")
    dispatcher: DispatcherSection = key(DispatcherSection(), "How jobs are delivered.")
    processor: ProcessorSection = key(ProcessorSection(), "How modules run.")
    cleaner: CleanerSection = key(CleanerSection(), "When finished jobs are deleted.")
    webgui: WebguiSection = key(WebguiSection(), "The web pages.")
    bookkeeper: BookkeeperSection = key(BookkeeperSection(), "The service that writes events to the database.")
    notifications: NotificationsSection = key(NotificationsSection(), "E-mails and webhooks.")
    metrics: MetricsSection = key(MetricsSection(), "Where figures are sent.")
    logs: LogsSection = key(LogsSection(), "What becomes of the output of modules.")
    query: QuerySection = key(QuerySection(), "Kept from existing files.")
    features: FeaturesSection = key(FeaturesSection(), "Switches.")
    targets: dict[EntryName, Target] = Field(default={}, description="Where jobs leave to, by name.")
    rules: tuple[Rule, ...] = Field(default=(), description="What becomes of which series, in order.")
    modules: dict[EntryName, Module] = Field(default={}, description="Processing modules, by name.")

    def why_unusable(self, target: str) -> str | None:
        """Say why nothing can be sent to the target of this name, or None when something can."""
        found = self.targets.get(target)
        if found is None:
            return "there is no target of this name"
        if isinstance(found, ProcessingTarget):
            return "it is a module: it takes series of rules with the action process or both"
        if not found.usable:
            return f"targets of the type {found.target_type} are not built yet"
        if isinstance(found, DummyTarget) and not self.features.dummy_target:
            return "targets of the type dummy need features.dummy_target"
        if isinstance(found, DicomBase) and not found.called_ae_title and not found.forward_called_ae_title:
            return "it has no AE title to call: called_ae_title is empty, and forward_called_ae_title is not set"
        if found.direction == "pull":
            return "its direction is pull: nothing is sent to it"
        return None
