"""Autoscaling decides how many workers a pool should have.

The decision depends on the queued and running jobs, on the load of the process, and on the time. A pool grows quickly
and shrinks slowly, because queued jobs prove that workers are missing, but a quiet moment does not prove a surplus.

- Growth: the target is the number of workers with which 70 % of the slots are busy, at the mean load of the stable
  window (10 s). In panic mode, the mean load of the panic window (1 s) is used instead if it is higher. Panic mode
  begins when the mean load of the panic window requires twice as many workers as the pool has, when jobs wait too long,
  or when a job would be rejected.
- Steps: while all slots are busy, one check at most doubles the number of workers, because the next check can already
  see the effect. While some slots are free, the pool grows by at least one group of workers. If jobs wait too long, or
  a job would be rejected, the pool grows by at least one worker.
- Source: the two windows, panic mode, the target of 70 % and the weights of the means come from Knative's autoscaler
  (Knative Serving, "Additional autoscaling configuration for Knative Pod Autoscaler"; 2018 and later). Knative's
  windows are six times as long, because Knative's workers take seconds to start.
- The pool does not grow while the CPU or the source of sessions is the bottleneck.
- A growth that has not helped is undone (`GrowthTrial`), and the pool does not grow again for a while.
- Shrinking: the pool removes one worker at a time, after a period in which few slots were busy. If the pool grows soon
  after a removal, the removal was too early, and the pool waits longer before the next removal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

from .growth import GrowthTrial, Progress

__all__ = ["Autoscaler", "Load", "PoolSize"]


@dataclass(frozen=True)
class PoolSize:
    """The limits of a pool: minimum and maximum number of workers, workers per group, slots per worker."""

    minimum: int
    maximum: int
    group: int
    slots: int


class Load(NamedTuple):
    """The load of a pool at one check; the pool is checked at every tick, and when a job would be rejected."""

    workers: int
    queued: int
    running: int
    progress: Progress
    full: bool = False
    """True if a job has arrived while the pool was full."""
    queue_age: float = 0.0
    """Seconds for which the oldest queued job has waited."""
    queue_target: float = math.inf
    """Longest time that jobs should wait, in seconds."""
    busy_share: float = 0.0
    """Recent share of time, from 0 to 1, in which the hub was busy, that is, was not waiting for events."""
    sessions_exhausted: bool = False
    """True if a session could not be opened recently."""

    @property
    def jobs(self) -> int:
        """The number of queued and running jobs."""
        return self.queued + self.running


class _WindowMean:
    """An exponentially weighted mean over time; values older than the window have almost no weight."""

    REST: Final = 1e-4
    """Total weight of all values older than the window, as in Knative."""

    def __init__(self, window: float) -> None:
        self.value = 0.0
        self._window = window

    def add(self, reading: float, seconds: float) -> None:
        """Add a value that was constant for the last `seconds` seconds."""
        self.value += (1 - self.REST ** (seconds / self._window)) * (reading - self.value)


class Autoscaler:
    """Decides how many workers to add or remove, and checks whether added workers help. Times are in seconds."""

    BUSY: Final = 0.7
    """Share of the slots that should be busy; the idle slots absorb random peaks."""
    STABLE_WINDOW: Final = 10.0
    PANIC_WINDOW: Final = 1.0
    PANIC: Final = 2
    """Panic mode starts when the load requires this many times the current number of workers. Panic mode ends when it
    has not been triggered for one stable window."""
    LATE: Final = 2
    """Multiple of the queue target: if a job has waited longer than this, the pool grows."""
    CPU_BOUND: Final = 0.9
    """If the hub is busy for at least this share of the time, the load is CPU-bound, and more workers would not
    help."""
    FREEZE: Final = 30.0
    """Seconds for which the pool does not grow after a growth that did not help."""
    QUIET: Final = 0.25
    """Share of busy slots below which the pool is quiet."""
    PACE: Final = 1 / 3
    """Time between two removals, as a share of the quiet time before the first removal: by default, a third of 30 s."""
    RESPAWN: Final = 2
    """If the pool grows within this multiple of the quiet time (by default, within 60 s) after a removal, the removal
    was too early."""
    MOST_PATIENCE: Final = 8
    """Maximum factor by which the quiet time and `FREEZE` are extended; each extension doubles the factor."""

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
        self.cause = ""
        """Cause of the last change, one of "load", "waits" (jobs wait too long), "no_capacity" (a job would be
        rejected), "no_effect" (growth that has not helped is undone), or "quiet"."""

    def __repr__(self) -> str:
        jobs = f"{self._stable.value:.1f} jobs lately, {self._panic.value:.1f} at last"
        return f"<Autoscaler {jobs}, {self._trial!r}, quiet since {self._quiet_since}, frozen to {self._frozen_until}>"

    def change(self, load: Load) -> int:
        """Return how many workers to add (positive) or remove (negative); the caller must do so immediately."""
        now = load.progress.now
        elapsed = max(0.0, now - self._looked_at)
        self._looked_at = now
        self._stable.add(load.jobs, elapsed)
        self._panic.add(load.jobs, elapsed)
        undone = self._undone(load)
        if undone:
            self.cause = "no_effect"
            return -undone
        growth = self._growth(load, now)
        if growth:
            self._grow(load, now)
            self.cause = self._cause_of_growth(load)
            return growth
        self.cause = "quiet"
        return -self._shrinkage(load, now)

    # Growth of the pool.

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
        """Return whether jobs wait too long for a slot, or a job would be rejected."""
        late = load.queue_age > self.LATE * load.queue_target
        return self._all_busy(load) and (late or load.full)

    def _cause_of_growth(self, load: Load) -> str:
        if not self._pressed(load):
            return "load"
        return "no_capacity" if load.full else "waits"

    def _in_vain(self, load: Load) -> bool:
        return load.busy_share >= self.CPU_BOUND or load.sessions_exhausted

    def _all_busy(self, load: Load) -> bool:
        return load.jobs >= load.workers * self._size.slots

    def _wanted(self, load: Load, now: float, pressed: bool) -> int:
        """Return how many workers the load requires."""
        of_one = self.BUSY * self._size.slots
        stable, panic = self._stable.value / of_one, self._panic.value / of_one
        if pressed or panic >= self.PANIC * load.workers:
            self._panics_until = now + self.STABLE_WINDOW
        return math.ceil(max(stable, panic) if now < self._panics_until else stable)

    def _grow(self, load: Load, now: float) -> None:
        """Record that the pool grows, and begin a trial of the new size if all slots are busy.

        While slots are free, no request waits, so a trial could not show whether the growth helps.
        """
        self._quiet_since = None
        early = now - self._removed_at <= self.RESPAWN * self._quiet_seconds
        self._quiet_patience = min(self.MOST_PATIENCE, 2 * self._quiet_patience) if early else 1
        if self._all_busy(load):
            if not self._trial.open:
                self._workers_before = load.workers
            self._trial.begin(load.progress)

    # Shrinking of the pool.

    def _undone(self, load: Load) -> int:
        """Return how many recently added workers to remove because they have not helped."""
        verdict = self._trial.verdict(load.progress)
        if verdict == "open":
            return 0
        needed = self._stable.value > self._workers_before * self._size.slots
        if verdict == "helped" or not needed:
            # If the load has dropped since the growth, the trial proves nothing; `_shrinkage` removes surplus workers.
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
        """Return True if few slots are busy, and one worker fewer would suffice for the current jobs."""
        slots, fewer = self._size.slots, load.workers - 1
        fits = load.jobs <= self.BUSY * fewer * slots
        return fewer >= self._size.minimum and fits and self._stable.value < self.QUIET * load.workers * slots
