"""Reads the counters of a balancer once a second, for the history and for the facts on which the verdict is based.

Reading the counters changes nothing, never waits, and takes well under a millisecond, so a timer callback may read
them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..aborts.suspects import Block
from ..policy.verdict import Facts, LaneFacts
from .history import History, Series
from .refusals import Refusals, leading_client
from .stats import Histogram, Stats

if TYPE_CHECKING:
    from ..pool.balancer import LoadBalancer
    from ..pool.lane import Lane

__all__ = ["HEAT_BOUNDS", "REASONS", "Readings"]

WINDOW: Final = 10
"""Length, in seconds, of the recent period for which the facts contain counts."""

PRESENT: Final = 3
"""Length, in seconds, of the recent period over which the rate of rejections is computed."""

BLOCKED_WINDOW: Final = 30.0
ABANDONED_WINDOW: Final = 600.0
"""Lengths, in seconds, of the recent periods for which the facts contain blockages and abandoned slots."""

_OUTCOMES: Final = ("completed", "failed", "timed_out", "disconnected", "killed", "expired")
REASONS: Final = ("overloaded", "no_time", "queue_full", "evicted", "client", "draining")
"""The outcomes, and the reasons of rejections, that each have a separate series."""

HEAT_BOUNDS: Final = tuple(base * 10.0**power for power in range(-4, 2) for base in (1, 2, 5))[1:]
"""Upper bounds, in seconds, of the buckets of the heat maps; an additional bucket counts all longer durations."""

_GAUGES: Final = (
    *(Series(name, "mean") for name in ("running", "queued", "limit", "streams", "sessions", "capacity", "busy")),
    Series("stretch", "most"),
)


class _Totals(NamedTuple):
    """The running totals of a lane at one moment."""

    at: float
    outcomes: dict[Any, int]
    """Number of requests by outcome; requests that the application answered 500 count as failed."""
    reasons: dict[str, int]
    waits: list[int]
    runs: list[int]
    run_count: int
    run_seconds: float
    clients: int


class LaneReadings:
    """The numbers of one lane over the last `WINDOW` seconds."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self._totals: deque[_Totals] = deque([self._read(monotonic())] * 2, maxlen=WINDOW + 1)
        self._full_since: float | None = None
        self._progress_at = monotonic()
        self._abandoned: deque[tuple[float, int]] = deque([(0.0, lane.stats.given_up)])
        self.oldest = 0.0
        self.running = self.limit = 0

    def __repr__(self) -> str:
        return f"<LaneReadings of {self.lane!r}>"

    def _read(self, now: float) -> _Totals:
        stats = self.lane.stats
        run = stats.run_time
        return _Totals(
            now,
            _by_result(stats),
            dict(stats.shed_reasons),
            list(stats.queue_wait.counts),
            list(run.counts),
            run.count,
            run.total,
            self.lane.admission.clients,
        )

    def tick(self, now: float) -> None:
        """Read the counters of the lane; `now` is in `time.monotonic()` seconds."""
        pool = self.lane.pool
        self.running, self.limit = pool.running, max(1, self.lane.snapshot().limit)
        self.oldest = pool.longest_wait(now)
        self._totals.append(self._read(now))
        if self.running < self.limit:
            self._full_since = None
        elif self._full_since is None:
            self._full_since = now
        if not self.running or self._last("completed") or self._last("failed"):
            self._progress_at = now
        if self.lane.stats.given_up != self._abandoned[-1][1]:
            self._abandoned.append((now, self.lane.stats.given_up))
        while len(self._abandoned) > 1 and now - self._abandoned[1][0] > ABANDONED_WINDOW:
            self._abandoned.popleft()

    def _last(self, outcome: str) -> int:
        return self._totals[-1].outcomes[outcome] - self._totals[-2].outcomes[outcome]

    def last(self) -> tuple[_Totals, _Totals]:
        """Return the totals of the previous second and the current totals."""
        return self._totals[-2], self._totals[-1]

    def window(self) -> tuple[_Totals, _Totals]:
        """Return the totals at the beginning of the window and the current totals."""
        return self._totals[0], self._totals[-1]

    @property
    def run_seconds(self) -> float:
        """Mean run time, in seconds, of the requests that ended in the window; if there are none, of all requests."""
        then, now = self.window()
        if now.run_count > then.run_count:
            return (now.run_seconds - then.run_seconds) / (now.run_count - then.run_count)
        return now.run_seconds / now.run_count if now.run_count else 0.0

    def _refused_per_second(self) -> float:
        then, last = self._totals[-min(PRESENT + 1, len(self._totals))], self._totals[-1]
        return (last.outcomes["shed"] - then.outcomes["shed"]) / max(1.0, last.at - then.at)

    def facts(self, refusals: Refusals, now: float) -> LaneFacts:
        """Return the facts about the lane; `now` is in `time.monotonic()` seconds."""
        lane, pool = self.lane, self.lane.pool
        then, last = self.window()
        outcomes = {name: last.outcomes[name] - then.outcomes[name] for name in last.outcomes}
        reasons = Counter(last.reasons) - Counter(then.reasons)
        refused, seconds = outcomes["shed"], max(1.0, last.at - then.at)
        recent = refusals.recent(lane.name, time() - seconds)
        client, share = leading_client(recent)
        return LaneFacts(
            name=lane.name,
            running=self.running,
            limit=self.limit,
            streams=pool.lasting,
            queued=pool.queued,
            oldest_seconds=self.oldest,
            full_seconds=0.0 if self._full_since is None else now - self._full_since,
            stalled_seconds=now - self._progress_at,
            run_seconds=self.run_seconds,
            timeout_seconds=lane.options.deadline_seconds,
            ended=outcomes["completed"] + outcomes["failed"],
            failed=outcomes["failed"],
            late=outcomes["timed_out"] + outcomes["expired"],
            refused=refused,
            refused_per_second=self._refused_per_second(),
            reason=max(reasons, key=lambda reason: reasons[reason], default=""),
            clients=max(each.clients for each in self._totals),
            client=client,
            client_share=share,
            no_session=sum(each.reason == "no_session" for each in recent),
            abandoned=self._abandoned[-1][1] - self._abandoned[0][1],
            may_grow=len(pool.active) < lane.options.max_workers,
        )


