"""Where jobs leave to. `target_type` tells the kinds apart; what is not built yet is read in full and kept."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from mercure.config.private import PrivateObject
from mercure.config.secrets import PrivateUrl, Secret
from mercure.config.values import (
    AETitle,
    AETitleOrEmpty,
    Chain,
    CountOrZero,
    FilePath,
    Folder,
    Frozen,
    Globs,
    Host,
    Port,
    Seconds,
    key,
)

SENDER = "sender"
"""Host of a DICOM target that means: back to the address that sent the series."""


class TargetBase(Frozen):
    """What all targets have. A retry or time-out of null is that of the section dispatcher."""

    usable: ClassVar[bool] = True

    target_type: str = Field(description="Tells the kind.")
    contact: str = key("", "Who looks after the target.")
    comment: str = key("", "For people.")
    direction: Literal["push", "pull", "both"] = key("push", "Images are sent to it (push), fetched from it, or both.")
    max_parallel: int | None = key(None, "Jobs at the same time; null: as dispatcher.", ge=1, le=256)
    timeout: Seconds | None = key(None, "Wait for an answer, seconds; null: response_timeout of dispatcher.")
    connect_timeout: Seconds | None = key(None, "Wait for a connection, seconds; null: as dispatcher.")
    retry_delay: Seconds | None = key(None, "Wait before the second attempt, seconds; null: as dispatcher.")
    retry_max_delay: Seconds | None = key(None, "Longest wait between attempts, seconds; null: as dispatcher.")
    retry_max: CountOrZero | None = key(None, "Attempts; 0: no end; null: as dispatcher.")


class DicomBase(TargetBase):
    """What DICOM nodes have, with and without TLS."""

    host: Host = Field(description="Name or address of the node; sender: the address that sent the series.")
    port: Port = Field(description="Port of the node.")
    called_ae_title: AETitleOrEmpty = Field(
        description="AE title of the node; may be empty with forward_called_ae_title."
    )
    calling_ae_title: AETitle | None = key(None, "Our AE title; null: calling_ae_title of dispatcher.")
    forward_calling_ae_title: bool = key(False, "Call with the AE title of the node that sent the series.")
    forward_called_ae_title: bool = key(False, "Call the AE title that the sender of the series called.")


class DicomTarget(DicomBase):
    """A DICOM node."""

    target_type: Literal["dicom"] = Field(description="Tells the kind.")


class DicomTlsTarget(DicomBase):
    """A DICOM node over TLS, with our own certificate."""

    target_type: Literal["dicomtls"] = Field(description="Tells the kind.")
    tls_key: FilePath = Field(description="Our private key (PEM).")
    tls_cert: FilePath = Field(description="Our certificate (PEM).")
    ca_cert: FilePath = Field(description="Authorities (PEM) that sign the certificate of the node.")


class FolderTarget(TargetBase):
    """A folder of this machine."""

    target_type: Literal["folder"] = Field(description="Tells the kind.")
    folder: Folder = Field(description="The folder; each job becomes a folder in it.")
    exclude: Globs = key((), "Patterns of file names that are not copied, as a list or separated by commas.")


class DummyTarget(TargetBase):
    """Delivers nothing. Only with features.dummy_target."""

    target_type: Literal["dummy"] = Field(description="Tells the kind.")


class DicomWebTarget(TargetBase):
    """A DICOMweb server (PS3.18)."""

    usable: ClassVar[bool] = False

    target_type: Literal["dicomweb"] = Field(description="Tells the kind.")
    url: PrivateUrl = Field(
        description="Base URL: http, https, or file for a folder.", pattern=r"^(https?://\S+|file:///.*)$"
    )
    qido_url_prefix: str | None = key(None, "Prefix of queries.")
    wado_url_prefix: str | None = key(None, "Prefix of retrievals.")
    stow_url_prefix: str | None = key(None, "Prefix of storing.")
    access_token: Secret | None = key(None, "Bearer token; a secret.")
    http_user: str | None = key(None, "User for basic authentication.")
    http_password: Secret | None = key(None, "Password for basic authentication; a secret.")


class RemoteFolderBase(TargetBase):
    """A folder of another machine, reached by SSH."""

    usable: ClassVar[bool] = False

    folder: str = Field(description="Folder on the other machine.", min_length=1)
    user: str = Field(description="User on the other machine.", pattern=r"^[^\s:@/-][^\s:@/]*$")
    host: Host = Field(description="The other machine.")
    password: Secret | None = key(None, "Password; null: by key; a secret.")
    exclude: Globs = key((), "Patterns of file names that are not copied, as a list or separated by commas.")


class SftpTarget(RemoteFolderBase):
    """A folder reached by SFTP."""

    target_type: Literal["sftp"] = Field(description="Tells the kind.")


class RsyncTarget(RemoteFolderBase):
    """A folder reached by rsync."""

    target_type: Literal["rsync"] = Field(description="Tells the kind.")
    run_on_complete: bool = key(False, "Run mercure_complete.sh of the folder after each job.")


class XnatTarget(TargetBase):
    """A project in XNAT."""

    usable: ClassVar[bool] = False

    target_type: Literal["xnat"] = Field(description="Tells the kind.")
    project_id: str = Field(description="Id of the project.", min_length=1)
    host: PrivateUrl = Field(description="URL of the server.", pattern=r"^https?://\S+$")
    user: str = Field(description="User in XNAT.", min_length=1)
    password: Secret = Field(description="Password in XNAT; a secret.")


class S3Target(TargetBase):
    """A bucket of S3."""

    usable: ClassVar[bool] = False

    target_type: Literal["s3"] = Field(description="Tells the kind.")
    region: str = Field(description="Region.", min_length=1)
    bucket: str = Field(description="Bucket.", min_length=1)
    prefix: str = Field(description="Start of the names of objects.")
    access_key_id: str = Field(description="Id of the access key.", min_length=1)
    secret_access_key: Secret = Field(description="The access key; a secret.")


class ProcessingTarget(TargetBase):
    """A module as the target of a rule with the action process or both; `timeout` is then that of the module.

    A `timeout` among its settings counts as its own when it has none.
    """

    target_type: Literal["processing"] = key("processing", "May be left out where processing_module is given.")
    processing_module: Chain = Field(description="Module, or chain of modules in order.", min_length=1)
    settings: PrivateObject = key({}, "Settings of the module; they go before its own, key by key.", repr=False)


def target_kind(value: Any) -> str | None:
    """Return the kind of a target as it stands in a file: its target_type, or processing when it names a module."""
    if isinstance(value, Frozen):
        return str(getattr(value, "target_type", ""))
    if not isinstance(value, dict):
        return None
    kind = value.get("target_type", "processing" if "processing_module" in value else None)
    return kind if isinstance(kind, str) else None


KINDS: dict[str, type[TargetBase]] = {
    "dicom": DicomTarget,
    "dicomtls": DicomTlsTarget,
    "dicomweb": DicomWebTarget,
    "sftp": SftpTarget,
    "rsync": RsyncTarget,
    "xnat": XnatTarget,
    "s3": S3Target,
    "folder": FolderTarget,
    "dummy": DummyTarget,
    "processing": ProcessingTarget,
}

Target = Annotated[
    Annotated[DicomTarget, Tag("dicom")]
    | Annotated[DicomTlsTarget, Tag("dicomtls")]
    | Annotated[DicomWebTarget, Tag("dicomweb")]
    | Annotated[SftpTarget, Tag("sftp")]
    | Annotated[RsyncTarget, Tag("rsync")]
    | Annotated[XnatTarget, Tag("xnat")]
    | Annotated[S3Target, Tag("s3")]
    | Annotated[FolderTarget, Tag("folder")]
    | Annotated[DummyTarget, Tag("dummy")]
    | Annotated[ProcessingTarget, Tag("processing")],
    Discriminator(target_kind),
]
