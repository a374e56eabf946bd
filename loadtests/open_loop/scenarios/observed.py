"""What was seen in a scenario, as its goals ask for it.

Decides how requests are found by name and by time, and when something is well again. It must not know the scenarios.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ..percentiles import percentile
from ..seen import ANSWERED, End
from .timeline import TENTH

__all__ = ["Observed", "Span", "Workers", "answered_share", "p", "useful_share", "well_after"]

_WELL_SECONDS: Final = 1.0
"""How long it must be well at least, to be well again."""
_MILLISECONDS: Final = 1000


class Span(NamedTuple):
    """Some time, in seconds from the beginning."""

    begin: float
    end: float


class Workers(NamedTuple):
    """How many workers took jobs at a moment, in seconds from the beginning."""

    at: float
    number: int


@dataclass(frozen=True)
class Observed:
    """All that was seen."""

    phases: Mapping[str, Span]
    ends: Mapping[str, Sequence[End]]
    """By the name of their stream, requests as their clients saw them, repeats joined to what they repeat."""
    workers: Sequence[Workers] = ()
    """Ascending by time; only where the scenario is about them."""

    def within(self, name: str, span: Span) -> list[End]:
        """Return what became of the requests of a stream that were to be sent in this time."""
        return [end for end in self.ends[name] if span.begin <= end.due < span.end]

    def during(self, name: str, phase: str) -> list[End]:
        """Return what became of the requests of a stream in a phase."""
        return self.within(name, self.phases[phase])


def p(percent: float, ends: Sequence[End]) -> float | None:
    """Return a percentile of what was not refused, in milliseconds; None if everything was."""
    found = percentile(sorted(end.after for end in ends if end.admitted), percent)
    return None if found is None else found * _MILLISECONDS


def useful_share(ends: Sequence[End]) -> float:
    """Return how many of them were answered in time: 1 is all, or there is none."""
    return sum(end.useful for end in ends) / len(ends) if ends else 1.0


def answered_share(ends: Sequence[End]) -> float | None:
    """Return how many percent of them were answered, at whatever time; None if there is none."""
    return sum(end.kind == ANSWERED for end in ends) / len(ends) * 100 if ends else None


def well_after(observed: Observed, name: str, phase: str, well: Callable[[list[End]], bool]) -> float | None:
    """Return after how many milliseconds of a phase it is well: in the second that begins there, and in all the rest.

    By both, for a moment may be good by chance, and what comes much later may be bad by chance. None if it never is.
    """
    begin, end = observed.phases[phase]
    for tenth in range(int((end - begin - _WELL_SECONDS) / TENTH + 1e-9) + 1):
        since = begin + tenth * TENTH
        spans = (Span(since, since + _WELL_SECONDS), Span(since, end))
        if since + _WELL_SECONDS <= end + 1e-9 and all(well(observed.within(name, span)) for span in spans):
            return round(tenth * TENTH * _MILLISECONDS, 3)
    return None
