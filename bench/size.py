"""How much a bench sends and how often."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """`quick`: a tenth of the data and one run; `peers_only`: ours is left out."""

    runs: int
    quick: bool
    peers_only: bool
