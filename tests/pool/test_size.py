"""The pool loses no request when it grows, shrinks, is resized or is drained."""

from time import monotonic

import gevent
import pytest
from gevent.event import Event

from intralb_gevent import OptionError, Route, current_session
from intralb_gevent.aborts.watchdog import Watchdog
from intralb_gevent.hub.ticker import Ticker
from intralb_gevent.pool.scaling import PoolScaler


class AnotherServer:
    """A server of a balancer, as far as the balancer looks at it."""

    connection_ratio = 0.0


class Three:
    """A limiter that allows three running requests, however many slots there are."""

    limit = 3

    def observe(self, window):
        """Do nothing."""

    def resize(self, most):
        """Do nothing."""


@pytest.fixture(autouse=True)
def hub(monkeypatch):
    """Make the hub appear idle on any machine; return a function that makes it appear busy or idle."""

    def busy(share):
        monkeypatch.setattr(Watchdog, "busy", lambda watchdog, now: share * now)

    busy(0)
    return busy


def test_it_starts_with_one_group(balance, gate, asking) -> None:
    balancer = balance(gate)
    asking(balancer, "/")
    assert len(balancer.snapshot().workers) == 3


def test_it_grows_when_jobs_wait_and_the_new_slots_take_them(balance, gate, asking, eventually) -> None:
    balancer = balance(
        gate, max_concurrent_per_router=1, queue_size=10, worker_group_size=2, max_workers=5, min_workers=1
    )
    requests = asking(balancer, *"123")
    assert balancer.snapshot().queued == 2
    eventually(lambda: balancer.snapshot().queued == 0)
    assert sum(worker.running for worker in balancer.snapshot().workers) == 3
    eventually(lambda: len(balancer.snapshot().workers) == 5)
    gate.gate.set()
    assert {request.get().status for request in requests} == {"200 OK"}


def test_a_full_pool_grows_before_it_refuses(balance, gate, asking) -> None:
    balancer = balance(gate, max_concurrent_per_router=1, queue_size=1, min_workers=1, max_workers=4)
    requests = asking(balancer, *"12345678")
    snapshot = balancer.snapshot()
    assert (snapshot.running, snapshot.queued, snapshot.outcomes["shed"]) == (4, 4, 0)
    (extra,) = asking(balancer, "9")
    assert extra.get().status.startswith("503")
    gate.gate.set()
    assert {request.get().status for request in requests} == {"200 OK"}


def test_a_full_pool_whose_jobs_compute_refuses_instead(balance, gate, asking, hub, eventually) -> None:
    hub(1)
    balancer = balance(gate, max_concurrent_per_router=1, queue_size=1, min_workers=1, max_workers=4)
    requests = asking(balancer, *"12")
    full = monotonic()
    eventually(lambda: monotonic() - full > PoolScaler.BURST_SECONDS)
    requests += asking(balancer, *"34")
    assert len(balancer.snapshot().workers) == 1
    gate.gate.set()
    assert sorted(request.get().status[:3] for request in requests) == ["200", "200", "503", "503"]


def test_a_pool_whose_sessions_cannot_be_opened_does_not_grow(balance, asking) -> None:
    def connect(worker_id):
        raise ConnectionError("too many connections")

    def application(environ, start_response):
        from intralb_gevent import current_session

        if environ["PATH_INFO"] == "/first":
            current_session()
        Event().wait()

    options = {"max_concurrent_per_router": 1, "queue_size": 0, "min_workers": 1, "max_workers": 4}
    balancer = balance(application, db_init_func=connect, **options)
    (first,) = asking(balancer, "first")
    assert first.get().status.startswith("503")
    requests = asking(balancer, *"12")
    assert len(balancer.snapshot().workers) == 1
    assert requests[1].get().status.startswith("503")


def test_idle_workers_are_retired_first_and_of_these_the_youngest(balance, gate, asking, eventually) -> None:
    balancer = balance(gate, max_concurrent_per_router=1, min_workers=1, max_workers=4)
    balancer.resize(4)
    requests = asking(balancer, *"12")
    busy = [worker.id for worker in balancer.snapshot().workers if worker.running]
    idle = [worker.id for worker in balancer.snapshot().workers if not worker.running]
    balancer.resize(3)
    eventually(lambda: [worker.id for worker in balancer.snapshot().workers] == sorted([*busy, idle[0]]))
    balancer.resize(1)
    assert [worker.id for worker in balancer.snapshot().workers if worker.retiring] == [busy[1]]
    gate.gate.set()
    assert {request.get().status for request in requests} == {"200 OK"}


