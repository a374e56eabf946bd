"""Tests of admission control in a simulated server: crowds, clients that retry immediately, and floods."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter, deque
from collections.abc import Callable
from statistics import quantiles

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.admission import Admission, short_wait
from intralb_gevent.policy.excess import RejectionRatio
from intralb_gevent.policy.servicetime import ServiceTime
from intralb_gevent.policy.throughput import Throughput

MAX_WAIT = 2.0
SLO = 0.5
TICK = 0.1


class Simulated:
    """A simulated server and its clients: random requests, and clients that retry immediately after a rejection.

    `rate` is the number of independent requests per second, as a function of time. Each of `clients` sends its next
    request `pause` seconds after a response or rejection. Each rejection costs the server `cost` seconds.
    """

    def __init__(
        self,
        seconds: float,
        *,
        rate: Callable[[float], float] = lambda now: 0.0,
        most: float = 0.0,
        clients: int = 0,
        slots: int = 1,
        service: Callable[[random.Random], float] = lambda source: 0.02 * source.uniform(0.9, 1.1),
        max_wait: float = MAX_WAIT,
        pause: float = 0.001,
        cost: float = 0.0,
        stalled: tuple[float, float] = (math.inf, math.inf),
        connections: int = 20,
    ) -> None:
        self.source = random.Random(7)
        self.seconds, self.slots, self.draw, self.stalled = seconds, slots, service, stalled
        self.pause, self.cost, self.spent, self.connections = pause, cost, 0.0, connections
        self.admission = Admission(max_wait)
        self.throughput, self.service, self.excess = Throughput(), ServiceTime(), RejectionRatio()
        self.waiting = deque[tuple[float, str, int]]()
        self.running = self.ended = self.turned_away = 0
        self.least_waiting: int | None = None
        self.answered: list[tuple[float, float, str]] = []
        """The time, the wait in seconds, and the client of each answered request."""
        self.refused: list[tuple[float, float, str]] = []
        self.served = Counter[int]()
        self.run_times: dict[tuple[float, str, int], float] = {}
        self.overloaded_at: list[float] = []
        self._events: list[tuple[float, int, str, tuple[float, str, int]]] = []
        self._number = 0
        self._arrivals(rate, most)
        for client in range(clients):
            self._push(client * 0.001, "comes", (client * 0.001, "client", client))
        for tick in range(1, int(seconds / TICK) + 1):
            self._push(tick * TICK, "tick", (0.0, "", 0))
        self._run()

    def _arrivals(self, rate: Callable[[float], float], most: float) -> None:
        now = 0.0
        while most and now < self.seconds:
            now += self.source.expovariate(most)
            if self.source.random() < rate(now) / most:
                # Use the same few connections again and again, as a proxy does.
                self._push(now, "comes", (now, "crowd", -1 - self._number % self.connections))

    def _push(self, at: float, what: str, request: tuple[float, str, int]) -> None:
        self._number += 1
        heapq.heappush(self._events, (at, self._number, what, request))

    def _run(self) -> None:
        while self._events:
            now, _, what, request = heapq.heappop(self._events)
            if now > self.seconds:
                break
            if what == "comes":
                self._comes(now, request)
            elif what == "ends":
                self._ends(now, request)
            else:
                self._tick(now)

    def _comes(self, now: float, request: tuple[float, str, int]) -> None:
        admission = self.admission
        admission.asked += 1
        if self.running < self.slots and not self.waiting:
            self._begin(now, request)
            return
        if not admission.full(len(self.waiting), now - self.waiting[0][0] if self.waiting else 0.0):
            self.waiting.append(request)
            return
        if not admission.overloaded:
            admission.enter(now)
            self._cut(now)
        admission.refused += 1
        if admission.counts_connections:
            admission.count(request[2])
        self._refuse(now, request)

    def _refuse(self, now: float, request: tuple[float, str, int]) -> None:
        self.turned_away += 1
        self.spent += self.cost
        self.refused.append((now, now - request[0], request[1]))
        self._asks_again(now, request)

    def _asks_again(self, now: float, request: tuple[float, str, int]) -> None:
        if request[1] == "client":
            self._push(now + self.pause, "comes", (now + self.pause, "client", request[2]))

    def _cut(self, now: float) -> None:
        self._update()
        while len(self.waiting) > self.admission.kept:
            self._refuse(now, self.waiting.pop())

    def _begin(self, now: float, request: tuple[float, str, int]) -> None:
        self.admission.begun += 1
        self.running += 1
        lost, self.spent = self.spent, 0.0
        takes = self.draw(self.source) + lost
        began, ended = self.stalled
        if began <= now + takes < ended:
            takes = ended - now
        self._push(now + takes, "ends", request)
        # Subtract the time for rejections, which delays the next start but does not belong to a run time.
        self.run_times[request] = takes - lost

    def _ends(self, now: float, request: tuple[float, str, int]) -> None:
        self.service.add(self.run_times.pop(request))
        self.running -= 1
        self.ended += 1
        self.answered.append((now, now - request[0], request[1]))
        self.served[request[2]] += 1
        while self.waiting:
            following = self.waiting.popleft()
            if self.admission.overdue(now - following[0]) and self.waiting:
                self._refuse(now, following)
                continue
            self._begin(now, following)
            break
        waiting = len(self.waiting)
        self.least_waiting = waiting if self.least_waiting is None else min(self.least_waiting, waiting)
        self._asks_again(now, request)

    def _update(self) -> None:
        self.throughput.update(self.service, self.slots)
        short = short_wait(self.throughput, self.service, self.excess.ratio, slots_free=False)
        self.admission.update(self.throughput, short)

    def _tick(self, now: float) -> None:
        self.throughput.add(TICK, self.ended, 0.0, backlogged=bool(self.least_waiting))
        self.excess.add(self.ended, self.turned_away)
        self.ended, self.turned_away, self.least_waiting = 0, 0, None
        cut_at = self.admission.cut_at
        self.admission.review(now, self.throughput, len(self.waiting) + self.running)
        self._update()
        if self.admission.cut_at != cut_at:
            self._cut(now)
        if self.admission.overloaded:
            self.overloaded_at.append(now)

    # Results.

    def goodput(self, since: float, within: float = SLO, whose: str = "") -> float:
        """Return how many requests per second were answered in time after the time `since`."""
        good = sum(at >= since and waited <= within and who.startswith(whose) for at, waited, who in self.answered)
        return good / (self.seconds - since)

    def longest(self, since: float = 0.0) -> float:
        return max(waited for at, waited, _ in self.answered if at >= since)


def five_ms(source: random.Random) -> float:
    return 0.005 * source.uniform(0.9, 1.1)


def fifty_ms(source: random.Random) -> float:
    return 0.05


def mostly_short(source: random.Random) -> float:
    return 0.3 if source.random() < 0.05 else 0.005


def crowd(times: float, seconds: float = 30.0, **options: object) -> Simulated:
    """Simulate a load of `times` the capacity, which is 200 requests per second."""
    return Simulated(seconds, rate=lambda now: 200 * times, most=200 * times, **options)  # type: ignore[arg-type]


SERVERS = [
    pytest.param({"service": five_ms}, id="one by one"),
    pytest.param({"service": fifty_ms, "slots": 10}, id="ten slots"),
]


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("times", [2, 5, 10])
def test_of_far_too_much_all_that_is_possible_is_answered_at_once(times: float, server: dict[str, object]) -> None:
    simulated = crowd(times, **server)
    assert simulated.goodput(3) > 0.95 * 200
    assert simulated.goodput(0, MAX_WAIT + SLO) > 0.95 * 200
    assert simulated.longest() <= MAX_WAIT + 0.06
    assert quantiles([waited for at, waited, _ in simulated.refused if at > 3], n=100)[-1] < 0.05


@pytest.mark.parametrize("connections", [50, 100, 200])
@pytest.mark.parametrize("times", [2, 3])
def test_probes_of_a_flood_over_many_connections_delay_few(times: float, connections: int) -> None:
    simulated = crowd(times, 60, service=fifty_ms, slots=10, connections=connections)
    assert simulated.goodput(3) > 0.98 * 200
    assert quantiles([waited for at, waited, _ in simulated.refused if at > 3], n=100)[-1] < 0.05


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("times", [1.1, 1.2, 1.5])
def test_of_a_little_too_much_all_that_is_possible_is_answered_in_a_bearable_time(
    times: float, server: dict[str, object]
) -> None:
    simulated = crowd(times, 60, **server)
    assert simulated.goodput(1, MAX_WAIT + SLO) > 0.98 * 200
    assert simulated.longest() <= MAX_WAIT + 0.06


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("times", [0.5, 0.8, 0.95, 1.0])
def test_up_to_the_capacity_nobody_is_refused(times: float, server: dict[str, object]) -> None:
    assert not crowd(times, 60, **server).refused


def test_a_few_that_take_much_longer_leave_nearly_all_of_the_capacity() -> None:
    capacity = 10 / (0.95 * 0.005 + 0.05 * 0.3)
    for times in (2, 10):
        rate = times * capacity
        simulated = Simulated(30, rate=lambda now, rate=rate: rate, most=rate, slots=10, service=mostly_short)
        assert simulated.goodput(5) > 0.94 * capacity


@pytest.mark.parametrize(
    ("milliseconds", "clients"), [(20, 6), (20, 20), (20, 64), (5, 64), (5, 300), (50, 20), (50, 38)]
)
def test_clients_that_wait_for_each_answer_are_never_refused_if_their_work_fits(
    milliseconds: float, clients: int
) -> None:
    simulated = Simulated(20, clients=clients, service=lambda source: milliseconds / 1000 * source.uniform(0.9, 1.1))
    assert not simulated.refused
    assert min(simulated.served.values()) >= 0.75 * max(simulated.served.values())
    assert simulated.longest() <= 1.1 * clients * milliseconds / 1000


def test_more_clients_than_fit_leave_the_others_a_bearable_wait() -> None:
    simulated = Simulated(40, clients=150)
    assert simulated.goodput(3, MAX_WAIT + SLO) > 0.98 * 50
    assert simulated.longest() <= MAX_WAIT + 0.1


def test_clients_are_served_again_soon_after_a_flood_though_they_ask_again_at_once() -> None:
    simulated = Simulated(70, clients=20, rate=lambda now: 250 if 20 < now < 40 else 0, most=250)
    refused_late = [at for at, _, _ in simulated.refused if at > 44]
    assert not refused_late
    assert all(at < 45 for at in simulated.overloaded_at)
    assert not [at for at, _, _ in simulated.refused if at < 20]


@pytest.mark.parametrize("clients", [20, 60, 90])
def test_clients_whose_retries_slow_everything_down_are_served_again_if_their_number_fits(clients: int) -> None:
    simulated = Simulated(
        70, clients=clients, pause=0.01, cost=60e-6, rate=lambda now: 250 if 20 < now < 40 else 0, most=250
    )
    assert simulated.overloaded_at
    assert not [at for at, _, _ in simulated.refused if at < 20 or at > 45]


def test_it_neither_sticks_nor_flaps_when_the_load_falls_to_the_capacity() -> None:
    for after in (0.5, 0.8, 0.95):
        simulated = Simulated(
            60, rate=lambda now, after=after: 1000 if now < 10 else 200 * after, most=1000, service=five_ms
        )
        assert not [at for at in simulated.overloaded_at if at > 13]
        assert not [at for at, _, _ in simulated.refused if at > 13]


def test_a_steady_excess_is_one_overload_and_not_many() -> None:
    for times in (1.5, 2, 5):
        simulated = crowd(times, 60, service=five_ms)
        began = simulated.overloaded_at[0]
        assert len(simulated.overloaded_at) >= 0.95 * (60 - began) / TICK


def test_without_a_bearable_wait_the_queue_is_always_short() -> None:
    simulated = crowd(2, max_wait=0.0, service=five_ms)
    assert simulated.longest() < 0.25
    assert simulated.goodput(0) > 0.95 * 200


def test_where_nobody_may_be_refused_for_a_wait_nobody_is() -> None:
    simulated = crowd(3, 10, max_wait=math.inf, service=five_ms)
    assert not simulated.refused
    assert not simulated.overloaded_at


def test_the_first_two_that_wait_are_never_refused() -> None:
    admission, throughput, service = Admission(0.1), Throughput(), ServiceTime()
    for _ in range(8):
        service.add(60.0)
    throughput.update(service, 1)
    admission.update(throughput, 1.0)
    assert not admission.full(1, 60.0)
    assert admission.full(2, 60.0)


def test_before_anything_is_known_everybody_may_wait() -> None:
    admission, throughput, service = Admission(0.1), Throughput(), ServiceTime()
    for _ in range(7):
        service.add(60.0)
    throughput.update(service, 1)
    admission.update(throughput, 0.0)
    assert not admission.full(1_000_000, 60.0)


def test_a_prediction_rejects_only_if_others_have_waited() -> None:
    admission, throughput, service = Admission(2.0), Throughput(), ServiceTime()
    for _ in range(8):
        service.add(0.1)
    throughput.update(service, 1)
    admission.update(throughput, 0.1)
    assert not admission.full(99, 1.7)
    assert admission.full(20, 1.8)
    assert not admission.full(100, 0.4)
    assert admission.full(100, 0.5)


def test_slow_requests_after_a_start_break_no_page() -> None:
    """Four browsers that start at the same time keep the server's CPU busy for a second."""
    taken = iter([0.1] * 10)
    simulated = Simulated(10, clients=24, service=lambda source: next(taken, 0.03))
    assert not simulated.refused


