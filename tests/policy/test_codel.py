"""A standing queue is told from a burst, and shed down to what can be answered in time."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterable
from statistics import quantiles

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.codel import QueueDelay
from intralb_gevent.policy.excess import Excess
from intralb_gevent.policy.servicetime import ServiceTime

SLOTS = 10
TARGET = 0.01
WAITS = st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 2)), max_size=200)


def times(*seconds: float) -> ServiceTime:
    service = ServiceTime()
    for each in seconds:
        service.add(each)
    return service


SERVICE = times(0.05)


def sheds(delay: QueueDelay, now: float, waited: float, others_wait: bool = True) -> bool:
    """Judge when it is time, as the balancer does, and ask."""
    if now >= delay.ends:
        delay.judge(now, SERVICE, SLOTS)
    return delay.sheds(now, waited, others_wait)


def run_all(delay: QueueDelay, waits: Iterable[tuple[float, float]]) -> list[bool]:
    """Let jobs leave the queue, each so many seconds after the one before, having waited for so long."""
    now, shed = 0.0, []
    for pause, waited in waits:
        now += pause
        shed.append(sheds(delay, now, waited))
    return shed


@given(WAITS)
def test_what_has_not_waited_for_twice_the_target_is_never_shed(waits: list[tuple[float, float]]) -> None:
    for (_, waited), shed in zip(waits, run_all(QueueDelay(), waits), strict=True):
        assert not shed or waited > 2 * TARGET


@given(WAITS)
def test_the_only_one_that_waits_is_never_shed(waits: list[tuple[float, float]]) -> None:
    delay, now = QueueDelay(), 0.0
    for pause, waited in waits:
        now += pause
        assert not sheds(delay, now, waited, others_wait=False)


@given(st.lists(st.floats(0, 0.1), min_size=1, max_size=200), st.integers(1, 20))
def test_a_queue_that_empties_now_and_then_is_no_reason_to_shed(waits: list[float], every: int) -> None:
    # One in each interval has not waited, however long the others have.
    delay = QueueDelay()
    for index, waited in enumerate(waits):
        now = index * 0.19 / every
        assert not sheds(delay, now, 0.0 if index % every == 0 else waited)


def test_a_standing_queue_is_shed_after_one_interval_and_not_before() -> None:
    delay = QueueDelay()
    shed = [(step * 0.005, sheds(delay, step * 0.005, 0.3)) for step in range(100)]
    first = next(now for now, was_shed in shed if was_shed)
    assert 0.1 <= first <= 0.25
    assert all(was_shed for now, was_shed in shed if now > first)


def test_one_short_wait_ends_it() -> None:
    delay = QueueDelay()
    run_all(delay, [(0.005, 0.3)] * 100)
    assert delay.standing
    assert not sheds(delay, 0.51, TARGET)
    assert not sheds(delay, 0.52, 0.3)


def test_the_short_wait_of_one_that_went_before_the_others_does_not_end_it() -> None:
    delay = QueueDelay()
    for step in range(100):
        sheds(delay, step * 0.005, 0.3)
        delay.sheds(step * 0.005, 0.001, True, oldest=0.3)
    assert delay.standing
    delay.sheds(0.5, 0.001, True, oldest=0.001)
    assert not delay.standing


def test_after_a_quiet_time_a_new_burst_is_not_shed() -> None:
    delay = QueueDelay()
    run_all(delay, [(0.005, 0.3)] * 100)
    assert not sheds(delay, 60.0, 0.3)


def test_before_any_job_has_ended_nothing_is_shed() -> None:
    delay = QueueDelay()
    for step in range(200):
        if step * 0.01 >= delay.ends:
            delay.judge(step * 0.01, ServiceTime(), 1)
        assert not delay.sheds(step * 0.01, step * 0.01, True)


def test_more_slots_begin_anew() -> None:
    delay = QueueDelay()
    run_all(delay, [(0.005, 0.3)] * 100)
    delay.restart()
    assert not sheds(delay, 0.51, 0.3)


@given(st.floats(1e-5, 10), st.integers(1, 1000))
def test_the_target_follows_the_service_time(service: float, slots: int) -> None:
    delay = QueueDelay()
    delay.judge(0.0, times(service), slots)
    assert delay.target == max(0.005, 2 * service / slots)
    assert delay.room == max(1, int(max(4 * delay.target, 2 * service) / (service / slots)))


@given(st.floats(1e-5, 10), st.integers(1, 1000), st.floats(0, 10), st.floats(0, 10))
def test_the_less_is_turned_away_the_more_may_wait(service: float, slots: int, less: float, more: float) -> None:
    less, more = sorted((less, more))
    delay, rooms = QueueDelay(), []
    for excess in (math.inf, more, less, 0.0):
        delay.adapt(times(service, 2 * service), slots, excess=excess)
        rooms.append(delay.longest)
    assert rooms == sorted(rooms)
    assert rooms[-1] == pytest.approx(3 * rooms[0])


def test_as_many_may_wait_as_keep_the_slots_busy() -> None:
    delay = QueueDelay()
    delay.adapt(SERVICE, SLOTS, excess=0.1)
    assert delay.room == 20
    delay.adapt(SERVICE, SLOTS, excess=0.05)
    assert delay.room == 40


def always(_: random.Random) -> float:
    return 0.05


def mostly_short(source: random.Random) -> float:
    return 0.3 if source.random() < 0.05 else 0.005


class Simulated:
    """Ten slots, and what arrives for them at random; `goodput` is of what could be done: all that arrives at most."""

    def __init__(self, load: float, draw: Callable[[random.Random], float] = always, seconds: float = 30.0) -> None:
        self.source, self.draw = random.Random(7), draw
        self.delay, self.service, self.excess = QueueDelay(), ServiceTime(), Excess()
        self.waiting = deque[float]()
        self.free = [0.0] * SLOTS
        self.waits: list[float] = []
        self.refused: list[float] = []
        self.good, self.tick, self.run, self.away = 0, 0.1, 0, 0
        mean = sum(draw(self.source) for _ in range(10_000)) / 10_000
        self.rate = load * SLOTS / mean
        self._run(seconds)
        self.goodput = self.good / seconds / min(self.rate, SLOTS / mean)

    def _run(self, seconds: float) -> None:
        arrival = self.source.expovariate(self.rate)
        while (now := min(arrival, *self.free) if self.waiting else arrival) < seconds:
            if now > self.tick:
                self._shorten(now)
            if arrival <= now:
                if self.delay.full(len(self.waiting)):
                    self.refused.append(0.0)
                else:
                    self.waiting.append(arrival)
                arrival += self.source.expovariate(self.rate)
            while self.waiting and min(self.free) <= now:
                self._turn(now, now - self.waiting.popleft())

    def _shorten(self, now: float) -> None:
        self.tick += 0.1
        self.excess.add(self.run, len(self.refused) - self.away)
        self.run, self.away = 0, len(self.refused)
        self.delay.adapt(self.service, self.running(now), excess=self.excess.ratio)
        while len(self.waiting) > self.delay.room and self.delay.found(now, now - self.waiting[-1]):
            self.refused.append(now - self.waiting.pop())

    def running(self, now: float) -> int:
        return sum(free > now for free in self.free)

    def _turn(self, now: float, waited: float) -> None:
        if now >= self.delay.ends:
            self.delay.judge(now, self.service, self.running(now), excess=self.excess.ratio)
        if self.delay.sheds(now, waited, bool(self.waiting)):
            self.refused.append(waited)
            return
        takes = self.draw(self.source)
        self.run += 1
        self.free[self.free.index(min(self.free))] = now + takes
        self.service.add(takes)
        self.good += waited + takes <= 0.5
        if now > 5:
            self.waits.append(waited)


def test_ten_times_too_much_leaves_nearly_all_of_the_capacity() -> None:
    for load in (1.1, 1.5, 2, 5, 10):
        simulated = Simulated(load)
        assert simulated.goodput > 0.95
        assert max(simulated.waits) < 0.15
        assert quantiles(simulated.refused, n=100)[-1] < 0.05


def test_up_to_the_capacity_little_is_shed() -> None:
    for load, least in ((0.5, 0.99), (0.8, 0.99), (0.9, 0.99), (1.0, 0.98)):
        assert Simulated(load).goodput > least


def test_a_few_that_take_much_longer_make_room_for_longer_waits() -> None:
    for load, least in ((0.8, 0.97), (1.0, 0.95), (1.1, 0.95), (2, 0.95), (10, 0.95)):
        assert Simulated(load, mostly_short, 60).goodput > least
    assert times(*[0.005] * 95, *[0.3] * 5).residual == pytest.approx(0.115, abs=0.01)


def test_while_some_are_turned_away_the_queue_stands_however_short_it_is() -> None:
    delay, now = QueueDelay(), 0.0
    for _ in range(100):
        now += 0.005
        sheds(delay, now, 0.3)
    assert delay.standing
    for _ in range(100):
        now += 0.005
        assert delay.full(delay.room)
        assert not delay.full(delay.room - 1)
        assert not sheds(delay, now, 0.5 * TARGET)
    assert delay.standing
    for _ in range(20):
        now += 0.005
        sheds(delay, now, 0.5 * TARGET)
    assert not delay.full(1000)


def test_a_queue_in_which_nobody_has_a_turn_stands_too() -> None:
    delay = QueueDelay()
    delay.judge(0.0, SERVICE, SLOTS)
    delay.judge(delay.ends, SERVICE, SLOTS, oldest=0.15)
    assert not delay.standing
    delay.judge(delay.ends, SERVICE, SLOTS, oldest=0.35)
    assert delay.standing
    assert delay.overdue(delay.ends, 0.65)


def test_clients_that_take_turns_at_the_event_loop_are_no_standing_queue() -> None:
    delay, now = QueueDelay(), 0.0
    for _ in range(1000):
        now += 0.003
        if now >= delay.ends:
            delay.judge(now, times(0.003), 1, slots_free=True)
        assert not delay.sheds(now, 0.030, True)
        assert not delay.full(9)
