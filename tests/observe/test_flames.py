"""The flame graphs: the tree of stacks, and stacks of real handlers that wait and compute."""

import time

import gevent
from gevent import socket
from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.observe.flames import Flames, tree

frames = st.tuples(st.sampled_from("abc"), st.sampled_from(["/srv/x.py", ""]))
stacks = st.lists(st.tuples(st.lists(frames, max_size=6).map(tuple), st.integers(1, 1000)), max_size=20)


@given(stacks)
def test_no_function_has_fewer_stacks_than_those_that_it_calls(found) -> None:
    root = tree(found)
    assert root["count"] == sum(count for _, count in found)
    nodes = [root]
    while nodes:
        node = nodes.pop()
        assert sum(child["count"] for child in node["children"]) <= node["count"]
        nodes += node["children"]


def names(node) -> set[str]:
    return {node["name"].partition(" ")[0], *(name for child in node["children"] for name in names(child))}


def part_of(node, name: str) -> int:
    """Return the number of the part of a graph that begins with a function; 0 if there is none."""
    if node["name"].partition(" ")[0] == name:
        return int(node["part"])
    return next((part for child in node["children"] if (part := part_of(child, name))), 0)


def busy_handler(environ, start_response):
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        pass
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b""]


def patient_handler(environ, start_response):
    gevent.sleep(20)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b""]


def test_handlers_that_wait_and_that_compute_are_in_different_graphs(serve, eventually) -> None:
    def application(environ, start_response):
        handler = busy_handler if environ["PATH_INFO"] == "/busy" else patient_handler
        return handler(environ, start_response)

    server = serve(application)
    flames = Flames(server.balancer)

    def ask(path: str) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", server.server_port))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return client

    def compute() -> bytes:
        with ask("/busy") as client:
            return client.recv(10)

    with ask("/wait"):
        eventually(lambda: "patient_handler" in names(flames.graphs()["waiting"]))
        eventually(lambda: compute() and "busy_handler" in names(flames.graphs()["computing"]))
        graphs = flames.graphs()
        waiting = flames.requests("waiting", part_of(graphs["waiting"], "patient_handler"))
        computing = flames.requests("computing", part_of(graphs["computing"], "busy_handler"))
    assert [(each["request"], each["running"]) for each in waiting] == [("GET /wait", True)]
    assert {each["request"] for each in computing} == {"GET /busy"}
    assert "busy_handler" not in names(graphs["waiting"])
    assert "patient_handler" not in names(graphs["computing"])
    assert server.balancer.intake.context.runtime.watchdog.sampler is not None


def test_nothing_is_collected_before_a_viewer_asks_and_some_seconds_later(serve, eventually, monkeypatch) -> None:
    monkeypatch.setattr("intralb_gevent.observe.flames.WANTED_SECONDS", 0.0)
    server = serve(patient_handler)
    flames = Flames(server.balancer)
    watchdog = server.balancer.intake.context.runtime.watchdog
    assert watchdog.sampler is None
    flames.graphs()
    eventually(lambda: flames._collector.dead)
    assert watchdog.sampler is None
