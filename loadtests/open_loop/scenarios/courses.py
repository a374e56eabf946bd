"""Plays all scenarios that were asked for, with every server that can.

Decides the order. It must not know what one scenario is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ...side_by_side import BenchmarkError
from ...side_by_side.surroundings import say
from ..contenders import CONTENDERS, is_ours
from ..results import Results
from ..serving import Circumstances
from .catalogue import SCENARIOS
from .course import Play
from .play import play

__all__ = ["play_all"]


def play_all(
    results: Results,
    scenarios: Iterable[str],
    servers: Sequence[str],
    shortened: float,
    around: Circumstances,
    keep: Callable[[], None],
) -> None:
    """Play them one after the other, and keep the results each time."""
    for name in scenarios:
        for server in servers:
            if SCENARIOS[name].watched and not is_ours(server):
                continue
            say(f"{name}: {server}")
            results.plays.setdefault(name, {})[server] = _played(name, server, shortened, around)
            keep()


def _played(name: str, server: str, shortened: float, around: Circumstances) -> Play:
    try:
        course = play(CONTENDERS[server], SCENARIOS[name], shortened, around)
    except (BenchmarkError, OSError) as error:
        say(f"  failed: {error}")
        return Play(failure=str(error))
    for check in course.checks:
        say(f"  {check.sentence}")
    return Play(course)
