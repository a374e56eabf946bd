"""State that a request leaves in its greenlet never reaches another request."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary, proxy, ref

import gevent
import pytest
from gevent import thread as gevent_thread
from gevent.event import AsyncResult, Event
from gevent.local import local as greenlet_local
from gevent.lock import RLock

from intralb_gevent import current_session

ONE_SLOT: dict[str, Any] = {"max_workers": 1, "max_concurrent_per_router": 1}


class Local(greenlet_local):
    user = ""


@pytest.fixture
def local() -> Local:
    return Local()


def paths(**functions: Callable[[], object]) -> Callable[..., list[bytes]]:
    """Return an application that responds with the result of the function named by the path."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        said = functions[environ["PATH_INFO"][1:]]()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(said).encode()]

    return application


def raising(error: BaseException) -> Callable[[], object]:
    def function() -> object:
        raise error

    return function


# After an abort.


def compute() -> None:
    while True:
        pass


@pytest.mark.parametrize(
    "ending",
    [
        lambda: Event().wait(),
        compute,
        raising(SystemExit(3)),
        raising(gevent.GreenletExit()),
        raising(gevent.Timeout(9)),
    ],
    ids=["cut while it waits", "cut while it computes", "sys.exit", "killed", "a timeout of its own"],
)
def test_thread_locals_of_an_ended_request_are_gone(balance, ask, local: Local, ending) -> None:
    def log_in() -> None:
        local.user = "alice"
        ending()

    application = paths(login=log_in, user=lambda: local.user)
    balancer = balance(application, request_timeout_seconds=0.1, **ONE_SLOT)
    assert ask(balancer, "/login").status[0] == "5"
    assert ask(balancer, "/user").body == b""


def test_they_are_gone_even_if_the_handler_has_swallowed_the_abort(balance, ask, local: Local) -> None:
    def log_in() -> None:
        local.user = "alice"
        try:
            Event().wait()
        except BaseException as error:
            str(error)

    balancer = balance(paths(login=log_in, user=lambda: local.user), request_timeout_seconds=0.05, **ONE_SLOT)
    assert ask(balancer, "/login").status == "504 Gateway Timeout"
    assert ask(balancer, "/user").body == b""


@pytest.mark.parametrize("ending", [lambda: Event().wait(), compute], ids=["waits", "computes"])
def test_no_later_request_has_the_thread_id_of_an_aborted_one(balance, ask, ending) -> None:
    """Otherwise, a later request could find a connection stored under this id, with an unfinished transaction."""
    connections: dict[int, str] = {}

    def pay() -> None:
        connections[gevent_thread.get_ident()] = "half a transaction"
        ending()

    application = paths(pay=pay, next=lambda: connections.get(gevent_thread.get_ident(), "a new one"))
    balancer = balance(application, request_timeout_seconds=0.02, **ONE_SLOT)
    for _ in range(20):
        assert ask(balancer, "/pay").status == "504 Gateway Timeout"
        assert ask(balancer, "/next").body == b"a new one"


@pytest.mark.parametrize("ending", [lambda: None, raising(ValueError("x"))], ids=["answers", "fails"])
def test_thread_locals_last_as_long_as_requests_end_by_themselves(balance, ask, local: Local, ending) -> None:
    def log_in() -> None:
        local.user = "alice"
        ending()

    balancer = balance(paths(login=log_in, user=lambda: local.user), **ONE_SLOT)
    ask(balancer, "/login")
    assert ask(balancer, "/user").body == b"alice"


def tree_locals() -> dict[str, Any]:
    return gevent.getcurrent().spawn_tree_locals


def user() -> str:
    return tree_locals().get("user", "nobody")


def test_spawn_tree_locals_of_an_ended_request_are_gone(balance, ask) -> None:
    def log_in() -> None:
        tree_locals()["user"] = "alice"
        Event().wait()

    balancer = balance(paths(login=log_in, user=user), request_timeout_seconds=0.1, **ONE_SLOT)
    assert ask(balancer, "/login").status[0] == "5"
    assert ask(balancer, "/user").body == b"nobody"


def test_requests_that_run_at_the_same_time_share_no_spawn_tree_locals(balance, ask, asking) -> None:
    done = Event()

    def log_in() -> None:
        tree_locals()["user"] = "alice"
        gevent.spawn(done.wait).join()

    balancer = balance(paths(login=log_in, user=user), max_workers=1)
    requests = asking(balancer, "login")
    assert ask(balancer, "/user").body == b"nobody"
    done.set()
    gevent.joinall(requests)
    assert ask(balancer, "/user").body == b"nobody"


@pytest.mark.parametrize("ending", [lambda: Event().wait(), compute], ids=["waits", "computes"])
def test_variables_of_an_ended_handler_are_freed_at_once(balance, ask, eventually, no_collector, ending) -> None:
    """A connection with an open transaction must be freed immediately, not by the garbage collector."""
    opened: list[ref[Connection]] = []

    class Connection:
        pass

    def use_connection() -> None:
        connection = Connection()
        opened.append(ref(connection))
        ending()

    balancer = balance(paths(use=use_connection), request_timeout_seconds=0.1, **ONE_SLOT)
    assert ask(balancer, "/use").status == "504 Gateway Timeout"
    eventually(lambda: opened[0]() is None)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def test_finalizers_of_the_thread_locals_may_wait_and_see_no_other_request(balance, ask, eventually, local) -> None:
    closed: list[str] = []

    class Connection:
        def __del__(self) -> None:
            gevent.sleep(0.001)
            try:
                current_session()
            except Exception as error:
                closed.append(type(error).__name__)

    def connect() -> None:
        local.connection = Connection()
        Event().wait()

    application = paths(connect=connect, next=lambda: gevent.sleep(0.01))
    balancer = balance(application, request_timeout_seconds=0.1, db_init_func=lambda worker: object(), **ONE_SLOT)
    assert ask(balancer, "/connect").status == "504 Gateway Timeout"
    assert ask(balancer, "/next").status == "200 OK"
    assert eventually(lambda: closed) == ["NoCurrentJob"]


