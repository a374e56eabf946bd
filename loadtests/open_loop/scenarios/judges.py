"""What each scenario is to show, and whether it did.

Decides the goals, and how what a client sees is held against them. It must not know how a scenario is played.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final

from ..check import Check
from ..seen import ANSWERED, REFUSED, End
from .observed import Observed, answered_share, p, useful_share, well_after

__all__ = ["SLOTS", "STEP_WORKERS", "burst", "inversions", "pinned", "quiet", "spike", "stall", "step", "step_cpu"]

_USEFUL: Final = 0.95
_BURST_P99_TIMES: Final = 1.5
"""How far above the p99 before the burst is still normal: a second has so few requests that its p99 scatters."""
_PINNED_TIMES: Final = 1.1
_QUIET_TIMES: Final = 2.0
_ANSWERED: Final = 99.9
_INVERSION_SECONDS: Final = 0.1
SLOTS: Final = 5
"""Of a worker, in the steps."""
STEP_WORKERS: Final = 8
_STEP_SHARE: Final = 0.9
_MILLISECONDS: Final = 1000


def burst(observed: Observed) -> Iterator[Check]:
    """The p99 is normal again soon after the burst, and so is goodput: who refuses all has a fine p99."""
    before = observed.during("all", "before")
    normal, useful = p(99, before), useful_share(before)

    def well(ends: Sequence[End]) -> bool:
        now = p(99, ends)
        quick = now is not None and normal is not None and now <= _BURST_P99_TIMES * normal
        return quick and useful_share(ends) >= _USEFUL * useful

    told = f"p99 at most {_BURST_P99_TIMES:g} times and goodput at least {_USEFUL:.0%} of that before the burst"
    yield Check(f"after the burst, {told}, after", well_after(observed, "all", "after", well), 500, "ms")


def stall(observed: Observed) -> Iterator[Check]:
    """Nearly all is useful again soon after the stall."""
    after = well_after(observed, "all", "after", lambda ends: useful_share(ends) >= _USEFUL)
    yield Check(f"after the stall, {_USEFUL:.0%} of the requests answered in time, after", after, 2000, "ms")


def pinned(observed: Observed) -> Iterator[Check]:
    """The others do not notice."""
    times = _times(p(95, observed.during("others", "pinned")), p(95, observed.during("others", "before")))
    yield Check("the others' p95 while a job is pinned, over that before", times, _PINNED_TIMES, "times")


def quiet(observed: Observed) -> Iterator[Check]:
    """The quiet client is answered, and nearly as soon as alone."""
    alone, beside = observed.during("quiet", "alone"), observed.during("quiet", "flooded")
    yield Check("the quiet client's requests answered beside the floods", answered_share(beside), _ANSWERED, "%", True)
    yield Check("its p99 beside them, over that alone", _times(p(99, beside), p(99, alone)), _QUIET_TIMES, "times")


def spike(observed: Observed) -> Iterator[Check]:
    """What is critical is answered, and is never refused while something sheddable is let in."""
    critical, sheddable = (observed.during(name, "spike") for name in ("critical", "sheddable"))
    yield Check("critical requests answered in the spike", answered_share(critical), _ANSWERED, "%", True)
    told = f"critical requests refused although a sheddable one sent up to {_INVERSION_SECONDS * 1000:.0f} ms later"
    yield Check(f"{told} was answered", inversions(critical, sheddable), 0, "")


def inversions(critical: Sequence[End], sheddable: Sequence[End]) -> int:
    """Count critical requests that were refused although a sheddable one that was sent soon after was answered.

    Soon is as much as a client can tell: much later there may be room again.
    """
    sent = sorted(end.due + end.late for end in sheddable if end.kind == ANSWERED)
    refused = [end.due + end.late for end in critical if end.kind == REFUSED]
    return sum(bisect_left(sent, instant) < bisect_left(sent, instant + _INVERSION_SECONDS) for instant in refused)


def step(observed: Observed) -> Iterator[Check]:
    """The slots are there soon, and little is lost until they are."""
    begin, _ = observed.phases["step"]
    needed = _STEP_SHARE * STEP_WORKERS * SLOTS
    there = next((each.at for each in observed.workers if each.at >= begin and each.number * SLOTS >= needed), None)
    after = None if there is None else (there - begin) * _MILLISECONDS
    yield Check(f"{_STEP_SHARE:.0%} of the slots of {STEP_WORKERS} workers are there after", after, 500, "ms")
    lost = (1 - useful_share(observed.during("all", "step"))) * 100
    yield Check("goodput lost over the step", lost, 2, "%")


def step_cpu(observed: Observed) -> Iterator[Check]:
    """Workers that would share the same core are not added."""
    begin, end = observed.phases["step"]
    before = [each.number for each in observed.workers if each.at < begin]
    during = [each.number for each in observed.workers if begin <= each.at < end]
    added = max(during) - before[-1] if before and during else None
    yield Check("workers added", added, 1, "")


def _times(value: float | None, other: float | None) -> float | None:
    return value / other if value is not None and other else None
