"""All steady loads: the costs first, then every point.

Decides the order: the servers take turns at each load, so that what changes on the machine meanwhile falls on all of
them. It must not know what one measurement is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from ..side_by_side import BenchmarkError
from ..side_by_side.surroundings import say
from .connected import connected_capacity
from .contenders import CONTENDERS
from .costs import refusal_seconds, request_costs
from .measure import measure
from .results import Point, Results
from .serving import Circumstances
from .workloads import WORKLOADS

__all__ = ["measure_connections", "measure_costs", "measure_points"]


def measure_costs(results: Results, workloads: Sequence[str], around: Circumstances) -> None:
    """Measure k of each workload, as far as it can be measured: without it there is only no ceiling."""
    say("the cost of a refusal")
    with _told():
        refusal = refusal_seconds(around)
        for name in workloads:
            say(f"{name}: the cost of a request")
            with _told():
                results.costs[name] = request_costs(WORKLOADS[name], refusal, around)


@contextlib.contextmanager
def _told(consequence: str = "there is no ceiling") -> Iterator[None]:
    try:
        yield
    except (BenchmarkError, OSError) as error:
        say(f"  failed, so {consequence}: {error}")


def measure_connections(results: Results, workloads: Sequence[str], around: Circumstances) -> None:
    """Measure what the ten connections allow; where that cannot be, what they would allow if timers were exact."""
    for name in workloads:
        say(f"{name}: what its connections allow")
        with _told("the capacity is what it is called"):
            if (capacity := connected_capacity(WORKLOADS[name], around)) is not None:
                results.connected[name] = capacity


def measure_points(
    results: Results,
    workloads: Sequence[str],
    loads: Sequence[float],
    servers: Sequence[str],
    around: Circumstances,
    keep: Callable[[], None],
) -> None:
    """Measure every server under every load, and keep the results each time."""
    for name in workloads:
        for times in loads:
            for server in servers:
                say(f"{name}, {times:g} times its capacity: {server}")
                _measure_one(results, server, name, times, around)
                keep()


def _measure_one(results: Results, server: str, name: str, load: float, around: Circumstances) -> None:
    entry = results.entry(name, server)
    try:
        point = measure(CONTENDERS[server], WORKLOADS[name], load, results.capacity(name), around)
    except (BenchmarkError, OSError) as error:
        say(f"  failed: {error}")
        entry.failures[f"{load:g}"] = str(error)
    else:
        say(f"  {_short(point)}")
        entry.points.append(point)


def _short(point: Point) -> str:
    return f"{point.goodput:.0f}/s useful of {point.offered:.0f}/s"
