"""Running totals of one process: counts and histograms of requests, of connections and of database sessions.

Every total only grows, so a reader can compute rates from two readings. Totals of several lanes can be added.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Final

from ..policy.lifecycle import OUTCOMES, Outcome
from ..priority import Priority
from ..stdlib import bisect_left

__all__ = ["SLOW_SECONDS", "ConnectionStats", "Exemplar", "Histogram", "SessionStats", "Stats"]

SLOW_SECONDS: Final = 0.1
"""Minimum duration of a slow request, in seconds; the traces of slow requests are kept as exemplars."""

_CRITICAL: Final = int(Priority.CRITICAL)

_ADMITTED: Final = frozenset({"ended", "expired", "killed", "no_session", "streams", "upgraded"})
"""Reasons for which the server answers a request after admitting it; the outcome of these requests is not `shed`."""

_MICROSECONDS: Final = 1e6
_HALF_MILLISECONDS: Final = 2e3

_TABLE_LENGTH: Final = 5000
"""Largest index of the two lookup tables for buckets; the index is a number of microseconds, or of half milliseconds.

A table lookup is faster than a search. The tables are exact: up to 5 ms, every bound is a whole number of microseconds,
and from 5 ms to 2.5 s, a whole number of half milliseconds.
"""


def _bounds() -> tuple[float, ...]:
    """Return the bounds of the buckets in seconds, each written as the shortest decimal number."""
    digits = ("1", "1.25", "1.6", "2", "2.5", "3", "4", "5", "6", "7.5")
    every = [float(f"{digit}e{power}") for power in range(-5, 3) for digit in digits]
    return tuple(bound for bound in every if 50e-6 <= bound <= 500)


class Histogram:
    """A histogram of durations in seconds; each bucket's bound is at most 4/3 of the previous bound, and inclusive.

    The bounds include all bounds that OpenTelemetry recommends for HTTP. A quantile is at most a third too high. For
    quantiles, a duration below 50 microseconds counts as 50 microseconds, and a duration above the last bound (500
    seconds) counts as the longest duration.
    """

    BOUNDS: Final = _bounds()

    __slots__ = ("count", "counts", "longest", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS) + 1)
        """Number of durations in each bucket; the last bucket counts the durations above the last bound."""
        self.count = 0
        self.total = 0.0
        self.longest = 0.0

    def __repr__(self) -> str:
        return f"<Histogram count={self.count} p50={self.quantile(0.5):.6f}s p99={self.quantile(0.99):.6f}s>"

    def add(self, seconds: float) -> None:
        """Add one duration, in seconds."""
        units, table = seconds * _MICROSECONDS, _SHORT
        if units > _TABLE_LENGTH:
            units, table = seconds * _HALF_MILLISECONDS, _LONG
        if 0.0 <= units <= _TABLE_LENGTH:
            whole = int(units)
            self.counts[table[whole if whole == units else whole + 1]] += 1
        else:
            self.counts[bisect_left(_BOUNDS, seconds)] += 1
        self.count += 1
        self.total += seconds
        if seconds > self.longest:
            self.longest = seconds

    def __add__(self, other: Histogram) -> Histogram:
        """Return the combined histogram."""
        both = Histogram()
        both.counts = [mine + others for mine, others in zip(self.counts, other.counts, strict=True)]
        both.count, both.total = self.count + other.count, self.total + other.total
        both.longest = max(self.longest, other.longest)
        return both

    def quantile(self, share: float) -> float:
        """Return the quantile for `share` (0 to 1), in seconds; 0 if there are no durations."""
        if not self.count:
            return 0.0
        wanted = share * self.count
        index = next(i for i, reached in enumerate(accumulate(self.counts)) if reached >= wanted)
        return min(_BOUNDS[index], self.longest) if index < len(_BOUNDS) else self.longest


_BOUNDS: Final[tuple[float, ...]] = Histogram.BOUNDS
_NUMBERS: Final = range(_TABLE_LENGTH + 2)
_SHORT: Final[list[int]] = [bisect_left(_BOUNDS, number / _MICROSECONDS) for number in _NUMBERS]
_LONG: Final[list[int]] = [bisect_left(_BOUNDS, number / _HALF_MILLISECONDS) for number in _NUMBERS]
"""Lookup tables: the bucket for each number of microseconds (`_SHORT`) or half milliseconds (`_LONG`)."""


class Exemplar:
    """The latest slow request of a bucket: its duration in seconds, the Unix time of its end, and its trace."""

    __slots__ = ("at", "label", "seconds", "value")

    def __init__(self, seconds: float, at: float, label: str, value: str) -> None:
        self.seconds = seconds
        self.at = at
        self.label = label
        """Name of the exemplar's label, which is `trace_id` or `request_id`."""
        self.value = value

    def __repr__(self) -> str:
        return f"<Exemplar {self.label}={self.value} {self.seconds:.3f}s>"


