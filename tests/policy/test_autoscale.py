"""Tests of the autoscaler with simulated pools and simulated time."""

import math
import random
from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.autoscale import Autoscaler, Load, PoolSize
from intralb_gevent.policy.growth import Progress

QUIET = 30.0
TICK = 0.1
SERVICE = 0.05
SIZE = PoolSize(minimum=1, maximum=10, group=3, slots=4)
MOMENTS = st.lists(st.tuples(st.sampled_from([0.0, 0.02, TICK, 1.0, 20.0]), st.integers(0, 60)), max_size=80)


class Pool:
    """A simulated pool with a given number of jobs; at most `useful` of the jobs in slots make progress."""

    def __init__(self, size: PoolSize = SIZE, useful: float = math.inf) -> None:
        self.size, self.useful = size, useful
        self.workers, self.now, self.ended, self.waited = size.minimum, 0.0, 0.0, 0.0
        self.scaler = Autoscaler(size, QUIET)
        self.changes: list[tuple[float, int]] = []
        self.after(0, 0)

    def after(self, seconds: float, jobs: int, **more: object) -> int:
        """Keep `jobs` jobs for some seconds; then call the autoscaler, and return the change that it orders."""
        running = min(jobs, self.workers * self.size.slots)
        rate = min(running, self.useful) / SERVICE
        self.now += seconds
        self.ended += rate * seconds
        self.waited += (jobs - running) * seconds
        progress = Progress(self.now, int(self.ended), int(self.ended), self.waited, SERVICE)
        change = self.scaler.change(Load(self.workers, jobs - running, running, progress, **more))  # type: ignore[arg-type]
        self.workers += change
        if change:
            self.changes.append((self.now, change))
        return change

    def hold(self, seconds: float, jobs: int, **more: object) -> list[int]:
        """Keep `jobs` jobs for some seconds; return the number of workers after each tick."""
        sizes = []
        for _ in range(round(seconds / TICK)):
            self.after(TICK, jobs, **more)
            sizes.append(self.workers)
        return sizes

    @property
    def turns(self) -> list[float]:
        """The times at which the pool changed from growing to shrinking, or vice versa."""
        return [then for (_, before), (then, change) in pairwise(self.changes) if before * change < 0]


class Server:
    """A simulated server: jobs arrive, wait, hold a slot and end; CPU-bound jobs share one processor."""

    STEP = 0.005
    SLO = 0.5

    def __init__(self, size: PoolSize, queue_size: int, *, computes: bool = False) -> None:
        self.size, self.queue_size, self.computes = size, queue_size, computes
        self.scaler = Autoscaler(size, QUIET)
        self.workers = size.minimum
        self.queue: deque[float] = deque()
        self.running: deque[tuple[float, int]] = deque()
        """Arrival time of each running job, and the step in which it ends; a CPU-bound job ends after one step."""
        self.steps = self.ended = self.begun = self.good = self.arrived = 0
        self.waited = self.due = self.busy = self.read_busy = 0.0
        self.read_at = self.share = 0.0

    @property
    def now(self) -> float:
        return self.steps * self.STEP

    def run(self, seconds: float, rate: float) -> None:
        """Let jobs arrive at a constant rate for some seconds."""
        for _ in range(round(seconds / self.STEP)):
            self.steps += 1
            self.end_jobs()
            self.due += rate * self.STEP
            while self.due >= 1:
                self.due -= 1
                self.arrive()
            self.begin_jobs()
            if self.steps % round(TICK / self.STEP) == 0:
                self.look()

    def arrive(self) -> None:
        self.arrived += 1
        while len(self.queue) + len(self.running) >= self.workers * (self.size.slots + self.queue_size):
            if self.look(full=True) <= 0:
                return
        self.queue.append(self.now)

    def begin_jobs(self) -> None:
        while self.queue and len(self.running) < self.workers * self.size.slots:
            arrived = self.queue.popleft()
            self.begun += 1
            self.waited += self.now - arrived
            self.running.append((arrived, self.steps + round(SERVICE / self.STEP)))

    def end_jobs(self) -> None:
        if self.computes and self.running:
            self.busy += self.STEP
            self.end_job()
        while not self.computes and self.running and self.running[0][1] <= self.steps:
            self.end_job()

    def end_job(self) -> None:
        arrived, _ = self.running.popleft()
        self.ended += 1
        self.good += self.now - arrived <= self.SLO

    def look(self, *, full: bool = False) -> int:
        if self.now - self.read_at > (0.019 if full else 0.004):
            self.share = (self.busy - self.read_busy) / (self.now - self.read_at)
            self.read_at, self.read_busy = self.now, self.busy
        load = Load(
            workers=self.workers,
            queued=len(self.queue),
            running=len(self.running),
            progress=Progress(self.now, self.ended, self.begun, self.waited, SERVICE),
            full=full,
            queue_age=self.now - self.queue[0] if self.queue else 0.0,
            queue_target=max(0.005, 2 * SERVICE / (self.workers * self.size.slots)),
            busy_share=self.share,
        )
        change = self.scaler.change(load)
        self.workers += change
        return change


