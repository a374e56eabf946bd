"""What was seen, a tenth of a second after the other.

Decides to which tenth a request belongs: the one in which it was to be sent. It must not know what the requests are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ..percentiles import percentile
from ..seen import End

__all__ = ["TENTH", "Timeline", "timeline"]

TENTH: Final = 0.1
_MILLISECONDS: Final = 1000


@dataclass(frozen=True)
class Timeline:
    """Columns of the same length, a value for each tenth of a second."""

    offered: Sequence[int]
    """Requests that were to be sent for the first time."""
    sent: Sequence[int]
    """All that were sent, those that were asked again included."""
    useful: Sequence[int]
    """How many of those offered were answered in time, at whatever attempt."""
    refused: Sequence[int]
    """How many of those offered were refused for good."""
    p99: Sequence[float | None]
    """Of the offered ones that were not refused, in milliseconds; None where there is none."""


def timeline(firsthand: Iterable[End], attempts: Iterable[End], seconds: float) -> Timeline:
    """Return what became of the requests, for each tenth of so many seconds."""
    number = math.ceil(seconds / TENTH - 1e-9)
    offered, sent = _by_tenth(firsthand, number), _by_tenth(attempts, number)
    return Timeline(
        [*map(len, offered)],
        [*map(len, sent)],
        [sum(end.useful for end in ends) for ends in offered],
        [sum(not end.admitted for end in ends) for ends in offered],
        [_p99(ends) for ends in offered],
    )


def _by_tenth(ends: Iterable[End], number: int) -> list[list[End]]:
    tenths: list[list[End]] = [[] for _ in range(number)]
    for end in ends:
        # What is asked again may come after the last phase.
        if (tenth := int(end.due / TENTH)) < number:
            tenths[tenth].append(end)
    return tenths


def _p99(ends: Iterable[End]) -> float | None:
    worst = percentile(sorted(end.after for end in ends if end.admitted), 99)
    return None if worst is None else round(worst * _MILLISECONDS, 2)