def test_a_retiring_worker_ends_with_the_aborted_request_of_its_only_slot(balance, asking, eventually) -> None:
    balancer = balance(paths(wait=lambda: Event().wait()), request_timeout_seconds=0.1, min_workers=1, max_workers=2)
    balancer.resize(2)
    requests = asking(balancer, "wait", "wait")
    balancer.resize(1)
    gevent.joinall(requests)
    eventually(lambda: len(balancer.snapshot().workers) == 1)


# After a request that has returned.

SOON = 0.02


def leave_a_timeout() -> None:
    gevent.Timeout(SOON).start()


def leave_a_kill() -> None:
    gevent.spawn_later(SOON, gevent.getcurrent().kill, block=False)


def leave_a_timer() -> None:
    gevent.get_hub().loop.timer(SOON).start(gevent.getcurrent().throw, RuntimeError("time is up"))


def leave_a_result() -> None:
    result = AsyncResult()
    result.rawlink(gevent.getcurrent().switch)
    gevent.spawn_later(SOON, result.set)


def leave_a_watching_greenlet() -> None:
    def watch(handler: gevent.Greenlet) -> None:
        gevent.sleep(SOON)
        handler.kill(RuntimeError("time is up"))

    gevent.spawn(watch, gevent.getcurrent())


WATCHED: WeakKeyDictionary[gevent.Greenlet, float] = WeakKeyDictionary()


def leave_a_weak_reference() -> None:
    def watch() -> None:
        for handler in list(WATCHED):
            handler.kill(RuntimeError("time is up"), block=False)

    LOCAL.user = "alice"
    WATCHED[gevent.getcurrent()] = time.monotonic()
    gevent.spawn_later(SOON, watch)


def leave_a_weak_proxy() -> None:
    handler = proxy(gevent.getcurrent())
    gevent.spawn_later(SOON, lambda: handler.kill(RuntimeError("time is up"), block=False))


@pytest.mark.parametrize(
    "leave",
    [
        *(leave_a_timeout, leave_a_kill, leave_a_timer, leave_a_result),
        *(leave_a_watching_greenlet, leave_a_weak_reference),
        leave_a_weak_proxy,
    ],
)
def test_leftovers_of_a_request_do_not_hit_the_next_one(balance, ask, eventually, caplog, leave) -> None:
    balancer = balance(paths(leave=leave, victim=lambda: gevent.sleep(4 * SOON)), **ONE_SLOT)
    for _ in range(3):
        assert ask(balancer, "/leave").status == "200 OK"
        assert ask(balancer, "/victim").status == "200 OK"
    assert balancer.snapshot().outcomes["failed"] == 0
    eventually(lambda: "can still interrupt its greenlet" in caplog.text)
    assert caplog.text.count("can still interrupt its greenlet") == 1


def test_a_link_to_the_greenlets_end_is_called_soon_after_the_request(balance, ask, eventually) -> None:
    released: list[object] = []
    balancer = balance(paths(link=lambda: gevent.getcurrent().link(released.append)), **ONE_SLOT)
    assert ask(balancer, "/link").status == "200 OK"
    assert eventually(lambda: len(released) == 1)


def harmless() -> None:
    """Do what handlers usually do, but leave no object that could act on the greenlet later."""
    with gevent.Timeout(9):
        gevent.sleep(0.001)
    LOCAL.user = "alice"
    with RLock():
        gevent.spawn(gevent.sleep, 0.001).join()
    gevent.spawn_later(9, print)
    Event().wait(0.001)
    gevent.get_hub().threadpool.apply(time.monotonic)
    try:
        raise ValueError
    except ValueError as error:
        KEPT.append(error)


LOCAL = Local()
KEPT: list[BaseException] = []


def test_ordinary_requests_keep_their_greenlet_and_session(balance, ask) -> None:
    greenlets: list[int] = []
    opened: list[int] = []

    def handler() -> None:
        current_session()
        harmless()
        greenlets.append(id(gevent.getcurrent()))

    balancer = balance(paths(work=handler), db_init_func=opened.append, db_close_func=lambda session: None, **ONE_SLOT)
    for _ in range(3):
        assert ask(balancer, "/work").status == "200 OK"
    assert len(set(greenlets)) == 1
    assert len(opened) == 1


def test_a_request_that_the_watchdog_has_looked_at_keeps_its_greenlet(balance, ask) -> None:
    greenlets: list[int] = []

    def compute_for_a_while() -> None:
        greenlets.append(id(gevent.getcurrent()))
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            pass

    balancer = balance(paths(work=compute_for_a_while), request_timeout_seconds=20, **ONE_SLOT)
    for _ in range(3):
        assert ask(balancer, "/work").status == "200 OK"
    assert len(set(greenlets)) == 1
