"""The feed of the status page: its frames, its history, its limits, and who may read it."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from intralb_gevent import LoadBalancer
from intralb_gevent.observe.admin import AdminServer
from intralb_gevent.observe.feed import Feed

PATIENCE = 10.0


@pytest.fixture
def door() -> Event:
    return Event()


@pytest.fixture
def server(serve, door):
    def application(environ, start_response):
        door.wait()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    return serve(application, max_concurrent_per_router=2, queue_size=0, max_workers=1)


@pytest.fixture
def admin(server, monkeypatch) -> Iterator[AdminServer]:
    monkeypatch.setattr(Feed, "PERIOD_SECONDS", 0.1)
    with AdminServer(("127.0.0.1", 0), server.balancer) as admin:
        admin.start()
        yield admin


class Viewer:
    """A client that reads the feed like a browser."""

    def __init__(self, port: int, query: str = "", head: str = "Host: localhost\r\n") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.socket.sendall(f"GET /events{query} HTTP/1.0\r\n{head}\r\n".encode())
        self._file = self.socket.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        while self._file.readline().strip():
            pass

    def events(self) -> Iterator[tuple[str, Any]]:
        name = "frame"
        for line in self._file:
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)
                name = "frame"

    def frame(self, wanted: Callable[[Any], Any] = bool) -> Any:
        """Return the first frame that is as wanted."""
        end = time.monotonic() + 2 * PATIENCE
        for name, value in self.events():
            if name == "frame" and wanted(value):
                return value
            assert time.monotonic() < end, value
        raise AssertionError("the feed has ended")

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@pytest.fixture
def view(admin) -> Iterator[Callable[..., Viewer]]:
    viewers: list[Viewer] = []

    def connect(*arguments: str) -> Viewer:
        viewers.append(Viewer(admin.server_port, *arguments))
        return viewers[-1]

    yield connect
    for viewer in viewers:
        viewer.close()


def ask(server, path: str = "/orders?card=4111") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.server_port))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nCookie: secret\r\n\r\n".encode())
    return client


def test_a_frame_shows_what_runs_where_it_waits_and_why_a_request_was_refused(server, view) -> None:
    with ask(server), ask(server), ask(server, "/late?card=4111"):
        viewer = view("?history=0")
        frame = viewer.frame(lambda frame: frame["running_count"] == 2)
        row = frame["running"][0]
        assert (row["method"], row["path"], row["client"], row["state"]) == ("GET", "/orders", "127.0.0.1", "waits")
        assert row["place"].startswith("door.wait at ")
        assert "test_feed.py:" in row["place"]
        assert 0 <= row["age"] < row["left"] <= 30
        assert frame["board"][0]["busy"][0][1] == 30000
        text = json.dumps(frame)
        assert "4111" not in text
        assert "secret" not in text


def test_the_history_is_there_when_the_page_is_opened(admin, server, view, eventually, door) -> None:
    door.set()
    with ask(server):
        eventually(lambda: server.balancer.snapshot().outcomes["completed"])
        eventually(lambda: admin.pages.feed.readings.history.count >= 2)
    series, columns = [], {}
    for name, value in view().events():
        if name == "hello":
            series = value["series"]
        elif name == "history":
            columns.setdefault(series[value["index"]], value["values"])
        elif name == "refused":
            break
    assert sum(value for value in columns["completed"] if value > 0) == 1
    assert set(columns) == set(series)


def test_the_slots_are_shown_more_often_than_all_else_while_someone_looks_at_them(server, view) -> None:
    viewer = view()
    with ask(server):
        for name, value in viewer.events():
            if name == "board" and value[0]["busy"]:
                break
    assert value[0]["busy"][0][1] == 30000


def test_refusals_are_kept_with_their_numbers(admin, server, view) -> None:
    with ask(server), ask(server):
        viewer = view("?history=0")
        viewer.frame(lambda frame: frame["running_count"] == 2)
        with ask(server, "/refused?card=4111") as client:
            assert b" 503 " in client.recv(65536)
        (refusal,) = viewer.frame(lambda frame: frame["refused"])["refused"]
    assert (refusal["reason"], refusal["path"], refusal["lane"]) == ("queue_full", "/refused", "")
    assert refusal["left"] > 20


def test_a_second_is_recorded_long_before_its_end_so_that_a_late_event_loop_misses_none(eventually) -> None:
    recorded: list[float] = []
    feed = Feed(LoadBalancer(lambda environ, start_response: []))
    feed.site = lambda: {"at": recorded.append(time.monotonic())}
    gevent.sleep((0.99 - time.monotonic()) % 1)
    feed.start()
    eventually(lambda: recorded)
    feed.stop()
    assert 0.2 < recorded[0] % 1 < 0.8


def test_one_frame_is_built_for_all_viewers_and_none_without_viewers(admin, view, eventually) -> None:
    feed = admin.pages.feed
    eventually(lambda: feed.readings.history.count >= 2)
    assert feed._number == 0
    viewers = [view("?history=0") for _ in range(3)]
    frames = [viewer.frame() for viewer in viewers]
    assert len({frame["time"] for frame in frames}) == 1
    for viewer in viewers:
        viewer.close()
    eventually(lambda: feed.viewers == 0)


def test_a_ninth_viewer_is_refused_and_probes_are_answered(admin, view, eventually) -> None:
    viewers = [view("?history=0") for _ in range(Feed.MOST_VIEWERS)]
    eventually(lambda: admin.pages.feed.viewers == Feed.MOST_VIEWERS)
    assert view().status == 503
    with socket.create_connection(("127.0.0.1", admin.server_port), timeout=PATIENCE) as probe:
        probe.sendall(b"GET /ready HTTP/1.0\r\n\r\n")
        assert b" 200 " in probe.recv(65536)
    viewers[0].close()
    eventually(lambda: admin.pages.feed.viewers < Feed.MOST_VIEWERS)
    assert view("?history=0").frame()


def test_a_viewer_that_reads_nothing_delays_no_other_and_is_sent_no_more(admin, view, eventually) -> None:
    admin.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    feed = admin.pages.feed
    eventually(lambda: feed.readings.history.count >= 2)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", admin.server_port))
        slow.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        eventually(lambda: feed.viewers == 1)
        other = view("?history=0")
        assert other.frame()
        assert other.frame()
        assert all(connection.unsent < 256 * 1024 for connection in admin.connections)


def test_stopping_ends_the_viewers(admin, view, eventually) -> None:
    viewer = view("?history=0")
    assert viewer.frame()
    admin.stop()
    eventually(lambda: admin.pages.feed.viewers == 0)


def test_a_server_that_was_stopped_and_started_feeds_its_viewers_again(admin, view) -> None:
    admin.pages.feed.stop()
    admin.pages.feed.start()
    viewer = view("?history=0")
    assert viewer.frame()
    assert viewer.frame()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9000", "[::1]:9000", "page.localhost"])
def test_names_of_this_machine_are_served(view, host: str) -> None:
    assert view("?history=0", f"Host: {host}\r\n").status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9000", "127.0.0.1.evil.example", "10.0.0.1"])
def test_other_names_are_refused_because_a_browser_may_have_been_led_here(view, host: str) -> None:
    assert view("?history=0", f"Host: {host}\r\n").status == 403


def test_the_page_allows_its_own_script_only(admin) -> None:
    with socket.create_connection(("127.0.0.1", admin.server_port), timeout=PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    head, _, body = answer.partition("\r\n\r\n")
    nonce = head.partition("script-src 'nonce-")[2].partition("'")[0]
    assert len(nonce) > 16
    assert f'<script nonce="{nonce}">' in body
    assert "default-src 'none'" in head
    assert "http://" not in body.replace("http://www.w3.org/", "")
    assert len(body) < 60 * 1024


def test_the_stack_of_a_request_is_read_on_demand(admin, server, view) -> None:
    with ask(server):
        row = view("?history=0").frame(lambda frame: frame["running_count"] == 1)["running"][0]
        stack = json.loads(get(admin, f"/stack?request={row['key']}"))
        assert [frame["function"] for frame in stack if frame["own"]][-1].endswith("application")
        assert "ended" in get(admin, "/stack?request=0-0")


def test_a_refusal_is_found_by_its_request_id(admin) -> None:
    numbers = {"ahead": 3, "expected_wait": 0.5, "left": 2.0, "lane": "", "priority": "critical"}
    for number in range(5):
        environ = {"intralb.request_id": f"id {number}", "PATH_INFO": f"/{number}"}
        admin.pages.feed.refusals.add(environ, at=1.0, reason="overloaded", **numbers)
    (found,) = json.loads(get(admin, "/refused?id=id%203"))
    assert (found["path"], found["reason"], found["expected_wait"], found["left"]) == ("/3", "overloaded", 0.5, 2.0)
    assert len(json.loads(get(admin, "/refused"))) == 5
    assert json.loads(get(admin, "/refused?id=unknown")) == []


def test_another_process_is_misdirected(admin) -> None:
    assert "421" in get(admin, "/stack?request=0-0&process=1", head=True)


def get(admin: AdminServer, path: str, head: bool = False) -> str:
    with socket.create_connection(("127.0.0.1", admin.server_port), timeout=PATIENCE) as client:
        client.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    return answer if head else answer.partition("\r\n\r\n")[2]


def test_a_bug_of_the_page_stops_the_page_and_nothing_else(admin, server, eventually, door, caplog) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    admin.pages.feed.readings.tick = fail
    eventually(lambda: admin.pages.feed._timer is None)
    door.set()
    with ask(server) as client:
        assert b" 200 " in client.recv(65536)
    gevent.sleep(0)
    assert "because of a bug in intralb_gevent" in caplog.text
