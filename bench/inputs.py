"""The instances that are sent: made once per run of the bench, kept on the disk of the measurements."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests import builders

from bench.workplace import FOLDER, prepare


@dataclass(frozen=True)
class Load:
    """Some series, sent together."""

    name: str
    series: tuple[builders.BuiltSeries, ...]

    @property
    def files(self) -> list[Path]:
        """All files, series by series."""
        return [file for one in self.series for file in one.files]

    @property
    def size_bytes(self) -> int:
        """The size of all files."""
        return sum(one.size_bytes for one in self.series)

    @property
    def identities(self) -> set[tuple[str, str]]:
        """Series and SOP instance UID of each instance."""
        return {(one.series_instance_uid, uid) for one in self.series for uid in one.sop_instance_uids}

    def part(self, share: float) -> "Load":
        """The first series, about so much of them all."""
        return Load(self.name, self.series[: max(1, round(share * len(self.series)))])

    def first(self, count: int) -> "Load":
        """The first `count` instances of the first series."""
        one = self.series[0]
        part = builders.BuiltSeries(
            one.study_instance_uid,
            one.series_instance_uid,
            one.sop_class_uid,
            one.sop_instance_uids[:count],
            one.files[:count],
        )
        return Load(self.name, (part,))


def ct(series: int = 20, per_series: int = 100) -> Load:
    """CT instances of 0.5 MB."""
    return _made("CT", builders.ct_series, series, per_series)


def mr(series: int = 20, per_series: int = 200) -> Load:
    """MR instances of 130 KB."""
    return _made("MR", builders.mr_series, series, per_series)


def small(series: int = 60, per_series: int = 20) -> Load:
    """CT instances of 4 KB."""
    return _made("small", builders.small_series, series, per_series)


@cache  # by all of its arguments: the same folders must never be written twice, for each writing makes new UIDs
def _made(name: str, build: Callable[[Path, int], builders.BuiltSeries], series: int, per_series: int) -> Load:
    folders = _empty(f"{name.lower()}-{series}x{per_series}", series)
    return Load(name, tuple(build(folder, per_series) for folder in folders))


@cache
def multiframe(size_mb: int) -> Load:
    """One multi-frame instance of about `size_mb` MB."""
    (folder,) = _empty(f"multiframe-{size_mb}", 1)
    return Load("multi-frame", (builders.multiframe_file(folder / "multi.dcm", frames=size_mb // 2),))


def _empty(name: str, count: int) -> list[Path]:
    prepare()
    folder = FOLDER / "input" / name
    return [folder / f"{number:03d}" for number in range(count)]
