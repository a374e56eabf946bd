"""Tests of the dispatch of jobs: workers, slots, queues, work stealing, rejections."""

import logging
import threading
from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event

from intralb_gevent import LoadBalancer, OptionError, Options, WSGIServer, current_session
from intralb_gevent.errors import WrongThread
from intralb_gevent.pool.channel import Channel


def test_an_idle_slot_anywhere_beats_a_queue(balance, gate, asking) -> None:
    balancer = balance(gate, max_concurrent_per_router=2, queue_size=5, min_workers=3, max_workers=3)
    asking(balancer, *"123456")
    snapshot = balancer.snapshot()
    assert (snapshot.running, snapshot.queued) == (6, 0)
    assert [worker.running for worker in snapshot.workers] == [2, 2, 2]


def test_full_means_503_with_the_reason_and_the_application_is_not_called(balance, gate, asking) -> None:
    balancer = balance(gate, max_concurrent_per_router=1, queue_size=1, max_workers=1)
    first, second, third = asking(balancer, "/1", "/2", "/3")
    answer = third.get()
    assert answer.status == "503 Service Unavailable"
    assert answer.headers["X-Intralb-Reason"] == "queue_full"
    assert int(answer.headers["Retry-After"]) >= 1
    assert b"every queue is full" in answer.body
    gate.gate.set()
    assert [first.get().body, second.get().body] == [b"/1", b"/2"]
    assert gate.calls == ["/1", "/2"]


def test_with_queue_size_0_nothing_waits(balance, gate, asking) -> None:
    balancer = balance(gate, max_concurrent_per_router=1, queue_size=0, max_workers=1)
    _, second = asking(balancer, "/1", "/2")
    assert second.get().status.startswith("503")


def test_slots_are_spawned_on_demand_and_the_last_used_is_used_again(balance, gate, ask) -> None:
    gate.gate.set()
    balancer = balance(gate, max_workers=1)
    for number in range(20):
        assert ask(balancer, f"/{number}").status == "200 OK"
    assert [worker.slots for worker in balancer.snapshot().workers] == [1]


def test_many_short_jobs_at_once_share_a_slot_and_its_session(balance, asking) -> None:
    sessions = []

    def application(environ, start_response):
        current_session()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    balancer = balance(application, max_workers=1, db_init_func=lambda worker_id: sessions.append(object()))
    requests = asking(balancer, *(f"/{number}" for number in range(50)))
    assert {request.get().status for request in requests} == {"200 OK"}
    assert len(sessions) == 1
    assert [worker.slots for worker in balancer.snapshot().workers] == [1]


def test_a_slot_that_falls_idle_takes_the_oldest_waiting_job_of_the_pool(balance, asking) -> None:
    order, doors = [], {}

    def application(environ, start_response):
        path = environ["PATH_INFO"]
        order.append((path, environ["intralb.worker"]))
        if path in ("/a", "/b"):
            doors[path] = gevent.event.Event()
            doors[path].wait()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    balancer = balance(application, max_concurrent_per_router=1, queue_size=2, min_workers=2, max_workers=2)
    requests = asking(balancer, "/a", "/b", "/c", "/d", "/e", "/f")
    assert [worker.queued for worker in balancer.snapshot().workers] == [2, 2]
    doors["/b"].set()
    gevent.joinall(requests[2:])
    # One worker stays busy; the other worker runs all queued requests in their order of arrival.
    assert [path for path, _ in order] == ["/a", "/b", "/c", "/d", "/e", "/f"]
    assert {worker for path, worker in order if path != "/a"} == {order[1][1]}
    doors["/a"].set()


def test_every_admitted_job_ends_once_and_the_sums_agree(balance, gate, asking) -> None:
    balancer = balance(gate, max_concurrent_per_router=2, queue_size=3, min_workers=2, max_workers=2)
    requests = asking(balancer, *(f"/{number}" for number in range(25)))
    for picture in (balancer.snapshot(),):
        assert (picture.running, picture.queued, picture.outcomes["shed"]) == (4, 6, 15)
        assert picture.submitted == picture.ended + picture.running + picture.queued
    gate.gate.set()
    gevent.joinall(requests)
    picture = balancer.snapshot()
    assert (picture.outcomes["completed"], picture.outcomes["shed"], picture.queued, picture.running) == (10, 15, 0, 0)
    assert picture.shed_reasons == {"queue_full": 15}
    assert gate.most_running == 4


@pytest.mark.parametrize("error", [ValueError, SystemExit, gevent.GreenletExit, KeyboardInterrupt, gevent.Timeout])
def test_whatever_a_handler_raises_ends_the_request_and_not_the_slot(balance, asking, error, caplog) -> None:
    def application(environ, start_response):
        if environ["PATH_INFO"] == "/bad":
            raise error("on purpose")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"fine"]

    balancer = balance(application, max_concurrent_per_router=1, max_workers=1)
    (bad,) = asking(balancer, "/bad")
    assert bad.get().status == "500 Internal Server Error"
    assert "on purpose" in caplog.text
    (good,) = asking(balancer, "/good")
    assert good.get().body == b"fine"
    assert balancer.snapshot().outcomes["failed"] == 1


