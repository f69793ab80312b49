"""The target of the benches knows when each instance arrived."""

import time
from pathlib import Path

import pytest
from bench.target import watched_storescp
from tests import builders, peers


def test_each_instance_has_the_time_at_which_it_was_there(tmp_path: Path) -> None:
    series = builders.small_series(tmp_path / "series", 5)
    with watched_storescp(tmp_path / "target") as target:
        before = time.monotonic()
        assert peers.dcmsend(target.port, *series.files).returncode == 0
        times = target.arrivals.of(series.sop_instance_uids)
    assert len(times) == 5
    assert before < times[0] <= times[-1] <= time.monotonic()


def test_an_instance_that_does_not_arrive_is_an_error(tmp_path: Path) -> None:
    with watched_storescp(tmp_path / "target") as target, pytest.raises(peers.PeerError, match="1 instances arrive"):
        target.arrivals.of(["1.2.3"], seconds=0.1)
