"""The sections of the configuration that are neither receiver, dispatcher, rules, targets nor modules."""

import re
import zoneinfo
from datetime import UTC, time, tzinfo
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from mercure.config.private import PrivateNode
from mercure.config.secrets import PrivateUrl, Secret
from mercure.config.values import (
    Cores,
    Count,
    Days,
    FilePath,
    Folder,
    Frozen,
    Gigabytes,
    HostOrEmpty,
    Interval,
    MemorySize,
    Percentage,
    Port,
    RunMemory,
    Seconds,
    TimeOfDay,
    Zone,
    key,
)

Megabytes = Annotated[Gigabytes, Field(gt=0)]

_OWN_FOLDER = "Folder of this stage; null: a folder of this name in data_folder."


class MercureSection(Frozen):
    """`mercure`: folders, how often services look, when a series is complete, hours and zones, names."""

    appliance_name: str = key("master", "Name of this installation: in pages, task.json and metrics.", max_length=128)
    appliance_color: str = key("#FFF", "CSS colour of the name in pages.", pattern=r"^[#A-Za-z0-9(),.% -]{1,64}$")

    data_folder: Folder = key(Path("/opt/mercure/data"), "Folder that holds the stage folders.")
    incoming_folder: Folder | None = key(None, _OWN_FOLDER)
    studies_folder: Folder | None = key(None, _OWN_FOLDER)
    processing_folder: Folder | None = key(None, _OWN_FOLDER)
    outgoing_folder: Folder | None = key(None, _OWN_FOLDER)
    success_folder: Folder | None = key(None, _OWN_FOLDER)
    error_folder: Folder | None = key(None, _OWN_FOLDER)
    discard_folder: Folder | None = key(None, _OWN_FOLDER)
    jobs_folder: Folder | None = key(None, "Folder of the journal and of requests; null: jobs in data_folder.")
    persistence_folder: Folder | None = key(
        None, "Folder of what modules keep between jobs; null: persistence in data_folder."
    )

    router_scan_interval: Interval = key(1.0, "Longest time between two looks of the router, seconds.")
    dispatcher_scan_interval: Interval = key(
        1.0, "Longest time between two looks of the dispatcher and of the processor, seconds."
    )
    cleaner_scan_interval: Interval = key(60.0, "Time between two rounds of the cleaner, seconds.")
    retention_days: Days = key(7.0, "Days that finished jobs are kept where the section cleaner says nothing else.")

    series_complete_trigger: Seconds = key(60.0, "Quiet time after which a series is complete, seconds.")
    series_complete_on_release: bool = key(
        False, "A series is complete already when every association that brought it has been released."
    )
    release_grace_seconds: Seconds = key(2.0, "Wait after the last release before such a series is complete, seconds.")
    study_complete_trigger: Seconds = key(900.0, "Quiet time after which a study is complete, seconds.")
    study_forcecomplete_trigger: Seconds = key(5400.0, "Age at which an incomplete study is ended, seconds.")

    offpeak_start: TimeOfDay = key(time(22), "Start of the off-peak hours, HH:MM in local_time.")
    offpeak_end: TimeOfDay = key(
        time(6), "End of the off-peak hours, HH:MM in local_time; equal to the start: the whole day."
    )
    server_time: Zone = key("UTC", "Time zone (IANA) that the server writes in its logs.")
    local_time: Zone = key("UTC", "Time zone (IANA) of pages, templates and off-peak hours.")

    def folder(self, name: str) -> Path:
        """Return the folder `incoming`, `studies`, `processing`, ..., `jobs` or `persistence`."""
        own: Path | None = getattr(self, f"{name}_folder")
        return own if own is not None else self.data_folder / name

    @property
    def zone(self) -> tzinfo:
        """The zone of `local_time`. UTC needs no data base of zones."""
        return UTC if self.local_time == "UTC" else zoneinfo.ZoneInfo(self.local_time)


def _gpus(value: Any) -> Any:
    """A number stands for so many GPUs, counted from 0; numbers in a list are ids as well."""
    if isinstance(value, bool):
        raise ValueError("must be a number, or a list of ids")  # noqa: TRY004
    if isinstance(value, int):
        if not 0 <= value <= _MOST_GPUS:
            raise ValueError(f"must be at most {_MOST_GPUS}")
        return tuple(str(number) for number in range(value))
    if isinstance(value, list | tuple) and all(isinstance(one, str | int) for one in value):
        ids = tuple(dict.fromkeys(str(one) for one in value))
        if len(ids) <= _MOST_GPUS and all(_GPU.fullmatch(one) for one in ids):
            return ids
    raise ValueError("must be a number of GPUs, or a list of their ids, such as 0 or GPU-8f5b...")


_MOST_GPUS: Final = 64
_GPU: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9:=./_-]{0,127}")
Gpus = Annotated[tuple[str, ...], BeforeValidator(_gpus, json_schema_input_type=int | list[str])]


