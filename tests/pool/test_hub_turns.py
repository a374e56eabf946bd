"""Ready jobs run in order, sockets are served between them, and a failing job does not affect the next job."""

from __future__ import annotations

import time

import gevent
import pytest
from gevent.lock import BoundedSemaphore

from intralb_gevent.hub.dispatch import DispatchQueue, FlushQueue


class Dispatcher:
    def __init__(self, order: list[str], name: str, seconds: float = 0.0, fails: bool = False) -> None:
        self.order, self.name, self.seconds, self.fails = order, name, seconds, fails

    def dispatch(self) -> None:
        self.order.append(self.name)
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            pass
        if self.fails:
            raise RuntimeError(self.name)


def test_what_is_due_has_its_turn_between_jobs_that_compute(eventually) -> None:
    order: list[str] = []
    turns = DispatchQueue(FlushQueue())
    for name in "abc":
        turns.schedule(Dispatcher(order, name, seconds=0.005))
    timer = gevent.get_hub().loop.timer(0.001)
    timer.start(order.append, "timer")
    eventually(lambda: len(order) == 4)
    assert [name for name in order if name != "timer"] == ["a", "b", "c"]
    assert order.index("timer") < 3


def test_what_wakes_meanwhile_has_its_next_job_begun_before_more_is_computed(eventually) -> None:
    order: list[str] = []
    timers = []
    computing, waiting = DispatchQueue(FlushQueue()), DispatchQueue(FlushQueue())

    class Computing(Dispatcher):
        def dispatch(self) -> None:
            # Start a timer that is due before the computation ends.
            timers.append(gevent.get_hub().loop.timer(0.001))
            timers[-1].start(waiting.schedule, Dispatcher(order, "next"))
            super().dispatch()

    for name in "abcd":
        computing.schedule(Computing(order, name, seconds=0.01))
    eventually(lambda: len(order) == 8)
    assert order == ["a", "next", "b", "next", "c", "next", "d", "next"]


def test_what_has_woken_passes_its_locks_on_before_more_is_computed(eventually) -> None:
    """A connection pool passes its lock from one greenlet to the next, and each of them yields several times."""
    order: list[str] = []
    turns, lock = DispatchQueue(FlushQueue()), BoundedSemaphore()

    def give_back(name: str) -> None:
        gevent.sleep(0.001)
        with lock:
            gevent.sleep(0)
        order.append(name)

    class Computing(Dispatcher):
        def dispatch(self) -> None:
            # These greenlets wake before the computation ends.
            for number in "123":
                gevent.spawn(give_back, number)
            super().dispatch()

    turns.schedule(Computing(order, "a", seconds=0.01))
    turns.schedule(Dispatcher(order, "b", seconds=0.01))
    turns.schedule(Dispatcher(order, "c", seconds=0.01))
    eventually(lambda: len(order) == 6)
    assert order == ["a", "b", "1", "2", "3", "c"]


def test_a_greenlet_that_yields_all_the_time_delays_jobs_only_shortly(eventually) -> None:
    order: list[str] = []
    turns = DispatchQueue(FlushQueue())

    def spin() -> None:
        while len(order) < 9:
            gevent.sleep(0)

    gevent.spawn(spin)
    for name in "abcdefghi":
        turns.schedule(Dispatcher(order, name, seconds=0.002))
    eventually(lambda: len(order) == 9)
    assert order == list("abcdefghi")


def test_one_that_fails_keeps_no_other_from_its_turn(eventually, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    failed: list[object] = []
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *error: failed.append(error[1]))
    turns = DispatchQueue(FlushQueue())
    turns.schedule(Dispatcher(order, "a", fails=True))
    turns.schedule(Dispatcher(order, "b"))
    eventually(lambda: order == ["a", "b"])
    turns.schedule(Dispatcher(order, "c"))
    eventually(lambda: order == ["a", "b", "c"])
    assert failed == [RuntimeError]
