from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.autoscale import Autoscaler, PoolSize

QUIET = 30.0
SIZE = PoolSize(minimum=3, maximum=10, group=3, slots=4)
MOMENTS = st.lists(st.tuples(st.floats(0.01, 20.0), st.integers(0, 60)), max_size=60)


class Pool:
    """Workers under a load that comes from outside, on a clock of its own."""

    def __init__(self, size: PoolSize = SIZE, quiet: float = QUIET) -> None:
        self.size, self.workers, self.now = size, size.minimum, 0.0
        self.scaler = Autoscaler(size, quiet)
        self.changes: list[tuple[float, int]] = []

    def after(self, seconds: float, load: int) -> int:
        self.now += seconds
        running = min(load, self.workers * self.size.slots)
        change = self.scaler.change(self.now, self.workers, load - running, running)
        self.workers += change
        if change:
            self.changes.append((self.now, change))
        return change


@given(MOMENTS)
def test_the_number_of_workers_stays_within_its_bounds(moments: list[tuple[float, int]]) -> None:
    pool = Pool()
    for seconds, load in moments:
        change = pool.after(seconds, load)
        assert SIZE.minimum <= pool.workers <= SIZE.maximum
        assert abs(change) <= SIZE.group


@given(MOMENTS)
def test_no_shrinking_within_the_quiet_time_of_any_change(moments: list[tuple[float, int]]) -> None:
    pool = Pool()
    for seconds, load in moments:
        pool.after(seconds, load)
    for (before, _), (then, change) in zip(pool.changes, pool.changes[1:], strict=False):
        assert change > 0 or then - before >= QUIET


@given(MOMENTS)
def test_shrinking_never_makes_the_present_jobs_wait(moments: list[tuple[float, int]]) -> None:
    pool = Pool()
    for seconds, load in moments:
        if pool.after(seconds, load) < 0:
            assert load <= pool.workers * SIZE.slots


@given(st.integers(0, 200))
def test_it_grows_only_when_jobs_wait_and_no_slot_is_idle(load: int) -> None:
    pool = Pool()
    change = pool.after(1, load)
    assert (change > 0) == (load > SIZE.minimum * SIZE.slots)


def test_a_steady_load_between_the_thresholds_changes_nothing() -> None:
    pool = Pool()
    pool.after(1, 13)
    for _ in range(1000):
        assert pool.after(1, 13) == 0


def test_it_shrinks_group_by_group_after_each_quiet_time() -> None:
    pool = Pool()
    for _ in range(3):
        pool.after(0.1, 60)
    assert pool.workers == 10
    sizes = []
    for _ in range(100):
        pool.after(1, 0)
        sizes.append(pool.workers)
    assert sizes[28] == 10
    assert sizes[30] == 7
    assert sizes[-1] == 3


def test_one_busy_moment_starts_the_quiet_time_anew() -> None:
    pool = Pool()
    pool.after(0.1, 60)
    for _ in range(20):
        pool.after(20, 0)
        assert pool.after(1, 12) == 0
    assert pool.workers == 6
