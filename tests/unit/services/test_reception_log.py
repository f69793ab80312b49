"""What the log and the journal say of associations."""

import logging
from typing import Any

import pytest
from tests.fake_clock import FakeClock, Recorded

from mercure.core.events import EventKind
from mercure.services.reception_log import ReceptionLog

REPORT: dict[str, Any] = {
    "how": "released",
    "calling_ae_title": "CT1",
    "called_ae_title": "MERCURE",
    "peer_address": "10.0.0.1",
    "stored": 3,
    "identical": 0,
    "different": 0,
    "refused": 0,
    "stored_bytes": 100,
}


def test_a_good_association_is_one_event_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    events = Recorded()
    with caplog.at_level(logging.INFO):
        ReceptionLog(FakeClock(), events).association(REPORT)
    (event,) = events.events
    assert (event.kind, event.count, event.size_bytes) == (EventKind.ASSOCIATION_CLOSED, 3, 100)
    assert event.detail == "'CT1' to 'MERCURE' from 10.0.0.1: released"
    assert "'CT1' to 'MERCURE' from 10.0.0.1: released: 3 instances stored" in caplog.text


@pytest.mark.parametrize(
    ("identical", "different", "said"),
    [
        (2, 0, "released (came again: 2 identical)"),
        (0, 1, "released (came again: 1 with other content, kept beside the first)"),
        (2, 1, "released (came again: 2 identical, 1 with other content, kept beside the first)"),
    ],
)
@pytest.mark.parametrize("refused", [0, 1])
def test_instances_that_came_again_are_counted_in_the_event_and_the_line(
    caplog: pytest.LogCaptureFixture, identical: int, different: int, said: str, refused: int
) -> None:
    events = Recorded()
    report = {**REPORT, "identical": identical, "different": different, "refused": refused}
    with caplog.at_level(logging.INFO):
        ReceptionLog(FakeClock(), events).association(report)
    (closed,) = events.of(EventKind.ASSOCIATION_CLOSED)
    assert closed.detail == f"'CT1' to 'MERCURE' from 10.0.0.1: {said}"
    assert closed.count == 3, "they are among the stored ones"
    assert f"{said}: 3 " in caplog.text


def test_refused_instances_are_said_with_their_reason_and_where_they_are(caplog: pytest.LogCaptureFixture) -> None:
    events = Recorded()
    report = {**REPORT, "refused": 2, "last_refusal": "StudyInstanceUID is missing", "last_refused_job": "j1"}
    ReceptionLog(FakeClock(), events).association(report)
    refused = events.events[1]
    assert (refused.kind, refused.count, refused.job_id) == (EventKind.INSTANCES_REFUSED, 2, "j1")
    assert str(refused.detail).endswith("StudyInstanceUID is missing")
    assert caplog.records[0].levelno == logging.WARNING
    assert "2 refused, the last one: StudyInstanceUID is missing, kept as job j1" in caplog.text


def test_control_characters_of_a_peer_do_not_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        ReceptionLog(FakeClock(), Recorded()).association({**REPORT, "calling_ae_title": "A\nERROR\x1b[2J"})
    assert "'A\\nERROR\\x1b[2J'" in caplog.text


def test_a_rejection_is_said_once_a_minute_for_each_peer(caplog: pytest.LogCaptureFixture) -> None:
    clock, events = FakeClock(), Recorded()
    reception = ReceptionLog(clock, events)
    for _ in range(5):
        reception.end("10.0.0.1", "rejected: result 1, source 1, reason 7")
    reception.end("10.0.0.2", "rejected: result 1, source 1, reason 7")
    reception.end("10.0.0.1", "released")
    assert len(events.events) == 2
    clock.advance(61)
    reception.end("10.0.0.1", "rejected: result 1, source 1, reason 7")
    assert [event.kind for event in events.events] == [EventKind.ASSOCIATION_REJECTED] * 3
    assert len(caplog.records) == 3


def test_a_rejection_names_the_ae_titles_and_escapes_them_once(caplog: pytest.LogCaptureFixture) -> None:
    events = Recorded()
    ReceptionLog(FakeClock(), events).end("10.0.0.1", "rejected: because (result 1)", "\x1b[2J", "MERCURE\n")
    (event,) = events.events
    assert event.detail == r"10.0.0.1 ('\x1b[2J' to 'MERCURE\n'): rejected: because (result 1)"
    assert caplog.messages == [r"connection from 10.0.0.1 ('\x1b[2J' to 'MERCURE\n') rejected: because (result 1)"]


def test_the_same_rejection_of_other_ae_titles_is_said_too_but_not_of_any_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, events = FakeClock(), Recorded()
    reception = ReceptionLog(clock, events)
    for _ in range(2):
        for number in range(50):
            reception.end("10.0.0.1", "rejected: because", f"CT{number}", "MERCURE")
    assert len(events.events) == len(caplog.records) == 10
    reception.end("10.0.0.2", "rejected: because", "CT49", "MERCURE")
    assert len(events.events) == 11
    clock.advance(61)
    reception.end("10.0.0.1", "rejected: because", "CT49", "MERCURE")
    assert "'CT49'" in str(events.events[-1].detail)


def test_a_tls_handshake_that_failed_is_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    events = Recorded()
    reception = ReceptionLog(FakeClock(), events)
    for _ in range(5):
        reception.end("10.0.0.1", "TLS handshake failed: tlsv1 alert unknown ca")
    assert caplog.messages == ["connection from 10.0.0.1 TLS handshake failed: tlsv1 alert unknown ca"]
    assert events.count(EventKind.ASSOCIATION_REJECTED) == 1


def test_what_was_recovered_is_in_the_journal(caplog: pytest.LogCaptureFixture) -> None:
    events = Recorded()
    ReceptionLog(FakeClock(), events).recovered(3)
    assert (events.events[0].kind, events.events[0].count) == (EventKind.RECOVERED, 3)
    assert "3 instances" in caplog.text
