"""Tests of each limiter with arbitrary windows, step by step, and in a simulated server."""

import dataclasses
import math
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent import OptionError
from intralb_gevent.policy.limiters import (
    LIMITERS,
    FixedLimiter,
    HubLagLimiter,
    Limiter,
    Window,
    limiter_named,
)

TIMES = st.floats(0.0, 20.0)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    ended = draw(st.integers(0, 500))
    mean = draw(TIMES) if ended else 0.0
    return Window(
        seconds=draw(st.floats(0.0, 15.0)),
        least_lag=draw(st.none() | TIMES),
        most_running=draw(st.integers(0, 400)),
        ended=ended,
        mean_run_time=mean,
        least_run_time=mean * draw(st.floats(0.0, 1.0)),
        shed=draw(st.integers(0, 500)),
        busy=draw(st.floats(0.0, 1.0)),
    )


MOMENTS = st.lists(windows() | st.integers(1, 400), max_size=150)
"""Hypothesis strategy for sequences of windows and new pool sizes."""


def window(lag: float | None, running: int, ended: int = 0, run_time: float = 0.0, seconds: float = 0.1) -> Window:
    return Window(seconds, lag, running, ended, run_time, run_time, 0)


# Invariants.


@pytest.mark.parametrize("name", LIMITERS)
@given(most=st.integers(1, 400), moments=MOMENTS)
def test_the_limit_is_always_from_one_to_the_number_of_slots(name: str, most: int, moments: list[Window | int]) -> None:
    limiter = LIMITERS[name](most)
    assert 1 <= limiter.limit <= most
    for moment in moments:
        if isinstance(moment, Window):
            limiter.observe(moment)
        else:
            most = moment
            limiter.resize(most)
        assert 1 <= limiter.limit <= most
        assert isinstance(limiter.limit, int)
        assert str(limiter.limit) in repr(limiter)


@pytest.mark.parametrize("name", LIMITERS)
def test_idle_windows_change_no_limit(name: str) -> None:
    limiter = LIMITERS[name](50)
    before = limiter.limit
    for _ in range(1000):
        limiter.observe(window(0.0, 0))
    assert limiter.limit == before


@given(limit=st.integers(1, 300), sizes=st.lists(st.integers(1, 400), min_size=1), seen=windows())
def test_a_fixed_limit_follows_the_slots_and_nothing_else(limit: int, sizes: list[int], seen: Window) -> None:
    limiter = FixedLimiter(limit)
    for most in sizes:
        limiter.resize(most)
        limiter.observe(seen)
        assert limiter.limit == min(limit, most)


@given(most=st.integers(1, 300), larger=st.integers(300, 1000), seen=windows())
def test_all_slots_are_all_slots_of_a_pool_that_has_grown_too(most: int, larger: int, seen: Window) -> None:
    limiter = LIMITERS["fixed"](most)
    limiter.observe(seen)
    assert limiter.limit == most
    limiter.resize(larger)
    assert limiter.limit == larger


# Limits by the hub's lag, step by step.


def learnt(most: int, moments: list[Window | int]) -> HubLagLimiter:
    limiter = HubLagLimiter(most)
    for moment in moments:
        limiter.observe(moment) if isinstance(moment, Window) else limiter.resize(moment)
    return limiter


def test_a_late_window_takes_a_tenth_and_at_least_one() -> None:
    limiter, limits = HubLagLimiter(100), []
    for _ in range(40):
        limiter.observe(window(0.021, running=100))
        limits.append(limiter.limit)
    assert limits[:4] == [90, 81, 72, 64]
    assert limits[19:28] == [8, 7, 6, 5, 4, 3, 2, 1, 1]


@given(st.integers(1, 300), MOMENTS, st.floats(0.0201, 20), st.integers(0, 400))
def test_a_late_window_never_leaves_more_than_before_but_for_the_floor(
    most: int, moments: list[Window | int], lag: float, running: int
) -> None:
    limiter = learnt(most, moments)
    before = limiter.limit
    limiter.observe(window(lag, running))
    assert limiter.limit < before or limiter.limit == limiter.floor


