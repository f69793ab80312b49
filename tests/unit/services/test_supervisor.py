"""Services that fail are started again; the others never notice; all stop in order."""

import threading

import pytest
from tests.fake_clock import Recorded
from tests.peers import wait_until

from mercure.core.errors import SpoolError
from mercure.core.events import EventKind
from mercure.services.clock import SystemClock
from mercure.services.service import Bell
from mercure.services.supervisor import Supervisor


class Steady:
    """A service that works until it is told to stop."""

    def __init__(self, name: str = "steady") -> None:
        self.name = name
        self.runs = 0
        self.bell = Bell()

    def run(self, stop: threading.Event) -> None:
        self.runs += 1
        while not stop.is_set():
            self.bell.wait(10)

    def wake(self) -> None:
        self.bell.ring()


class Failing(Steady):
    """A service that fails so many times before it works."""

    def __init__(self, errors: list[Exception]) -> None:
        super().__init__("failing")
        self.errors = iter(errors)

    def run(self, stop: threading.Event) -> None:
        error = next(self.errors, None)
        if error:
            self.runs += 1
            raise error
        super().run(stop)


@pytest.mark.requirement("S2")
def test_a_service_that_fails_starts_again_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    events = Recorded()
    steady, failing = Steady(), Failing([FileNotFoundError(2, "gone"), ZeroDivisionError()])
    supervisor = Supervisor([steady, failing], SystemClock(), events)
    supervisor._policy = supervisor._policy.__class__(0.01, 0.02)
    supervisor.start()
    wait_until(lambda: failing.runs == 3, "it runs again")
    assert steady.runs == 1
    supervisor.stop()
    assert supervisor.failures == {}
    assert caplog.text.count("service failing failed") == 2
    assert "ZeroDivisionError" in caplog.text
    kinds = [event.kind for event in events.events if event.detail and event.detail.startswith("failing")]
    expected = [EventKind.SERVICE_STARTED, EventKind.SERVICE_STOPPED] * 3
    assert kinds == expected


def test_a_service_that_is_down_says_why_until_it_runs_again() -> None:
    failing = Failing([SpoolError("port 104 cannot be opened")])
    supervisor = Supervisor([failing], SystemClock(), Recorded())
    supervisor.start()
    wait_until(lambda: supervisor.failures == {"failing": "port 104 cannot be opened"}, "it is down")
    wait_until(lambda: supervisor.failures == {}, "it runs again")
    supervisor.stop()
    assert failing.runs == 2


def test_a_stop_does_not_wait_for_the_pause_of_a_failed_service() -> None:
    failing = Failing([SpoolError("gone")] * 50)
    supervisor = Supervisor([failing], SystemClock(), Recorded())
    supervisor._policy = supervisor._policy.__class__(600.0, 600.0)
    supervisor.start()
    wait_until(lambda: supervisor.failures, "it is down")
    supervisor.stop()
    assert failing.runs == 1


def test_a_service_that_does_not_stop_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(Steady):
        def run(self, stop: threading.Event) -> None:
            self.bell.wait(10)

    deaf = Deaf("deaf")
    deaf.wake = lambda: None  # type: ignore[method-assign]
    monkeypatch.setattr("mercure.services.supervisor._STOP_SECONDS", 0.05)
    supervisor = Supervisor([deaf], SystemClock(), Recorded())
    supervisor.start()
    supervisor.stop()
    assert "service deaf does not stop" in caplog.text
    deaf.bell.ring()


def test_a_ring_before_the_wait_is_not_lost() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    assert bell.wait(0.0)
    assert not bell.wait(0.0)