# Limits.


@given(MOMENTS, st.integers(1, 4), st.integers(1, 10))
def test_the_number_of_workers_stays_within_its_bounds(
    moments: list[tuple[float, int]], minimum: int, group: int
) -> None:
    pool = Pool(PoolSize(minimum, 10, group, 4), useful=8)
    for number, (seconds, jobs) in enumerate(moments):
        pool.after(seconds, jobs, full=number % 3 == 0, queue_age=number % 2, queue_target=0.1)
        assert minimum <= pool.workers <= 10


@given(MOMENTS, st.sampled_from([{"busy_share": 0.95}, {"sessions_exhausted": True}]))
def test_it_never_grows_where_something_else_than_slots_is_short(
    moments: list[tuple[float, int]], short: dict[str, object]
) -> None:
    pool = Pool()
    for seconds, jobs in moments:
        assert pool.after(seconds, jobs, full=True, queue_age=1.0, queue_target=0.1, **short) <= 0


@given(MOMENTS)
def test_a_pool_with_all_slots_busy_at_most_doubles_at_a_look(moments: list[tuple[float, int]]) -> None:
    pool = Pool()
    for seconds, jobs in moments:
        before = pool.workers
        pool.after(seconds, jobs)
        assert pool.workers <= 2 * before or jobs < before * SIZE.slots


# Growing.


def test_a_steady_load_gets_the_workers_whose_slots_it_keeps_70_percent_busy() -> None:
    pool = Pool(PoolSize(minimum=1, maximum=10, group=1, slots=10))
    assert pool.hold(20, 21)[-1] == 3
    assert pool.hold(20, 22)[-1] == 4
    assert pool.hold(60, 22)[-1] == 4


def test_a_slow_rise_adds_a_group_while_slots_are_free() -> None:
    pool = Pool(PoolSize(minimum=1, maximum=10, group=3, slots=10))
    assert pool.hold(20, 8)[-1] == 4
    assert [change for _, change in pool.changes] == [3]


def test_a_full_pool_grows_at_once_whatever_came_before() -> None:
    pool = Pool()
    assert [pool.after(0, 60, full=True) for _ in range(11)] == [1] * 9 + [0] * 2


@pytest.mark.parametrize(("jobs", "queue_age", "change"), [(9, 0.021, 1), (9, 0.02, 0), (7, 0.03, 0)])
def test_jobs_that_wait_too_long_for_a_slot_are_a_reason_for_one_more(jobs: int, queue_age: float, change: int) -> None:
    pool = Pool(PoolSize(minimum=8, maximum=20, group=1, slots=1))
    assert pool.after(TICK, jobs, queue_age=queue_age, queue_target=0.01) == change


