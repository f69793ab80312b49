"""The sections `receiver` and `dispatcher`: the two sides of the wire."""

from typing import Self

from pydantic import Field, model_validator

from mercure.config.values import (
    AETitle,
    Count,
    CountOrZero,
    FilePath,
    Frozen,
    Gigabytes,
    HostOrEmpty,
    IPAddress,
    Network,
    PduSize,
    Port,
    Seconds,
    TagName,
    key,
)


class ReceiverTls(Frozen):
    """`receiver.tls`: a second port, for DICOM over TLS (PS3.15 B.12)."""

    port: Port = Field(default=2762, description="Port for TLS; may be the port of the receiver if that one is null.")
    key: FilePath = Field(description="Private key (PEM) of the receiver.")
    cert: FilePath = Field(description="Certificate (PEM) of the receiver, with its chain.")
    ca_cert: FilePath | None = Field(default=None, description="Authorities (PEM) that sign certificates of senders.")
    require_client_certificate: bool = Field(
        default=False, description="Refuse senders without a certificate that ca_cert signed."
    )

    @model_validator(mode="after")
    def _authority_is_known(self) -> Self:
        if self.require_client_certificate and self.ca_cert is None:
            raise ValueError("require_client_certificate needs ca_cert")
        return self


class CommitmentPeer(Frozen):
    """Where one AE title takes the report of a storage commitment."""

    ip: IPAddress = Field(description="IP address of the node.")
    port: Port = Field(description="Port on which the node accepts associations.")


class StorageCommitment(Frozen):
    """`receiver.storage_commitment`: PS3.4 J."""

    enabled: bool = key(True, "Answer requests for storage commitment.")
    ports: dict[AETitle, CommitmentPeer] = key(
        {}, "For each calling AE title, where a report goes when the association of the request has gone."
    )


class ReceiverSection(Frozen):
    """`receiver`: who may send what, and how much at once. Time-outs in seconds, 0 for none."""

    host: HostOrEmpty = key("", "Address to listen on; empty: all.")
    port: Port | None = key(11112, "Port without TLS; null: no such port, TLS only.")
    tls: ReceiverTls | None = key(None, "The port with TLS; null: none.")
    accept_compressed_images: bool = key(False, "Accept every transfer syntax, not only uncompressed ones.")
    called_ae_titles: tuple[AETitle, ...] = key((), "AE titles under which we answer; empty: any.")
    calling_ae_titles: tuple[AETitle, ...] = key((), "AE titles that may call; empty: any.")
    networks: tuple[Network, ...] = key((), "Networks that may call, such as 10.1.0.0/16; empty: any.")
    maximum_associations: Count = key(100, "Associations at the same time.")
    maximum_associations_per_peer: Count = key(50, "Associations at the same time from one address.")
    maximum_pdu_size: PduSize = key(262144, "Largest PDU that we accept, bytes (PS3.8 D.1).")
    acse_timeout: Seconds = key(30.0, "Wait for the request of an association, seconds; 0: no end.")
    dimse_timeout: Seconds = key(60.0, "Wait for the rest of a message that has begun, seconds; 0: no end.")
    idle_timeout: Seconds = key(600.0, "Wait for the next message, seconds; 0: no end.")
    workers: int = key(2, "Processes that receive.", ge=1, le=64)
    fsync: bool = key(True, "Make each instance durable before success is answered.")
    min_free_space_gb: Gigabytes = key(
        1.0, "Free space below which instances are refused (0xA700), GB (10^9 bytes), with 1,000 inodes; 0: never."
    )
    additional_tags: dict[TagName, str] = key({}, "More tags for rules: keyword or gggg,eeee, each with an example.")
    storage_commitment: StorageCommitment = key(StorageCommitment(), "Storage commitment.")

    @model_validator(mode="after")
    def _ports_fit(self) -> Self:
        if self.port is None and self.tls is None:
            raise ValueError("port is null and tls is missing: the receiver would have no port")
        if self.tls is not None and self.tls.port == self.port:
            raise ValueError("tls.port must differ from port (port may be null)")
        return self


class DispatcherSection(Frozen):
    """`dispatcher`: how jobs are delivered. A target may have its own of most."""

    max_parallel: int = key(4, "Jobs that are delivered at the same time.", ge=1, le=256)
    max_parallel_per_target: int = key(1, "Jobs that one target gets at the same time.", ge=1, le=256)
    retry_delay: Seconds = key(30.0, "Wait before the second attempt, seconds; doubled for each further one.")
    retry_max_delay: Seconds = key(3600.0, "Longest wait between two attempts, seconds.")
    retry_max: CountOrZero = key(20, "Attempts before a job goes to error; 0: no end.")
    connect_timeout: Seconds = key(10.0, "Wait for a connection, seconds; 0: no end.")
    response_timeout: Seconds = key(60.0, "Wait for an answer of the target, seconds; 0: no end.")
    associations_idle_seconds: Seconds = key(1.0, "How long an association stays open for the next job, seconds.")
    calling_ae_title: AETitle = key("MERCURE", "Our AE title where the target says nothing else.")
