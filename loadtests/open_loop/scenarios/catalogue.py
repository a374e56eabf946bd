"""The scenarios: what is sent in which phase, what else happens meanwhile, and with which flags our server runs.

Decides rates, phases and flags. It must not know how a scenario is played or what its goals are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..applications import CONNECTIONS, PIN_SECONDS
from ..check import Check
from ..plan import Stream
from ..workloads import WORKLOADS
from . import judges
from .observed import Observed

__all__ = ["SCENARIOS", "Scenario"]


@dataclass(frozen=True)
class Scenario:
    """Phases that follow each other, and what is to be shown by them."""

    name: str
    title: str
    """Short enough for the head of a chart."""
    about: str
    """What is sent, in a sentence."""
    phases: Mapping[str, float]
    """How many seconds each lasts, in their order. The first lets the server begin; nothing in it counts."""
    streams: Sequence[Stream]
    judge: Callable[[Observed], Iterable[Check]]
    slots: int = 0
    """How many requests a server is told to run at the same time, if it can be told; 0: nothing is said."""
    flags: Sequence[str] = ()
    """Of our server; others are not told."""
    stalled: str | None = None
    """The phase in which the database stalls."""
    pinned: str | None = None
    """The phase in which a job is pinned."""
    watched: bool = False
    """Whether our server is asked for its workers all the time; then no other server can play."""


_DB: Final = {"/db": 1.0}
_DB_CAPACITY: Final = WORKLOADS["db"].capacity

# What our server has to be told, beside the slots.
_CLIENT: Final = "X-Client"
_BY_CLIENT: Final = ("--client-key", _CLIENT)
_BULK: Final = "/bulk"
_SHED_BULK_FIRST: Final = ("--routes", f"{_BULK} priority=sheddable")
_LONG_PINS: Final = ("--routes", "/pin request_timeout_seconds=30")
_ONE_BY_ONE: Final = ("--worker-group-size", "1", "--max-concurrent-per-router", str(judges.SLOTS))

_WARM_UP: Final = 2.0
_FLOODS: Final = 16
# A worker is enough for five slots' work as long as they are busy by 70 %.
_ONE_WORKER_RATE: Final = 60.0
_EIGHT_WORKERS_RATE: Final = judges.STEP_WORKERS * judges.SLOTS * 0.65 / 0.050


def _times_db(*loads: float) -> list[float]:
    return [load * _DB_CAPACITY for load in loads]


def _step(name: str, title: str, path: str, judge: Callable[[Observed], Iterable[Check]]) -> Scenario:
    stream = Stream("all", {path: 1.0}, [_ONE_WORKER_RATE, _ONE_WORKER_RATE, _EIGHT_WORKERS_RATE])
    phases = {"warm-up": _WARM_UP, "before": 5.0, "step": 5.0}
    about = (
        f"`{path}`, from the need of one worker to what would be that of {judges.STEP_WORKERS} if it only waited 50 ms"
    )
    return Scenario(name, title, about, phases, [stream], judge, flags=_ONE_BY_ONE, watched=True)


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "burst",
            "A burst",
            "`db` at 0.8, then 5, then 0.8 times its capacity",
            {"warm-up": _WARM_UP, "before": 10.0, "burst": 5.0, "after": 10.0},
            [Stream("all", _DB, _times_db(0.8, 0.8, 5.0, 0.8))],
            judges.burst,
            slots=CONNECTIONS,
        ),
        Scenario(
            "stall",
            "A stall of the database",
            "`db` at 0.9 times its capacity; it stalls, and clients ask again up to three times, at once",
            {"warm-up": _WARM_UP, "before": 5.0, "stall": 10.0, "after": 15.0},
            [Stream("all", _DB, _times_db(0.9, 0.9, 0.9, 0.9), retries=3)],
            judges.stall,
            slots=CONNECTIONS,
            stalled="stall",
        ),
        Scenario(
            "pinned",
            "A pinned job",
            "`db` at 0.3 times its capacity; one job keeps its slot and its connection",
            {"warm-up": _WARM_UP, "before": PIN_SECONDS, "pinned": PIN_SECONDS},
            # At half the capacity, nine connections instead of ten would themselves be felt at the p95.
            [Stream("others", _DB, _times_db(0.3, 0.3, 0.3))],
            judges.pinned,
            slots=CONNECTIONS,
            flags=_LONG_PINS,
            pinned="pinned",
        ),
        Scenario(
            "quiet",
            "A quiet client among floods",
            f"`db`, a client at 5 % of its capacity beside {_FLOODS} that send ten times its capacity together",
            {"warm-up": _WARM_UP, "alone": 10.0, "flooded": 30.0},
            [
                Stream("quiet", _DB, _times_db(0.05, 0.05, 0.05), {_CLIENT: "quiet"}, even=True),
                *(
                    Stream("floods", _DB, _times_db(0.0, 0.0, 10.0 / _FLOODS), {_CLIENT: f"flood-{number}"})
                    for number in range(1, _FLOODS + 1)
                ),
            ],
            judges.quiet,
            slots=CONNECTIONS,
            flags=_BY_CLIENT,
        ),
        Scenario(
            "spike",
            "A spike of what is sheddable",
            "`db`, critical requests at 0.6 times its capacity, while sheddable ones go from 0.3 to 12 times and back",
            {"warm-up": _WARM_UP, "before": 5.0, "spike": 10.0, "after": 5.0},
            [
                Stream("critical", _DB, _times_db(0.6, 0.6, 0.6, 0.6)),
                Stream("sheddable", {_BULK: 1.0}, _times_db(0.3, 0.3, 12.0, 0.3)),
            ],
            judges.spike,
            slots=CONNECTIONS,
            flags=_SHED_BULK_FIRST,
        ),
        _step("step", "A step of waiting", "/wait", judges.step),
        _step("step-cpu", "A step of computing", "/cpu", judges.step_cpu),
    )
}
"""The scenarios, in the order in which they are played."""
