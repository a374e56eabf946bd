"""The counters of answered and running requests are correct, even if requests fail or are not read to the end."""

import itertools
import re
import socket
import threading
import time

import pytest

from intralb_gevent.demo import rush
from intralb_gevent.demo.routes import DeliberateFailure


def rows(client):
    """Return the table of pages as a mapping from each page's name to its counts of answered and running requests."""
    found = re.findall(r'<th scope="row">([^<]+)</th><td>(\d+)</td><td>(\d+)</td>', client.get("/status").text)
    return {name: (int(answered), int(running)) for name, answered, running in found}


def test_each_page_is_counted_under_its_own_name(client):
    for url in ("/", "/notes", "/notes/1", "/notes/2", "/healthz", "/healthz", "/nowhere", "/elsewhere"):
        client.get(url)
    assert rows(client) == {
        "health": (2, 0),
        "home": (1, 0),
        "not found": (2, 0),
        "note": (2, 0),
        "notes": (1, 0),
        "status": (0, 1),
    }


def test_a_request_that_fails_is_no_longer_running(client):
    with pytest.raises(DeliberateFailure):
        client.get("/fail")
    assert rows(client)["fail"] == (1, 0)


def test_a_stream_runs_until_it_is_closed_however_far_it_was_read(client):
    body = client.begin("GET", "/stream", lambda *given: None)
    next(iter(body))
    assert rows(client)["stream"] == (0, 1)
    body.close()
    assert rows(client)["stream"] == (1, 0)


def test_workers_are_counted_and_only_the_newest_are_kept(client):
    for worker in [0, 1, 1, *range(2, 40)]:
        client.get("/healthz", **{"intralb.worker": worker})
    shown = re.findall(r"worker (\d+)</th><td>(\d+)", client.get("/status").text)
    assert shown == [(str(worker), "1") for worker in range(16, 40)]


def test_without_a_balancer_no_worker_is_shown(client):
    assert "No request has come through a balancer." in client.get("/status").text


def test_a_rush_is_sent_once_at_a_time_and_its_results_are_counted(client, monkeypatch):
    served = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(rush, "PHASES", ((0.2, 50.0),))
    with served:
        threading.Thread(target=answer_all, args=(served,), daemon=True).start()
        where = {"SERVER_NAME": "127.0.0.1", "SERVER_PORT": str(served.getsockname()[1])}
        assert client.post("/rush", {}, **where).status == 303
        assert client.post("/rush", {}, **where).status == 303
        end = time.monotonic() + 10
        while "10 requests sent, 5 answered, 5 rejected" not in client.get("/status").text:
            assert time.monotonic() < end, client.get("/status").text
            time.sleep(0.01)


def answer_all(served):
    """Answer requests with 200 and 503 in rotation."""
    for status in itertools.cycle(("200 OK", "503 Service Unavailable")):
        try:
            connection, _ = served.accept()
        except OSError:
            return
        with connection:
            connection.recv(65536)
            connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())


def test_the_server_s_own_status_page_is_linked_if_it_is_known(client, monkeypatch):
    assert "status page of the server" not in client.get("/status").text
    monkeypatch.setenv("INTRALB_DEMO_ADMIN", "http://127.0.0.1:9000")
    assert '<a href="http://127.0.0.1:9000"' in client.get("/status").text


def test_a_rush_needs_the_address_of_the_server(client):
    assert client.post("/rush", {}, SERVER_PORT="").status == 409
    assert client.get("/rush").headers["Allow"] == "POST"