class Stats:
    """The running totals of one lane, or of several lanes together."""

    __slots__ = (
        "_not_200",
        "_outcomes",
        "_statuses",
        "answered_500",
        "computing_aborts",
        "duration",
        "exemplars",
        "given_up",
        "hub_blocked",
        "queue_wait",
        "received",
        "refused",
        "run_time",
        "shed",
        "stolen",
        "waiting_aborts",
        "worker_changes",
    )

    def __init__(self) -> None:
        self.received = [0, 0, 0, 0]
        """Number of submitted jobs by priority."""
        self.shed = 0
        """Number of rejected jobs; it is a separate counter, because counting rejections must be cheap."""
        self.refused: dict[str, list[int]] = {}
        """Number of jobs that the server itself answered instead of the application, by reason, then by priority."""
        self._outcomes: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self._statuses: dict[str, int] = {}
        """Number of responses by status code, except rejections and the 200s of completed jobs."""
        self._not_200 = 0
        """Number of completed jobs with a status other than 200, or without a response."""
        self.answered_500 = 0
        """Number of completed jobs that the application answered 500, as frameworks do after an exception of a view."""
        self.given_up = 0
        """Number of slots that were abandoned because their handlers did not end."""
        self.stolen = 0
        """Number of jobs that were queued at one worker, but started in a slot of another worker."""
        self.waiting_aborts = 0
        self.computing_aborts = 0
        """Numbers of aborts that were raised in waiting handlers, and in computing handlers."""
        self.hub_blocked = 0
        """Number of times that a job has blocked the event loop for 0.1 seconds or more."""
        self.worker_changes: dict[tuple[str, str], int] = {}
        """Number of added ("up") or retired ("down") workers, by direction and cause."""
        self.queue_wait = Histogram()
        self.run_time = Histogram()
        self.duration = Histogram()
        """Times from arrival to outcome of all jobs except rejected jobs."""
        self.exemplars: dict[int, Exemplar] = {}
        """Latest slow job of each bucket of `duration`."""

    def __repr__(self) -> str:
        return f"<Stats submitted={self.submitted} ended={self.ended}>"

    def __add__(self, other: Stats) -> Stats:
        """Return the combined totals."""
        both = Stats()
        for each in (self, other):
            both._include(each)
        both.queue_wait = self.queue_wait + other.queue_wait
        both.run_time = self.run_time + other.run_time
        both.duration = self.duration + other.duration
        return both

    def _include(self, other: Stats) -> None:
        self.shed += other.shed
        self.given_up += other.given_up
        self.stolen += other.stolen
        self.waiting_aborts += other.waiting_aborts
        self.computing_aborts += other.computing_aborts
        self.hub_blocked += other.hub_blocked
        self._not_200 += other._not_200
        self.answered_500 += other.answered_500
        self.received = _sums(self.received, other.received)
        for outcome, count in other._outcomes.items():
            self._outcomes[outcome] += count
        for reason, counts in other.refused.items():
            self.refused[reason] = _sums(self.refused.get(reason, [0, 0, 0, 0]), counts)
        _include(self._statuses, other._statuses)
        for change, count in other.worker_changes.items():
            self.worker_changes[change] = self.worker_changes.get(change, 0) + count

    @property
    def submitted(self) -> int:
        """Number of submitted jobs."""
        return sum(self.received)

    @property
    def ended(self) -> int:
        """Number of jobs that have an outcome."""
        return self.shed + sum(self._outcomes.values())

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """Number of jobs for each outcome."""
        return {**self._outcomes, "shed": self.shed}

    @property
    def shed_reasons(self) -> dict[str, int]:
        """Number of rejected jobs by reason."""
        return {reason: sum(counts) for reason, counts in self.refused.items() if reason not in _ADMITTED}

    @property
    def statuses(self) -> dict[str, int]:
        """Number of responses by status code, "200" for example."""
        rejected = self.shed_reasons
        of_clients = rejected.pop("client", 0)
        counts = dict(self._statuses)
        more = {"200": self._outcomes["completed"] - self._not_200, "429": of_clients, "503": sum(rejected.values())}
        _include(counts, more)
        return {code: count for code, count in counts.items() if count}

    def add(self, outcome: Outcome, duration: float, run_time: float | None) -> None:
        """Count one job that has ended with any outcome except `shed`; `run_time` is None if the job has not run.

        `duration` is the time since the job's arrival; both `duration` and `run_time` are in seconds.
        """
        self._outcomes[outcome] += 1
        self.duration.add(duration)
        if run_time is not None:
            self.run_time.add(run_time)

    def add_status(self, status: str, completed: bool) -> None:
        """Count the response of a job that was not rejected; `status` is its status line, "" if there is no response.

        For speed, this method is not called for a completed job whose status is 200.
        """
        if completed:
            self._not_200 += 1
        if status:
            code = status[:3]
            self._statuses[code] = self._statuses.get(code, 0) + 1
            if completed and code == "500":
                self.answered_500 += 1

    def add_shed(self, reason: str, priority: int = _CRITICAL) -> None:
        """Count one rejected job, by reason and priority."""
        self.shed += 1
        self.add_refused(reason, priority)

    def add_refused(self, reason: str, priority: int) -> None:
        """Count one job that the server itself has answered; a rejected job is counted by `add_shed` instead."""
        counts = self.refused.get(reason)
        if counts is None:
            counts = self.refused[reason] = [0, 0, 0, 0]
        counts[priority] += 1

    def add_worker_changes(self, cause: str, workers: int) -> None:
        """Count workers that were added, or, if `workers` is negative, retired."""
        change = ("up" if workers > 0 else "down", cause)
        self.worker_changes[change] = self.worker_changes.get(change, 0) + abs(workers)

    def keep_exemplar(self, seconds: float, at: float, label: str, value: str) -> None:
        """Keep the trace of a slow job that has just ended."""
        self.exemplars[bisect_left(_BOUNDS, seconds)] = Exemplar(seconds, at, label, value)


