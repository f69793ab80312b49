from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from mercure.core.retry import RetryPolicy, TargetHealth

POLICY = RetryPolicy(first_delay_seconds=10, maximum_delay_seconds=900, maximum_attempts=6)
ENDLESS = RetryPolicy(first_delay_seconds=10, maximum_delay_seconds=900)
MIDDLE = 0.5


def test_the_delay_doubles_up_to_the_maximum_and_then_the_job_is_given_up() -> None:
    delays = [POLICY.after(attempts, MIDDLE) for attempts in range(1, 7)]
    assert delays == [timedelta(seconds=seconds) for seconds in (10, 20, 40, 80, 160)] + [None]


def test_without_a_maximum_of_attempts_no_job_is_given_up() -> None:
    assert ENDLESS.after(10**9, MIDDLE) == timedelta(seconds=900)


def test_jitter_spreads_the_delay_on_both_sides() -> None:
    policy = RetryPolicy(100, 100, jitter=0.2)
    assert policy.after(1, 0.0) == timedelta(seconds=80)
    assert policy.after(1, 1.0) == timedelta(seconds=120)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_no_delay_is_negative_or_beyond_the_maximum_and_its_jitter(
    first: float, maximum: float, attempts: int, jitter: float, random01: float
) -> None:
    delay = RetryPolicy(first, maximum, jitter=jitter).delay_seconds(attempts, random01)
    assert 0 <= delay <= maximum * (1 + jitter)


def failed(health: TargetHealth, now: float, started_at: float) -> TargetHealth:
    return health.record_failure(now, started_at, MIDDLE)


def test_a_target_that_works_may_be_tried_by_many_at_once() -> None:
    health = TargetHealth(ENDLESS)
    assert health.may_try(0)
    assert health.begin().begin().may_try(0)


def test_a_dead_target_is_left_in_peace_and_then_probed_by_one_job_alone() -> None:
    health = failed(TargetHealth(ENDLESS).begin(), 100, 99)
    assert not health.may_try(109)
    assert health.may_try(110)
    probing = health.begin()
    assert not probing.may_try(110)
    assert not probing.may_try(10_000)


def test_a_failed_probe_doubles_the_pause_and_a_good_one_ends_it() -> None:
    health = failed(TargetHealth(ENDLESS), 100, 99)
    again = failed(health.begin(), 112, 110)
    assert (again.may_try(131), again.may_try(132)) == (False, True)
    well = again.begin().record_success()
    assert well == TargetHealth(ENDLESS)
    assert failed(well, 200, 199).not_before == 210


def test_attempts_that_ran_when_the_target_died_count_as_one_failure() -> None:
    health = TargetHealth(ENDLESS)
    for started_at, now in ((90, 100), (91, 100.1), (92, 105)):
        health = failed(health, now, started_at)
    assert (health.failures, health.not_before) == (1, 110)


def test_a_straggler_does_not_end_the_probe_of_another() -> None:
    probing = failed(TargetHealth(ENDLESS), 100, 99).begin()
    assert failed(probing, 111, 95) == probing


def test_a_cancelled_probe_lets_the_next_one_go() -> None:
    health = failed(TargetHealth(ENDLESS), 100, 99).begin().abandon()
    assert health.may_try(110)
    assert health.failures == 1


def test_a_success_of_a_straggler_closes_the_circuit() -> None:
    assert failed(TargetHealth(ENDLESS), 100, 99).record_success().may_try(100)


def test_a_thousand_jobs_make_no_more_attempts_at_a_dead_target_than_the_back_off_allows() -> None:
    health = TargetHealth(RetryPolicy(10, 60))
    attempts = []
    for now in range(250):
        for _ in range(1000):
            if health.may_try(now):
                health = failed(health.begin(), now, now)
                attempts.append(now)
    assert attempts == [0, 10, 30, 70, 130, 190]


def test_a_target_without_a_pause_can_always_be_probed_again() -> None:
    health = TargetHealth(RetryPolicy(0, 0))
    for _ in range(5):
        assert health.may_try(7)
        health = failed(health.begin(), 7, 7)
    assert health.failures == 5
