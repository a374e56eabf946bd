"""What a generator has seen: how every request ended, and the figures that follow.

Decides what counts as an answer, a refusal or an error, and what a client has seen that
asked again. It must not know about sockets, nor how figures are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from .percentiles import percentile

__all__ = [
    "ANSWERED",
    "GIVEN_UP",
    "NO_REPEAT",
    "REFUSED",
    "SLO_SECONDS",
    "End",
    "Seen",
    "firsthand",
    "kind",
    "summed_up",
]

SLO_SECONDS: Final = 0.5
"""Within what time an answer is useful."""
ANSWERED: Final = "answered"
REFUSED: Final = "refused"
GIVEN_UP: Final = "given up"
NO_REPEAT: Final = -1
_REFUSALS: Final = frozenset({503, 429})
_MILLISECONDS: Final = 1000


class End(NamedTuple):
    """How one request ended. Times are seconds since the instant when it was to be sent."""

    kind: str
    """`ANSWERED`, `REFUSED`, `GIVEN_UP`, or what went wrong."""
    late: float
    """By how much it was sent too late."""
    after: float
    due: float = 0.0
    """When it was to be sent, in seconds from the generator's beginning."""
    stream: int = 0
    """The number of its stream in the plan."""
    repeats: int = NO_REPEAT
    """The number of the request that is asked again, if this one does so."""
    reason: str = ""
    """Why it was refused, as far as the server says so."""
    path: str = ""

    @property
    def useful(self) -> bool:
        """Whether it was answered in time."""
        return self.kind == ANSWERED and self.after <= SLO_SECONDS

    @property
    def admitted(self) -> bool:
        """Whether it was not refused, as far as its client can tell: answered, however late, or given up."""
        return self.kind in (ANSWERED, GIVEN_UP)


@dataclass(frozen=True)
class Seen:
    """The figures of one run. Times are milliseconds; None stands for the percentile of nothing."""

    sent: int
    answered: int
    """With status 200, at whatever time."""
    answered_of: Mapping[str, int]
    """The same for each path."""
    useful: int
    """Of these, how many within `SLO_SECONDS`."""
    refused: int
    """With status 503 or 429."""
    reasons: Mapping[str, int]
    """Why, where the server says so, and how often."""
    given_up: int
    errors: Mapping[str, int]
    """What else happened, and how often."""
    admitted_p50: float | None
    """Of what was answered or given up; the latter counts with the time after which the client left."""
    admitted_p95: float | None
    admitted_p99: float | None
    refusal_p50: float | None
    refusal_p99: float | None
    late_p50: float | None
    """Of the generator: by how much requests were sent too late."""
    late_p99: float | None
    late_worst: float | None
    busy: float
    """How much of its core the generator used while it sent: 1 is all of it."""
    connections: int
    """How many there were at most at the same time."""


def kind(status: int) -> str:
    """Return how a request ended that was answered with this status."""
    if status == 200:
        return ANSWERED
    return REFUSED if status in _REFUSALS else f"status {status}"


def firsthand(ends: Sequence[End]) -> list[End]:
    """Return every request as its client saw it: however often it was repeated, it is one, and ends as the last one.

    All its times are counted from the instant of the first attempt.
    """
    last = [*range(len(ends))]
    for number, end in enumerate(ends):
        if end.repeats != NO_REPEAT:
            # The repeats of a request ascend.
            last[end.repeats] = number
    return [_joined(end, ends[last[number]]) for number, end in enumerate(ends) if end.repeats == NO_REPEAT]


def _joined(first: End, last: End) -> End:
    return (
        first._replace(kind=last.kind, reason=last.reason, after=last.due + last.after - first.due)
        if last is not first
        else first
    )


def summed_up(ends: Iterable[End], busy: float, connections: int) -> Seen:
    """Return the figures of all requests that were sent."""
    ends = list(ends)
    counts = Counter(end.kind for end in ends)
    answered, refused, given_up = (counts.pop(name, 0) for name in (ANSWERED, REFUSED, GIVEN_UP))
    admitted = _ascending(end.after for end in ends if end.admitted)
    refusals = _ascending(end.after for end in ends if end.kind == REFUSED)
    late = _ascending(end.late for end in ends)
    return Seen(
        sent=len(ends),
        answered=answered,
        answered_of=dict(Counter(end.path for end in ends if end.kind == ANSWERED)),
        useful=sum(end.useful for end in ends),
        refused=refused,
        reasons=dict(Counter(end.reason for end in ends if end.reason)),
        given_up=given_up,
        errors=dict(counts),
        admitted_p50=percentile(admitted, 50),
        admitted_p95=percentile(admitted, 95),
        admitted_p99=percentile(admitted, 99),
        refusal_p50=percentile(refusals, 50),
        refusal_p99=percentile(refusals, 99),
        late_p50=percentile(late, 50),
        late_p99=percentile(late, 99),
        late_worst=percentile(late, 100),
        busy=busy,
        connections=connections,
    )


def _ascending(seconds: Iterable[float]) -> list[float]:
    return sorted(second * _MILLISECONDS for second in seconds)
