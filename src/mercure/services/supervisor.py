"""Runs services on threads, starts again what failed, and stops all in order."""

import logging
import threading
from collections.abc import Sequence

from mercure.core.clock import Clock
from mercure.core.events import Event, EventKind, EventSink
from mercure.core.retry import RetryPolicy
from mercure.services.service import Service

log = logging.getLogger(__name__)

_STOP_SECONDS = 15.0
_HEALTHY_SECONDS = 60.0


class Supervisor:
    """One thread for each service. An error of a service ends neither the process nor the other services."""

    def __init__(self, services: Sequence[Service], clock: Clock, events: EventSink) -> None:
        """Prepare; nothing runs yet."""
        self._services = services
        self._clock = clock
        self._events = events
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._policy = RetryPolicy(1.0, 30.0)
        self.failures: dict[str, str] = {}
        """The services that are down just now, with the reason."""

    def start(self) -> None:
        """Start every service."""
        for service in self._services:
            thread = threading.Thread(target=self._keep_running, args=(service,), name=service.name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Tell every service to stop, and wait for them."""
        self._stop.set()
        for service in self._services:
            service.wake()
        for thread in self._threads:
            thread.join(_STOP_SECONDS)
            if thread.is_alive():
                log.error("service %s does not stop", thread.name)

    def _keep_running(self, service: Service) -> None:
        failures = 0
        while not self._stop.is_set():
            started = self._clock.monotonic()
            self._emit(EventKind.SERVICE_STARTED, service)
            try:
                service.run(self._stop)
            except Exception as error:
                # The one place where anything may be caught: the alternative is a platform without this service.
                failures = 1 if self._clock.monotonic() - started > _HEALTHY_SECONDS else failures + 1
                pause = self._policy.delay_seconds(failures, 0.5)
                self.failures[service.name] = str(error) or type(error).__name__
                log.exception("service %s failed; it starts again in %.0f s", service.name, pause)
                self._emit(EventKind.SERVICE_STOPPED, service, type(error).__name__)
                self._stop.wait(pause)
                self.failures.pop(service.name, None)
            else:
                self._emit(EventKind.SERVICE_STOPPED, service)

    def _emit(self, kind: EventKind, service: Service, detail: str = "") -> None:
        text = f"{service.name} {detail}".strip()
        self._events.emit(Event(kind, self._clock.now(), detail=text))