@pytest.mark.parametrize(("jobs", "workers"), [(11, 10), (12, 18)])
def test_twice_the_workers_wanted_by_the_last_second_is_such_a_sign_too(jobs: int, workers: int) -> None:
    pool = Pool(PoolSize(minimum=8, maximum=20, group=1, slots=1))
    assert pool.hold(1, jobs)[-1] == workers


def test_after_such_a_sign_the_last_second_counts_for_ten() -> None:
    pools = [Pool(PoolSize(minimum=8, maximum=20, group=1, slots=1)) for _ in range(2)]
    sizes = [pool.hold(0.5, 10, queue_age=age, queue_target=0.01) for pool, age in zip(pools, (0.03, 0), strict=True)]
    assert [size[-1] for size in sizes] == [15, 8]


@pytest.mark.parametrize(("slots", "queue_size"), [(2, 2), (4, 8), (10, 60), (25, 25), (100, 100), (4, 0)])
@pytest.mark.parametrize("offset", [0, 0.05])
def test_a_step_from_one_to_eight_workers_need(slots: int, queue_size: int, offset: float) -> None:
    server = Server(PoolSize(minimum=1, maximum=10, group=3, slots=slots), queue_size)
    one = 0.7 * slots / SERVICE
    server.run(15 + offset, one * 0.95)
    assert server.workers == 1
    server.arrived = server.good = 0
    server.run(0.5, 8 * one * 0.99)
    assert server.workers * slots >= 0.9 * 8 * slots
    server.run(9.5, 8 * one * 0.99)
    assert server.good >= 0.98 * (server.arrived - len(server.running) - len(server.queue))


@pytest.mark.parametrize(("slots", "queue_size"), [(4, 20), (10, 60), (25, 25), (100, 100)])
@pytest.mark.parametrize("offset", [0, 0.03, 0.05, 0.08])
def test_the_same_step_of_jobs_that_compute_adds_one_worker_at_most(slots: int, queue_size: int, offset: float) -> None:
    server = Server(PoolSize(minimum=1, maximum=10, group=3, slots=slots), queue_size, computes=True)
    server.run(15 + offset, 100)
    most = server.workers
    assert most == 1
    for _ in range(600):
        server.run(TICK, 800)
        most = max(most, server.workers)
    assert most <= 2


# Growth that does not help.


def test_growth_that_helps_nobody_is_undone_and_not_tried_again_for_a_while() -> None:
    pool = Pool(PoolSize(minimum=2, maximum=8, group=1, slots=5), useful=10)
    pool.hold(30, 10, busy_share=1.0)
    sizes = pool.hold(120, 60)
    grown = sizes.index(8)
    undone = sizes.index(2, grown)
    assert 19 <= (undone - grown) * TICK <= 22
    again = next(index for index in range(undone, len(sizes)) if sizes[index] > 2)
    assert (again - undone) * TICK == pytest.approx(30, abs=0.2)


def test_the_freeze_doubles_while_growth_goes_on_to_be_useless() -> None:
    pool = Pool(PoolSize(minimum=2, maximum=4, group=1, slots=5), useful=10)
    pool.hold(30, 10, busy_share=1.0)
    pool.hold(1200, 60)
    undone = [when for when, change in pool.changes if change < 0]
    grown = [next(when for when, change in pool.changes if change > 0 and when > then) for then in undone[:-1]]
    freezes = [round(after - before) for before, after in zip(undone, grown, strict=False)]
    assert freezes == [30, 60, 120, 240, 240, 240]


def test_growth_that_helps_stays() -> None:
    pool = Pool(PoolSize(minimum=2, maximum=4, group=1, slots=5), useful=15)
    pool.hold(30, 10, busy_share=1.0)
    assert pool.hold(200, 60)[-1] == 4


def test_growth_that_only_shortens_the_wait_stays() -> None:
    pool = Pool(PoolSize(minimum=2, maximum=4, group=1, slots=5), useful=10)
    pool.hold(30, 18, busy_share=1.0)
    assert pool.hold(100, 18)[-1] > 2


