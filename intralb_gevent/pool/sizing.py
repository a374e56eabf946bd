"""The number of workers: what the autoscaler is told of a pool, and what is done with its answer.

Decides when to look. It must not know why the pool should have more workers or fewer: `policy/autoscale.py` does.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

from ..observe.stats import Stats
from ..policy.autoscale import Autoscaler, Load, PoolSize
from ..policy.growth import Progress
from ..policy.servicetime import ServiceTime
from ..policy.throughput import Throughput
from .workerpool import WorkerPool

__all__ = ["Sizing"]


class _BusyShare:
    """Which share of the time the hub was busy of late.

    That shows jobs that compute, and also those of a process that the system gives too little time on a processor, or
    that wait without letting others run: the time it used the processor would not.
    """

    def __init__(self) -> None:
        self.busy: Callable[[float], float] = lambda now: 0.0
        """Tells for how many seconds the hub has been busy until now."""
        self._read_at = self._busy = self._share = 0.0

    def begin(self, busy: Callable[[float], float]) -> None:
        """Measure from now on."""
        self.busy = busy
        self._read_at = monotonic()
        self._busy = busy(self._read_at)

    def read(self, now: float, least: float) -> float:
        """Return the share since the last reading; over less than `least` seconds, what that one said."""
        if now - self._read_at >= least:
            busy = self.busy(now)
            self._share = (busy - self._busy) / (now - self._read_at)
            self._read_at, self._busy = now, busy
        return self._share


class Sizing:
    """Adds workers to a pool and retires them."""

    SESSIONS_SECONDS: Final = 10.0
    """For how long after a failure the source of sessions counts as exhausted."""
    CHANCE_SECONDS: Final = 0.005
    BURST_SECONDS: Final = 0.02
    """The least times over which a busy hub tells something: at a tick, and while jobs come all at once."""

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

    def __repr__(self) -> str:
        return f"<Sizing {len(self._pool.active)} workers, {self._autoscaler!r}>"

    def begin(self, busy: Callable[[float], float]) -> None:
        """The pool begins to serve; `busy` tells for how many seconds the hub has been busy until a moment."""
        self._busy_share.begin(busy)

    def busy(self, now: float) -> float:
        """Return for how many seconds the hub has been busy until now."""
        return self._busy_share.busy(now)

    def review(self) -> None:
        """Look at the pool, as at every tick."""
        self._look(full=False)
        self._may_grow = True

    @property
    def may_grow(self) -> bool:
        """Whether the pool could grow for a job without a place, as far as is known before the next tick."""
        return self._may_grow and len(self._pool.active) < self._most

    def make_room(self) -> bool:
        """Let a pool without a place for a job grow, and say whether it did.

        Where it may not it is not asked again before the next tick: a refusal must stay cheap.
        """
        if not self.may_grow:
            return False
        self._may_grow = self._look(full=True) > 0
        return self._may_grow

    def change(self, workers: int) -> None:
        """Add workers, or retire as many as a negative number says."""
        if workers > 0:
            self._pool.add(workers)
            self._grown()
        elif workers < 0:
            self._pool.retire(-workers)

    def _look(self, *, full: bool) -> int:
        change = self._autoscaler.change(self._load(monotonic(), full))
        self.change(change)
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