class WaitingLog(logging.Handler):
    """A logging handler that waits forever, as a handler that sends records over the network might."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.waits.set()
            Event().wait()


@pytest.fixture
def waiting_log() -> Iterator[WaitingLog]:
    log, logger = WaitingLog(), logging.getLogger("intralb_gevent")
    logger.addHandler(log)
    yield log
    logger.removeHandler(log)


@pytest.mark.parametrize("where", ["application", "session"])
@pytest.mark.parametrize("error", [gevent.Timeout, gevent.GreenletExit])
def test_what_an_application_has_left_behind_does_not_end_the_slot_while_that_logs(
    balance, asking, waiting_log, where, error
) -> None:
    def fail(*args):
        raise ValueError("on purpose")

    def disturb(greenlet):
        waiting_log.waits.wait()
        greenlet.kill(error(), block=False)

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/bad":
            gevent.spawn(disturb, gevent.getcurrent())
            current_session() if where == "session" else fail()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"fine"]

    balancer = balance(
        application, max_concurrent_per_router=1, max_workers=1, db_init_func=lambda worker_id: None, db_reset_func=fail
    )
    (bad,) = asking(balancer, "/bad")
    assert bad.get().status == ("200 OK" if where == "session" else "500 Internal Server Error")
    (good,) = asking(balancer, "/good")
    assert good.get().body == b"fine"
    assert balancer.snapshot().running == 0


def test_each_job_has_a_fresh_context(balance, asking) -> None:
    from contextvars import ContextVar

    seen, variable = [], ContextVar("variable", default="unset")

    def application(environ, start_response):
        seen.append(variable.get())
        variable.set("of an earlier request")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    balancer = balance(application, max_workers=1)
    for _ in range(2):
        gevent.joinall(asking(balancer, "/"))
    assert seen == ["unset", "unset"]


def test_an_exception_thrown_into_an_idle_slot_does_not_end_it(balance, asking, caplog) -> None:
    slots = []

    def application(environ, start_response):
        slots.append(gevent.getcurrent())
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    balancer = balance(application, max_workers=1)
    gevent.joinall(asking(balancer, "/"))
    slots[0].kill(block=False)
    (after,) = asking(balancer, "/")
    assert after.get().status == "200 OK"
    assert balancer.snapshot().workers[0].slots == 1


def test_what_cannot_be_called_is_refused_at_once() -> None:
    with pytest.raises(OptionError, match="application: None is not allowed"):
        LoadBalancer(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"queue_size": 50}, 0, "", Options])
def test_options_are_options(options: object) -> None:
    with pytest.raises(OptionError, match=r"options: .* it must be an Options, such as"):
        LoadBalancer(lambda environ, start_response: [], options)


def test_in_another_thread_it_raises_instead_of_waiting_for_ever(balance, gate, ask) -> None:
    gate.gate.set()
    balancer = balance(gate)
    assert ask(balancer, "/").status == "200 OK"
    raised = []

    def elsewhere() -> None:
        for use in (lambda: ask(balancer, "/"), WSGIServer(("127.0.0.1", 0), balancer).start):
            try:
                use()
            except WrongThread as error:
                raised.append(str(error))
        gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(20)
    assert len(raised) == 2
    assert "serve it with a gevent server" in raised[0]
    assert ask(balancer, "/").status == "200 OK"


def test_the_balancer_is_the_callable_it_returns(balance, gate) -> None:
    balancer = balance(gate)
    assert balancer.balance_load() is balancer


def test_it_is_made_without_a_hub_so_that_a_server_may_fork_afterwards() -> None:
    LoadBalancer(lambda environ, start_response: [], Options(enable_logging=True))


def test_repr_shows_live_state(balance, gate, asking) -> None:
    balancer = balance(gate, max_workers=2, queue_size=4)
    asking(balancer, "/1")
    text = repr(balancer)
    assert "serving" in text
    assert "2 active" in text
    assert "submitted=1 ended=0" in text


def test_a_response_that_the_outer_server_closes_early_ends_the_application(balance, eventually) -> None:
    closed = []

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            while True:
                yield b"x" * 100_000
        finally:
            closed.append(True)

    balancer = balance(application)
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}
    result = balancer(environ, lambda status, headers: None)
    assert len(next(result)) == 100_000
    result.close()
    eventually(lambda: closed)
    assert eventually(lambda: balancer.snapshot().outcomes["disconnected"]) == 1


def test_an_outer_greenlet_that_dies_takes_its_waiting_job_along(balance, gate, asking) -> None:
    balancer = balance(gate, max_concurrent_per_router=1, queue_size=1, max_workers=1)
    first, second = asking(balancer, "/1", "/2")
    second.kill()
    gate.gate.set()
    assert first.get().status == "200 OK"
    assert gate.calls == ["/1"]
    assert balancer.snapshot().outcomes["disconnected"] == 1


@pytest.mark.parametrize(("gone", "outcome"), [(True, "disconnected"), (False, "completed")])
def test_a_client_that_is_gone_takes_along_a_job_that_is_about_to_have_its_slot(
    balance, gate, eventually, gone: bool, outcome: str
) -> None:
    """A client that shuts down its sending side in the same iteration of the loop could still read the
    response.
    """
    balancer = balance(gate)
    job = balancer.submit({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, Channel(lambda *args: None))
    job.abandon(gone)
    gate.gate.set()
    eventually(lambda: balancer.snapshot().outcomes[outcome] == 1)
    assert len(gate.calls) == (not gone)


def test_its_completion_list_is_what_an_application_may_call(balance, gate) -> None:
    public = {name for name in dir(balance(gate)) if not name.startswith("_")}
    called = {"balance_load", "submit", "resize", "drain", "snapshot"}
    assert public == called | {"application", "options", "condition", "intake"}


def test_it_can_be_extended(ask) -> None:
    class Counting(LoadBalancer):
        asked = 0

        def submit(self, environ, exchange):
            self.asked += 1
            return super().submit(environ, exchange)

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"hello"]

    balancer = Counting(application, Options())
    assert ask(balancer).body == b"hello"
    assert balancer.asked == 1
    balancer.drain(1)