def test_growth_whose_jobs_have_gone_is_not_held_against_it() -> None:
    pool = Pool(PoolSize(minimum=2, maximum=4, group=1, slots=5), useful=10)
    pool.hold(30, 10, busy_share=1.0)
    pool.hold(1, 60)
    pool.hold(25, 8)
    assert pool.after(0, 60, full=True) >= 0
    assert pool.workers == 4


# Shrinking.


def grown(workers: int) -> Pool:
    pool = Pool(PoolSize(minimum=1, maximum=workers, group=1, slots=4))
    while pool.workers < workers:
        pool.after(0, 60, full=True)
    return pool


def removals(pool: Pool, since: float) -> list[float]:
    return [round(when - since) for when, change in pool.changes if change < 0]


def test_it_shrinks_by_one_after_the_quiet_time_and_then_by_one_every_ten_seconds() -> None:
    pool = grown(4)
    since = pool.now
    assert pool.hold(120, 0)[-1] == 1
    assert removals(pool, since) == [30, 40, 50]


def test_a_pool_that_is_a_quarter_busy_does_not_shrink() -> None:
    pool = grown(4)
    pool.hold(20, 5)
    assert pool.hold(300, 4)[-1] == 4
    assert pool.hold(300, 3)[-1] < 4


@given(MOMENTS)
def test_shrinking_for_quiet_never_makes_the_present_jobs_wait(moments: list[tuple[float, int]]) -> None:
    pool = grown(10)
    for seconds, jobs in moments:
        if pool.after(seconds, jobs) == -1:
            assert jobs <= pool.workers * SIZE.slots


def test_a_moment_with_more_jobs_than_fewer_workers_should_have_is_not_quiet() -> None:
    pool = grown(4)
    pool.hold(29.8, 0)
    pool.hold(0.3, 9)
    assert pool.hold(29, 0)[-1] == 4


def test_one_busy_spell_starts_the_quiet_time_anew() -> None:
    pool = grown(4)
    for _ in range(10):
        pool.hold(25, 0)
        pool.hold(3, 8)
    assert pool.workers == 4


def test_a_pool_that_soon_grows_again_waits_twice_as_long_the_next_time_and_eight_times_at_most() -> None:
    pool = grown(2)
    waits = []
    for _ in range(6):
        since = pool.now
        while pool.workers == 2:
            pool.after(TICK, 0)
        waits.append(round(pool.now - since))
        pool.hold(5, 0)
        pool.after(0, 8, full=True)
    assert waits == [30, 60, 120, 240, 240, 240]


def test_growth_long_after_a_removal_shows_that_it_was_right() -> None:
    pool = grown(2)
    waits = []
    for alone in (5, 5, 90, 90):
        since = pool.now
        while pool.workers == 2:
            pool.after(TICK, 0)
        waits.append(round(pool.now - since))
        pool.hold(alone, 0)
        pool.after(0, 8, full=True)
    assert waits == [30, 60, 120, 30]


# Noise.


def noisy(level: float, seed: int, useful: float) -> Pool:
    chance = random.Random(seed)
    pool = Pool(PoolSize(minimum=1, maximum=10, group=3, slots=10), useful)
    for _ in range(3000):
        pool.after(TICK, round(level * chance.uniform(0.8, 1.2)))
    return pool


@given(st.floats(0, 150), st.integers(0, 1000))
def test_noise_does_not_make_it_waver(level: float, seed: int) -> None:
    turns = noisy(level, seed, math.inf).turns
    assert all(sum(begins <= turn < begins + 60 for turn in turns) <= 2 for begins in turns)


@given(st.floats(0, 150), st.integers(0, 1000), st.sampled_from([5, 10, 30]))
def test_nor_where_more_slots_are_of_no_use(level: float, seed: int, useful: int) -> None:
    assert len(noisy(level, seed, useful).turns) <= 2 * 5


def test_it_shows_what_it_knows() -> None:
    pool = Pool()
    pool.hold(5, 10)
    assert "10.0 at last" in repr(pool.scaler)