@given(st.integers(1, 300), MOMENTS, st.floats(0, 0.02), st.integers(0, 400))
def test_a_window_in_time_never_leaves_less_than_before(
    most: int, moments: list[Window | int], lag: float, running: int
) -> None:
    limiter = learnt(most, moments)
    before = limiter.limit
    limiter.observe(window(lag, running))
    assert limiter.limit >= before


@given(st.integers(1, 300), MOMENTS, windows(), TIMES, TIMES)
def test_more_lag_never_leaves_a_greater_limit(
    most: int, moments: list[Window | int], seen: Window, one: float, other: float
) -> None:
    in_time, late = (learnt(most, [*moments, seen._replace(least_lag=lag)]).limit for lag in sorted((one, other)))
    assert late <= in_time


@given(st.integers(1, 300), MOMENTS, st.lists(st.floats(0.0201, 20), min_size=1, max_size=99))
def test_no_lateness_leads_under_the_floor(most: int, moments: list[Window | int], lags: list[float]) -> None:
    limiter = learnt(most, [*moments, most, window(0.0, running=20, ended=20, run_time=0.1)])
    for lag in lags:
        limiter.observe(window(lag, running=20))
        assert limiter.limit >= min(limiter.floor, most)


def test_the_limit_stays_at_what_the_greatest_throughput_needs_at_the_least_latency() -> None:
    limiter = HubLagLimiter(100)
    for _ in range(10):
        limiter.observe(window(0.0, running=40, ended=20, run_time=0.11))
    for _ in range(90):
        limiter.observe(window(0.2, running=60, ended=10, run_time=0.6))
    assert limiter.floor == 22
    assert limiter.limit == 22


def test_quick_pages_beside_slow_calls_do_not_lower_the_floor() -> None:
    """400 jobs a second of 0.8 s on average keep 320 running, although the quickest take only 20 ms."""
    limiter = HubLagLimiter(1000)
    mixed = Window(0.1, 0.0, most_running=330, ended=40, mean_run_time=0.8, least_run_time=0.02, shed=0)
    for _ in range(20):
        limiter.observe(mixed)
    for _ in range(60):
        limiter.observe(mixed._replace(least_lag=0.05, ended=10, mean_run_time=1.5))
    assert limiter.limit in {320, 321}


@pytest.mark.parametrize(("ended", "processor_seconds", "floor"), [(10, 0.01, 321), (30, 0.06, 321), (10, 0.095, 85)])
def test_the_floor_allows_only_the_throughput_that_a_core_can_give(
    ended: int, processor_seconds: float, floor: int
) -> None:
    """First, each job computes for 1 ms. Then other processes use the core, or each job computes for up to 9.5 ms."""
    limiter = HubLagLimiter(1000)
    calls = Window(0.1, 0.0, most_running=330, ended=40, mean_run_time=0.8, least_run_time=0.02, shed=0)
    for _ in range(20):
        limiter.observe(calls._replace(processor_seconds=0.04))
    late = calls._replace(least_lag=0.05, ended=ended, mean_run_time=1.5, processor_seconds=processor_seconds)
    for _ in range(60):
        limiter.observe(late)
    assert limiter.limit == limiter.floor == floor


def test_what_was_reached_ten_seconds_ago_holds_no_more() -> None:
    limiter = HubLagLimiter(100)
    limiter.observe(window(0.0, running=50, ended=100, run_time=0.05))
    for _ in range(150):
        limiter.observe(window(0.2, running=50, ended=1, run_time=0.5))
    assert limiter.floor == 1
    assert limiter.limit == 1


def test_run_times_that_lateness_alone_has_made_long_hold_no_limit_up() -> None:
    """If 100 jobs share a core, each takes 100 times as long, so Little's law alone would require a limit of 100."""
    limiter = HubLagLimiter(100)
    for _ in range(60):
        limiter.observe(window(0.5, running=100, ended=20, run_time=0.5))
    assert limiter.limit == 1