def test_slow_first_requests_reject_nobody() -> None:
    """After a deployment, the first request imports the application, and some later requests open connections."""
    taken = [3.0, 0.4, 0.2, 0.3, 0.2]
    simulated = Simulated(30, clients=24, service=lambda source: taken.pop(0) if taken else 0.02)
    assert not simulated.refused


def test_a_crowd_that_reconnects_after_slow_first_requests_is_not_rejected() -> None:
    """About 200 WebSocket clients connect at the same time, as after a deployment; each handshake takes 2 ms."""
    taken = [0.1] * 12
    simulated = Simulated(
        8,
        clients=3,
        pause=0.2,
        service=lambda source: taken.pop(0) if taken else 0.002,
        rate=lambda now: 2000 if 1.4 < now < 1.5 else 0,
        most=2000,
    )
    assert len(simulated.answered) > 150
    assert not simulated.refused


def test_a_single_stall_of_the_event_loop_rejects_nobody() -> None:
    stalls = [at == 300 for at in range(10_000)]
    simulated = Simulated(30, clients=24, service=lambda source: 3.0 if stalls.pop(0) else 0.02)
    assert not simulated.refused


def test_a_stall_in_which_nothing_ends_is_overload() -> None:
    simulated = Simulated(
        20, slots=10, service=lambda source: 0.05, stalled=(5.0, 15.0), rate=lambda now: 180, most=180
    )
    assert not [at for at, _, _ in simulated.refused if at < 5]
    assert 5 < simulated.overloaded_at[0] < 7.5
    assert not [at for at, _, _ in simulated.refused if at > 17.5]
    assert simulated.goodput(17.5) > 0.85 * 180


@given(st.integers(1, 400), st.floats(0.001, 2.0), st.floats(0.001, 2.0))
def test_a_longer_wait_is_never_less_room(slots: int, service_time: float, other: float) -> None:
    rooms = []
    for max_wait in sorted((service_time, other)):
        admission, throughput, service = Admission(max_wait), Throughput(), ServiceTime()
        for _ in range(8):
            service.add(0.05)
        throughput.update(service, slots)
        admission.update(throughput, 0.1)
        rooms.append(admission.limit)
    assert rooms[0] <= rooms[1]
