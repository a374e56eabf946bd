"""The benchmark's results (costs, points and scenarios), their file format, and the goals for steady loads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..common.servers import OURS
from .scenarios import SCENARIOS, Goal, Span, Workers, ratio
from .seen import Seen, Timeline
from .serving import BUSY_OTHERS, CONTENDERS, WORKLOADS, Costs


@dataclass(frozen=True)
class Course:
    """The results of one run of a scenario."""

    phases: Mapping[str, Span]
    seen: Mapping[str, Mapping[str, Seen]]
    """Figures of requests as their clients saw them, by phase and then by stream name."""
    attempts: Seen
    """Figures of all attempts, including retries; these show how well the generator kept up."""
    timelines: Mapping[str, Timeline]
    """Values for each tenth of a second, by stream name."""
    workers: Sequence[Workers]
    checks: Sequence[Goal]
    server_busy: float
    """Share of its core, from 0 to 1, that the server used."""
    others_busy: float
    """Share of the server's core, from 0 to 1, that other processes used."""


@dataclass
class Play:
    """The result of one scenario with one server: its course, or the reason for its failure."""

    course: Course | None = None
    failure: str = ""


def course_from(stored: Mapping[str, Any]) -> Course:
    """Convert the plain data of `dataclasses.asdict` back to a course."""
    return Course(
        {name: Span(*span) for name, span in stored["phases"].items()},
        {phase: {name: Seen(**seen) for name, seen in each.items()} for phase, each in stored["seen"].items()},
        Seen(**stored["attempts"]),
        {name: Timeline(**each) for name, each in stored["timelines"].items()},
        [Workers(*each) for each in stored["workers"]],
        [Goal(**each) for each in stored["checks"]],
        stored["server_busy"],
        stored["others_busy"],
    )


Keep = Callable[[], None]
"""A function that stores the results so far."""
_BUSY_GENERATOR: Final = 0.9
_LATE_GENERATOR_MILLISECONDS: Final = 10.0


@dataclass(frozen=True)
class Point:
    """The measurement of one server under one load."""

    load: float
    """Load as a multiple of the capacity."""
    seconds: float
    """Duration of the measured phase, in seconds."""
    seen: Seen
    server_busy: float
    """Share of its core, from 0 to 1, that the server used."""
    others_busy: float
    """Share of the server's core, from 0 to 1, that other processes used."""

    @property
    def offered(self) -> float:
        """The number of requests sent per second."""
        return self.seen.sent / self.seconds

    @property
    def goodput(self) -> float:
        """The number of useful responses per second."""
        return self.seen.useful / self.seconds

    @property
    def generator_failed(self) -> bool:
        """True if the generator limited the result: its core was busy, or it sent requests late."""
        late = self.seen.late_p99
        return self.seen.busy > _BUSY_GENERATOR or (late is not None and late > _LATE_GENERATOR_MILLISECONDS)

    @property
    def disturbed(self) -> bool:
        """True if other processes used too much of the server's core."""
        return self.others_busy > BUSY_OTHERS


@dataclass
class Entry:
    """The measurements of one server in one workload."""

    points: list[Point] = field(default_factory=list)
    """Points in order of ascending load."""
    failures: dict[str, str] = field(default_factory=dict)
    """Reasons for missing points, by load."""


@dataclass
class Results:
    """All results, and the conditions of the measurement."""

    about: dict[str, str] = field(default_factory=dict)
    costs: dict[str, Costs] = field(default_factory=dict)
    """Measured costs, by workload."""
    connected: dict[str, float] = field(default_factory=dict)
    """Measured throughput of the ten connections in requests per second, by workload."""
    entries: dict[str, dict[str, Entry]] = field(default_factory=dict)
    """Entries by workload name, then by server name."""
    plays: dict[str, dict[str, Play]] = field(default_factory=dict)
    """Runs by scenario name, then by server name."""

    def entry(self, workload: str, server: str) -> Entry:
        """Return the entry of a server in a workload; create it if it is missing."""
        return self.entries.setdefault(workload, {}).setdefault(server, Entry())

    def ceiling(self, workload: str, offered: float) -> float | None:
        """Return the maximum possible goodput at an offered load, or None if it is unknown."""
        costs = self.costs.get(workload)
        return costs.ceiling(offered, self.capacity(workload)) if costs else None

    def ceiling_of(self, workload: str, point: Point) -> float | None:
        """Return the maximum possible goodput at a point, or None if it is unknown.

        Chance decides which requests are admitted. If one request in twenty holds a connection sixty times as long, a
        few more or fewer of these requests change the goodput a lot. Therefore the limit of the connections is computed
        from the answered requests, so a server gains nothing by rejecting long requests.
        """
        costs, connected, about = self.costs.get(workload), self.connected.get(workload), WORKLOADS[workload]
        if not costs:
            return None
        if connected and (answered := about.connection_seconds(point.seen.answered_of)):
            connected *= about.connection_seconds(about.paths) / answered
        return costs.ceiling(point.offered, about.capacity_at(costs, connected))

    def capacity(self, workload: str) -> float:
        """Return the capacity in requests per second, from the costs and the throughput measured so far."""
        return WORKLOADS[workload].capacity_at(self.costs.get(workload), self.connected.get(workload))

    @property
    def failed(self) -> bool:
        """True if any measurement failed."""
        points = any(entry.failures for servers in self.entries.values() for entry in servers.values())
        return points or any(play.failure for servers in self.plays.values() for play in servers.values())


