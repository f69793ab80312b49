"""Which sealed series are looked at, with real folders and a clock of the test."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fake_clock import FakeClock
from tests.small_disk import small_disk

from mercure.services.sealed_watch import SealedWatch
from mercure.spool import kept
from mercure.spool import layout as names
from mercure.spool.layout import Layout

A, B, C, D = (f"20260101T120000-000000000{number}" for number in range(1, 5))


class Desk:
    """A watch, and somebody who looks at what it hands out."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.clock = FakeClock()
        self.clock.advance(10.0)  # the folders were just made
        self.watch = SealedWatch(layout, self.clock)

    def look(self, seconds_later: float = 2.0, work: Callable[[], None] = lambda: None) -> list[str]:
        """Return what is handed out a while later; with each of them some work is done."""
        self.clock.advance(seconds_later)
        looked_at = []
        for sealed in self.watch.series(1.0):
            looked_at.append(sealed.id)
            work()
            sealed.close()
            self.watch.settle(sealed.id)
        return looked_at

    def settle_all(self) -> None:
        """Look until there is nothing new: the first look makes the lock file, which is a change."""
        self.look()
        self.clock.advance(10.0)
        self.look()
        assert self.look() == []


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    layout = Layout.under(tmp_path / "data")
    layout.create()
    for seal_id in (A, B, C):
        (layout.sealed / seal_id).mkdir()
    return Desk(layout)


def test_what_is_settled_is_left_alone_until_it_changes(desk: Desk) -> None:
    assert desk.look() == [A, B, C]
    desk.settle_all()
    (desk.layout.sealed / B / f"{names.SAFE_PREFIX}{B}-1").touch()
    (desk.layout.sealed / D).mkdir()
    assert desk.look() == [B, D]
    desk.clock.advance(10.0)
    desk.look()
    os.rename(desk.layout.sealed / A, desk.layout.sealed / "old")
    os.rename(desk.layout.sealed / "old", desk.layout.sealed / C[:-1])  # another folder, with an old time stamp
    assert desk.look() == [C[:-1]]


def test_another_folder_of_the_same_name_is_looked_at(desk: Desk) -> None:
    desk.settle_all()
    status = os.stat(desk.layout.sealed / A)
    os.rename(desk.layout.sealed / A, desk.layout.incoming / "aside")
    (desk.layout.sealed / A).mkdir()
    os.utime(desk.layout.sealed / A, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert desk.look() == [A]


def test_a_change_within_the_same_tick_is_not_missed(desk: Desk) -> None:
    desk.settle_all()
    now = desk.clock.now().timestamp()
    os.utime(desk.layout.sealed / A, (now, now))
    assert [desk.look(1.1), desk.look(1.1), desk.look(1.1)] == [[A], [A], []]


def test_everything_is_looked_at_once_a_minute(desk: Desk) -> None:
    desk.settle_all()
    assert desk.look(61.0) == [A, B, C]
    assert desk.look() == []
    assert desk.look(61.0) == [A, B, C]


def test_the_looks_of_each_minute_are_spread_over_many_passes_and_leave_out_none(desk: Desk) -> None:
    desk.settle_all()
    desk.clock.advance(60.0)
    looks = [desk.look(2.5, lambda: desk.clock.advance(0.11)) for _ in range(5)]
    assert looks == [[A], [B], [C], [], []]


def test_passes_take_a_small_share_of_the_time(desk: Desk) -> None:
    desk.settle_all()
    assert desk.look(60.0, lambda: desk.clock.advance(0.5)) == [A]  # half a second: ten seconds of pause
    (desk.layout.sealed / B / "changed").touch()
    assert [desk.look(4.0), desk.look(5.9)] == [[], []]
    desk.watch.look_at_once()  # new settings, for instance
    assert B in desk.look(0.0)


def test_the_pause_is_counted_from_the_end_and_not_for_work_on_new_series(desk: Desk) -> None:
    assert desk.look(0.0, lambda: desk.clock.advance(100.0)) == [A, B, C]
    (desk.layout.sealed / D).mkdir()
    assert desk.look(0.9) == []
    assert D in desk.look(0.1)


def test_a_series_that_is_put_off_is_not_even_opened(desk: Desk) -> None:
    for sealed in desk.watch.series(1.0):
        sealed.close()
        desk.watch.put_off(sealed.id, 5.0 if sealed.id == A else 50.0)
    (desk.layout.sealed / B / names.LOCK_FILE).unlink()
    assert [desk.look(4.0), desk.look(1.0)] == [[], [A]]
    assert not (desk.layout.sealed / B / names.LOCK_FILE).exists()
    assert set(desk.look(50.0)) >= {B, C}


def test_a_lost_memory_has_everything_looked_at(desk: Desk) -> None:
    def mark() -> None:
        (desk.layout.sealed / A / names.RECEIVED).mkdir(exist_ok=True)
        kept.KeptSeries(desk.layout, desk.layout.sealed / A).note_made([], [])

    with small_disk(desk.layout.processing):
        mark()
        desk.settle_all()
        (desk.layout.processing / names.MEMORY_FILE).unlink()
        assert desk.look() == [A, B, C]
        mark()
        desk.settle_all()
        (desk.layout.processing / names.MEMORY_FILE).write_text("of another router, after the machine was restarted")
        assert desk.look() == [A, B, C]


def test_a_processing_folder_that_is_not_there_stops_nothing(desk: Desk) -> None:
    desk.layout.processing.rmdir()
    assert [desk.look(), desk.look()] == [[A, B, C], [A, B, C]]
