"""Rules and modules, as they stand in a configuration."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mercure.config.private import PrivateObject, PrivateSettings
from mercure.config.secrets import PrivateText, Secret, WebhookUrl
from mercure.config.values import (
    Chain,
    Cores,
    Count,
    CountOrZero,
    EntryNameOrEmpty,
    Frozen,
    Gigabytes,
    JsonObject,
    Label,
    MemorySize,
    Names,
    RunMemory,
    Seconds,
    json_object,
    key,
)
from mercure.core.processing import PullPolicy, RunnerKind

Action = Literal["route", "both", "process", "discard", "notification"]
Priority = Literal["normal", "urgent", "offpeak"]


class Rule(Frozen):
    """One rule: which series it takes, and what becomes of them. Rules are asked in the order of the file."""

    name: Label = Field(description="Name of the rule; each has its own.")
    condition: str = Field(description="Expression that says which series the rule takes.", max_length=65536)
    action: Action = key("route", "What is done: route, process, both (process, then route), discard, notification.")
    target: Names = key((), "Target or targets; each of them must be reached.")
    timeout: Seconds | None = key(
        None,
        "Longest time that one module of the job may run, seconds; 0: no limit; null: as the target, the module or "
        "processor says.",
    )
    disabled: bool = key(False, "The rule is skipped.")
    fallback: bool = key(False, "The rule is asked only when no other takes the series.")
    priority: Priority = key("normal", "urgent goes first; offpeak waits for the off-peak hours.")

    action_trigger: Literal["series", "study"] = key("series", "The rule acts on each series, or on whole studies.")
    study_trigger_condition: Literal["timeout", "received_series"] = key(
        "timeout", "A study is complete after a quiet time, or when certain series have come."
    )
    study_trigger_series: str = key("", "Which series complete a study.")
    study_force_completion_action: Literal["discard", "proceed", "ignore"] = key(
        "discard", "What is done with a study that stays incomplete."
    )

    processing_module: Chain = key((), "Module, or chain of modules in order.")
    processing_settings: PrivateSettings = key(
        {}, "Settings of the modules: one object for all, or a list with one for each.", repr=False
    )
    processing_retain_images: bool = key(False, "Add the images that went into a module to its result.")

    notification_webhook: WebhookUrl = key("", "URL that is told.", repr=False)
    notification_payload: PrivateText = key(
        "", "Members of the JSON object that is sent, without its braces.", repr=False
    )
    notification_payload_body: str = key("", "Template of the text that the payload calls body.")
    notification_email: str = key("", "Addresses that get an e-mail, separated by commas.")
    notification_email_body: str = key("", "Template of the e-mail.")
    notification_email_type: Literal["plain", "html"] = key("plain", "Form of the e-mail.")
    notification_trigger_reception: bool = key(True, "Tell when the images have come.")
    notification_trigger_completion: bool = key(True, "Tell when the job is done.")
    notification_trigger_completion_on_request: bool = key(False, "Tell at the end only when a module asks for it.")
    notification_trigger_error: bool = key(True, "Tell when the job failed.")

    dynamic_routing: bool = key(False, "A module may name the targets of its result.")
    dynamic_routing_allowed_targets: Names = key((), "Targets that a module may name.")
    conditional_alternate_target: str = key("", "Target that is used instead when a module asks for it.")

    contact: str = key("", "Who looks after the rule.")
    comment: str = key("", "For people.")
    tags: str = key("", "Words to find the rule by.")


def _environment(value: Any) -> Any:
    """Numbers and truth values in an environment become text, as they did when modules were started so far."""
    found = json_object(value)
    if not isinstance(found, dict):
        return found
    return {name: str(item) if isinstance(item, int | float) else item for name, item in found.items()}


Environment = Annotated[
    dict[str, Secret], BeforeValidator(_environment, json_schema_input_type=dict[str, Secret] | str)
]


def _command(value: Any) -> Any:
    """Take a list of texts only: a command is never split by us, and never goes through a shell."""
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
        raise ValueError("must be a list of texts: the program, then each argument; no shell reads it")
    if value and not value[0].strip():
        raise ValueError("must begin with a program")
    return tuple(value)


Command = Annotated[tuple[str, ...], BeforeValidator(_command, json_schema_input_type=list[str])]

_AS_PROCESSOR = "null: as processor"


class Module(Frozen):
    """A processing module: an image or a command, and how it runs."""

    docker_tag: str = key("", "Image of the module.", pattern=r"^[a-zA-Z0-9:/_.@-]*$")
    command: Command = key((), "Instead of an image: a program of this machine and its arguments, a text for each.")
    runner: RunnerKind | None = key(None, "What runs it; null: docker for an image, process for a command.")
    additional_volumes: JsonObject = key(
        {}, "More volumes, as Docker takes them, below allowed_volume_roots; an object, or text that holds such JSON."
    )
    environment: Environment = key({}, "Variables for the module; each value may be a secret, none is ever shown.")
    docker_arguments: PrivateObject = key(
        {}, "More arguments for the start of the container, of those that are allowed.", repr=False
    )
    settings: PrivateObject = key({}, "Settings for every job of this module.", repr=False)
    contact: str = key("", "Who looks after the module.")
    comment: str = key("", "For people.")
    constraints: str = key("", "Constraints for Nomad, HCL.")
    resources: str = key("", "Resources for Nomad, HCL.")
    requires_root: bool = key(False, "The module runs as root; needs support_root_modules.")
    requires_persistence: bool = key(False, "The module gets a folder that stays between jobs.")
    persistence_folder_name: EntryNameOrEmpty = key("", "Name of that folder; empty: name of the module.")
    network_enabled: bool = key(False, "The module may use the network.")

    timeout: Seconds | None = key(None, f"Longest time of one run, seconds; 0: no limit; {_AS_PROCESSOR}.")
    pull: PullPolicy = key("always", "When the image is fetched: always (at most hourly), missing, never.")
    writes_input: bool = key(False, "The module changes its input: it gets a copy, not links to what came.")
    memory_limit: RunMemory | None = key(None, f"Memory of one run, such as 4G; {_AS_PROCESSOR}.")
    cpu_limit: Cores | None = key(None, f"CPU cores of one run; {_AS_PROCESSOR}.")
    pids_limit: Count | None = key(None, f"Processes and threads of one run; {_AS_PROCESSOR}.")
    shm_size: MemorySize | None = key(None, "Shared memory of one run, such as 1G; null: Docker's own default.")
    gpus: CountOrZero = key(0, "GPUs that one run has for itself.")
    gpu_memory_limit: MemorySize | None = key(
        None, f"GPU memory that the module is told to keep to, such as 4G; {_AS_PROCESSOR}."
    )
    output_limit_gb: Gigabytes | None = key(
        None, f"Most that one run may write to its output, GB (10^9 bytes); 0: no limit; {_AS_PROCESSOR}."
    )
    max_parallel: Count | None = key(None, "Jobs of this module at the same time; null: max_parallel_jobs.")

    @model_validator(mode="after")
    def _is_image_or_command(self) -> "Module":
        if bool(self.docker_tag) == bool(self.command):
            has = "has both" if self.command else "has neither"
            raise ValueError(f"needs either docker_tag (an image) or command (a program of this machine), and {has}")
        if self.runner is not None and self.runner != self.kind:
            what = "a command" if self.command else "an image"
            raise ValueError(f"has {what}, which the runner {self.runner} cannot run")
        return self

    @property
    def kind(self) -> RunnerKind:
        """What runs it."""
        return "process" if self.command else "docker"
