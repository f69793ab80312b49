"""Files that a configuration names and that must be readable before a connection can be made."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mercure.config.json_text import JsonPath
from mercure.config.schema import Config, DicomTlsTarget, ReceiverTls


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that cannot be read by this user. `path` is the key that names it, `reason` goes on from its name."""

    path: JsonPath
    file: Path
    reason: str

    def __str__(self) -> str:
        """Name the file and what is wrong with it."""
        return f"{self.file} {self.reason}"


def unreadable_files(config: Config) -> Iterator[Unreadable]:
    """Look at keys, certificates and authorities of the receiver and of every target over TLS."""
    if config.receiver.tls is not None:
        yield from _of(("receiver", "tls"), config.receiver.tls, ("key", "cert", "ca_cert"))
    for name, target in config.targets.items():
        if isinstance(target, DicomTlsTarget):
            yield from _of(("targets", name), target, ("tls_key", "tls_cert", "ca_cert"))


def _of(path: JsonPath, part: ReceiverTls | DicomTlsTarget, keys: tuple[str, ...]) -> Iterator[Unreadable]:
    for key in keys:
        file: Path | None = getattr(part, key)
        if file is not None and (reason := _why_unreadable(file)):
            yield Unreadable((*path, key), file, reason)


def _why_unreadable(file: Path) -> str:
    try:
        if not os.path.isfile(file):  # a pipe would hold us up for ever
            return "is not a file" if os.path.exists(file) else "does not exist"
        os.close(os.open(file, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""
