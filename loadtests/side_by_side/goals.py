"""What our server is meant to reach beside the others, and whether it does.

Decides the goals. It must not know how they are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .cases import IDLE
from .results import Results
from .servers import LIMIT, OURS

__all__ = ["GOALS", "IDLE_BYTES", "Goal", "Reached", "idle_bytes", "reached"]


@dataclass(frozen=True)
class Goal:
    """A case, and how many times as good as a server we want to be there."""

    case: str
    peer: str | None
    """The server's name; None stands for the best of them."""
    times: float


@dataclass(frozen=True)
class Reached:
    """What became of a goal."""

    goal: Goal
    peer: str
    times: float

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.times >= self.goal.times


GOALS: Final = (
    Goal("hello", "gunicorn", 5.0),
    Goal("hello", "pywsgi-nodelay", 3.5),
    Goal("hello", "granian", 1.0),
    Goal("hello", LIMIT, 0.5),
    Goal("close", "gunicorn", 3.0),
    Goal("flask", "granian", 0.95),
    Goal("large", None, 1.2),
    Goal("larger", None, 1.2),
    Goal("post", "granian", 0.9),
    Goal("file", None, 1.2),
)
IDLE_BYTES: Final = 4096
"""The most that an idle connection is to cost."""


def reached(results: Results) -> Iterator[Reached]:
    """Return what became of each goal whose servers were measured."""
    for goal in GOALS:
        peer = goal.peer or results.best_peer(goal.case)
        times = results.advantage(goal.case, peer) if peer else None
        if peer and times is not None:
            yield Reached(goal, peer, times)


def idle_bytes(results: Results) -> float | None:
    """Return what one of our idle connections costs, or None if that was not measured."""
    return results.value(IDLE, OURS)
