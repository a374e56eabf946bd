"""How large a server was over a run, and whether it stayed so.

Decides what flat means. It must not know how the figures are taken.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["TOLERANCES", "Sample", "growth", "table"]

_PARTS: Final = 5


@dataclass(frozen=True)
class Sample:
    """What a server held at one moment."""

    megabytes: float
    """Its resident memory."""
    objects: int
    """What its garbage collector knows, without what belongs to greenlets that have ended."""
    greenlets: int
    """Those that live."""
    descriptors: int


@dataclass(frozen=True)
class Tolerance:
    """How much more there may be than in the second fifth of the run: a share of that, and a number."""

    share: float
    number: float

    def most(self, before: float) -> float:
        """Return how much is allowed where there was so much before."""
        return before * (1 + self.share) + self.number


TOLERANCES: Final = {
    "megabytes": Tolerance(0.05, 8),
    "objects": Tolerance(0.02, 2000),
    "greenlets": Tolerance(0, 25),
    "descriptors": Tolerance(0, 15),
}
"""The numbers are what a few clients more in a connection or a request make at the moment of a sample."""


def growth(samples: Sequence[Sample]) -> Iterator[str]:
    """Say what has grown: whose median in a later fifth is beyond its tolerance of that in the second."""
    for name, tolerance in TOLERANCES.items():
        _, second, *later = medians(samples, name)
        most = tolerance.most(second)
        for fifth, median in enumerate(later, 3):
            if median > most:
                yield f"{name} were {second:g} in the second fifth, and {median:g} in fifth {fifth}: above {most:g}"


def medians(samples: Sequence[Sample], name: str) -> list[float]:
    """Return the median of each fifth. Raises `ValueError` for fewer samples than fifths."""
    if len(samples) < _PARTS:
        raise ValueError(f"{len(samples)} samples are too few; there must be {_PARTS} or more")
    cuts = [len(samples) * part // _PARTS for part in range(_PARTS + 1)]
    return [
        statistics.median(getattr(sample, name) for sample in samples[begin:end])
        for begin, end in itertools.pairwise(cuts)
    ]


def table(samples: Sequence[Sample]) -> str:
    """Show the medians, a line for each figure."""
    lines = (f"  {name:12}" + "".join(f"{median:10.0f}" for median in medians(samples, name)) for name in TOLERANCES)
    return "\n".join(["medians of each fifth:", *lines])
