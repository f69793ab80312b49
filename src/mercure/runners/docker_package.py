"""MONAI Application Packages: images that say in a file what is to be run in them.

The file is copied out of a container that was made of the image and never started: nothing of the image runs before
every fence is up.
"""

import io
import json
import shlex
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any, Final

from mercure.core.errors import PermanentError
from mercure.runners.docker_engine import DockerEngine, MissingError, remove_container

MANIFEST: Final = "/etc/monai/app.json"

_MAXIMUM_BYTES = 1 << 20
_MAXIMUM_ARGUMENTS = 1000
_REMEMBERED = 1000


class Packages:
    """The commands of the packages on one engine, read once for each image. Safe to use from many threads."""

    def __init__(self, engine: DockerEngine, labels: Mapping[str, str]) -> None:
        """`labels` mark the container that the file is copied from, should a crash leave it behind."""
        self._engine = engine
        self._labels = dict(labels)
        self._lock = threading.Lock()
        self._commands: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def command(self, image_id: str) -> tuple[str, ...]:
        """Return what the manifest of an image says is to be run; empty: it is no package.

        Raises `PermanentError` when the manifest is broken, `TransientError` when the engine is away.
        """
        with self._lock:
            known = self._commands.get(image_id)
        if known is not None:
            return known
        manifest = self._manifest(image_id)
        command = () if manifest is None else command_of(manifest)
        with self._lock:
            self._commands[image_id] = command
            while len(self._commands) > _REMEMBERED:
                self._commands.popitem(last=False)
        return command

    def _manifest(self, image_id: str) -> bytes | None:
        # The command is never run; without one an image that has none could not be made into a container.
        config = {"Image": image_id, "Cmd": ["-"], "Labels": self._labels, "NetworkDisabled": True}
        with self._engine.asked("looking into an image") as api:
            container = api.create_container_from_config(config)["Id"]
        try:
            with self._engine.asked(f"copying {MANIFEST} out of an image") as api:
                stream, _ = api.get_archive(container, MANIFEST, chunk_size=65_536)
                with closing(stream):
                    return _first_file(stream)
        except MissingError:
            return None
        finally:
            remove_container(self._engine, container)


def command_of(manifest: bytes) -> tuple[str, ...]:
    """Return the command in a manifest, given as text or as list. Raises `PermanentError`."""
    try:
        command = json.loads(manifest)["command"]
        if isinstance(command, str):
            command = json.loads(command) if command.lstrip().startswith("[") else shlex.split(command)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        raise PermanentError(f"{MANIFEST} in the image is broken, or has no command") from None
    if not isinstance(command, list) or not command or len(command) > _MAXIMUM_ARGUMENTS:
        raise PermanentError(f"the command in {MANIFEST} of the image is no list of arguments")
    if any(not isinstance(part, str) or "\0" in part for part in command) or not command[0]:
        raise PermanentError(f"the command in {MANIFEST} of the image has an argument that is no text")
    return tuple(command)


def _first_file(stream: Iterable[Any]) -> bytes:
    """Return the one file in the archive that the engine sends; a link or a device is none."""
    archive = bytearray()
    for chunk in stream:
        archive += chunk
        if len(archive) > _MAXIMUM_BYTES:
            raise PermanentError(f"{MANIFEST} in the image is too long")
    try:
        with tarfile.open(fileobj=io.BytesIO(bytes(archive)), mode="r:") as tar:
            entry = tar.next()
            plain = entry is not None and entry.isreg() and entry.size <= _MAXIMUM_BYTES
            file = tar.extractfile(entry) if entry is not None and plain else None
            content = file.read() if file is not None else None
    except tarfile.TarError:
        content = None
    if content is None:
        raise PermanentError(f"{MANIFEST} in the image is no plain file")
    return content
