"""What the server says of itself, looked at once a second while the clients are at work.

Decides what is kept of its snapshots and what follows from two of them. It must not know the clients.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .target import LoadTestError

__all__ = ["Moment", "Watch"]

_TIMEOUT_SECONDS = 5.0
_SHORTEST_SECONDS = 0.5
"""A shorter moment is joined to the one before it, for a rate over so little time says nothing."""
# A proxy that the environment names must not come between this machine and itself.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Moment:
    """One snapshot of the server, and what has happened since the one before."""

    begin: float
    """When the one before was taken, in seconds since the epoch."""
    end: float
    facts: Mapping[str, Any]
    """The snapshot, with the fields of `intralb_gevent.observe.snapshot.Snapshot`."""
    before: Mapping[str, Any]

    def rates(self, name: str) -> dict[str, float]:
        """Return how much each of the counters `name` has grown, per second."""
        length = max(self.end - self.begin, 1e-3)
        return {key: count / length for key, count in grown(self.facts[name], self.before[name]).items()}

    @property
    def workers(self) -> int:
        """How many workers take jobs."""
        return sum(not worker["retiring"] for worker in self.facts["workers"])

    def mean(self, name: str) -> float | None:
        """Return the mean of what the durations `name` have gained since the moment before, in milliseconds, if any."""
        now, then = self.facts[name], self.before[name]
        gained = now["count"] - then["count"]
        return (now["mean"] * now["count"] - then["mean"] * then["count"]) / gained * 1000 if gained else None

    def so_far(self, name: str, figure: str) -> float:
        """Return a figure of the durations `name`, of all since the server's start, in milliseconds."""
        return float(self.facts[name][figure]) * 1000


def grown(now: Mapping[str, int], then: Mapping[str, int]) -> dict[str, int]:
    """Return by how much each counter is larger now, without those that are not."""
    return {key: count - then.get(key, 0) for key, count in now.items() if count > then.get(key, 0)}


@dataclass
class Watch:
    """Looks at the server's snapshots, from its first look on."""

    admin_url: str
    moments: list[Moment] = field(default_factory=list)
    first: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    """How the server ended, if it was ours to stop."""
    _previous: Mapping[str, Any] = field(default_factory=dict, init=False)
    _taken: float = field(default=0.0, init=False)
    """When the previous snapshot was taken, in seconds since the epoch."""

    def begin(self) -> None:
        """Take the snapshot that all others are compared with."""
        self.first = self._snapshot()
        self._previous, self._taken = self.first, time.time()

    def look(self) -> Moment:
        """Take one snapshot."""
        facts, now = self._snapshot(), time.time()
        moment = Moment(self._taken, now, facts, self._previous)
        if self.moments and now - self._taken < _SHORTEST_SECONDS:
            last = self.moments.pop()
            moment = Moment(last.begin, now, facts, last.before)
        self._previous, self._taken = facts, now
        self.moments.append(moment)
        return moment

    def look_until_idle(self, seconds: float) -> None:
        """Take the last snapshot: one with no job left, or the one after `seconds`."""
        give_up = time.monotonic() + seconds
        while True:
            moment = self.look()
            if not moment.facts["queued"] + moment.facts["running"] or time.monotonic() > give_up:
                return
            time.sleep(0.2)

    def _snapshot(self) -> dict[str, Any]:
        url = f"{self.admin_url}/snapshot"
        try:
            with _opener.open(url, timeout=_TIMEOUT_SECONDS) as answer:
                facts: dict[str, Any] = json.load(answer)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise LoadTestError(f"the server does not tell its figures at {url}: {error}") from None
        return facts

    # The whole run.

    @property
    def last(self) -> Mapping[str, Any]:
        """The last snapshot."""
        return self.moments[-1].facts if self.moments else self.first

    @property
    def outcomes(self) -> dict[str, int]:
        """How the jobs of the run ended."""
        return grown(self.last["outcomes"], self.first["outcomes"])

    @property
    def shed_reasons(self) -> dict[str, int]:
        """Why jobs of the run were shed."""
        return grown(self.last["shed_reasons"], self.first["shed_reasons"])

    @property
    def ended(self) -> int:
        """How many jobs of the run have ended."""
        return sum(self.outcomes.values())

    @property
    def fewest_workers(self) -> int:
        """The fewest workers that were seen; a server that has had no job yet has none."""
        return min((moment.workers for moment in self.moments if moment.facts["workers"]), default=0)

    @property
    def most_workers(self) -> int:
        """The most workers that were seen."""
        return max((moment.workers for moment in self.moments), default=0)
