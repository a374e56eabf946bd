"""The results of a generator's requests, and the figures computed from them.

This module defines which results count as answered, rejected or an error, and how retries count.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ..common.report import percentile

SLO_SECONDS: Final = 0.5
"""Maximum latency of a useful response, in seconds."""
ANSWERED: Final = "answered"
REFUSED: Final = "refused"
GIVEN_UP: Final = "given up"
NO_REPEAT: Final = -1
_REFUSALS: Final = frozenset({503, 429})
_MILLISECONDS: Final = 1000


class End(NamedTuple):
    """The result of one request. Unless stated otherwise, times are seconds since the request's due time."""

    kind: str
    """The kind of result: `ANSWERED`, `REFUSED`, `GIVEN_UP`, or the name of an error."""
    late: float
    """Delay between the due time and sending, in seconds."""
    after: float
    due: float = 0.0
    """The due time, in seconds from the beginning of the plan."""
    stream: int = 0
    """The index of the request's stream in the plan."""
    repeats: int = NO_REPEAT
    """The number of the original request if this is a retry, else `NO_REPEAT`."""
    reason: str = ""
    """The reason that the server gave for a rejection; empty if it gave none."""
    path: str = ""

    @property
    def useful(self) -> bool:
        """True if the request was answered in time."""
        return self.kind == ANSWERED and self.after <= SLO_SECONDS

    @property
    def admitted(self) -> bool:
        """True if the request was answered, however late, or timed out; a timed-out request has possibly run."""
        return self.kind in (ANSWERED, GIVEN_UP)


@dataclass(frozen=True)
class Seen:
    """The figures of one run. Times are in milliseconds. A percentile without values is None."""

    sent: int
    answered: int
    """Number of responses with status 200, however late."""
    answered_of: Mapping[str, int]
    """Number of answered requests, by path."""
    useful: int
    """Number of requests answered within `SLO_SECONDS`."""
    refused: int
    """Number of responses with status 503 or 429."""
    reasons: Mapping[str, int]
    """Number of rejections, by the reason that the server gave."""
    given_up: int
    errors: Mapping[str, int]
    """Number of errors, by kind."""
    admitted_p50: float | None
    """Median latency of requests that were answered or timed out. A timeout counts with its duration."""
    admitted_p95: float | None
    admitted_p99: float | None
    refusal_p50: float | None
    refusal_p99: float | None
    late_p50: float | None
    """Median delay between a request's due time and its sending."""
    late_p99: float | None
    late_worst: float | None
    busy: float
    """Share of its core, from 0 to 1, that the generator used while sending."""
    connections: int
    """Peak number of concurrent connections."""


def kind(status: int) -> str:
    """Return the kind of result for a response with this status."""
    if status == 200:
        return ANSWERED
    return REFUSED if status in _REFUSALS else f"status {status}"


def firsthand(ends: Sequence[End]) -> list[End]:
    """Return requests as their clients saw them: an attempt and its retries are one request with the last result.

    All times of such a request are relative to the due time of the first attempt.
    """
    last = [*range(len(ends))]
    for number, end in enumerate(ends):
        if end.repeats != NO_REPEAT:
            # Retries are in ascending order, so the last assignment wins.
            last[end.repeats] = number
    return [_joined(end, ends[last[number]]) for number, end in enumerate(ends) if end.repeats == NO_REPEAT]


def _joined(first: End, last: End) -> End:
    return (
        first._replace(kind=last.kind, reason=last.reason, after=last.due + last.after - first.due)
        if last is not first
        else first
    )


def summed_up(ends: Iterable[End], busy: float, connections: int) -> Seen:
    """Return the figures of these requests."""
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


TENTH: Final = 0.1


@dataclass(frozen=True)
class Timeline:
    """Columns of equal length, with one value for each tenth of a second."""

    offered: Sequence[int]
    """Number of first attempts that were due."""
    sent: Sequence[int]
    """Number of requests that were due, including retries."""
    useful: Sequence[int]
    """Number of offered requests that were answered in time, by any attempt."""
    refused: Sequence[int]
    """Number of offered requests whose last attempt was rejected."""
    p99: Sequence[float | None]
    """The p99 latency of offered requests that were not rejected, in milliseconds; None without such requests."""


def timeline(firsthand: Iterable[End], attempts: Iterable[End], seconds: float) -> Timeline:
    """Return the figures for each tenth of a second of a run of `seconds`."""
    number = math.ceil(seconds / TENTH - 1e-9)
    offered, sent = _by_tenth(firsthand, number), _by_tenth(attempts, number)
    return Timeline(
        [*map(len, offered)],
        [*map(len, sent)],
        [sum(end.useful for end in ends) for ends in offered],
        [sum(not end.admitted for end in ends) for ends in offered],
        [_p99(ends) for ends in offered],
    )


def _by_tenth(ends: Iterable[End], number: int) -> list[list[End]]:
    tenths: list[list[End]] = [[] for _ in range(number)]
    for end in ends:
        # A retry can be due after the last phase; leave such a retry out.
        if (tenth := int(end.due / TENTH)) < number:
            tenths[tenth].append(end)
    return tenths


def _p99(ends: Iterable[End]) -> float | None:
    worst = percentile(sorted(end.after for end in ends if end.admitted), 99)
    return None if worst is None else round(worst * _MILLISECONDS, 2)
