"""What was measured: of each kind, at each deadline, how late its requests were ended.

Decides percentiles, and whether the goals are reached. It must not know how things are measured or shown.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from typing import Final

from .clients import Seen
from .kinds import KINDS, Kind

__all__ = ["Entry", "Results", "as_json"]

_RESOLUTION: Final = time.get_clock_info("monotonic").resolution


@dataclass
class Entry:
    """One kind at one deadline."""

    late: list[float] = field(default_factory=list)
    """By how many seconds each end came after its deadline."""
    otherwise: dict[str, int] = field(default_factory=dict)
    """How many ended in another way than they had to, by what was seen."""

    def add(self, kind: Kind, deadline: float, seen: Seen) -> None:
        """Count one request."""
        if seen.end == kind.end:
            self.late.append(seen.seconds - deadline)
        else:
            self.otherwise[seen.end] = self.otherwise.get(seen.end, 0) + 1

    def percentile(self, share: float) -> float:
        """Return what `share` (above 0, up to 1) of all do not exceed, in seconds: one of those that were measured."""
        return sorted(self.late)[math.ceil(share * len(self.late)) - 1]

    @property
    def early(self) -> int:
        """How many ended before their deadline, by more than the clock can tell."""
        return sum(late < -_RESOLUTION for late in self.late)

    def reaches(self, latest: float) -> bool:
        """Say whether all ended as they had to, none early, and 99 of 100 not later than that."""
        return bool(self.late) and not self.otherwise and not self.early and self.percentile(0.99) <= latest


@dataclass
class Results:
    """All of it, and the circumstances."""

    about: dict[str, str] = field(default_factory=dict)
    entries: dict[str, dict[float, Entry]] = field(default_factory=dict)
    """By the names of kinds and the deadlines in seconds."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why a kind could not be measured to the end, by its name."""

    def entry(self, kind: str, deadline: float) -> Entry:
        """Return the place for a kind at a deadline."""
        return self.entries.setdefault(kind, {}).setdefault(deadline, Entry())

    @property
    def measured(self) -> int:
        """How many requests ended as they had to."""
        return sum(len(entry.late) for entries in self.entries.values() for entry in entries.values())

    @property
    def missed(self) -> bool:
        """Whether a goal is missed, or something could not be measured."""
        reached = (
            entry.reaches(KINDS[name].latest) for name, entries in self.entries.items() for entry in entries.values()
        )
        return bool(self.failures) or not all(reached)


def as_json(results: Results) -> str:
    """Return the results as text."""
    return json.dumps(asdict(results), indent=2) + "\n"
