"""How many workers a pool should have.

Decides from the jobs that wait and run, from what the process can still take, and from the time. It must not know how a
worker is made or retired.

Growing is quick, shrinking slow: jobs that wait are a certain need, a quiet moment is not yet a certain surplus.

- Up: as many workers as keep 70 % of their slots busy, by the mean of a stable window; by that of a panic window once
  it asks for twice the workers there are, or jobs wait too long, or one would be refused. While all slots are busy
  the pool at most doubles at a look, for the next shows what that has done; while some are free it grows by a group
  at least. Where jobs wait too long, or one would be refused, it is one more at once. The two windows, the panic and
  its end, the 70 % and the weights of the means are those of Knative's autoscaler (Knative Serving, "Additional
  autoscaling configuration for Knative Pod Autoscaler"; 2018 and later). Its windows are six times as long, for its
  workers take seconds to start.
- Not up: where the processor, the hub or the source of sessions is what is short.
- Undone: growth that has not helped (`GrowthTrial`); then there is none for a while.
- Down: a worker at a time, after a time in which few slots were busy. A pool that soon grows again has shrunk too
  early, and waits longer the next time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

from .growth import GrowthTrial, Progress

__all__ = ["Autoscaler", "Load", "PoolSize"]


@dataclass(frozen=True)
class PoolSize:
    """The limits of a pool: workers at least and at most, workers in a group, slots in a worker."""

    minimum: int
    maximum: int
    group: int
    slots: int


class Load(NamedTuple):
    """What is known of a pool at a look, which is taken at every tick, and when a job would be refused."""

    workers: int
    queued: int
    running: int
    progress: Progress
    full: bool = False
    """Whether a job has come for which there is no place."""
    queue_age: float = 0.0
    """For how long the first of the queued jobs has waited, in seconds."""
    queue_target: float = math.inf
    """For how long jobs should wait at most, in seconds."""
    busy_share: float = 0.0
    """The share of the time of late in which the hub did not wait for events, from 0 to 1."""
    hub_lag: float = 0.0
    """By how much the hub is late at least, in seconds."""
    sessions_exhausted: bool = False
    """Whether a session was asked for of late and could not be opened."""

    @property
    def jobs(self) -> int:
        """Jobs that wait and jobs that run."""
        return self.queued + self.running


class _WindowMean:
    """The mean of a quantity over time, weighted exponentially: what is older than the window has nearly no weight."""

    REST: Final = 1e-4
    """The weight of all that is older, as in Knative."""

    def __init__(self, window: float) -> None:
        self.value = 0.0
        self._window = window

    def add(self, reading: float, seconds: float) -> None:
        """Take note of what the quantity was for some seconds."""
        self.value += (1 - self.REST ** (seconds / self._window)) * (reading - self.value)


class Autoscaler:
    """Says how many workers to add or remove, and remembers what came of it. Times are seconds."""

    BUSY: Final = 0.7
    """The share of the slots that should be in use, so that there is room for chance."""
    STABLE_WINDOW: Final = 10.0
    PANIC_WINDOW: Final = 1.0
    PANIC: Final = 2
    """How many times the present workers must be wanted for a panic, which lasts a stable window longer than that."""
    LATE: Final = 2
    """Jobs that have waited for so many targets are a reason to grow."""
    CPU_BOUND: Final = 0.9
    """From this share of the time on, jobs compute rather than wait, and more at once share what there is."""
    HUB_LAG: Final = 0.02
    """The lag above which everybody waits for the hub; also from which fewer jobs should run at once."""
    FREEZE: Final = 30.0
    """For how long there is no growth after a useless one."""
    QUIET: Final = 0.25
    """The share of the slots below which the pool is quiet."""
    PACE: Final = 1 / 3
    """The time between two removals, in terms of the quiet time before the first: 10 s of 30."""
    RESPAWN: Final = 2
    """Growth within so many quiet times of a removal, 60 s, shows that this came too early."""
    MOST_PATIENCE: Final = 8
    """How many times longer than at first the quiet time and the freeze become, by doubling."""

    def __init__(self, size: PoolSize, quiet_seconds: float) -> None:
        self._size = size
        self._quiet_seconds = quiet_seconds
        self._stable = _WindowMean(self.STABLE_WINDOW)
        self._panic = _WindowMean(self.PANIC_WINDOW)
        self._looked_at = math.inf
        self._panics_until = self._frozen_until = self._removed_at = -math.inf
        self._quiet_since: float | None = None
        self._quiet_patience = self._freeze_patience = 1
        self._trial = GrowthTrial()
        self._workers_before = size.minimum

    def __repr__(self) -> str:
        jobs = f"{self._stable.value:.1f} jobs lately, {self._panic.value:.1f} at last"
        return f"<Autoscaler {jobs}, {self._trial!r}, quiet since {self._quiet_since}, frozen to {self._frozen_until}>"

    def change(self, load: Load) -> int:
        """Return how many workers to add (positive) or remove (negative); the caller does so at once."""
        now = load.progress.now
        elapsed = max(0.0, now - self._looked_at)
        self._looked_at = now
        self._stable.add(load.jobs, elapsed)
        self._panic.add(load.jobs, elapsed)
        undone = self._undone(load)
        if undone:
            return -undone
        growth = self._growth(load, now)
        if growth:
            self._grow(load, now)
            return growth
        return -self._shrinkage(load, now)

    # Up.

    def _growth(self, load: Load, now: float) -> int:
        room = self._size.maximum - load.workers
        if room <= 0 or now < self._frozen_until or self._in_vain(load):
            return 0
        pressed = self._pressed(load)
        missing = self._wanted(load, now, pressed) - load.workers
        if self._all_busy(load):
            return min(room, max(int(pressed), min(missing, load.workers)))
        return min(room, max(missing, self._size.group)) if missing > 0 else 0

    def _pressed(self, load: Load) -> bool:
        """Say whether jobs wait too long for a slot, or would be refused."""
        late = load.queue_age > self.LATE * load.queue_target
        return self._all_busy(load) and (late or load.full)

    def _in_vain(self, load: Load) -> bool:
        return load.busy_share >= self.CPU_BOUND or load.hub_lag > self.HUB_LAG or load.sessions_exhausted

    def _all_busy(self, load: Load) -> bool:
        return load.jobs >= load.workers * self._size.slots

    def _wanted(self, load: Load, now: float, pressed: bool) -> int:
        """Return for how many workers there are jobs."""
        of_one = self.BUSY * self._size.slots
        stable, panic = self._stable.value / of_one, self._panic.value / of_one
        if pressed or panic >= self.PANIC * load.workers:
            self._panics_until = now + self.STABLE_WINDOW
        return math.ceil(max(stable, panic) if now < self._panics_until else stable)

    def _grow(self, load: Load, now: float) -> None:
        """Take note of a growth; one that comes before all slots are busy has no wait to shorten, and is not tried."""
        self._quiet_since = None
        early = now - self._removed_at <= self.RESPAWN * self._quiet_seconds
        self._quiet_patience = min(self.MOST_PATIENCE, 2 * self._quiet_patience) if early else 1
        if self._all_busy(load):
            if not self._trial.open:
                self._workers_before = load.workers
            self._trial.begin(load.progress)

    # Down.

    def _undone(self, load: Load) -> int:
        """Return how many workers to remove because they have not helped."""
        verdict = self._trial.verdict(load.progress)
        if verdict == "open":
            return 0
        needed = self._stable.value > self._workers_before * self._size.slots
        if verdict == "helped" or not needed:
            # Without the jobs that made it grow, the pool has nothing to show; whether it shrinks is another matter.
            self._freeze_patience = 1
            return 0
        self._frozen_until = load.progress.now + self.FREEZE * self._freeze_patience
        self._freeze_patience = min(self.MOST_PATIENCE, 2 * self._freeze_patience)
        self._quiet_since = None
        return max(0, load.workers - self._workers_before)

    def _shrinkage(self, load: Load, now: float) -> int:
        if not self._quiet(load):
            self._quiet_since = None
            return 0
        if self._quiet_since is None:
            self._quiet_since = now
        wait = self._quiet_seconds * self._quiet_patience
        if now - self._quiet_since < wait:
            return 0
        self._removed_at = now
        self._quiet_since = now - wait + self.PACE * self._quiet_seconds
        return 1

    def _quiet(self, load: Load) -> bool:
        """Say whether few slots are busy, and a worker less would do for the present jobs too."""
        slots, fewer = self._size.slots, load.workers - 1
        fits = load.jobs <= self.BUSY * fewer * slots
        return fewer >= self._size.minimum and fits and self._stable.value < self.QUIET * load.workers * slots
