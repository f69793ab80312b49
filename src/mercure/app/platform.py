"""The composition root: all or some services in one process. With `assembly` the only place that knows all packages."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mercure.app.assembly import (
    Runners,
    TargetSet,
    dispatcher_settings,
    layout_of,
    processor_settings,
    receiver_settings,
    router_settings,
)
from mercure.config.load import Loaded
from mercure.config.store import ConfigStore, Rejection
from mercure.core.errors import ConfigError, SpoolError
from mercure.core.events import Event, EventKind
from mercure.journal.writer import JournalWriter
from mercure.services.clock import SystemClock
from mercure.services.dispatcher import Dispatcher
from mercure.services.processor import Processor
from mercure.services.receiver import Receiver
from mercure.services.reception_log import ReceptionLog
from mercure.services.router import Router
from mercure.services.service import Service
from mercure.services.supervisor import Supervisor

log = logging.getLogger(__name__)

SERVICES = ("receiver", "router", "processor", "dispatcher")

_CONFIG_POLL_SECONDS = 1.0


class _Configurable(Protocol):
    def configure(self, settings: Any) -> None: ...


class Platform:
    """All or some services in one process, with one configuration file and one journal."""

    def __init__(self, store: ConfigStore, names: Sequence[str] = SERVICES) -> None:
        """Load the configuration and build the services. Raises `ConfigError` or `SpoolError`."""
        unknown = [name for name in names if name not in SERVICES]
        if unknown:
            raise ConfigError(f"no service {unknown[0]!r}; there are {', '.join(SERVICES)}")
        self._store = store
        self._stop = threading.Event()
        self._reported: Rejection | None = None
        self._targets = TargetSet()
        self._runners = Runners()
        loaded = store.load()
        self.layout = layout_of(loaded.config)
        self.layout.create()
        self.clock = SystemClock()
        self._names = names
        self.events = self._journal()
        self._services = self._build(loaded, names)
        self.supervisor = Supervisor(self._services, self.clock, self.events)
        self._report(loaded)

    def _journal(self) -> JournalWriter:
        name = "-".join(self._names) if len(self._names) < len(SERVICES) else "mercure"
        return JournalWriter(self.layout.journal, name)

    def _build(self, loaded: Loaded, names: Sequence[str]) -> list[Service]:
        services: list[Service] = []
        wake_dispatcher: Callable[[], None] = lambda: None  # noqa: E731
        wake_processor: Callable[[], None] = lambda: None  # noqa: E731
        if "dispatcher" in names:
            dispatcher = Dispatcher(self.layout, dispatcher_settings(loaded, self._targets), self.clock, self.events)
            wake_dispatcher = dispatcher.wake
            services.append(dispatcher)
        if "processor" in names:
            modules = processor_settings(loaded, self.layout, self._runners)
            processor = Processor(self.layout, modules, self.clock, self.events, on_jobs=wake_dispatcher)
            wake_processor = processor.wake
            services.append(processor)

        def wake() -> None:
            wake_processor()
            wake_dispatcher()

        if "router" in names:
            services.append(Router(self.layout, router_settings(loaded), self.clock, self.events, on_jobs=wake))
        reception = ReceptionLog(self.clock, self.events)
        if "receiver" in names:
            services.append(
                Receiver(
                    receiver_settings(loaded, self.layout),
                    on_association=reception.association,
                    on_recovered=reception.recovered,
                    on_end=reception.end,
                )
            )
        return services

    def service(self, name: str) -> Any:
        """Return a service of this platform by name."""
        return next(service for service in self._services if service.name == name)

    def run(self) -> None:
        """Run until a signal or `stop`. Returns when everything has ended in order."""
        self.supervisor.start()
        try:
            while not self._stop.wait(_CONFIG_POLL_SECONDS):
                self.poll_config()
        finally:
            self.supervisor.stop()
            self.events.close()
            self._runners.close()

    def stop(self) -> None:
        """End `run` soon. Callable from a signal handler."""
        self._stop.set()

    def stop_on_signals(self) -> None:
        """End in order on SIGTERM and SIGINT; a second signal ends at once."""

        def handle(number: int, _frame: object) -> None:
            if self._stop.is_set():
                os._exit(128 + number)
            self.stop()

        signal.signal(signal.SIGTERM, handle)
        signal.signal(signal.SIGINT, handle)

    def poll_config(self) -> None:
        """Take up a changed configuration file, or say loudly why not."""
        try:
            loaded = self._store.poll()
        except ConfigError as error:
            log.error("configuration: %s", error)  # noqa: TRY400
            return
        self._report_rejection(loaded)
        if loaded is None:
            return
        log.info("configuration taken up (revision %s)", loaded.revision[:12])
        self._report(loaded)
        if layout_of(loaded.config) != self.layout and self._move_to(loaded):
            return
        made: dict[str, Callable[[], Any]] = {
            "receiver": lambda: receiver_settings(loaded, self.layout),
            "router": lambda: router_settings(loaded),
            "processor": lambda: processor_settings(loaded, self.layout, self._runners),
            "dispatcher": lambda: dispatcher_settings(loaded, self._targets),
        }
        # The last ones of a job's way first, as they were built: none gets a job that only new settings explain.
        for service in self._services:
            configurable: _Configurable = service  # type: ignore[assignment]
            configurable.configure(made[service.name]())

    def _report_rejection(self, loaded: Loaded | None) -> None:
        """Say once that a changed file is not used, and once that it is put back as it was. A new one is told later."""
        rejected, reported = self._store.rejected, self._reported
        self._reported = rejected
        if rejected is not None and rejected is not reported:
            log.error("the changed configuration is NOT used, the last good one goes on: %s", rejected)
            self.events.emit(Event(EventKind.CONFIG_REJECTED, self.clock.now(), detail=str(rejected)[:2000]))
        elif rejected is None and reported is not None and loaded is None:
            revision = self._store.current.revision[:12]
            log.info("the configuration file is good again, and as it is in use (revision %s)", revision)
            self.events.emit(Event(EventKind.CONFIG_LOADED, self.clock.now(), detail=revision))

    def _move_to(self, loaded: Loaded) -> bool:
        """Go on in other data folders: end every service in order and start it anew. What is in the old ones stays.

        False when the new ones cannot be used.
        """
        layout = layout_of(loaded.config)
        try:
            layout.create()
        except SpoolError as error:
            log.error("the new data folders cannot be used, the old ones go on: %s", error)  # noqa: TRY400
            return False
        log.warning("the data folders change; what the old ones hold waits there until they are configured again")
        self.supervisor.stop()
        self.events.close()
        self.layout = layout
        self.events = self._journal()
        self._services = self._build(loaded, self._names)
        self.supervisor = Supervisor(self._services, self.clock, self.events)
        self.supervisor.start()
        return True

    def _report(self, loaded: Loaded) -> None:
        for problem in loaded.problems:
            log.log(logging.ERROR if problem.severity == "error" else logging.WARNING, "configuration: %s", problem)
        self.events.emit(Event(EventKind.CONFIG_LOADED, self.clock.now(), detail=loaded.revision[:12]))