def test_it_shrinks_after_a_quiet_time_and_closes_the_sessions(balance, asking, eventually) -> None:
    open_sessions = set()

    def application(environ, start_response):
        from intralb_gevent import current_session

        open_sessions.add(current_session())
        gevent.sleep(0.01)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    balancer = balance(
        application,
        max_concurrent_per_router=1,
        queue_size=10,
        min_workers=1,
        max_workers=4,
        worker_quiet_seconds=0.05,
        db_init_func=lambda worker_id: object(),
        db_close_func=open_sessions.remove,
    )
    gevent.joinall(asking(balancer, *"12345678"))
    eventually(lambda: len(balancer.snapshot().workers) == 1)
    assert len(open_sessions) == balancer.snapshot().sessions <= 1


def test_a_retiring_worker_ends_even_if_its_last_queued_requests_are_rejected_when_they_would_start(
    balance, asking, eventually
) -> None:
    waits, ends = Event(), Event()

    def application(environ, start_response):
        {"/waits": waits, "/ends": ends}[environ["PATH_INFO"]].wait()
        late = monotonic() + 0.5
        while environ["PATH_INFO"] == "/ends" and monotonic() < late:
            pass
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    routes = [Route("/short", request_timeout_seconds=0.4)]
    balancer = balance(application, max_concurrent_per_router=1, min_workers=1, max_workers=2, routes=routes)
    balancer.resize(2)
    requests = asking(balancer, "waits", "ends")
    late = asking(balancer, "short", "short")
    balancer.resize(1)
    ends.set()
    assert {request.get().status for request in late} == {"503 Service Unavailable"}
    eventually(lambda: len(balancer.snapshot().workers) == 1)
    waits.set()
    assert {request.get().status for request in requests} == {"200 OK"}


def test_a_queue_keeps_to_its_bound_while_a_retiring_worker_runs_some_of_those_that_may(balance, gate, asking) -> None:
    balancer = balance(
        gate, min_workers=1, max_workers=2, max_concurrent_per_router=10, queue_size=2, limiter=lambda slots: Three()
    )
    balancer.resize(2)
    requests = asking(balancer, *"123")
    balancer.resize(1)
    requests += asking(balancer, *"45678")
    assert [worker.queued for worker in balancer.snapshot().workers if not worker.retiring] == [2]
    gate.gate.set()
    assert sorted(request.get().status[:3] for request in requests) == ["200"] * 5 + ["503"] * 3


def test_the_end_of_what_a_retiring_worker_runs_lets_another_run_at_once(
    balance, asking, eventually, monkeypatch
) -> None:
    doors = {}

    def application(environ, start_response):
        door = doors[environ["intralb.worker"], environ["PATH_INFO"]] = Event()
        door.wait()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    monkeypatch.setattr(Ticker, "TICK_SECONDS", 60)
    balancer = balance(application, min_workers=1, max_workers=2, limiter=lambda slots: Three())
    balancer.resize(2)
    asking(balancer, *"123")
    balancer.resize(1)
    asking(balancer, "4")
    assert balancer.snapshot().queued == 1
    (retiring,) = (worker.id for worker in balancer.snapshot().workers if worker.retiring)
    next(door for (worker, _), door in doors.items() if worker == retiring).set()
    eventually(lambda: any(path == "/4" for _, path in doors))


def test_a_retiring_worker_finishes_what_it_has_and_takes_no_new_job(balance, gate, asking, eventually) -> None:
    balancer = balance(gate, max_concurrent_per_router=2, queue_size=5, min_workers=1, max_workers=3)
    balancer.resize(3)
    requests = asking(balancer, *"123456789")
    balancer.resize(1)
    retiring = [worker for worker in balancer.snapshot().workers if worker.retiring]
    assert [worker.running for worker in retiring] == [2, 2]
    late = asking(balancer, "a")
    gate.gate.set()
    assert {request.get().status for request in requests + late} == {"200 OK"}
    eventually(lambda: len(balancer.snapshot().workers) == 1)


