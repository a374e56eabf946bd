"""Tests of admission and scheduling under overload: by priority, client, route, application and limit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from intralb_gevent import LoadBalancer, OptionError, Options, Priority, Route

ONE_SLOT = {"max_workers": 1, "max_concurrent_per_router": 1, "request_timeout_seconds": 20}
SHEDDABLE = {"intralb.priority": "sheddable"}


@pytest.fixture
def start(ask) -> Callable[..., gevent.Greenlet]:
    """Return a function that starts a request, and lets the request proceed as far as it can."""

    def begin(balancer: LoadBalancer, path: str = "/", **environ: Any) -> gevent.Greenlet:
        greenlet = gevent.spawn(ask, balancer, path, **environ)
        for _ in range(5):
            gevent.sleep(0)
        return greenlet

    return begin


def reason(request: gevent.Greenlet) -> str:
    answer = request.get()
    assert answer.headers["X-Intralb-Executed"] == "0"
    assert 1 <= int(answer.headers["Retry-After"]) <= 3
    return f"{answer.status[:3]} {answer.headers['X-Intralb-Reason']}"


def seen(balancer: LoadBalancer) -> tuple[int, int]:
    snapshot = balancer.snapshot()
    assert snapshot.submitted == snapshot.ended + snapshot.queued + snapshot.running
    return snapshot.running, snapshot.queued


# Priorities.


def test_a_lower_class_leaves_half_of_the_places_and_has_its_turn_last(balance, gate, start) -> None:
    balancer = balance(gate, **ONE_SLOT, queue_size=4)
    requests = [start(balancer, "/first")]
    requests += [start(balancer, f"/sheddable{n}", **SHEDDABLE) for n in range(2)]
    assert reason(start(balancer, "/sheddable2", **SHEDDABLE)) == "503 queue_full"
    requests += [start(balancer, f"/critical{n}") for n in range(2)]
    assert seen(balancer) == (1, 4)
    gate.gate.set()
    assert {request.get().status for request in requests} == {"200 OK"}
    assert gate.calls == ["/first", "/critical0", "/critical1", "/sheddable0", "/sheddable1"]


def test_a_higher_class_takes_the_place_of_the_newest_of_the_lowest(balance, gate, start) -> None:
    balancer = balance(gate, **ONE_SLOT, queue_size=4)
    start(balancer, "/first")
    older, newer = (start(balancer, "/sheddable", **SHEDDABLE) for _ in range(2))
    for _ in range(2):
        start(balancer, "/critical")
    late = start(balancer, "/late")
    assert reason(newer) == "503 evicted"
    assert not older.ready()
    assert not late.ready()
    assert seen(balancer) == (1, 4)
    gate.gate.set()
    assert late.get().status == older.get().status == "200 OK"


def test_places_are_kept_for_the_highest_class_once_there_is_any_of_it(balance, gate, start) -> None:
    balancer = balance(gate, max_workers=1, max_concurrent_per_router=20, queue_size=20, request_timeout_seconds=20)
    for _ in range(40):
        start(balancer)
    assert seen(balancer) == (20, 20)
    urgent = start(balancer, **{"intralb.priority": "critical_plus"})
    assert not urgent.ready()
    assert seen(balancer) == (20, 20)
    gate.gate.set()
    assert urgent.get().status == "200 OK"
    gate.gate.clear()
    requests = [start(balancer) for _ in range(40)]
    assert [reason(request) for request in requests[38:]] == ["503 queue_full"] * 2
    assert seen(balancer) == (20, 18)
    gate.gate.set()


def test_the_class_is_that_of_the_route_or_what_the_function_says(balance, gate, start, eventually) -> None:
    def by_query(environ: dict[str, Any]) -> Priority | None:
        return Priority.CRITICAL if environ["PATH_INFO"].endswith("now") else None

    routes = [Route("/reports/*", priority="sheddable")]
    balancer = balance(gate, **ONE_SLOT, queue_size=4, routes=routes, priority_func=by_query)
    start(balancer, "/first")
    for path in ("/reports/1", "/", "/reports/now"):
        start(balancer, path)
    gate.gate.set()
    eventually(lambda: len(gate.calls) == 4)
    assert gate.calls == ["/first", "/", "/reports/now", "/reports/1"]


@pytest.mark.parametrize(
    ("nonsense", "shown"), [("urgent", "'urgent'"), ("CRITICAL", "'CRITICAL'"), (7, "7"), ([], "a value of type list")]
)
def test_a_function_that_says_nonsense_changes_nothing_and_is_told_of(
    balance, ask, gate, caplog, eventually, nonsense, shown
) -> None:
    gate.gate.set()
    assert ask(balance(gate, priority_func=lambda environ: nonsense)).status == "200 OK"
    eventually(lambda: f"{shown} is not allowed; it must be one of critical_plus, critical" in caplog.text)


def test_a_function_that_says_nothing_changes_nothing(balance, ask, gate, caplog) -> None:
    gate.gate.set()
    assert ask(balance(gate, priority_func=lambda environ: None)).status == "200 OK"
    assert not caplog.records


@pytest.mark.parametrize("option", ["priority_func", "client_key"])
def test_a_function_that_fails_is_told_of_and_the_request_goes_on(balance, gate, start, caplog, eventually, option):
    def failing(environ: dict[str, Any]) -> None:
        raise RuntimeError("no such tenant")

    balancer = balance(gate, **ONE_SLOT, queue_size=0, **{option: failing})
    first = start(balancer)
    with caplog.at_level(logging.ERROR, "intralb_gevent"):
        assert reason(start(balancer)) == "503 queue_full"
        eventually(lambda: "no such tenant" in caplog.text)
    assert option in caplog.text
    gate.gate.set()
    assert first.get().status == "200 OK"


@pytest.mark.parametrize("client_key", ["address", "off"])
@pytest.mark.parametrize("enable_logging", [False, True])
def test_refused_in_a_row_all_count_and_each_is_asked_for_its_class_once(
    balance, gate, start, client_key, enable_logging
) -> None:
    asked: list[str] = []

    def class_of(environ: dict[str, Any]) -> Priority:
        asked.append(environ["PATH_INFO"])
        return Priority.CRITICAL

    options = {"client_key": client_key, "enable_logging": enable_logging, "priority_func": class_of}
    balancer = balance(gate, **ONE_SLOT, queue_size=0, **options)
    first = start(balancer, "/first")
    refused = [start(balancer, f"/{n}") for n in range(4)]
    assert [reason(one) for one in refused] == ["503 queue_full"] * 4
    assert asked == ["/first", "/0", "/1", "/2", "/3"]
    assert seen(balancer) == (1, 0)
    assert balancer.snapshot().shed_reasons == {"queue_full": 4}
    gate.gate.set()
    assert first.get().status == "200 OK"
    gevent.sleep(0)
    assert start(balancer, "/next").get().status == "200 OK"


# Clients.


def test_whoever_has_less_takes_a_place_of_whoever_has_most(balance, gate, start) -> None:
    balancer = balance(gate, **ONE_SLOT, queue_size=4)
    greedy = [start(balancer, REMOTE_ADDR="10.0.0.1") for _ in range(5)]
    modest = start(balancer, "/modest", REMOTE_ADDR="10.0.0.2")
    assert reason(greedy[-1]) == "503 evicted"
    assert not modest.ready()
    assert reason(start(balancer, REMOTE_ADDR="10.0.0.1")) == "429 client"
    assert seen(balancer) == (1, 4)
    assert balancer.snapshot().lanes[0].clients == 2
    gate.gate.set()
    assert modest.get().status == "200 OK"


def test_clients_take_turns_once_more_come_than_there_is_room_for(balance, gate, start, eventually) -> None:
    balancer = balance(gate, **ONE_SLOT, queue_size=5)
    for n in range(4):
        start(balancer, f"/greedy{n}", REMOTE_ADDR="10.0.0.1")
    for n in range(2):
        start(balancer, f"/modest{n}", REMOTE_ADDR="10.0.0.2")
    assert start(balancer, "/third", REMOTE_ADDR="10.0.0.3").ready() is False
    gate.gate.set()
    eventually(lambda: len(gate.calls) == 6)
    assert gate.calls == ["/greedy0", "/modest0", "/third", "/greedy1", "/modest1", "/greedy2"]


def test_a_client_that_floods_the_highest_class_is_kept_to_its_share(balance, gate, start, eventually) -> None:
    balancer = balance(gate, **ONE_SLOT, queue_size=5)
    flood = {"REMOTE_ADDR": "10.0.0.1", "intralb.priority": "critical_plus"}
    greedy = [start(balancer, f"/greedy{n}", **flood) for n in range(6)]
    modest = [start(balancer, f"/modest{n}", REMOTE_ADDR="10.0.0.2") for n in range(2)]
    assert [reason(one) for one in greedy[:3:-1]] == ["503 evicted", "503 evicted"]
    assert reason(start(balancer, **flood)) == "429 client"
    assert not any(one.ready() for one in modest)
    gate.gate.set()
    assert {one.get().status for one in modest} == {"200 OK"}
    eventually(lambda: len(gate.calls) == 6)
    assert gate.calls == ["/greedy0", "/modest0", "/modest1", "/greedy1", "/greedy2", "/greedy3"]


def test_within_its_share_a_client_keeps_the_places_and_turns_of_its_class(balance, gate, start) -> None:
    balancer = balance(gate, **ONE_SLOT, queue_size=3)
    start(balancer, "/first", REMOTE_ADDR="10.0.0.3")
    modest = [start(balancer, f"/modest{n}", REMOTE_ADDR="10.0.0.2") for n in range(2)]
    high = {"REMOTE_ADDR": "10.0.0.1", "intralb.priority": "critical_plus"}
    urgent = [start(balancer, f"/urgent{n}", **high) for n in range(2)]
    assert reason(modest.pop()) == "503 evicted"
    assert reason(start(balancer, REMOTE_ADDR="10.0.0.2")) == "503 queue_full"
    gate.gate.set()
    assert {one.get().status for one in modest + urgent} == {"200 OK"}
    assert gate.calls == ["/first", "/urgent0", "/urgent1", "/modest0"]


def test_one_client_alone_may_have_all_places(balance, gate, start) -> None:
    balancer = balance(gate, **ONE_SLOT, queue_size=4)
    for _ in range(5):
        start(balancer)
    assert reason(start(balancer)) == "503 queue_full"
    gate.gate.set()


def test_a_proxy_that_is_not_trusted_may_hold_more_than_one_client(balance, gate, start) -> None:
    """Behind an untrusted proxy, all users of a site share one address; health checks come from another address."""
    balancer = balance(gate, **ONE_SLOT, queue_size=4)
    site = {"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": "192.0.2.7"}
    for _ in range(5):
        start(balancer, **site)
    assert not start(balancer, "/health", REMOTE_ADDR="10.0.0.2").ready()
    assert reason(start(balancer, **site)) == "503 queue_full"
    assert "client" not in balancer.snapshot().shed_reasons
    gate.gate.set()


def test_behind_a_proxy_that_is_trusted_each_client_has_its_bound(balance, gate, start) -> None:
    balancer = balance(gate, **ONE_SLOT, queue_size=4, trusted_proxies=("10.0.0.0/8",))
    greedy = {"REMOTE_ADDR": "192.0.2.7", "HTTP_X_FORWARDED_FOR": "192.0.2.7"}
    for _ in range(5):
        start(balancer, **greedy)
    assert not start(balancer, REMOTE_ADDR="192.0.2.8", HTTP_X_FORWARDED_FOR="192.0.2.8").ready()
    assert reason(start(balancer, **greedy)) == "429 client"
    gate.gate.set()


@pytest.mark.parametrize(("key", "expected"), [("X-Tenant", "503 evicted"), ("off", "503 queue_full")])
def test_what_tells_clients_apart_is_an_option(balance, gate, start, key, expected) -> None:
    balancer = balance(gate, **ONE_SLOT, queue_size=4, client_key=key)
    greedy = [start(balancer, HTTP_X_TENANT="a") for _ in range(5)]
    other = start(balancer, HTTP_X_TENANT="b")
    assert reason(greedy[-1] if key != "off" else other) == expected
    gate.gate.set()


# Lanes: dedicated workers.


def test_a_route_with_workers_of_its_own_starves_nobody_and_is_starved_by_nobody(balance, gate, start, ask) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if "held" in environ["QUERY_STRING"] or environ["PATH_INFO"].endswith("held"):
            return gate(environ, start_response)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    routes = [Route("/reports/*", max_workers=1, max_concurrent_per_router=1, queue_size=0)]
    balancer = balance(application, **ONE_SLOT, queue_size=0, routes=routes)
    report = start(balancer, "/reports/held")
    assert reason(start(balancer, "/reports/2")) == "503 queue_full"
    assert ask(balancer, "/").status == "200 OK"
    page = start(balancer, "/held")
    assert reason(start(balancer, "/")) == "503 queue_full"
    lanes = {lane.name: lane for lane in balancer.snapshot().lanes}
    assert {name: (lane.workers, lane.limit) for name, lane in lanes.items()} == {"": (1, 1), "/reports/*": (1, 1)}
    assert seen(balancer) == (2, 0)
    gate.gate.set()
    assert report.get().status == page.get().status == "200 OK"


def where(name: str) -> Callable[..., list[bytes]]:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{name} {environ['SCRIPT_NAME']} {environ['PATH_INFO']}".encode()]

    return application


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/users", b"users /users "),
        ("/users/7", b"users /users /7"),
        ("/users/admin/x", b"admin /users/admin /x"),
        ("/shop/", b"shop /shop /"),
    ],
)
def test_applications_are_found_below_their_paths(balance, ask, path, expected) -> None:
    balancer = balance({"/users": where("users"), "/shop": where("shop"), "/users/admin": where("admin")})
    assert ask(balancer, path, SCRIPT_NAME="").body == expected


def test_what_is_below_none_of_them_is_not_found(balance, ask) -> None:
    balancer = balance({"/users": where("users")})
    for path in ("/", "/usersx", "/other"):
        assert ask(balancer, path).status == "404 Not Found"
    with_root = balance({"/users": where("users"), "/": where("rest")})
    assert ask(with_root, "/other", SCRIPT_NAME="").body == b"rest  /other"


def test_each_application_has_workers_of_its_own(balance, gate, start, ask) -> None:
    balancer = balance({"/users": gate, "/shop": where("shop")}, **ONE_SLOT, queue_size=0)
    held = start(balancer, "/users/1")
    assert reason(start(balancer, "/users/2")) == "503 queue_full"
    assert ask(balancer, "/shop/1", SCRIPT_NAME="").body == b"shop /shop /1"
    gate.gate.set()
    assert held.get().status == "200 OK"


@pytest.mark.parametrize(
    "applications",
    [{}, {"users": where("a")}, {"/users/": where("a")}, {3: where("a")}, {"/a": 1}, {"/": where("a"), "": where("b")}],
)
def test_a_bad_mount_is_named(applications) -> None:
    with pytest.raises(OptionError, match="application"):
        LoadBalancer(applications, Options())


# The limit.


class ByHand:
    """A limiter that the test sets."""

    def __init__(self, most: int) -> None:
        self.limit = 1
        self.windows: list[Any] = []

    def observe(self, window: Any) -> None:
        self.windows.append(window)

    def resize(self, most: int) -> None:
        pass


def test_no_more_run_than_the_limiter_lets_and_they_go_on_when_it_lets_more(balance, gate, start, eventually) -> None:
    made: list[ByHand] = []

    def by_hand(most: int) -> ByHand:
        made.append(ByHand(most))
        return made[-1]

    balancer = balance(gate, max_workers=2, max_concurrent_per_router=10, request_timeout_seconds=20, limiter=by_hand)
    requests = [start(balancer) for _ in range(5)]
    assert seen(balancer) == (1, 4)
    made[0].limit = 3
    eventually(lambda: seen(balancer) == (3, 2))
    gate.gate.set()
    assert {request.get().status for request in requests} == {"200 OK"}
    assert gate.most_running == 3
    eventually(lambda: sum(window.ended for window in made[0].windows) == 5)


def test_jobs_that_keep_the_loop_are_held_to_few_at_a_time(balance, ask, eventually) -> None:
    def late(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        # Wait for some iterations, because all greenlets with due timers wake in one iteration, and each blocks the
        # loop for some milliseconds.
        for _ in range(3):
            sum(range(200_000))
            gevent.sleep(0.001)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    balancer = balance(late, max_workers=1, max_concurrent_per_router=50, request_timeout_seconds=20)

    def client() -> None:
        while not limited:
            ask(balancer)

    limited: list[int] = []
    clients = [gevent.spawn(client) for _ in range(50)]
    eventually(lambda: balancer.snapshot().lanes[0].limit < 50)
    limited.append(balancer.snapshot().lanes[0].limit)
    gevent.joinall(clients)
