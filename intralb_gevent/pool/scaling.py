"""Sets the number of workers of a pool: passes measurements to the autoscaler, and applies the autoscaler's decision.

`policy/autoscale.py` decides how many workers there are; this module determines when to make the decision.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final, NamedTuple

from ..observe.stats import Stats
from ..policy.autoscale import Autoscaler, Load, PoolSize
from ..policy.growth import Progress
from ..policy.servicetime import ServiceTime
from ..policy.throughput import Throughput
from .workerpool import WorkerPool

__all__ = ["PoolScaler", "SizeChange"]


class _BusyShare:
    """The share of recent time in which the hub was busy.

    The share rises if jobs are CPU-bound, if the process gets too little CPU time, and if jobs block the event loop
    while they wait. The CPU time of the process is not used, because only CPU-bound jobs increase it.
    """

    def __init__(self) -> None:
        self.busy: Callable[[float], float] = lambda now: 0.0
        """Function that returns the total seconds for which the hub has been busy up to a given time."""
        self._read_at = self._busy = self._share = 0.0

    def begin(self, busy: Callable[[float], float]) -> None:
        """Start measuring; `busy` returns the total seconds for which the hub has been busy up to a given time."""
        self.busy = busy
        self._read_at = monotonic()
        self._busy = busy(self._read_at)

    def read(self, now: float, least: float) -> float:
        """Return the busy share since the last reading; repeat a result that is less than `least` seconds old."""
        if now - self._read_at >= least:
            busy = self.busy(now)
            self._share = (busy - self._busy) / (now - self._read_at)
            self._read_at, self._busy = now, busy
        return self._share


class SizeChange(NamedTuple):
    """A change of the number of workers: time in `time.monotonic()` seconds, difference, new number, and cause."""

    at: float
    by: int
    workers: int
    cause: str


class PoolScaler:
    """Adds workers to a pool and retires them."""

    SESSIONS_SECONDS: Final = 10.0
    """Seconds for which the session source counts as exhausted after it has failed to open a session."""
    CHANGES_KEPT: Final = 20
    CHANCE_SECONDS: Final = 0.005
    BURST_SECONDS: Final = 0.02
    """Minimum seconds over which the busy share is measured: at a tick, and when a job finds no capacity."""

    def __init__(
        self,
        pool: WorkerPool,
        stats: Stats,
        service: ServiceTime,
        throughput: Throughput,
        grown: Callable[[], object],
    ) -> None:
        options = pool.options
        size = PoolSize(
            minimum=options.first_workers,
            maximum=options.max_workers,
            group=options.worker_group_size,
            slots=options.max_concurrent_per_router,
        )
        self._most = size.maximum
        self._pool = pool
        self._stats = stats
        self._service = service
        self._throughput = throughput
        self._grown = grown
        self._busy_share = _BusyShare()
        self._autoscaler = Autoscaler(size, options.worker_quiet_seconds)
        self._may_grow = True
        self.changes: deque[SizeChange] = deque(maxlen=self.CHANGES_KEPT)
        """The latest changes of the number of workers."""

    def __repr__(self) -> str:
        return f"<Sizing {len(self._pool.active)} workers, {self._autoscaler!r}>"

    def begin(self, busy: Callable[[float], float]) -> None:
        """Start measuring; `busy` returns the total seconds for which the hub has been busy up to a given time."""
        self._busy_share.begin(busy)

    def busy(self, now: float) -> float:
        """Return the total seconds for which the hub has been busy up to `now`."""
        return self._busy_share.busy(now)

    def review(self) -> None:
        """Add or retire workers as the autoscaler decides; called at every tick."""
        self._look(full=False)
        self._may_grow = True

    @property
    def may_grow(self) -> bool:
        """Whether the pool may grow if a job finds no capacity; after a failed `grow`, False until the next tick."""
        return self._may_grow and len(self._pool.active) < self._most

    def grow(self) -> bool:
        """Grow a pool that has no capacity for a job; return whether the pool grew.

        If the pool did not grow, the autoscaler is not called again before the next tick: rejections must be cheap.
        """
        if not self.may_grow:
            return False
        self._may_grow = self._look(full=True) > 0
        return self._may_grow

    def change(self, workers: int, cause: str = "resize") -> None:
        """Add `workers` workers; if the number is negative, retire `-workers` workers."""
        if workers > 0:
            self._pool.add(workers)
            self._grown()
        elif workers < 0:
            self._pool.retire(-workers)
        if workers:
            self._stats.add_worker_changes(cause, workers)
            self.changes.append(SizeChange(monotonic(), workers, len(self._pool.active), cause))

    def _look(self, *, full: bool) -> int:
        change = self._autoscaler.change(self._load(monotonic(), full))
        self.change(change, self._autoscaler.cause)
        return change

    def _load(self, now: float, full: bool) -> Load:
        pool, wait = self._pool, self._stats.queue_wait
        return Load(
            workers=len(pool.active),
            queued=pool.queued,
            running=pool.running,
            progress=Progress(now, self._stats.run_time.count, wait.count, wait.total, self._service.mean),
            full=full,
            queue_age=pool.queue_age(now),
            queue_target=self._throughput.target,
            busy_share=self._busy_share.read(now, self.BURST_SECONDS if full else self.CHANCE_SECONDS),
            sessions_exhausted=now - pool.session_rules.failed_at < self.SESSIONS_SECONDS,
        )
