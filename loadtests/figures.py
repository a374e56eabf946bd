"""What the clients saw, counted: per second, per page, and as a whole.

Decides what is counted and how it is summed up, and how that is handed from one process to another as JSON. It must
not know locust, the server or the report.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["NOT_SHED", "Clients", "Latencies", "Tally", "refusal"]

NOT_SHED = frozenset({"draining", "killed", "no_session"})
"""Reasons of a 503 that no load explains: a server that is stopping, or a database that cannot be reached."""


def refusal(status: int, headers: Mapping[str, str] | None) -> str | None:
    """Return why the balancer refused a request, or None when the response is no such refusal."""
    reason = (headers or {}).get("X-Intralb-Reason")
    return reason if status == 503 and reason and reason not in NOT_SHED else None


class Latencies:
    """Durations in milliseconds, kept to three digits so that their number stays bounded."""

    def __init__(self, pairs: Iterable[tuple[float, int]] = ()) -> None:
        self._counts: Counter[float] = Counter(dict(pairs))

    def __repr__(self) -> str:
        return f"<Latencies of {self._counts.total()}>"

    def add(self, milliseconds: float) -> None:
        """Count one duration."""
        self._counts[float(f"{milliseconds:.3g}")] += 1

    def update(self, other: Latencies) -> None:
        """Count all durations of another."""
        self._counts.update(other._counts)

    def quantile(self, share: float) -> float | None:
        """Return the duration that `share` (0 to 1) of all do not exceed, in milliseconds; None if there is none."""
        left = math.ceil(share * self._counts.total())
        for milliseconds in sorted(self._counts):
            left -= self._counts[milliseconds]
            if left <= 0:
                return milliseconds
        return None

    def pairs(self) -> list[tuple[float, int]]:
        """Return each duration and how often it was seen."""
        return list(self._counts.items())


@dataclass
class Tally:
    """Requests by how they ended. Latencies are of expected answers only: a refusal is quick and would flatter."""

    expected: Counter[str] = field(default_factory=Counter)
    """By status."""
    refused: Counter[str] = field(default_factory=Counter)
    """By the balancer's reason."""
    unexpected: Counter[str] = field(default_factory=Counter)
    """By status, or "no answer"."""
    latencies: Latencies = field(default_factory=Latencies)

    @property
    def requests(self) -> int:
        """All of them."""
        return self.expected.total() + self.refused.total() + self.unexpected.total()

    @property
    def answers(self) -> int:
        """Those that were answered at all."""
        return self.requests - self.unexpected["no answer"]

    def add(self, status: int, reason: str | None, is_expected: bool, milliseconds: float) -> None:
        """Count one request; `reason` is why it was refused, status 0 means that there was no answer."""
        if reason is not None:
            self.refused[reason] += 1
        elif is_expected:
            self.expected[str(status)] += 1
            self.latencies.add(milliseconds)
        else:
            self.unexpected[str(status) if status else "no answer"] += 1

    def update(self, other: Tally) -> None:
        """Count all requests of another."""
        self.expected.update(other.expected)
        self.refused.update(other.refused)
        self.unexpected.update(other.unexpected)
        self.latencies.update(other.latencies)

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain dictionaries and lists."""
        counts = {"expected": dict(self.expected), "refused": dict(self.refused), "unexpected": dict(self.unexpected)}
        return {**counts, "latencies": self.latencies.pairs()}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Tally:
        """Return what `as_dict` told."""
        return cls(
            expected=Counter(facts["expected"]),
            refused=Counter(facts["refused"]),
            unexpected=Counter(facts["unexpected"]),
            latencies=Latencies((milliseconds, count) for milliseconds, count in facts["latencies"]),
        )


@dataclass
class Clients:
    """One run as its clients saw it."""

    started: float
    """When it began, in seconds since the epoch."""
    seconds: list[Tally] = field(default_factory=list)
    """One for each second in which requests ended."""
    users: list[int] = field(default_factory=list)
    """How many users there were in each of these seconds."""
    pages: dict[str, Tally] = field(default_factory=dict)
    problems: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By page and what was wrong."""
    saturated: bool = False
    """Whether the clients themselves ran short of CPU, which makes the server look slower than it is."""

    def second(self, moment: float, users: int) -> Tally:
        """Return the tally of the second that `moment` lies in, and note how many users there are then."""
        index = max(0, int(moment - self.started))
        while len(self.seconds) <= index:
            self.seconds.append(Tally())
            self.users.append(self.users[-1] if self.users else users)
        self.users[index] = users
        return self.seconds[index]

    def page(self, name: str) -> Tally:
        """Return the tally of a page."""
        return self.pages.setdefault(name, Tally())

    @property
    def total(self) -> Tally:
        """Return all pages together."""
        total = Tally()
        for tally in self.pages.values():
            total.update(tally)
        return total

    def to_json(self) -> str:
        """Return everything as text."""
        facts = {
            "started": self.started,
            "seconds": [tally.as_dict() for tally in self.seconds],
            "users": self.users,
            "pages": {name: tally.as_dict() for name, tally in self.pages.items()},
            "problems": [[page, message, count] for (page, message), count in self.problems.items()],
            "saturated": self.saturated,
        }
        return json.dumps(facts)

    @classmethod
    def from_json(cls, text: str) -> Clients:
        """Return what `to_json` wrote."""
        facts = json.loads(text)
        return cls(
            started=facts["started"],
            seconds=[Tally.from_dict(each) for each in facts["seconds"]],
            users=facts["users"],
            pages={name: Tally.from_dict(each) for name, each in facts["pages"].items()},
            problems=Counter({(page, message): count for page, message, count in facts["problems"]}),
            saturated=facts["saturated"],
        )
