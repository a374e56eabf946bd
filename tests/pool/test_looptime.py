"""Tests of the measurement of how long a job keeps the event loop busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from intralb_gevent.aborts.slotgreenlet import SlotGreenlet, current_slot
from intralb_gevent.pool import looptime


def busy(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def sleep(seconds: float) -> None:
    gevent.sleep(seconds)


def time_out(seconds: float) -> None:
    assert not Event().wait(seconds)


@pytest.fixture
def wait(request) -> Callable[[float], None]:
    return getattr(request, "param", sleep)


@pytest.fixture
def loop_times(balance, ask, wait):
    """Return a function that makes requests at the same time, and returns the loop times of their jobs.

    Each request computes for 20 ms altogether, and waits for 200 ms.
    """
    found: list[float] = []

    def application(environ, start_response) -> list[bytes]:
        for _ in range(2):
            busy(0.01)
            wait(0.1)
        found.append(current_slot().job.loop_time)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    balancer = balance(application, max_workers=1)

    def requested(count: int) -> list[float]:
        gevent.joinall([gevent.spawn(ask, balancer, "/") for _ in range(count)], raise_error=True)
        return found

    return requested


@pytest.mark.parametrize("wait", [sleep, time_out], indirect=True)
def test_each_job_is_charged_for_what_it_computes_itself(loop_times) -> None:
    looptime.measure(time.monotonic())
    times = loop_times(5)
    assert len(times) == 5
    assert all(0.019 < seconds < 0.15 for seconds in times), times


def test_nothing_is_measured_once_nobody_has_asked_for_a_second(loop_times) -> None:
    looptime.measure(time.monotonic() - 2 * looptime.LEASE_SECONDS)
    loop_times(1)
    assert "switch" not in vars(SlotGreenlet)
    assert loop_times(1)[1:] == [0.0]


def test_frames_of_the_hub_that_a_profiler_keeps_do_not_count_as_left_behind(balance, ask) -> None:
    kept: list[Any] = []

    def application(environ, start_response) -> list[bytes]:
        kept.append(gevent.get_hub().gr_frame)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    balancer = balance(application, max_workers=1)
    looptime.measure(time.monotonic())
    for _ in range(3):
        ask(balancer, "/")
    assert balancer.intake.lanes[0].pool.leftovers == 0
