"""Whether the folders of a configuration stay out of each other's way.

A stage that is, or lies in, another stage would list the folders of that stage as its own jobs; a target that delivers
into a stage would do the same. Symbolic links are followed as far as they exist.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mercure.config.sections import MercureSection

STAGES: Final = ("incoming", "studies", "processing", "outgoing", "success", "error", "discard", "jobs")


def overlaps(section: MercureSection) -> Iterator[tuple[str, str, str]]:
    """Return each stage that is another one or lies in it: its name, how it lies to the other, the other's name."""
    real = _real_folders(section)
    for place, name in enumerate(STAGES):
        for other in STAGES[:place]:
            if real[name] == real[other]:
                yield name, "is the same folder as", other
            elif real[name].is_relative_to(real[other]):
                yield name, "lies in", other
            elif real[other].is_relative_to(real[name]):
                yield other, "lies in", name


def stage_around(folder: Path, section: MercureSection) -> str | None:
    """Return the stage whose folder this is, or in which it lies; None when it is outside of them all."""
    inside = Path(os.path.realpath(folder))
    real = _real_folders(section)
    return next((name for name in STAGES if inside.is_relative_to(real[name])), None)


def _real_folders(section: MercureSection) -> dict[str, Path]:
    return {name: Path(os.path.realpath(section.folder(name))) for name in STAGES}
