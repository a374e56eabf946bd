"""What was measured: the costs of each workload, each server's points, its courses of the scenarios; and their file.

Decides the figures that are shown and the form on disk. It must not know how things are measured or shown.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ..side_by_side import BenchmarkError
from .ceiling import Costs
from .contenders import CONTENDERS
from .scenarios.catalogue import SCENARIOS
from .scenarios.course import Play, course_from
from .seen import Seen
from .usage import BUSY_OTHERS
from .workloads import WORKLOADS

__all__ = ["Entry", "Point", "Results", "as_json", "load"]

_BUSY_GENERATOR: Final = 0.9
_LATE_GENERATOR_MILLISECONDS: Final = 10.0


@dataclass(frozen=True)
class Point:
    """One server under one load."""

    load: float
    """Times the capacity."""
    seconds: float
    """For how long requests were sent that count."""
    seen: Seen
    server_busy: float
    """How much of its core the server used: 1 is all of it."""
    others_busy: float
    """How much of the server's core others used."""

    @property
    def offered(self) -> float:
        """Requests per second that were sent."""
        return self.seen.sent / self.seconds

    @property
    def goodput(self) -> float:
        """Useful answers per second."""
        return self.seen.useful / self.seconds

    @property
    def generator_failed(self) -> bool:
        """Whether the generator was the limit: it had no time left, or was late."""
        late = self.seen.late_p99
        return self.seen.busy > _BUSY_GENERATOR or (late is not None and late > _LATE_GENERATOR_MILLISECONDS)

    @property
    def disturbed(self) -> bool:
        """Whether the server had not its core to itself."""
        return self.others_busy > BUSY_OTHERS


@dataclass
class Entry:
    """One server in one workload."""

    points: list[Point] = field(default_factory=list)
    """By ascending load."""
    failures: dict[str, str] = field(default_factory=dict)
    """By load, why there is no point."""


@dataclass
class Results:
    """All of it, and the circumstances."""

    about: dict[str, str] = field(default_factory=dict)
    costs: dict[str, Costs] = field(default_factory=dict)
    """By workload, as far as they could be measured."""
    connected: dict[str, float] = field(default_factory=dict)
    """By workload, what the ten connections were measured to allow."""
    entries: dict[str, dict[str, Entry]] = field(default_factory=dict)
    """By the names of workload and server."""
    plays: dict[str, dict[str, Play]] = field(default_factory=dict)
    """By the names of scenario and server."""

    def entry(self, workload: str, server: str) -> Entry:
        """Return the place for a server in a workload."""
        return self.entries.setdefault(workload, {}).setdefault(server, Entry())

    def ceiling(self, workload: str, offered: float) -> float | None:
        """Return the goodput that is possible, or None if it is not known."""
        costs = self.costs.get(workload)
        return costs.ceiling(offered, self.capacity(workload)) if costs else None

    def ceiling_of(self, workload: str, point: Point) -> float | None:
        """Return the goodput that was possible at a point, or None if it is not known.

        Who is let in is chance: of requests of which one in twenty needs a connection for sixty times as long, a few
        more or less of these are many more or less in all. So the connections allow what they do with those that were
        answered, and nobody comes off well by refusing the long ones.
        """
        costs, connected, about = self.costs.get(workload), self.connected.get(workload), WORKLOADS[workload]
        if not costs:
            return None
        if connected and (answered := about.connection_seconds(point.seen.answered_of)):
            connected *= about.connection_seconds(about.paths) / answered
        return costs.ceiling(point.offered, about.capacity_at(costs, connected))

    def capacity(self, workload: str) -> float:
        """Return the requests per second that can be done, as far as it is known."""
        return WORKLOADS[workload].capacity_at(self.costs.get(workload), self.connected.get(workload))

    @property
    def failed(self) -> bool:
        """Whether something could not be measured."""
        points = any(entry.failures for servers in self.entries.values() for entry in servers.values())
        return points or any(play.failure for servers in self.plays.values() for play in servers.values())


def as_json(results: Results) -> str:
    """Return the results as text that `load` reads."""
    return json.dumps(asdict(results), indent=2) + "\n"


def load(path: pathlib.Path) -> Results:
    """Read a file of what `as_json` has returned. Raises `BenchmarkError`."""
    try:
        return _from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise BenchmarkError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchmarkError(f"{str(path)!r} is not a file of results: {error!r}") from None


def _from_json(stored: Mapping[str, Any]) -> Results:
    costs = {WORKLOADS[workload].name: Costs(**each) for workload, each in stored["costs"].items()}
    results = Results(stored["about"], costs, dict(stored["connected"]))
    for workload, servers in stored["entries"].items():
        for server, entry in servers.items():
            known = results.entry(WORKLOADS[workload].name, CONTENDERS[server].name)
            known.points = [Point(**{**point, "seen": Seen(**point["seen"])}) for point in entry["points"]]
            known.failures = dict(entry["failures"])
    for scenario, servers in stored["plays"].items():
        results.plays[SCENARIOS[scenario].name] = {CONTENDERS[name].name: _play(each) for name, each in servers.items()}
    return results


def _play(stored: Mapping[str, Any]) -> Play:
    return Play(course_from(stored["course"]) if stored["course"] else None, stored["failure"])