def test_a_worker_that_retires_before_its_jobs_have_slots_still_runs_them(balance, gate, ask, eventually) -> None:
    balancer = balance(gate, max_concurrent_per_router=2, min_workers=1, max_workers=3)
    balancer.resize(3)
    requests = [gevent.spawn(ask, balancer, f"/{number}") for number in range(6)]
    eventually(lambda: balancer.snapshot().submitted == 6)
    balancer.resize(1)
    gate.gate.set()
    assert {request.get().status for request in requests} == {"200 OK"}
    eventually(lambda: len(balancer.snapshot().workers) == 1)


def test_resizing_under_load_loses_no_request(balance, ask) -> None:
    def application(environ, start_response):
        gevent.sleep(0.001)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode()]

    balancer = balance(application, max_concurrent_per_router=2, queue_size=50, min_workers=1, max_workers=8)

    def client(name: int) -> list[bytes]:
        return [ask(balancer, f"/{name}/{number}").body for number in range(20)]

    clients = [gevent.spawn(client, name) for name in range(20)]
    for size in (8, 1, 5, 2, 8, 1, 3) * 3:
        balancer.resize(size)
        gevent.sleep(0.002)
    for name, greenlet in enumerate(clients):
        assert greenlet.get() == [f"/{name}/{number}".encode() for number in range(20)]
    assert balancer.snapshot().outcomes["completed"] == 400


@pytest.mark.parametrize("workers", [0, 2, 11, "3"])
def test_a_size_out_of_bounds_is_refused(balance, gate, workers) -> None:
    balancer = balance(gate, min_workers=3)
    with pytest.raises((OptionError, TypeError)):
        balancer.resize(workers)


def test_draining_finishes_queued_and_running_jobs(balance, gate, asking) -> None:
    balancer = balance(gate, max_concurrent_per_router=1, queue_size=5, max_workers=1)
    requests = asking(balancer, "/1", "/2", "/3")
    draining = gevent.spawn(balancer.drain, 5)
    gevent.sleep(0)
    assert balancer.snapshot().condition == "draining"
    gate.gate.set()
    assert draining.get() == 0
    assert [request.get().body for request in requests] == [b"/1", b"/2", b"/3"]
    assert balancer.snapshot().condition == "stopped"
    assert not balancer.snapshot().workers


def test_what_outlives_the_grace_is_cut_and_counted(balance, gate, asking) -> None:
    balancer = balance(gate, max_concurrent_per_router=1, queue_size=5, max_workers=1)
    requests = asking(balancer, "/1", "/2")
    assert balancer.drain(0.02) == 2
    assert {request.get().headers["X-Intralb-Reason"] for request in requests} == {"killed"}
    assert balancer.snapshot().outcomes["killed"] == 2
    assert gate.calls == ["/1"]
    (late,) = asking(balancer, "/3")
    assert late.get().headers["X-Intralb-Reason"] == "draining"


def test_a_server_that_begins_while_the_last_one_drains_is_served(balance, gate, asking) -> None:
    balancer = balance(gate, request_timeout_seconds=20)
    requests = asking(balancer, "/1")
    draining = gevent.spawn(balancer.drain, 10)
    gevent.sleep(0)
    balancer.intake.attach(AnotherServer())
    assert draining.get() == 0
    requests += asking(balancer, "/2")
    gate.gate.set()
    assert [request.get().status for request in requests] == ["200 OK"] * 2


def test_a_server_that_begins_while_the_last_one_closes_its_sessions_is_served(balance, asking) -> None:
    closing, go_on = Event(), Event()

    def close(session):
        closing.set()
        go_on.wait()

    def application(environ, start_response):
        current_session()
        if environ["PATH_INFO"] == "/late":
            Event().wait()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    balancer = balance(
        application, request_timeout_seconds=0.05, db_init_func=lambda worker_id: object(), db_close_func=close
    )
    gevent.joinall(asking(balancer, "/"))
    draining = gevent.spawn(balancer.drain, 10)
    closing.wait()
    balancer.intake.attach(AnotherServer())
    (meanwhile,) = asking(balancer, "/")
    assert meanwhile.get().status == "200 OK"
    go_on.set()
    draining.get()
    requests = asking(balancer, "/", "/late")
    assert [request.get().status[:3] for request in requests] == ["200", "504"]


def test_a_handler_may_wait_in_its_clean_up_while_the_pool_drains(balance, asking) -> None:
    cleaned = []

    def application(environ, start_response):
        try:
            Event().wait()
        finally:
            gevent.sleep(0.02)
            cleaned.append(True)

    balancer = balance(application, max_workers=1)
    asking(balancer, "/")
    balancer.drain(0)
    assert cleaned == [True]
