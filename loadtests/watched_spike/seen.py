"""What the users saw, counted: for each second in which requests were to be sent, and each class.

Decides how a request ended, by its answer and its time, and how that is handed from one process to another as JSON. It
must not know locust, the server or the report.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from ..figures import Latencies
from ..open_loop.seen import SLO_SECONDS
from .connections import Reply
from .load import PATIENCE_SECONDS

__all__ = ["GIVEN_UP", "LATE", "REFUSED", "SLO_SECONDS", "USEFUL", "End", "Ends", "Seen", "how_it_ended"]

USEFUL: Final = "useful"
LATE: Final = "too late"
REFUSED: Final = "refused"
GIVEN_UP: Final = "gave up"
_KINDS: Final = frozenset({USEFUL, LATE, REFUSED, GIVEN_UP})
_LATENCIES: Final = ("admitted", "refusals", "sent_late")
_REFUSALS: Final = frozenset({503, 429})


class End(NamedTuple):
    """How one request ended."""

    kind: str
    """One of the kinds above, or what went wrong."""
    after: float
    """Seconds since the instant when it was to be sent."""
    reason: str = ""
    """Why it was refused, as the server says."""

    @property
    def is_error(self) -> bool:
        """Whether it ended as no request should, however much arrives."""
        return self.kind not in _KINDS


def how_it_ended(reply: Reply | None, after: float, error: Exception | None = None) -> End:
    """Return how a request ended that was answered so, or not at all because of the error."""
    if reply is None:
        return End(GIVEN_UP if isinstance(error, TimeoutError) else f"no whole answer: {error}", after)
    if reply.status == 200:
        return End(USEFUL if after <= SLO_SECONDS else LATE, after)
    if reply.status in _REFUSALS and reply.headers.get("x-intralb-executed") == "0":
        return End(REFUSED, after, reply.headers.get("x-intralb-reason", "no reason told"))
    return End(f"status {reply.status}, perhaps after it had been run", after)


@dataclass
class Ends:
    """How some requests ended."""

    counts: Counter[str] = field(default_factory=Counter)
    """By kind."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Of the refused."""
    admitted: Latencies = field(default_factory=Latencies)
    """Of what was answered 200 or given up; the latter counts with the user's patience."""
    refusals: Latencies = field(default_factory=Latencies)
    sent_late: Latencies = field(default_factory=Latencies)
    """By how much they were sent later than they were to be: locust's own lateness, not the server's."""

    @property
    def sent(self) -> int:
        """All of them."""
        return self.counts.total()

    @property
    def errors(self) -> Counter[str]:
        """What ended as no request should, by what went wrong."""
        return Counter({kind: count for kind, count in self.counts.items() if kind not in _KINDS})

    @property
    def useful_share(self) -> float:
        """The share that was answered in time, from 0 to 1; 1 if there was nothing to answer."""
        return self.counts[USEFUL] / self.sent if self.sent else 1.0

    def add(self, late: float, end: End) -> None:
        """Count one request, which was sent `late` seconds after it was to be."""
        self.counts[end.kind] += 1
        self.sent_late.add(max(0.0, late) * 1000)
        if end.kind == REFUSED:
            self.reasons[end.reason] += 1
            self.refusals.add(end.after * 1000)
        elif not end.is_error:
            self.admitted.add(max(end.after, PATIENCE_SECONDS if end.kind == GIVEN_UP else 0.0) * 1000)

    def update(self, other: Ends) -> None:
        """Count all requests of another."""
        self.counts.update(other.counts)
        self.reasons.update(other.reasons)
        self.admitted.update(other.admitted)
        self.refusals.update(other.refusals)
        self.sent_late.update(other.sent_late)

    @classmethod
    def all_of(cls, several: Iterable[Ends]) -> Ends:
        """Return several together."""
        together = cls()
        for each in several:
            together.update(each)
        return together

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain dictionaries and lists."""
        latencies = {name: getattr(self, name).pairs() for name in _LATENCIES}
        return {"counts": dict(self.counts), "reasons": dict(self.reasons), **latencies}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Ends:
        """Return what `as_dict` told."""
        latencies = {name: Latencies(facts[name]) for name in _LATENCIES}
        return cls(Counter(facts["counts"]), Counter(facts["reasons"]), **latencies)


@dataclass
class Second:
    """One second of a run."""

    fewest_users: int
    most_users: int
    classes: dict[str, Ends] = field(default_factory=dict)
    """Of the requests that were to be sent in it."""

    @property
    def total(self) -> Ends:
        """All classes together."""
        return Ends.all_of(self.classes.values())


@dataclass
class Seen:
    """One run as its users saw it."""

    started: float
    """When it began, in seconds since the epoch."""
    seconds: list[Second] = field(default_factory=list)
    saturated: bool = False
    """Whether locust itself ran short of CPU."""

    @property
    def total(self) -> Ends:
        """The whole run."""
        return Ends.all_of(second.total for second in self.seconds)

    @property
    def failures(self) -> int:
        """How many requests locust counts as failed: errors, and who gave up."""
        total = self.total
        return total.errors.total() + total.counts[GIVEN_UP]

    def add(self, due: float, name: str, late: float, end: End) -> None:
        """Count a request of class `name` that was to be sent `due` seconds after the beginning, and was `late`."""
        classes = self._second(due).classes
        if name not in classes:
            classes[name] = Ends()
        classes[name].add(late, end)

    def note_users(self, passed: float, users: int) -> None:
        """Note how many users there are, so many seconds after the beginning."""
        second = self._second(passed)
        # One that was made before its time, or skipped, has no number of its own yet.
        second.fewest_users = min(users, second.fewest_users) if second.most_users else users
        second.most_users = max(users, second.most_users)

    def _second(self, passed: float) -> Second:
        index = max(0, int(passed))
        while len(self.seconds) <= index:
            self.seconds.append(Second(0, 0))
        return self.seconds[index]

    def to_json(self) -> str:
        """Return everything as text."""
        seconds = [
            (second.fewest_users, second.most_users, {name: ends.as_dict() for name, ends in second.classes.items()})
            for second in self.seconds
        ]
        return json.dumps({"started": self.started, "seconds": seconds, "saturated": self.saturated})

    @classmethod
    def from_json(cls, text: str) -> Seen:
        """Return what `to_json` wrote."""
        facts = json.loads(text)
        seconds = [
            Second(fewest, most, {name: Ends.from_dict(ends) for name, ends in classes.items()})
            for fewest, most, classes in facts["seconds"]
        ]
        return cls(facts["started"], seconds, facts["saturated"])