class ProcessorSection(Frozen):
    """`processor`: how modules run."""

    max_parallel_jobs: Count = key(4, "Jobs that are processed at the same time.")
    runner: Literal["", "docker", "process", "nomad"] = key(
        "docker", "What runs images: docker; process: nothing, only commands are run here; nomad; empty: docker."
    )
    docker_host: str = key("", "Address of the Docker engine, such as unix:///run/docker.sock; empty: its default.")
    runtime: str | None = key(
        None,
        "Docker runtime of every module, such as nvidia; null: Docker's own default.",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?$",
    )
    support_root_modules: bool = key(False, "Allow modules that need to run as root.")
    allowed_volume_roots: tuple[Folder, ...] = key(
        (Path("/opt/mercure/processor_volumes"),),
        "Folders below which the additional_volumes of modules may lie; MERCURE_PROCESSOR_EXTRA_VOLUMES adds more.",
    )

    timeout: Seconds | None = key(None, "Longest time that one module may run, seconds; null or 0: no limit.")
    kill_grace_seconds: Seconds = key(10.0, "Wait between SIGTERM and SIGKILL, seconds.")
    memory_limit: RunMemory | None = key(None, "Memory that one run of a module may use, such as 8G; null: no limit.")
    cpu_limit: Cores | None = key(None, "CPU cores that one run of a module may use; null: no limit.")
    pids_limit: Count | None = key(1024, "Processes and threads of one run of a module; null: no limit.")
    output_limit_gb: Gigabytes = key(50.0, "Most that one run may write to its output, GB (10^9 bytes); 0: no limit.")
    log_limit_mb: Megabytes = key(16.0, "Most that is kept of what one run prints, MB (10^6 bytes).")

    gpus: Gpus = key((), "GPUs that modules may have: ids in a list, or how many there are; empty: none.")
    shared_gpus: bool = key(False, "Several jobs may have the same GPU at the same time.")
    gpu_memory_limit: MemorySize | None = key(
        None, "GPU memory that a module is told to keep to, such as 4G; null: nothing is said."
    )


class CleanerSection(Frozen):
    """`cleaner`: when finished jobs are deleted."""

    success_retention_days: Days | None = key(None, "Days that delivered jobs are kept; null: retention_days.")
    error_retention_days: Days | None = key(None, "Days that failed jobs are kept; null: for ever.")
    discard_retention_days: Days | None = key(None, "Days that discarded series are kept; null: retention_days.")
    min_free_space_gb: Gigabytes = key(
        10.0, "Free space below which the oldest finished jobs are deleted early, GB (10^9 bytes); 0: never."
    )
    emergency_clean_percentage: Percentage = key(
        90.0, "Use of the disk above which the oldest finished jobs are deleted early, percent."
    )


class WebguiSection(Frozen):
    """`webgui`: the web pages."""

    auth_token_key: Secret | None = key(None, "Key that signs the sessions of users; a secret.")
    ssl_certificate: FilePath | None = key(None, "Certificate (PEM) of the web server; null: no TLS.")
    ssl_key: FilePath | None = key(None, "Private key (PEM) of the web server.")


class BookkeeperSection(Frozen):
    """`bookkeeper`: the service that writes events to the database."""

    address: str | None = key(
        "0.0.0.0:8080", "Host and port of the bookkeeper; null: none.", pattern=r"^[^\s/@]+:\d{1,5}$"
    )
    api_key: Secret | None = key(None, "Token of the bookkeeper's API; a secret.")
    store_sample_dicom_tags: bool = key(False, "Store the header of one instance of each series with its job.")


class NotificationsSection(Frozen):
    """`notifications`: what e-mails and webhooks have in common."""

    email_from: str = key("mercure@mercure.mercure", "Sender of e-mails.", max_length=320)
    webhook_ca_file: FilePath | None = key(None, "More certificate authorities (PEM) for webhooks.")
    include_patient_data: bool = key(False, "Offer accession number, patient id and name to templates.")


class MetricsSection(Frozen):
    """`metrics`: where figures are sent."""

    graphite_host: HostOrEmpty = key("", "Host of a Graphite server; empty: none.")
    graphite_port: Port = key(2003, "Port of the Graphite server.")
    influxdb_url: PrivateUrl = key(
        "", "URL of an InfluxDB server, version 2; empty: none.", pattern=r"^(https?://\S+)?$"
    )
    influxdb_token: Secret | None = key(None, "Token for InfluxDB; a secret.")
    influxdb_org: str = key("", "Organisation in InfluxDB.")
    influxdb_bucket: str = key("", "Bucket in InfluxDB.")


class LogsSection(Frozen):
    """`logs`: what becomes of the output of modules."""

    discard_module_logs: bool = key(False, "Do not keep the output of modules in the database.")
    module_logs_folder: Folder | None = key(None, "Folder that keeps the output of modules instead of the database.")


class QuerySection(Frozen):
    """`query`: kept from existing files."""

    dicom_nodes: tuple[PrivateNode, ...] = key((), "Nodes to query.", repr=False)
    destination_folders: tuple[PrivateNode, ...] = key((), "Folders to retrieve to.", repr=False)


class FeaturesSection(Frozen):
    """`features`: switches."""

    dummy_target: bool = Field(default=False, description="Allow targets that deliver nothing, for tests.")