def test_jobs_that_end_together_do_not_raise_the_floor_above_what_ran() -> None:
    limiter = learnt(100, [window(0.1, running=100)] * 60)
    limiter.observe(window(0.015, running=1, ended=1, run_time=30.0))
    assert limiter.limit == limiter.floor == 1


def test_between_the_thresholds_and_without_a_sample_nothing_changes() -> None:
    limiter = learnt(100, [window(0.1, running=100)] * 5)
    before = limiter.limit
    for lag in (0.01, 0.015, 0.02, None):
        limiter.observe(window(lag, running=before))
        assert limiter.limit == before


def test_it_grows_only_if_half_of_it_is_used() -> None:
    limiter = learnt(100, [window(0.1, running=100)] * 5)
    before = limiter.limit
    limiter.observe(window(0.0, running=before // 2 - 1))
    assert limiter.limit == before
    limiter.observe(window(0.0, running=(before + 1) // 2))
    assert limiter.limit == before + 1


@pytest.mark.parametrize(
    ("busy", "ended", "run_time", "grown"),
    [(0.3, 10, 0.05, 90), (0.3, 10, 0.5, 90), (0.3, 10, 1, 86), (0.3, 0, 0, 83), (0.5, 10, 0.05, 83)],
)
def test_it_grows_by_up_to_a_tenth_while_the_loop_is_idle(busy: float, ended: int, run_time: float, grown: int) -> None:
    limiter = learnt(100, [window(0.1, running=100), window(0.1, running=91), window(0.0, running=81)])
    assert limiter.limit == 82
    limiter.observe(window(0.0, 82, ended, run_time)._replace(busy=busy))
    assert limiter.limit == grown


@given(st.integers(1, 300), MOMENTS)
def test_a_limit_in_use_is_back_at_all_slots_one_by_one_after_an_overload(
    most: int, moments: list[Window | int]
) -> None:
    limiter = learnt(most, [*moments, most])
    for _ in range(most - limiter.limit):
        limiter.observe(window(0.0, running=limiter.limit))
    assert limiter.limit == most


def test_a_window_that_lasted_long_counts_as_several_but_takes_half_at_most() -> None:
    assert learnt(100, [window(0.25, running=100, seconds=0.31)]).limit == 72
    assert learnt(100, [window(12.0, running=100, seconds=12.0)]).limit == 50


def test_one_stall_at_the_first_request_leaves_room_for_many() -> None:
    limiter = learnt(300, [window(0.0, running=1), window(0.5, running=1, seconds=0.5), window(0.0, running=1)])
    assert limiter.limit == 177


def test_lateness_that_lasts_is_answered_from_what_runs_not_from_what_could() -> None:
    limiter = learnt(300, [window(0.1, running=20)] * 2)
    assert limiter.limit == 18


def test_a_limit_that_was_not_felt_grows_with_the_pool_and_another_does_not() -> None:
    limiter = HubLagLimiter(30)
    limiter.resize(60)
    assert limiter.limit == 60
    limiter.observe(window(0.1, running=60))
    limiter.resize(90)
    assert limiter.limit == 54


# In a simulated server.


@dataclasses.dataclass(eq=False)
class Run:
    """A running job; times are in simulated seconds."""

    began: float
    arrived: float
    waits_since: float
    pieces: int


class Server:
    """A simulated event loop: in each iteration, every running job that has finished waiting computes and ends.

    Jobs arrive at regular intervals, `arrivals` per second. A job that has been queued for half a second is dropped.
    At most `most` jobs are queued.
    """

    def __init__(self, limiter: Limiter, computing: float, waiting: float, most: int, pieces: int = 1) -> None:
        self.limiter, self.computing, self.waiting, self.most, self.pieces = limiter, computing, waiting, most, pieces
        self.now, self._due, self._looked = 0.0, 0.0, 0.0
        self._queue: deque[float] = deque()
        self._running: list[Run] = []
        self.done: list[float] = []
        """Seconds from arrival to end, for each job that has ended in the current phase."""
        self.limits: list[int] = []
        """Limit after each window of the current phase."""
        self.lags: list[float] = []
        self._begin_window()

    def phase(self, seconds: float, arrivals: float) -> "Server":
        self.done, self.limits, self.lags = [], [], []
        end = self.now + seconds
        while self.now < end:
            self._arrive(arrivals)
            self._round()
            if self.now - self._began >= 0.1:
                self._end_window()
        return self

    def _arrive(self, arrivals: float) -> None:
        self._due += arrivals * (self.now - self._looked)
        self._looked = self.now
        self._queue.extend([self.now] * int(self._due))
        self._due %= 1
        while self._queue and (self.now - self._queue[0] > 0.5 or len(self._queue) > self.most):
            self._queue.popleft()
        self._take_up()

    def _take_up(self) -> None:
        while self._queue and len(self._running) < self.limiter.limit:
            self._running.append(Run(self.now, self._queue.popleft(), self.now, self.pieces))
        self._most_running = max(self._most_running, len(self._running))

    def _round(self) -> None:
        begun = self.now
        for job in [job for job in self._running if begun - job.waits_since >= self.waiting]:
            self.now += self.computing
            job.waits_since, job.pieces = self.now, job.pieces - 1
            if not job.pieces:
                self._running.remove(job)
                self._run_times.append(self.now - job.began)
                self.done.append(self.now - job.arrived)
                self._take_up()
        self._busy += self.now - begun
        self._least_lag = min(self._least_lag, self.now - begun)
        self.now = max(self.now, begun + 0.005)

    def _begin_window(self) -> None:
        self._began, self._least_lag, self._most_running, self._busy = self.now, math.inf, 0, 0.0
        self._run_times: list[float] = []

    def _end_window(self) -> None:
        times = self._run_times
        mean, least = (sum(times) / len(times), min(times)) if times else (0.0, 0.0)
        seconds = self.now - self._began
        seen = Window(
            seconds,
            self._least_lag,
            self._most_running,
            len(times),
            mean,
            least,
            0,
            busy=self._busy / seconds,
            processor_seconds=self._busy,
        )
        self.limiter.observe(seen)
        self.limits.append(self.limiter.limit)
        self.lags.append(self._least_lag)
        self._begin_window()


CAPACITY = 200  # jobs a second, of 5 ms each


def computing_server(limiter: Limiter) -> Server:
    return Server(limiter, computing=0.005, waiting=0.0, most=300)


@pytest.mark.parametrize("load", [1.5, 2, 5, 10])
def test_jobs_that_compute_are_brought_down_to_few_and_stay_there(load: float) -> None:
    server = computing_server(HubLagLimiter(300)).phase(10, 0.8 * CAPACITY)
    assert set(server.limits) == {300}
    server.phase(6, load * CAPACITY).phase(20, load * CAPACITY)
    assert max(server.limits) - min(server.limits) <= 2
    assert min(server.limits) >= 2
    assert max(server.limits) <= 6
    assert max(server.lags) <= 0.03
    assert len(server.done) >= 0.95 * 20 * CAPACITY


def test_without_a_limit_the_same_load_makes_the_loop_late_by_more_than_a_second() -> None:
    server = computing_server(LIMITERS["fixed"](300)).phase(10, 2 * CAPACITY)
    assert min(server.lags[-5:]) > 1


def test_the_limit_is_regained_when_the_jobs_do_not_compute_any_more() -> None:
    server = computing_server(HubLagLimiter(100)).phase(20, 5 * CAPACITY)
    assert server.limiter.limit < 7
    server.computing, server.waiting = 0.0, 0.2
    server.phase(1, 0).phase(15, 1000)
    assert server.limits[-1] == 100
    assert server.limits == sorted(server.limits)


def test_jobs_that_wait_get_the_slots_that_they_need_soon_after_jobs_that_compute() -> None:
    """If 300 jobs a second wait for 0.4 s, about 120 run at once; the limit for jobs that compute is less than 7."""
    server = computing_server(HubLagLimiter(300)).phase(10, 2 * CAPACITY)
    server.computing, server.waiting = 0.001, 0.4
    server.phase(4, 300).phase(4, 300)
    assert len(server.done) >= 0.95 * 4 * 300


@pytest.mark.parametrize("arrivals", [10, 1000, 10_000])
def test_jobs_that_only_wait_are_never_limited(arrivals: int) -> None:
    server = Server(HubLagLimiter(100), computing=0.00001, waiting=0.05, most=300).phase(20, arrivals)
    assert set(server.limits) == {100}


def test_jobs_that_wait_and_compute_keep_the_slots_that_their_throughput_needs() -> None:
    """If each job computes for 5 ms and waits for 200 ms, about 40 jobs must be waiting to keep the core busy."""
    server = Server(HubLagLimiter(300), computing=0.005, waiting=0.2, most=300)
    server.phase(10, 0.8 * CAPACITY).phase(10, 3 * CAPACITY).phase(30, 3 * CAPACITY)
    assert len(server.done) >= 0.95 * 30 * CAPACITY


def test_jobs_with_many_short_waits_run_few_at_a_time_although_they_make_the_loop_hardly_late() -> None:
    """If each computes twenty times for 1 ms, 21 running jobs make the loop 20 ms late, and each then takes 420 ms."""
    server = Server(HubLagLimiter(300), computing=0.001, waiting=0.001, most=300, pieces=20)
    server.phase(5, 40).phase(5, 100).phase(20, 100)
    assert max(server.limits[100:]) <= 8
    assert len([seconds for seconds in server.done if seconds < 0.7]) >= 0.9 * 20 * 50


def test_pages_that_compute_are_limited_soon_after_calls_that_waited() -> None:
    """300 calls ran at once. If as many pages share the loop, each takes 6 s, and nobody waits for so long."""
    server = Server(HubLagLimiter(300), computing=0.0005, waiting=1.0, most=300).phase(12, 290)
    server.computing, server.waiting, server.pieces = 0.001, 0.001, 20
    server.phase(3, 100).phase(8, 100)
    assert len([seconds for seconds in server.done if seconds < 2.5]) >= 0.9 * 8 * 50


def test_a_saturated_loop_limits_no_quick_jobs() -> None:
    limiter = HubLagLimiter(100)
    quick = window(0.001, running=60, ended=2000, run_time=0.005)._replace(busy=1.0)
    for _ in range(100):
        limiter.observe(quick)
    assert limiter.limit == 100
    for _ in range(20):
        limiter.observe(window(0.1, running=60))
    for _ in range(100):
        limiter.observe(quick)
    assert limiter.limit == 100


def test_a_saturated_loop_limits_slow_jobs_although_none_of_them_ends() -> None:
    limiter = HubLagLimiter(100)
    for _ in range(50):
        limiter.observe(window(0.005, running=20)._replace(busy=1.0))
    assert limiter.limit == 1


def test_shedding_lowers_no_limit() -> None:
    for make in LIMITERS.values():
        plain, shedding = make(50), make(50)
        for _ in range(50):
            seen = window(0.0, 50, 10, 0.05)
            plain.observe(seen)
            shedding.observe(seen._replace(shed=1000))
        assert shedding.limit == plain.limit


@pytest.mark.parametrize("made", [None, 5, object()])
def test_a_function_that_makes_no_limiter_is_named(made: object) -> None:
    with pytest.raises(OptionError, match=r"limiter: .* returned .* it must return a Limiter"):
        limiter_named(lambda most: made, 10)


def test_many_jobs_that_arrive_at_once_and_share_the_loop_do_not_hold_the_limit_up() -> None:
    """They end at about the same time. The throughput of that moment is far above what the server can sustain."""
    limiter = learnt(300, [window(0.0, running=30, ended=1, run_time=0.05)])
    for number in range(30):
        ends = number % 4 == 3
        limiter.observe(window(0.05, running=80, ended=20 if ends else 0, run_time=0.4 if ends else 0.0))
    assert limiter.floor == 3
    assert limiter.limit <= 4
