"""The runner `docker`: a module is a container, fenced in, of an image that may come from a registry.

A container is named after its order, so that the engine itself never has two for one, and carries labels by which a
service that starts anew finds it. Nothing else on the host is touched.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from mercure.core.errors import MercureError, PermanentError, TransientError
from mercure.core.module_policy import check_docker_arguments, root_trouble
from mercure.core.processing import OUTPUT_IN_CONTAINER, PullPolicy, Running, RunOrder
from mercure.runners.docker_container import (
    LABEL_DATA,
    LABEL_JOB,
    Place,
    container_config,
    container_labels,
    container_name,
)
from mercure.runners.docker_ends import how_it_ended
from mercure.runners.docker_engine import (
    ConflictError,
    DockerEngine,
    MissingError,
    close_stream,
    refusal,
    remove_container,
)
from mercure.runners.docker_images import Images, LocalImage
from mercure.runners.docker_package import Packages
from mercure.runners.docker_paths import HostPaths
from mercure.runners.docker_running import (
    ENGINE_GRACE_SECONDS,
    DockerRunning,
    Followed,
    followed,
)

WORK_BYTES = 1 << 30
"""How much a module may keep in each of its folders for temporary files. Counts as its memory."""

_LOOKING_SECONDS = 3600.0

_NO_DRIVER = "could not select device driver"


class DockerRunner:
    """`ModuleRunner` of `core.processing` for containers. Safe to use from many threads."""

    def __init__(
        self,
        data_id: str,
        *,
        host: str = "",
        allowed_volumes: Sequence[str] = (),
        user: tuple[int, int] | None = None,
        work_bytes: int = WORK_BYTES,
        engine_grace_seconds: float = ENGINE_GRACE_SECONDS,
    ) -> None:
        """Nothing is asked of the engine before the first run.

        `data_id` tells the containers of this data folder from those of another one on the same engine. `host` is as
        in DOCKER_HOST (empty: that variable, or the local socket), `allowed_volumes` are the folders below which
        volumes may lie, `user` is uid and gid of the modules (the service's own when not given).
        """
        self._data_id = data_id
        self._engine = DockerEngine(host)
        self._images = Images(self._engine)
        self._packages = Packages(self._engine, {LABEL_DATA: data_id})
        self._paths = HostPaths(self._engine)
        self._allowed_volumes = tuple(allowed_volumes)
        self._user = user or (os.geteuid(), os.getegid())
        self._work_bytes = work_bytes
        self._grace_seconds = engine_grace_seconds
        self._lock = threading.Lock()
        self._owed: set[str] = set()

    @property
    def protects_input(self) -> bool:
        """Yes: it is mounted read-only."""
        return True

    def start(self, order: RunOrder) -> Running:
        """Start the module. Never beside another container of the same order, which is ended and removed.

        Raises `TransientError` (engine or registry away, a volume not mounted), `PermanentError` (not allowed, no such
        image, no such program in it, no such GPU) or `CancelledError` (stopped while its image was pulled).
        """
        user = self._check(order)
        self._remove_owed()
        image = self._images.get(order.module.image, order.module.pull, order.stopped)
        package = () if order.module.command else self._packages.command(image.id)
        labels = container_labels(self._data_id, order)
        config = container_config(order, self._place(order, user), image, package, labels)
        stop_signal = str(order.module.docker_arguments.get("stop_signal") or image.stop_signal)
        container = self._create(container_name(self._data_id, order), config)
        try:
            attached = self._begin(container, order.module.name)
            return self._follow(order, Followed(container, image.digest, stop_signal), attached)
        except BaseException:
            self._remember(container)
            self._remove_owed()
            raise

    def adopt(self, order: RunOrder) -> Running | None:
        """Return the container of this order that a service which died has left, running or ended by itself.

        Its output is given from the start. Any other container of the job is ended and removed, and so is one that
        was never started, that was ended from outside, or that this engine did not see end: it ended before the
        engine was started, perhaps before the machine was, with output that never reached the disk. No clock counts
        for that, so that it holds for the engine of another machine, too. Raises `TransientError` when the engine is
        away, or a container cannot be removed now.
        """
        label = [f"{LABEL_DATA}={self._data_id}", f"{LABEL_JOB}={order.job_id}"]
        with self._engine.asked("looking for containers of a job") as api:
            found = [self._inspect(api, entry["Id"]) for entry in api.containers(all=True, filters={"label": label})]
        there = [container for container in found if container]
        ours = [container for container in there if self._is_of(container, order)]
        chosen = ours[0] if len(ours) == 1 and self._can_be_adopted(ours[0]) else None
        for container in there:
            if container is not chosen:
                remove_container(self._engine, container["Id"])
        if chosen is None:
            return None
        with self._lock:
            self._owed.discard(str(chosen["Id"]))  # It is wanted again.
        return self._follow(order, followed(order, chosen, self._digest_of(chosen)))

    def sweep(self, is_wanted: Callable[[str], bool]) -> None:
        """End and remove the containers of this data folder whose jobs are not wanted any more.

        Raises `TransientError` when the engine is away.
        """
        label = [f"{LABEL_DATA}={self._data_id}"]
        with self._engine.asked("looking for containers that no job has") as api:
            found = api.containers(all=True, filters={"label": label})
        for container in found:
            job_id = (container.get("Labels") or {}).get(LABEL_JOB)
            # Without a job: made to look into an image, which takes a moment, unless its service was killed then.
            wanted = is_wanted(job_id) if job_id else time.time() - container["Created"] < _LOOKING_SECONDS
            if not wanted:
                remove_container(self._engine, container["Id"])

    def pull(self, image: str, policy: PullPolicy = "always") -> str:
        """Make sure that an image is here and return its digest; with `always` the registry is asked now.

        Raises as `start` does.
        """
        return (self._images.pull(image) if policy == "always" else self._images.get(image, policy)).digest

    def close(self) -> None:
        """Close the connections to the engine. Runs that are followed go on; what is asked later connects anew."""
        self._engine.close()

    # -- start -------------------------------------------------------------------------------------------------------

    def _check(self, order: RunOrder) -> tuple[int, int]:
        """Return the user of the module. Raises `PermanentError` for what is not allowed."""
        faults = check_docker_arguments(order.module.docker_arguments)
        if faults:
            text = "; ".join(f"{fault.path} {fault.text}" for fault in faults)
            raise PermanentError(f"docker_arguments of module {order.module.name}: {text}")
        if trouble := root_trouble(order.module, self._user[0]):
            raise PermanentError(f"module {order.module.name} cannot run: {trouble}")
        return (0, 0) if order.module.requires_root else self._user

    def _place(self, order: RunOrder, user: tuple[int, int]) -> Place:
        kept = self._paths.of(order.persistence_folder) if order.persistence_folder else ""
        return Place(
            self._paths.of(order.input_folder),
            self._paths.of(order.output_folder),
            kept,
            self._paths.volumes(order.module.volumes, self._allowed_volumes),
            user,
            self._work_bytes,
            os.cpu_count() or 1,
        )

    def _create(self, name: str, config: Mapping[str, Any]) -> str:
        try:
            return self._create_once(name, config)
        except ConflictError:
            remove_container(self._engine, name)
        try:
            return self._create_once(name, config)
        except ConflictError:
            raise TransientError("another container of this order is being removed") from None

    def _create_once(self, name: str, config: Mapping[str, Any]) -> str:
        with self._engine.asked("making a container") as api:
            return str(api.create_container_from_config(config, name)["Id"])

    def _begin(self, container: str, module: str) -> Any:
        """Start a container and return the stream of its output, which is opened before."""
        what = f"starting module {module}"
        stream = None
        try:
            with self._engine.asked(what) as api:
                stream = api.attach(container, stdout=True, stderr=True, stream=True)
                api.start(container)
                started, stream = stream, None
                return started
        except MissingError as error:
            if container in str(error):
                raise TransientError(f"{what}: the container was removed before it began") from None
            raise
        except TransientError as error:
            if _NO_DRIVER in str(error):
                raise refusal(what, 400, "the Docker engine has no driver for GPUs") from None
            raise
        finally:
            if stream is not None:
                close_stream(stream)

    def _follow(self, order: RunOrder, container: Followed, attached: Any = None) -> DockerRunning:
        try:
            return DockerRunning(
                self._engine,
                container,
                order.output,
                attached=attached,
                grace_seconds=self._grace_seconds,
                owed=self._remember,
            )
        except RuntimeError:
            if attached is not None:
                close_stream(attached)
            raise TransientError("no thread is left to follow the module") from None

    # -- what is left ------------------------------------------------------------------------------------------------

    def _inspect(self, api: Any, container: str) -> dict[str, Any]:
        """Return a container, or an empty object when it was removed meanwhile."""
        with suppress(MissingError), self._engine.asked("looking at a container"):
            found: dict[str, Any] = api.inspect_container(container)
            return found
        return {}

    def _can_be_adopted(self, container: Mapping[str, Any]) -> bool:
        state = container["State"]
        if state.get("Status") == "exited":
            return how_it_ended(self._engine, str(container["Id"]), state) == "by itself"
        return bool(state.get("Status") == "running")

    def _is_of(self, container: Mapping[str, Any], order: RunOrder) -> bool:
        """Whether a container is the one of this order, and writes to this order's folder."""
        labels = (container.get("Config") or {}).get("Labels") or {}
        wanted = container_labels(self._data_id, order)
        if any(labels.get(name) != text for name, text in wanted.items()):
            return False
        output = self._paths.of(order.output_folder)
        mounts = container.get("Mounts") or ()
        return any(mount["Destination"] == OUTPUT_IN_CONTAINER and mount["Source"] == output for mount in mounts)

    def _digest_of(self, container: Mapping[str, Any]) -> str:
        """Return the digest of an image by which a container was made, or its id when the name is gone."""
        with suppress(PermanentError):
            image: LocalImage = self._images.get(str(container["Image"]), "never")
            return image.digest
        return str(container["Image"])

    def _remember(self, container: str) -> None:
        with self._lock:
            self._owed.add(container)

    def _remove_owed(self) -> None:
        """Remove containers that a run could not remove because the engine was away."""
        with self._lock:
            owed, self._owed = self._owed, set()
        for container in owed:
            try:
                remove_container(self._engine, container)
            except MercureError:
                self._remember(container)
