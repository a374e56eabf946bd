"""What our server is meant to reach in every workload, and whether it does.

Decides the goals of steady loads. It must not know how they are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from ..side_by_side.servers import OURS
from .check import Check
from .results import Point, Results
from .workloads import WORKLOADS

__all__ = ["steady_checks"]

_OF_THE_CEILING: Final = 95.0
_ABOUT_CAPACITY: Final = (0.9, 1.1)
_LOW: Final = 0.8
_HIGH: Final = 10.0
_ADMITTED_TIMES: Final = 3.0
_REFUSAL_MILLISECONDS: Final = 50.0
_QUICK_REFUSALS: Final = ("db", "cpu", "mixed")
"""The workloads in which refusals must be quick."""
_SPOILT: Final = "disturbed, see the remarks"


def steady_checks(results: Results, workload: str) -> Iterator[Check]:
    """Return what became of each goal of a workload, as far as it was measured."""
    entry = results.entries.get(workload, {}).get(OURS)
    points = entry.points if entry else ()
    yield from _goodput(results, workload, points)
    yield from _admitted(points)
    if workload in _QUICK_REFUSALS:
        yield from _refusals(points)


def _goodput(results: Results, workload: str, points: Sequence[Point]) -> Iterator[Check]:
    shares = [
        (point.goodput / ceiling * 100, point) for point in points if (ceiling := results.ceiling_of(workload, point))
    ]
    if shares:
        share, point = min(shares, key=lambda each: each[0])
        what = f"goodput of the ceiling where it is least, at {point.load:g} times"
        yield Check(what, share, _OF_THE_CEILING, "%", True, _spoilt(point) or _chance(workload, point))


def _chance(workload: str, point: Point) -> str:
    """Say how much chance decides at a point, where about as much arrives as can be done, if that is much."""
    chance = WORKLOADS[workload].chance(point.seen.sent) * 100
    if not _ABOUT_CAPACITY[0] <= point.load <= _ABOUT_CAPACITY[1] or chance < (100 - _OF_THE_CEILING) / 2:
        return ""
    return f"in {point.seconds:g} s {chance:.1f} % more or less arrives by chance; more --seconds tell more"


def _admitted(points: Sequence[Point]) -> Iterator[Check]:
    at = {point.load: point for point in points}
    if _LOW in at and _HIGH in at:
        low, high = at[_LOW], at[_HIGH]
        what = f"admitted p99 at {_HIGH:g} times over that at {_LOW:g} times"
        times = _ratio(high.seen.admitted_p99, low.seen.admitted_p99)
        yield Check(what, times, _ADMITTED_TIMES, "times", remark=_spoilt(low, high))


def _refusals(points: Sequence[Point]) -> Iterator[Check]:
    known = [(point.seen.refusal_p99, point) for point in points if point.seen.refusal_p99 is not None]
    if known:
        slowest, point = max(known, key=lambda each: each[0])
        what = f"refusals' p99 where it is longest, at {point.load:g} times"
        yield Check(what, slowest, _REFUSAL_MILLISECONDS, "ms", remark=_spoilt(point))


def _ratio(value: float | None, other: float | None) -> float | None:
    return value / other if value is not None and other else None


def _spoilt(*points: Point) -> str:
    return _SPOILT if any(point.disturbed or point.generator_failed for point in points) else ""