class SessionStats:
    """The running totals of the database sessions of one lane."""

    __slots__ = ("discards", "failed", "open_time")

    def __init__(self) -> None:
        self.open_time = Histogram()
        """Times in seconds for opening a session; the count of this histogram is the number of opened sessions."""
        self.failed = 0
        """Number of sessions that could not be opened, or could not be prepared for a request."""
        self.discards: dict[str, int] = {}
        """Number of sessions that were closed or discarded, by cause."""

    def __repr__(self) -> str:
        return f"<SessionStats {self.open_time.count} opened, {self.failed} failed>"

    def add_discard(self, cause: str) -> None:
        """Count one session that was closed or discarded."""
        self.discards[cause] = self.discards.get(cause, 0) + 1


class ConnectionStats:
    """The running totals of the client connections of all servers of one balancer."""

    __slots__ = ("accepted", "closed", "ends", "invalid", "received_bytes", "sent_bytes")

    def __init__(self) -> None:
        self.accepted = self.closed = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        self.ends: dict[str, int] = {}
        """Number of closed connections by cause, except connections that the client closed, or that a last response
        ended."""
        self.invalid: dict[str, int] = {}
        """Number of requests that were rejected because they were malformed, too large or too slow, by status code."""

    def __repr__(self) -> str:
        return f"<ConnectionStats {self.accepted} accepted, {self.received_bytes} bytes in, {self.sent_bytes} out>"

    def add_closed(self, cause: str) -> None:
        """Count one closed connection; the cause is "" if the client or a last response ended the connection."""
        self.closed += 1
        if cause:
            self.ends[cause] = self.ends.get(cause, 0) + 1

    def add_invalid(self, status: str) -> None:
        """Count one malformed, too large or too slow request; `status` is the status line of its rejection."""
        code = status[:3]
        self.invalid[code] = self.invalid.get(code, 0) + 1


def _sums(mine: list[int], others: list[int]) -> list[int]:
    return [each + other for each, other in zip(mine, others, strict=True)]


def _include(counts: dict[str, int], others: dict[str, int]) -> None:
    for name, count in others.items():
        counts[name] = counts.get(name, 0) + count