class Readings:
    """The history of a balancer, and the facts about its last seconds."""

    def __init__(self, balancer: LoadBalancer, refusals: Refusals) -> None:
        self._balancer = balancer
        self._refusals = refusals
        self.lanes = [LaneReadings(lane) for lane in balancer.intake.lanes]
        self.history = History([*_totals_series(), *_heat_series()])
        self.row: list[float] = []
        """The values of the last second, in the order of the history's series."""
        self._busy: deque[tuple[float, float]] = deque([(monotonic(), 0.0)], maxlen=WINDOW + 1)
        self._lag = [0] * len(Histogram().counts)

    def __repr__(self) -> str:
        return f"<Readings {self.history!r}>"

    def tick(self) -> None:
        """Read all counters, and add a row to the history; called once a second."""
        now = monotonic()
        for lane in self.lanes:
            lane.tick(now)
        self._busy.append((now, self._busy_seconds(now)))
        self.row = [*self._outcomes(), *self._gauges(), *self._heat("waits"), *self._heat("runs")]
        self.history.add(self.row)

    def _outcomes(self) -> Iterator[float]:
        pairs = [lane.last() for lane in self.lanes]
        for name in _OUTCOMES:
            yield sum(now.outcomes[name] - then.outcomes[name] for then, now in pairs)
        for reason in REASONS:
            yield sum(now.reasons.get(reason, 0) - then.reasons.get(reason, 0) for then, now in pairs)

    def _gauges(self) -> Iterator[float]:
        pools = [lane.lane.pool for lane in self.lanes]
        yield from (sum(lane.running for lane in self.lanes), sum(pool.queued for pool in pools))
        yield from (sum(lane.limit for lane in self.lanes), self._balancer.intake.context.streams)
        yield sum(slot.session.opened for pool in pools for slot in pool.slots)
        yield self._capacity()
        yield self._busy_share(2)
        yield self._longest_stretch()

    def _capacity(self) -> float:
        """Estimate, from the last window, how many requests per second the slots and the event loop could serve."""
        rates = [lane.limit / lane.run_seconds for lane in self.lanes if lane.run_seconds]
        then, now = zip(*(lane.window() for lane in self.lanes), strict=True)
        ended = sum(each.run_count for each in now) - sum(each.run_count for each in then)
        seconds, busy = max(1.0, now[0].at - then[0].at), self.busy_share
        return min(sum(rates), ended / seconds / busy if busy > 0.05 else sum(rates))

    # Readings of the event loop.

    def _busy_seconds(self, now: float) -> float:
        runtime = self._balancer.intake.context.runtime
        return 0.0 if runtime is None else runtime.watchdog.busy(now)

    def _busy_share(self, readings: int) -> float:
        (then, before), (now, busy) = self._busy[-min(readings, len(self._busy))], self._busy[-1]
        return min(1.0, max(0.0, (busy - before) / (now - then))) if now > then else 0.0

    @property
    def busy_share(self) -> float:
        """Share of the window in which the event loop was busy."""
        return self._busy_share(WINDOW + 1)

    def _longest_stretch(self) -> float:
        """Return an upper bound of the longest interval, in seconds, between two polls of the loop in the last
        second."""
        runtime = self._balancer.intake.context.runtime
        if runtime is None:
            return 0.0
        before, self._lag = self._lag, list(runtime.watchdog.lag.counts)
        changed = [index for index, (then, now) in enumerate(zip(before, self._lag, strict=True)) if now > then]
        return Histogram.BOUNDS[min(changed[-1], len(Histogram.BOUNDS) - 1)] if changed else 0.0

    def blocks(self) -> list[Block]:
        """Return the latest blockages of the event loop, the oldest first."""
        runtime = self._balancer.intake.context.runtime
        return [] if runtime is None else list(runtime.watchdog.culprits.latest)

    # Readings for the heat maps.

    def _heat(self, kind: str) -> list[float]:
        counts = [0.0] * (len(HEAT_BOUNDS) + 1)
        for lane in self.lanes:
            then, now = lane.last()
            for index, number in enumerate(getattr(now, kind)):
                if number != (before := getattr(then, kind)[index]):
                    counts[_HEAT_OF_BUCKET[index]] += number - before
        return counts

    # Facts for the verdict.

    def facts(self, site: dict[str, Any]) -> Facts:
        """Return the facts of the last seconds; `site` is the supervisor's state, empty without a supervisor."""
        now = monotonic()
        blocks = [block for block in self.blocks() if now - block.at < BLOCKED_WINDOW]
        recent = [block.seconds for block in blocks]
        processes = site.get("processes", ())
        return Facts(
            lanes=tuple(lane.facts(self._refusals, now) for lane in self.lanes),
            condition=self._balancer.condition,
            loop_busy=self.busy_share,
            blockages=len(recent),
            blocked_seconds=sum(recent),
            longest_blocked_seconds=max(recent, default=0.0),
            first_blocked_seconds=max((now - block.at + block.seconds for block in blocks), default=0.0),
            reload=site.get("reload", {}).get("result", ""),
            cause=site.get("reload", {}).get("cause", "") or site.get("failure", ""),
            processes_ready=sum(each["state"] == "ready" for each in processes) if site else 1,
            processes_wanted=site.get("wanted", 1),
        )


def _by_result(stats: Stats) -> dict[Any, int]:
    # Frameworks such as Flask and Django turn an exception into a response, so the job itself is completed.
    outcomes, errors = stats.outcomes, stats.answered_500
    return {**outcomes, "completed": outcomes["completed"] - errors, "failed": outcomes["failed"] + errors}


def _totals_series() -> Iterator[Series]:
    yield from (Series(name, "sum") for name in (*_OUTCOMES, *REASONS))
    yield from _GAUGES


def _heat_series() -> Iterator[Series]:
    for kind in ("waits", "runs"):
        for number in range(len(HEAT_BOUNDS) + 1):
            yield Series(f"{kind}{number}", "sum")


def _heat_of_buckets() -> list[int]:
    # A bucket of `Histogram` can overlap two buckets of the heat map, so assign the bucket by its middle.
    lower = (0.0, *Histogram.BOUNDS)
    middles = [(low + high) / 2 for low, high in zip(lower, Histogram.BOUNDS, strict=False)]
    return [bisect_left(HEAT_BOUNDS, middle) for middle in middles] + [len(HEAT_BOUNDS)]


_HEAT_OF_BUCKET: Final = _heat_of_buckets()
