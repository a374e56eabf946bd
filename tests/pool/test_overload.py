"""Under overload, requests that would wait too long are rejected without running; the rest are answered in time."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from intralb_gevent import Route
from intralb_gevent.policy.deadline import ProxyTiming

POOL = {"max_workers": 1, "max_concurrent_per_router": 1, "request_timeout_seconds": 20}


def seconds(environ, start_response):
    """Sleep for the number of seconds in the path."""
    gevent.sleep(float(environ["PATH_INFO"][1:]))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]


def test_past_a_bearable_wait_the_queue_is_kept_short_and_those_in_it_are_answered(balance, asking, caplog) -> None:
    balancer = balance(seconds, **POOL, queue_size=100, max_wait_seconds=0.3)
    # The capacity is one request per 20 ms; for one second, five times as many arrive.
    requests = []
    for _ in range(100):
        requests += asking(balancer, "0.02")
        gevent.sleep(0.01)
        requests += asking(balancer, "0.02", "0.02")
    answers = [request.get() for request in requests]
    shed = [answer for answer in answers if answer.headers.get("X-Intralb-Reason") == "overloaded"]
    done = [answer for answer in answers if answer.status == "200 OK"]
    assert len(shed) > 50
    assert len(done) > 20
    assert {answer.headers["X-Intralb-Executed"] for answer in shed} == {"0"}
    snapshot = balancer.snapshot()
    assert snapshot.outcomes["completed"] == len(done)
    assert snapshot.submitted == snapshot.ended == len(requests)
    assert snapshot.queue_wait.p99 < 0.5
    assert snapshot.lanes[0].overloaded == "critical"
    (said,) = [record.getMessage() for record in caplog.records if "overloaded" in record.getMessage()]
    assert "max_wait_seconds is 0.3" in said


def test_queues_that_are_full_too_often_are_an_overload_too(balance, asking, eventually, caplog) -> None:
    balancer = balance(seconds, **POOL, queue_size=5, max_wait_seconds=10)
    requests = []
    for _ in range(10):
        requests += asking(balancer, *["0.02"] * 5)
        gevent.sleep(0.02)
    eventually(lambda: balancer.snapshot().lanes[0].overloaded == "critical")
    for request in requests:
        request.get()
    (said,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("overloaded")]
    assert "found all slots and queues full too often (6 requests: slots and queue_size)" in said
    assert not [record for record in caplog.records if record.exc_info]


def test_clients_that_wait_for_each_answer_are_all_answered(balance, ask) -> None:
    balancer = balance(seconds, **POOL, queue_size=100)

    def client() -> list[str]:
        return [ask(balancer, "/0.01").status for _ in range(10)]

    answers = [client.get() for client in [gevent.spawn(client) for _ in range(30)]]
    assert answers == [["200 OK"] * 10] * 30


def test_a_route_may_have_another_bearable_wait(balance, asking, ask) -> None:
    routes = [Route("/0.0501", max_wait_seconds=0.1), Route("/0.0502", max_wait_seconds="off")]
    balancer = balance(seconds, **POOL, queue_size=100, routes=routes)
    for _ in range(12):
        ask(balancer, "/0.05")
    requests = {"0.0502": asking(balancer, *["0.0502"] * 15)}
    # Wait, because a predicted wait alone rejects no request: the oldest queued request must also have waited.
    gevent.sleep(0.12)
    requests |= {path: asking(balancer, *[path] * 15) for path in ("0.0501", "0.05")}
    refused = {
        path: [one.get().status for one in some].count("503 Service Unavailable") for path, some in requests.items()
    }
    assert refused == {"0.0502": 0, "0.0501": 15, "0.05": 0}


def test_nobody_waits_whose_turn_would_come_after_its_deadline(balance, asking, ask) -> None:
    routes = [Route("/0.01", request_timeout_seconds=0.3)]
    balancer = balance(seconds, **POOL, queue_size=100, routes=routes)
    for _ in range(12):
        ask(balancer, "/0.1")
    others = asking(balancer, *["0.1"] * 5)
    late = ask(balancer, "/0.01")
    assert (late.status[:3], late.headers["X-Intralb-Reason"]) == ("503", "no_time")
    assert {request.get().status for request in others} == {"200 OK"}
    assert ask(balancer, "/0.01").status == "200 OK"


def test_while_nothing_ends_the_expected_wait_grows(balance, gate, ask, asking, eventually) -> None:
    gate.gate.set()
    balancer = balance(gate, **POOL, queue_size=1000, max_wait_seconds=0.2)
    for _ in range(8):
        ask(balancer)
    gate.gate.clear()
    stalled = asking(balancer, *"123456")
    assert not balancer.snapshot().lanes[0].overloaded

    def overloaded() -> str:
        gevent.sleep(0.02)
        stalled.extend(asking(balancer, "more"))
        return balancer.snapshot().lanes[0].overloaded

    assert eventually(overloaded) == "critical"
    gate.gate.set()
    assert "503" in {request.get().status[:3] for request in stalled}
    assert ask(balancer).status == "200 OK"


def test_a_burst_that_is_worked_off_is_not(balance, asking) -> None:
    balancer = balance(seconds, **POOL, queue_size=100)
    assert {request.get().status for request in asking(balancer, *["0.002"] * 30)} == {"200 OK"}


def test_what_has_no_time_left_is_not_begun(balance, asking, ask) -> None:
    routes = [Route("/0.2", request_timeout_seconds=0.5)]
    balancer = balance(seconds, **POOL, routes=routes)
    ask(balancer, "/0.2")
    first, second = asking(balancer, "0.3501", "0.2")
    assert first.get().status == "200 OK"
    refused = second.get()
    assert (refused.status[:3], refused.headers["X-Intralb-Reason"]) == ("503", "no_time")
    assert refused.headers["X-Intralb-Executed"] == "0"


def test_little_time_that_a_proxy_gives_it_is_still_its_time(balance, ask) -> None:
    balancer = balance(seconds, **POOL)
    for _ in range(3):
        ask(balancer, "/0.1")
    # This request must not be rejected; otherwise, all later requests would be, even once the application is faster.
    answer = ask(balancer, "/0.001", **{"intralb.proxy_timing": ProxyTiming(left=0.05)})
    assert answer.status == "200 OK"


def test_one_that_can_still_be_finished_is(balance, asking, ask) -> None:
    balancer = balance(seconds, **POOL)
    ask(balancer, "/0.05")
    assert [request.get().status for request in asking(balancer, "0.1", "0.05")] == ["200 OK"] * 2


@pytest.mark.parametrize("count", [20])
def test_refusals_spread_when_their_clients_come_back(balance, asking, count: int) -> None:
    gate = Event()

    def waiting(environ, start_response):
        gate.wait()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    balancer = balance(waiting, **POOL, queue_size=0)
    first, *refused = asking(balancer, *["x"] * (count + 1))
    after = {request.get().headers["Retry-After"] for request in refused}
    assert after == {"1", "2", "3"}
    gate.set()
    assert first.get().status == "200 OK"


def test_what_ran_does_not_say_that_it_did_not(balance, asking) -> None:
    balancer = balance(seconds, max_workers=1, request_timeout_seconds=0.05)
    answer = asking(balancer, "9")[0].get()
    assert answer.status == "504 Gateway Timeout"
    assert "X-Intralb-Executed" not in answer.headers