def from_json(stored: Mapping[str, Any]) -> Results:
    """Convert the parsed JSON of `as_json` back to results."""
    costs = {WORKLOADS[workload].name: Costs(**each) for workload, each in stored["costs"].items()}
    results = Results(stored["about"], costs, dict(stored["connected"]))
    for workload, servers in stored["entries"].items():
        for server, entry in servers.items():
            known = results.entry(WORKLOADS[workload].name, CONTENDERS[server].name)
            known.points = [Point(**{**point, "seen": Seen(**point["seen"])}) for point in entry["points"]]
            known.failures = dict(entry["failures"])
    for scenario, servers in stored["plays"].items():
        results.plays[SCENARIOS[scenario].name] = {
            CONTENDERS[name].name: Play(course_from(each["course"]) if each["course"] else None, each["failure"])
            for name, each in servers.items()
        }
    return results


_OF_THE_CEILING: Final = 95.0
_ABOUT_CAPACITY: Final = (0.9, 1.1)
_LOW: Final = 0.8
_HIGH: Final = 10.0
_ADMITTED_TIMES: Final = 3.0
_REFUSAL_MILLISECONDS: Final = 50.0
_QUICK_REFUSALS: Final = ("db", "cpu", "mixed")
"""Workloads in which rejections must be quick."""
_SPOILT: Final = "disturbed, see the remarks"


def steady_checks(results: Results, workload: str) -> Iterator[Goal]:
    """Yield each goal of a workload, with its result."""
    entry = results.entries.get(workload, {}).get(OURS)
    at = {point.load: point for point in (entry.points if entry else ())}
    ceilings = [(point, results.ceiling_of(workload, point)) for point in at.values()]
    shares = [(point, point.goodput / most * 100) for point, most in ceilings if most]
    if shares:
        point, share = min(shares, key=lambda each: each[1])
        what = f"goodput of the ceiling where it is least, at {point.load:g} times"
        yield Goal(what, share, _OF_THE_CEILING, "%", True, _spoilt(point) or _chance(workload, point))
    if _LOW in at and _HIGH in at:
        low, high = at[_LOW], at[_HIGH]
        what = f"admitted p99 at {_HIGH:g} times over that at {_LOW:g} times"
        times = ratio(high.seen.admitted_p99, low.seen.admitted_p99)
        yield Goal(what, times, _ADMITTED_TIMES, "times", remark=_spoilt(low, high))
    refusals = [(each, p99) for each in at.values() if (p99 := each.seen.refusal_p99) is not None]
    if refusals and workload in _QUICK_REFUSALS:
        point, slowest = max(refusals, key=lambda each: each[1])
        what = f"refusals' p99 where it is longest, at {point.load:g} times"
        yield Goal(what, slowest, _REFUSAL_MILLISECONDS, "ms", remark=_spoilt(point))


def _chance(workload: str, point: Point) -> str:
    """Return a remark if chance has a large influence on the goodput near the capacity, else an empty string."""
    chance = WORKLOADS[workload].chance(point.seen.sent) * 100
    if not _ABOUT_CAPACITY[0] <= point.load <= _ABOUT_CAPACITY[1] or chance < (100 - _OF_THE_CEILING) / 2:
        return ""
    return f"in {point.seconds:g} s {chance:.1f} % more or less arrives by chance; more --seconds give more certainty"


def _spoilt(*points: Point) -> str:
    return _SPOILT if any(point.disturbed or point.generator_failed for point in points) else ""
