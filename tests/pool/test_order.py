"""Jobs start in order: no job waits while a younger job starts, or while a free slot is allowed to run it."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent import LoadBalancer, Options, Priority

SLOTS, WORKERS = 2, 2


class ByHand:
    """A limiter that the test sets."""

    def __init__(self, most: int) -> None:
        self.limit = most

    def observe(self, window: Any) -> None:
        pass

    def resize(self, most: int) -> None:
        pass


class Crowd:
    """A balancer with requests that the test ends; it records the order in which they were started."""

    connection_ratio = 0.0

    def __init__(self, client_key: str, *, limited: bool) -> None:
        self.limiter: ByHand | None = None
        self.running: dict[int, Event] = {}
        self.waiting: list[tuple[int, str, Priority]] = []
        self.begun_out_of_turn: list[str] = []
        self._came = 0
        pool = {"max_workers": WORKERS, "min_workers": 1, "max_concurrent_per_router": SLOTS, "queue_size": 50}
        self.balancer = LoadBalancer(
            self._run,
            Options(
                **pool,
                request_timeout_seconds=60,
                client_key=client_key,
                limiter=self._limited if limited else "fixed",
            ),
        )
        self.balancer.intake.attach(self)

    def _limited(self, most: int) -> ByHand:
        self.limiter = ByHand(most)
        return self.limiter

    def _run(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        number = environ["number"]
        own = next(each for each in self.waiting if each[0] == number)
        older = [each for each in self.waiting if each[1:] == own[1:] and each[0] < number]
        if older:
            self.begun_out_of_turn.append(f"{own} before {older}")
        self.waiting.remove(own)
        door = self.running[number] = Event()
        # Do not wait for the door without running: a job that waits for long would not count towards the limit.
        while not door.is_set():
            gevent.sleep(0)
        del self.running[number]
        start_response("200 OK", [])
        return []

    def comes(self, client: str, priority: Priority) -> None:
        self._came += 1
        self.waiting.append((self._came, client, priority))
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "REMOTE_ADDR": client, "number": self._came}
        environ["intralb.priority"] = priority.name.lower()
        gevent.spawn(lambda: list(self.balancer(environ, lambda status, headers: None)))

    def ends(self, which: int) -> None:
        if self.running:
            [*self.running.values()][which % len(self.running)].set()

    def is_limited_to(self, limit: int) -> None:
        if self.limiter is not None:
            self.limiter.limit = limit
            # Resize the balancer, so that the limit is applied now instead of at the next tick.
            self.balancer.resize(len(self._workers))

    def settle(self) -> None:
        # Let the event loop run, because jobs that have a slot can still be waiting for the loop's next iteration.
        gevent.sleep(0)
        while self.balancer.snapshot().running != len(self.running):
            gevent.sleep(0)

    @property
    def _workers(self) -> list[Any]:
        return [worker for worker in self.balancer.snapshot().workers if not worker.retiring]

    @property
    def free(self) -> int:
        slots = SLOTS * len(self._workers)
        limit = slots if self.limiter is None else min(slots, self.limiter.limit)
        return max(0, limit - len(self.running))

    def close(self) -> None:
        while self.running:
            self.ends(0)
            gevent.sleep(0)
        self.balancer.drain(1)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.integers(1, 8), st.sampled_from("ab"), st.sampled_from([2, 1, 0, 3])),
        st.tuples(st.just("ends"), st.integers(0, 9)),
        st.tuples(st.just("workers"), st.integers(1, WORKERS)),
        st.tuples(st.just("limit"), st.integers(1, SLOTS * WORKERS)),
    ),
    max_size=40,
)


@pytest.mark.parametrize("client_key", ["off", "address"])
@pytest.mark.parametrize("limited", [False, True])
@given(steps=STEPS)
def test_nobody_waits_while_a_younger_one_is_begun_or_a_slot_is_free(client_key: str, limited: bool, steps) -> None:
    crowd = Crowd(client_key, limited=limited)
    try:
        for what, *how in steps:
            if what == "come":
                number, client, priority = how
                for _ in range(number):
                    crowd.comes(client, Priority(priority))
            elif what == "ends":
                crowd.ends(*how)
            elif what == "workers":
                crowd.balancer.resize(*how)
            else:
                crowd.is_limited_to(*how)
            crowd.settle()
            assert not crowd.begun_out_of_turn
            assert not (crowd.waiting and crowd.free)
    finally:
        crowd.close()
