"""What the receiver tells its worker processes: values, and their form on the control socket."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mercure.dicom.association_scp import Timeouts
from mercure.dicom.negotiation import AcceptancePolicy
from mercure.spool.layout import Layout


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """PEM files of the TLS port. With `require_client_certificate` peers without one signed by `ca_cert` end there."""

    key: str
    cert: str
    ca_cert: str = ""
    require_client_certificate: bool = False


@dataclass(frozen=True, slots=True)
class PeerPort:
    """Where the storage commitment reports of an AE title go when they need an association of their own."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Everything that a worker needs to know. Times in seconds, sizes in bytes."""

    folders: Mapping[str, str]
    called_ae_titles: tuple[str, ...] = ()
    calling_ae_titles: tuple[str, ...] = ()
    accept_compressed: bool = False
    storage_commitment: bool = True
    commitment_ports: Mapping[str, PeerPort] | None = None
    maximum_pdu_bytes: int = 262144
    acse_timeout_seconds: float = 30.0
    dimse_timeout_seconds: float = 60.0
    idle_timeout_seconds: float = 600.0
    min_free_bytes: int = 1 << 30
    fsync: bool = True
    hold_open: bool = False
    tls: TLSFiles | None = None

    @property
    def layout(self) -> Layout:
        """The data folder."""
        return Layout(**{name: Path(path) for name, path in self.folders.items()})

    @property
    def policy(self) -> AcceptancePolicy:
        """What is accepted."""
        return AcceptancePolicy(
            frozenset(self.called_ae_titles),
            frozenset(self.calling_ae_titles),
            self.accept_compressed,
            self.storage_commitment,
            self.maximum_pdu_bytes,
        )

    @property
    def timeouts(self) -> Timeouts:
        """How long a peer may be silent."""
        return Timeouts(self.acse_timeout_seconds, self.dimse_timeout_seconds, self.idle_timeout_seconds)

    def encode(self) -> bytes:
        """Return the settings as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> "WorkerSettings":
        """Read what `encode` wrote (already parsed)."""
        values = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        values["called_ae_titles"] = tuple(values["called_ae_titles"])
        values["calling_ae_titles"] = tuple(values["calling_ae_titles"])
        values["tls"] = TLSFiles(**values["tls"]) if values["tls"] else None
        values["commitment_ports"] = {
            title: PeerPort(**port) for title, port in (values["commitment_ports"] or {}).items()
        }
        return cls(**values)


def layout_folders(layout: Layout) -> dict[str, str]:
    """Return the folders of a layout as text, for `WorkerSettings.folders`."""
    return {name: str(path) for name, path in layout.folders().items()}
