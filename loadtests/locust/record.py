"""Counts the results of users' requests by second, and by page or priority.

A process can pass the counts to another process as JSON.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from ..common.client import Answer
from ..overload.seen import SLO_SECONDS
from .shapes import CLASSES, PATIENCE_SECONDS, quiet_users

NOT_SHED: Final = frozenset({"draining", "killed", "no_session"})
"""Reasons for a 503 that load cannot cause: the server is stopping, or a database is unreachable."""
USEFUL: Final = "useful"
LATE: Final = "too late"
GIVEN_UP: Final = "gave up"
NO_ANSWER: Final = "no answer"
_REFUSALS: Final = frozenset({503, 429})


class End(NamedTuple):
    """The result of one request."""

    outcome: Literal["served", "refused", "failed"]
    """The outcome: served as expected, rejected without running, or failed for a reason other than load."""
    kind: str
    """The status or usefulness of a served response, the reason for a rejection, or the error."""
    seconds: float
    """Seconds until the request ended."""
    late: float = 0.0
    """Delay of sending, in seconds. Locust, not the server, caused this delay."""


def refusal(status: int, headers: Mapping[str, str] | None) -> str | None:
    """Return the balancer's reason for a rejection, or None if the response is not a rejection."""
    reason = (headers or {}).get("X-Intralb-Reason")
    return reason if status == 503 and reason and reason not in NOT_SHED else None


def end_of_page(status: int, headers: Mapping[str, str] | None, is_expected: bool, seconds: float) -> End:
    """Return the result of a request for a page; status 0 means that there was no response."""
    if reason := refusal(status, headers):
        return End("refused", reason, seconds)
    return End("served" if is_expected else "failed", str(status) if status else NO_ANSWER, seconds)


def end_of_overload(answer: Answer | None, seconds: float, late: float, error: Exception | None = None) -> End:
    """Return the result of an overload request that ended with a response or an error, `seconds` after its due time."""
    if answer is None and isinstance(error, TimeoutError):
        return End("served", GIVEN_UP, max(seconds, PATIENCE_SECONDS), late)
    if answer is None:
        return End("failed", f"no whole answer: {error}", seconds, late)
    if answer.status == 200:
        return End("served", USEFUL if seconds <= SLO_SECONDS else LATE, seconds, late)
    if answer.status in _REFUSALS and answer.not_run:
        return End("refused", answer.reason or "without a reason", seconds, late)
    return End("failed", f"status {answer.status}, perhaps after it had been run", seconds, late)


class Latencies:
    """Durations in milliseconds, rounded to three digits so that the number of distinct values stays bounded."""

    def __init__(self, pairs: Iterable[tuple[float, int]] = ()) -> None:
        self._counts: Counter[float] = Counter(dict(pairs))

    def add(self, seconds: float) -> None:
        """Add one duration, given in seconds."""
        self._counts[float(f"{seconds * 1000:.3g}")] += 1

    def update(self, other: Latencies) -> None:
        """Add all durations of another `Latencies`."""
        self._counts.update(other._counts)

    def quantile(self, share: float) -> float | None:
        """Return a quantile in milliseconds, for a `share` from 0 to 1, or None without durations."""
        left = math.ceil(share * self._counts.total())
        for milliseconds in sorted(self._counts):
            left -= self._counts[milliseconds]
            if left <= 0:
                return milliseconds
        return None

    def pairs(self) -> list[tuple[float, int]]:
        """Return each duration and its count."""
        return list(self._counts.items())


@dataclass
class Tally:
    """Counts of requests by result. Latencies of rejections are separate, because rejections are quick."""

    served: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    admitted: Latencies = field(default_factory=Latencies)
    """Latencies of requests that were not rejected; a timeout counts with its duration."""
    refusals: Latencies = field(default_factory=Latencies)
    sent_late: Latencies = field(default_factory=Latencies)

    @classmethod
    def of(cls, several: Iterable[Tally]) -> Tally:
        """Return the sum of several tallies."""
        total = cls()
        for each in several:
            for name, value in vars(each).items():
                getattr(total, name).update(value)
        return total

    @property
    def requests(self) -> int:
        """The number of all requests."""
        return self.served.total() + self.refused.total() + self.failed.total()

    @property
    def answers(self) -> int:
        """The number of requests with a response."""
        unanswered = sum(count for kind, count in self.failed.items() if kind.startswith("no "))
        return self.requests - unanswered - self.served[GIVEN_UP]

    @property
    def useful_share(self) -> float:
        """The share of requests that were answered in time, from 0 to 1; 1 if there are no requests."""
        return self.served[USEFUL] / self.requests if self.requests else 1.0

    def add(self, end: End) -> None:
        """Add the result of one request."""
        getattr(self, end.outcome)[end.kind] += 1
        self.sent_late.add(max(0.0, end.late))
        if end.outcome != "failed":
            (self.admitted if end.outcome == "served" else self.refusals).add(end.seconds)

    def as_dict(self) -> dict[str, Any]:
        """Convert the tally to plain dictionaries and lists."""
        return {name: each.pairs() if isinstance(each, Latencies) else dict(each) for name, each in vars(self).items()}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Tally:
        """Convert the data of `as_dict` back to a tally."""
        values: Any = (Counter(each) if isinstance(each, dict) else Latencies(each) for each in facts.values())
        return cls(*values)


@dataclass
class Second:
    """One second of a run."""

    fewest_users: int = 0
    most_users: int = 0
    groups: dict[str, Tally] = field(default_factory=dict)
    """The tallies of this second, by page or priority."""

    @property
    def total(self) -> Tally:
        """The sum of the tallies of all groups."""
        return Tally.of(self.groups.values())


@dataclass
class Record:
    """One run as its users saw it."""

    started: float
    """Start of the run, in seconds since the epoch."""
    seconds: list[Second] = field(default_factory=list)
    problems: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Number of problems, by page or priority and by description."""
    saturated: bool = False
    """True if locust ran short of CPU, which makes the server look slower than it is."""

    @property
    def total(self) -> Tally:
        """The tally of the whole run."""
        return Tally.of(second.total for second in self.seconds)

    def group(self, name: str) -> Tally:
        """Return the tally of one page or priority."""
        return Tally.of(second.groups[name] for second in self.seconds if name in second.groups)

    def add(self, passed: float, name: str, end: End) -> None:
        """Add a result to the group `name`, in the second that contains `passed` (seconds since the beginning)."""
        self._second(passed).groups.setdefault(name, Tally()).add(end)

    def note_users(self, passed: float, users: int) -> None:
        """Record the number of users, `passed` seconds after the beginning."""
        second = self._second(passed)
        # A second that was skipped, or created by a request, has no number of users yet.
        second.fewest_users = min(users, second.fewest_users) if second.most_users else users
        second.most_users = max(users, second.most_users)

    def _second(self, passed: float) -> Second:
        index = max(0, int(passed))
        while len(self.seconds) <= index:
            self.seconds.append(Second())
        return self.seconds[index]

    def to_json(self) -> str:
        """Encode the record as JSON."""
        seconds = [
            (second.fewest_users, second.most_users, {name: each.as_dict() for name, each in second.groups.items()})
            for second in self.seconds
        ]
        problems = [[*key, count] for key, count in self.problems.items()]
        return json.dumps([self.started, seconds, problems, self.saturated])

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Parse the JSON that `to_json` returns."""
        started, seconds, problems, saturated = json.loads(text)
        return cls(
            started,
            [
                Second(fewest, most, {name: Tally.from_dict(each) for name, each in groups.items()})
                for fewest, most, groups in seconds
            ],
            Counter({(page, message): count for page, message, count in problems}),
            saturated,
        )


_RECOVERED: Final = 0.99
"""Minimum share of useful responses in a second for the server to count as recovered."""


@dataclass(frozen=True)
class Phase:
    """The sum of consecutive seconds with a constant number of users."""

    name: str
    seconds: int
    classes: dict[str, Tally]

    @property
    def total(self) -> Tally:
        """The sum of the tallies of all priorities."""
        return Tally.of(self.classes.values())

    def rate(self, count: float) -> float:
        """Return `count` per second."""
        return count / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Phases:
    """The three phases of a run, and the recovery after the spike."""

    before: Phase
    spike: Phase
    after: Phase
    recovered_after: int | None
    """Seconds from the end of the spike to the first recovered second; None if there was none."""

    @property
    def all(self) -> Sequence[Phase]:
        """The phases in order of time."""
        return self.before, self.spike, self.after


def in_phases(record: Record, most: int) -> Phases:
    """Return the phases of a run with `most` users in the spike."""
    quiet = quiet_users(most)
    # Skip the last second, which is incomplete.
    whole = record.seconds[:-1]
    more = [index for index, second in enumerate(whole) if second.most_users > quiet] if most > quiet else []
    first, end = (more[0], more[-1] + 1) if more else (len(whole), len(whole))
    recovered = (index for index, second in enumerate(whole[end:]) if second.total.useful_share >= _RECOVERED)
    return Phases(
        _phase("before", whole[:first], quiet),
        _phase("in the spike", whole[first:end], most),
        _phase("after", whole[end:], quiet),
        next(recovered, None),
    )


def _phase(name: str, seconds: Sequence[Second], users: int) -> Phase:
    level = [second for second in seconds if second.fewest_users == second.most_users == users]
    ends = {each: Tally.of(second.groups[each] for second in level if each in second.groups) for each in CLASSES}
    return Phase(name, len(level), ends)
